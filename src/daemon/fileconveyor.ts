/**
 * Reads the configuration of File Conveyor (https://github.com/wimleers/fileconveyor, config.xml) and writes it as ours.
 * What cannot be carried over is named, never dropped in silence. Secrets go to files of their own.
 */
import { existsSync } from 'node:fs'
import * as path from 'node:path'
import { parseXml, XmlElement, XmlError } from '@rgrove/parse-xml'
import type { FormerDelivery } from '../conveyor/takeover.ts'
import { StowageError } from '../core/errors.ts'
import { schemeNames } from '../drivers/index.ts'
import { foreignRows } from '../state/foreign-rows.ts'
import type { ConfigInput } from './config.ts'

/** What came of it. */
export interface Imported {
  config: ConfigInput
  /** Contents of files, by their paths, that the configuration refers to: secrets, to be readable by nobody else. */
  secrets: Map<string, string>
  /** What needs somebody's attention, a sentence each. */
  notes: string[]
  /** Each server's name with the store and directory that stand for it. */
  servers: Map<string, string>
}

/** Where things are to be. */
export interface ImportOptions {
  /** The name of the file, for messages. */
  name: string
  /** Where the secrets will be; absolute. */
  secretsDirectory: string
}

/** Carries the configuration over. Rejects with INVALID_CONFIG and every mistake, each with its line and element. */
export function importFileConveyor(xml: string, options: ImportOptions): Imported {
  const document = new Document(xml, options.name)
  const root = document.root('config')
  const [sources, servers, rules] = ['sources', 'servers', 'rules'].map((name) => document.only(root, name))
  const importer = new Importer(document, options)
  if (sources) importer.readSources(sources)
  if (servers) importer.readServers(servers)
  if (rules) importer.readRules(rules)
  document.done()
  return importer.result()
}

/** An XML document whose mistakes are collected, each with its place. */
class Document {
  readonly #text: string
  readonly #name: string
  readonly #mistakes: string[] = []

  constructor(text: string, name: string) {
    this.#text = text
    this.#name = name
  }

  root(name: string): XmlElement {
    let root: XmlElement | null
    try {
      ;({ root } = parseXml(this.#text, { includeOffsets: true }))
    } catch (error) {
      if (!(error instanceof XmlError)) throw error
      const what = error.message
        .split('\n')[0]
        ?.replace(/\s*\(line.*$/, '')
        .replace(/\.$/, '')
      throw invalid(`${this.#name}, line ${error.line}, column ${error.column}: ${what}.`)
    }
    if (root?.name === name) return root
    throw invalid(
      `${this.#name}: the outermost element is <${root?.name}>, not <${name}>. Is it a configuration of File Conveyor?`,
    )
  }

  /** The children of an element that are elements. */
  children(of: XmlElement): XmlElement[] {
    return of.children.filter((child) => child instanceof XmlElement)
  }

  /** The one child of a name; a mistake when it is missing or there are more. */
  only(of: XmlElement, name: string): XmlElement | undefined {
    const found = this.children(of).filter((child) => child.name === name)
    if (found.length !== 1) this.mistake(of, found.length === 0 ? `<${name}> is missing` : `<${name}> is there twice`)
    return found[0]
  }

  /** The children, all of which must have a name that is known. */
  every(of: XmlElement, ...names: string[]): XmlElement[] {
    const children = this.children(of)
    for (const child of children)
      if (!names.includes(child.name))
        this.mistake(child, `it is not known within <${of.name}>; known are: ${names.join(', ')}`)
    return children.filter((child) => names.includes(child.name))
  }

  attribute(of: XmlElement, name: string): string | undefined {
    const value = of.attributes[name]
    if (value === undefined || value === '') this.mistake(of, `the attribute ${name} is missing`)
    return value === '' ? undefined : value
  }

  number(of: XmlElement, text: string | undefined): number | undefined {
    if (text === undefined || text.trim() === '') return undefined
    if (/^\d{1,15}$/.test(text.trim())) return Number(text)
    this.mistake(of, `${JSON.stringify(text.slice(0, 50))} is not a whole number`)
    return undefined
  }

  mistake(at: XmlElement, what: string): void {
    const line = this.#text.slice(0, at.start).split('\n').length
    this.#mistakes.push(`line ${line}, <${at.name}>: ${what}.`)
  }

  done(): void {
    if (this.#mistakes.length > 0)
      throw invalid(`${this.#name} is not right:\n${this.#mistakes.map((line) => `  ${line}`).join('\n')}`)
  }
}

type Stores = NonNullable<ConfigInput['stores']>
type Sources = NonNullable<ConfigInput['sources']>
type Rules = NonNullable<ConfigInput['rules']>
type Destination = Rules[number]['destinations'][number]
type Filter = NonNullable<Rules[number]['filter']>

/** A server: the store that stands for it, and what each of its destinations has. */
interface Server {
  store: string
  destination: Omit<Destination, 'store' | 'path'>
}

class Importer {
  readonly #document: Document
  readonly #options: ImportOptions
  readonly #stores: Stores = {}
  readonly #sources: Sources = {}
  readonly #rules: Rules = []
  readonly #servers = new Map<string, Server>()
  readonly #scanPaths = new Map<string, string>()
  readonly #secrets = new Map<string, string>()
  readonly #notes: string[] = []

  constructor(document: Document, options: ImportOptions) {
    this.#document = document
    this.#options = options
  }

  result(): Imported {
    const { stores, sources, rules } = { stores: this.#stores, sources: this.#sources, rules: this.#rules }
    return {
      config: { stores, sources, rules },
      secrets: this.#secrets,
      notes: this.#notes,
      servers: new Map([...this.#servers].map(([name, { store }]) => [name, store])),
    }
  }

  readSources(element: XmlElement): void {
    const ignored = list(element.attributes['ignoredDirs'])
    for (const source of this.#document.every(element, 'source')) {
      const name = this.#document.attribute(source, 'name')
      const directory = this.#document.attribute(source, 'scanPath')
      const { documentRoot, basePath } = source.attributes
      if (basePath && !/^\/(.*\/)?$/.test(basePath))
        this.#document.mistake(source, `the base path ${JSON.stringify(basePath)} must begin and end with a slash`)
      if (name === undefined || directory === undefined) continue
      const key = this.#name(source, name, this.#sources)
      this.#scanPaths.set(name, directory)
      this.#sources[key] = {
        directory,
        ...(ignored.length > 0 && { ignore: ignored }),
        ...(documentRoot && { documentRoot }),
        ...(basePath && { basePath }),
      }
    }
  }

  readServers(element: XmlElement): void {
    for (const server of this.#document.every(element, 'server')) {
      const name = this.#document.attribute(server, 'name')
      const transporter = this.#document.attribute(server, 'transporter')
      const connections = this.#document.number(server, server.attributes['maxConnections'])
      if (name === undefined || transporter === undefined) continue
      const settings = new Settings(server, this.#document)
      const read = transporters[transporter]
      if (!read) {
        this.#document.mistake(
          server,
          `there is no counterpart of the transporter ${JSON.stringify(transporter)}; there is one of: ${Object.keys(transporters).join(', ')}`,
        )
        continue
      }
      const store = this.#name(server, name, this.#stores)
      const secret: Secret = (setting, isOptional) =>
        this.#secret(store, setting, isOptional ? settings.take(setting) : settings.need(setting))
      const { notes = [], destination = {}, ...place } = read(settings, secret)
      for (const left of settings.left)
        this.#document.mistake(left, `it is no setting of the transporter ${transporter}`)
      this.#notes.push(...notes.map((note) => `Store ${store}: ${note}`))
      this.#stores[store] = place
      const limit = connections === undefined || connections === 0 ? {} : { maxConnections: connections }
      this.#servers.set(name, { store, destination: { ...destination, ...limit } })
    }
  }

  readRules(element: XmlElement): void {
    for (const rule of this.#document.every(element, 'rule')) {
      const source = this.#document.attribute(rule, 'for')
      const { label } = rule.attributes
      if (source !== undefined && !this.#scanPaths.has(source))
        this.#document.mistake(rule, `there is no source ${JSON.stringify(source)}`)
      const parts = this.#document.every(rule, 'filter', 'processorChain', 'destinations')
      const part = (name: string) => parts.find((each) => each.name === name)
      const destinations = part('destinations')
      if (!destinations) this.#document.mistake(rule, 'it has no <destinations>')
      const seconds = this.#document.number(rule, rule.attributes['fileDeletionDelayAfterSync'])
      const filter = part('filter')
      const chain = part('processorChain')
      const processors = chain
        ? this.#document.every(chain, 'processor').map((each) => this.#document.attribute(each, 'name'))
        : []
      const delivered = destinations ? this.#destinations(destinations) : []
      if (source === undefined) continue
      this.#rules.push({
        ...(label && { label: this.#label(label) }),
        source: plainName(source),
        ...(filter && { filter: this.#filter(filter, source) }),
        ...(processors.length > 0 && { processors: processors.filter((name) => name !== undefined) }),
        destinations: delivered,
        ...(seconds !== undefined && { deleteSourceAfter: `${seconds}s` }),
      })
    }
  }

  /** Labels identify rules, so each must be one of its kind. */
  #label(label: string): string {
    let unique = label
    for (let n = 2; this.#rules.some((rule) => rule.label === unique); n++) unique = `${label} (${n})`
    return unique
  }

  #destinations(element: XmlElement): Destination[] {
    const found = this.#document.every(element, 'destination')
    if (found.length === 0) this.#document.mistake(element, 'it has no <destination>')
    return found.flatMap((each) => {
      const name = this.#document.attribute(each, 'server')
      const server = name === undefined ? undefined : this.#servers.get(name)
      if (name !== undefined && !server) this.#document.mistake(each, `there is no server ${JSON.stringify(name)}`)
      const directory = (each.attributes['path'] ?? '').replace(/^\/+|\/+$/g, '')
      return server ? [{ store: server.store, ...(directory && { path: directory }), ...server.destination }] : []
    })
  }

  #filter(element: XmlElement, source: string): Filter {
    const filter: Filter = {}
    const conditions = this.#document.every(element, 'paths', 'extensions', 'ignoredDirs', 'pattern', 'size')
    if (conditions.length === 0) this.#document.mistake(element, 'it has no condition')
    for (const condition of conditions) {
      const text = condition.text.trim()
      if (condition.name === 'size') this.#size(condition, filter)
      else if (text === '') this.#document.mistake(condition, 'it is empty')
      else if (condition.name === 'pattern') this.#pattern(condition, text, filter, source)
      else if (condition.name === 'paths') filter.paths = list(text).map((each) => each.replace(/^\/+|\/+$/g, ''))
      else if (condition.name === 'extensions') filter.extensions = list(text).map((each) => each.replace(/^\./, ''))
      else filter.ignoredDirs = list(text)
    }
    return filter
  }

  /** Their bounds are not included, ours are. */
  #size(element: XmlElement, filter: Filter) {
    const bytes = this.#document.number(element, element.text)
    const kind = element.attributes['conditionType']
    if (bytes === undefined) this.#document.mistake(element, 'it needs a number of bytes')
    else if (kind === 'minimum') filter.size = { ...filter.size, minimum: bytes + 1 }
    else if (kind === 'maximum') filter.size = { ...filter.size, maximum: Math.max(0, bytes - 1) }
    else this.#document.mistake(element, 'conditionType must be "minimum" or "maximum"')
  }

  /** Theirs is tried at the front of the path on the disk, ours anywhere in the path below the source. */
  #pattern(element: XmlElement, text: string, filter: Filter, source: string) {
    const directory = `${(this.#scanPaths.get(source) ?? '').replace(/\/+$/, '')}/`
    const below = text.replace(/^\^/, '').replace(/^\.\*/, '')
    const isAnywhere = /^\^?\.\*/.test(text)
    const pattern = isAnywhere ? below : `^${below.startsWith(directory) ? below.slice(directory.length) : below}`
    try {
      filter.pattern = new RegExp(pattern).source
    } catch {
      this.#document.mistake(element, `${JSON.stringify(text)} cannot be understood as a regular expression here`)
    }
    if (!isAnywhere && !below.startsWith(directory))
      this.#notes.push(
        `The pattern ${JSON.stringify(text)} was tried on whole paths; here it is tried on paths below the source ${source}. Look whether ${JSON.stringify(pattern)} is what you mean.`,
      )
  }

  #name(element: XmlElement, name: string, taken: object): string {
    const plain = plainName(name)
    if (!/^[A-Za-z0-9_-]+$/.test(name))
      this.#document.mistake(element, `the name ${JSON.stringify(name)} may have letters, digits, "-" and "_"`)
    if (Object.hasOwn(taken, plain)) this.#document.mistake(element, `the name ${JSON.stringify(name)} is there twice`)
    return plain
  }

  /** A reference to the secret, for a storage URL. */
  #secret(store: string, setting: string, value: string | undefined): string {
    if (value === undefined) return ''
    const file = path.join(this.#options.secretsDirectory, `${store}.${setting}`)
    this.#secrets.set(file, value)
    return `file:${encodeURIComponent(file)}`
  }
}

/** The settings of a server, each an element, taken one by one. */
class Settings {
  readonly #document: Document
  readonly #server: XmlElement
  readonly #elements: Map<string, XmlElement>

  constructor(server: XmlElement, document: Document) {
    this.#document = document
    this.#server = server
    this.#elements = new Map(document.children(server).map((child) => [child.name, child]))
  }

  /** Those nobody has taken. */
  get left(): XmlElement[] {
    return [...this.#elements.values()]
  }

  take(name: string): string | undefined {
    const text = this.#elements.get(name)?.text.trim()
    this.#elements.delete(name)
    return text === '' ? undefined : text
  }

  /** One that must be there. */
  need(name: string): string {
    const value = this.take(name)
    if (value === undefined) this.#document.mistake(this.#server, `the setting <${name}> is missing`)
    return value ?? ''
  }
}

type Place = Exclude<Stores[string], string | string[]> & {
  notes?: string[]
  destination?: Server['destination']
}
/** Keeps a setting that is secret, and tells how a URL refers to it. One that must be there is a mistake when it is not. */
type Secret = (name: string, isOptional?: 'optional') => string
type Read = (settings: Settings, secret: Secret) => Place

const encode = encodeURIComponent
const farFuture = { cacheControl: 'max-age=315360000' }

const ftp: Read = (settings, secret) => {
  const [host, user, password] = [settings.need('host'), settings.need('username'), secret('password')]
  settings.take('key')
  return {
    url: `ftp://${encode(user)}${password === '' ? '' : `:${password}`}@${host}${port(settings)}${directory(settings)}`,
    ...publicUrl(settings),
  }
}

const sftp: Read = (settings, secret) => {
  const [host, user, key] = [settings.need('host'), settings.need('username'), settings.take('key')]
  const password = secret('password', 'optional')
  const query = key === undefined ? '' : `?private_key=${encode(key)}`
  return {
    url: `sftp://${encode(user)}${password === '' ? '' : `:${password}`}@${host}${port(settings)}${directory(settings)}${query}`,
    ...publicUrl(settings),
    notes: ['the key of the host is verified: put it into known_hosts, as `ssh` does at the first connection.'],
  }
}

/** S3, and CloudFront in front of it. */
const objects = (settings: Settings, secret: Secret, publicHost: (bucket: string) => string): Place => {
  const [key, secretKey] = [secret('access_key_id'), secret('secret_access_key')]
  const [bucket, prefix = ''] = [settings.need('bucket_name'), settings.take('bucket_prefix')]
  const below = prefix.replace(/^\/+|\/+$/g, '')
  return {
    url: `s3://${key}:${secretKey}@s3.amazonaws.com/${below}?s3_bucket=${encode(bucket)}`,
    publicUrl: `https://${publicHost(bucket)}/${below === '' ? '' : `${below}/`}`,
    destination: farFuture,
    notes: [
      'files were made public one by one (public-read); give the bucket a policy that lets everybody read instead.',
      'if the bucket is not in us-east-1, add aws_region= to the URL.',
    ],
  }
}

/** What each transporter is here. */
const transporters: Record<string, Read> = {
  __proto__: null as never,
  ftp,
  sftp,
  s3: (settings, secret) => objects(settings, secret, (bucket) => `${bucket}.s3.amazonaws.com`),
  cf: (settings, secret) => {
    const domain = settings.need('distro_domain_name')
    return objects(settings, secret, () => domain)
  },
  mosso: (settings, secret) => cloudFiles(settings, secret),
  cloudfiles: (settings, secret) => cloudFiles(settings, secret),
  symlink_or_copy: (settings) => ({
    url: `file://${encodeURI(settings.need('location'))}`,
    ...publicUrl(settings),
    destination: { link: 'symlink' },
  }),
}

const cloudFiles: Read = (settings, secret) => {
  const [user, key, container] = [settings.need('username'), secret('api_key'), settings.need('container')]
  return {
    url: `cloudfiles://${encode(user)}:${key}@identity.api.rackspacecloud.com/?container=${encode(container)}`,
    notes: ['check the address and the version of the login (auth_version, region): they were built in.'],
  }
}

function port(settings: Settings): string {
  const value = settings.take('port')
  return value === undefined ? '' : `:${value}`
}

function directory(settings: Settings): string {
  return `/${encodeURI((settings.take('path') ?? '').replace(/^\/+|\/+$/g, ''))}`
}

function publicUrl(settings: Settings): { publicUrl?: string } {
  const url = settings.take('url')
  return url === undefined ? {} : { publicUrl: url.endsWith('/') ? url : `${url}/` }
}

/** Ours begin with a letter, and are no kinds of URLs. */
function plainName(name: string): string {
  if (schemeNames.includes(name.toLowerCase())) return `${name}-server`
  return /^[A-Za-z]/.test(name) ? name : `n${name}`
}

function list(text = ''): string[] {
  return text
    .split(':')
    .map((each) => each.trim())
    .filter((each) => each !== '')
}

function invalid(message: string): StowageError {
  return new StowageError('INVALID_CONFIG', message)
}

/**
 * What File Conveyor has delivered, as its databases in a directory tell: `synced_files.db`, and `fsmonitor.db` for the times
 * of the originals. `servers` are those of {@link Imported}.
 */
export function formerDeliveries(directory: string, servers: ReadonlyMap<string, string>): FormerDelivery[] {
  const times = new Map<string, number>()
  const monitor = path.join(directory, 'fsmonitor.db')
  if (existsSync(monitor))
    for (const row of foreignRows(monitor, 'SELECT path, filename, mtime FROM pathscanner WHERE mtime >= 0'))
      times.set(path.join(String(row['path']), String(row['filename'])), Math.floor(Number(row['mtime'])))
  const sql = 'SELECT input_file, transported_file_basename, server FROM synced_files ORDER BY input_file'
  return foreignRows(path.join(directory, 'synced_files.db'), sql).map((row) => {
    const [file, server] = [String(row['input_file']), String(row['server'])]
    const modifiedSeconds = times.get(file)
    return {
      file,
      name: String(row['transported_file_basename']),
      store: servers.get(server) ?? server,
      ...(modifiedSeconds !== undefined && { modifiedSeconds }),
    }
  })
}
