/** OpenStack Swift and what speaks like it (docs.openstack.org/api-ref/object-store). Never lists or creates containers. */
import { createHash, createHmac, hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { codeOf, StowageError } from '../../core/errors.ts'
import { retry } from '../../core/retry.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type {
  Body,
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  ListOptions,
  ReadOptions,
  WriteOptions,
} from '../../store/driver.ts'
import { checkSize, throwIfAborted } from '../../store/driving.ts'
import { prefixed } from '../../store/wrappers/prefix.ts'
import type { HttpResponse } from '../http-client.ts'
import {
  checkStored,
  copyLarge,
  copyObject,
  discard,
  formerOf,
  hidden,
  isLarge,
  knowsLarge,
  put,
  sendLarge,
  type Place,
} from './large.ts'
import { listed } from './listing.ts'
import { invalid, loginOf } from './login.ts'
import { each, remove, removeAll } from './removal.ts'
import { cut, type Segment } from './segments.ts'
import { encodePath, etagOf, Service, type ServiceOptions } from './service.ts'

const defaultSegmentSize = 16 << 20
/** What Swift takes as one object: 5 GiB. */
const maxSegmentSize = 5 * 2 ** 30
/** What a cluster takes unless it was told otherwise. */
const defaultManifestSegments = 1000
const looksAtOnce = 32
/** Bodies up to this size are sent before it is known what is there already. */
const hastyBytes = 64 << 10
/** A body that has been read and is in memory is sent again; nobody else could. */
const attempts = 4

/** How a container is reached. */
export interface SwiftOptions extends ServiceOptions {
  /** Where segments of large objects are kept; it must be there. Default: the container itself, out of sight. */
  segmentsContainer?: string
  /**
   * Longer files become large objects with segments of so many bytes. Up to four of a file are in memory at once, or as
   * many as make 64 MiB, and one that is being filled. Default 16 MiB.
   */
  segmentSize?: number
  /** How many segments a manifest may name; more become manifests of manifests. Default 1000, as Swift's. */
  manifestSegments?: number
  /** Key of temporary URLs. Default: the one that is set on the account or the container, if we may see it. */
  tempUrlKey?: string
}

/**
 * `swift://USER:KEY@auth-host/prefix?container=…` logs in with version 1 at /auth/v1.0 (a user is `account:name`, its colon
 * written %3A); with `project`, or with `application_credential_id` and `application_credential_secret` instead of
 * USER:KEY, with version 3 at /v3. `auth_version` (1 or 3) and `auth_path` say otherwise. More of version 3: `domain` (of
 * both, by name; default: the one whose id is `default`), `user_domain`, `project_domain`, `region` (needed where there are
 * several), `interface` (public or internal). Of both: `use_ssl` (default true), `ca` (a file of certificates to trust),
 * `segments_container`, `segment_size` in bytes, `temp_url_key`.
 */
export function swiftFromUrl(url: StorageUrl): Driver {
  const { host, port, path, parameters } = url
  const tls = parameters.flag('use_ssl', true)
  const container = parameters.text('container') ?? ''
  const ca = parameters.text('ca')
  const segmentsContainer = parameters.text('segments_container')
  const segmentSize = parameters.number('segment_size')
  const tempUrlKey = parameters.text('temp_url_key')
  const login = loginOf(url)
  parameters.end()
  if (host === '') throw invalid('The swift URL does not say which server.', 'Write swift://USER:KEY@host/….')
  return prefixed(
    swiftDriver({
      host,
      port: port ?? (tls ? 443 : 80),
      tls,
      login,
      container,
      ...(ca === undefined ? {} : { ca: readCertificates(ca) }),
      ...(segmentsContainer === undefined ? {} : { segmentsContainer }),
      ...(segmentSize === undefined ? {} : { segmentSize }),
      ...(tempUrlKey === undefined ? {} : { tempUrlKey }),
    }),
    path,
  )
}

/** Opens a container. Nothing is contacted yet. Throws INVALID_ARGUMENT for options that cannot be. */
export function swiftDriver(options: SwiftOptions): Driver {
  const { container, segmentsContainer = container, segmentSize = defaultSegmentSize } = options
  if (!container) throw invalid('The swift URL does not say which container.', 'Add ?container=NAME.')
  if ([container, segmentsContainer].some((name) => name.includes('/') || name === ''))
    throw invalid('The name of a container has a slash, or is empty.', 'Put directories into the path of the URL.')
  if (!(Number.isInteger(segmentSize) && segmentSize >= 1 && segmentSize <= maxSegmentSize))
    throw invalid('The segment size is not from 1 byte to 5 GiB.', 'Mend segment_size.')
  return new SwiftDriver({ ...options, segmentsContainer, segmentSize })
}

class SwiftDriver implements Driver {
  readonly location: string
  /**
   * Swift looks at `If-None-Match: *` before it takes the bytes and not after, so that of two slow writers both would be
   * told that they were the first: neither condition is supported.
   */
  readonly supports = {
    write: true,
    list: true,
    range: true,
    atomicWrite: true,
    ifAbsent: false,
    ifMatch: false,
    contentType: true,
    metadata: true,
    keyUnderFile: true,
    confirms: true,
    maxKeyBytes: 1024,
    maxPartBytes: 1024,
    refuses: [{ pattern: /^\.file-segments(\/|$)/, reason: 'That is where segments of large objects are kept.' }],
  }
  readonly #options: SwiftOptions & { segmentSize: number }
  readonly #service: Service
  readonly #place: Place
  #isClosed = false

  constructor(options: SwiftOptions & { segmentsContainer: string; segmentSize: number }) {
    const { host, port, tls, container, segmentsContainer, manifestSegments = defaultManifestSegments } = options
    this.#options = options
    this.#service = new Service(options)
    this.#place = { service: this.#service, container, segmentsContainer, manifestSegments, state: { sending: 0 } }
    const isUsual = port === (tls ? 443 : 80)
    this.location = `swift://${host}${isUsual ? '' : `:${port}`}/${container}`
  }

  async read(key: string, options: ReadOptions = {}) {
    this.#check(options)
    const { start = 0, end } = options.range ?? {}
    const response = await this.#service.request({
      method: 'GET',
      path: this.#path(key),
      headers: options.range ? { range: `bytes=${start}-${end === undefined ? '' : end - 1}` } : {},
      signal: options.signal,
      accept: [416],
    })
    if (response.status === 416) {
      await response.bytes()
      return { info: await this.stat(key, options), body: Readable.from([], { objectMode: false }) }
    }
    const from = `bytes ${start}-`
    if (options.range && !(response.status === 206 && response.headers['content-range']?.startsWith(from))) {
      response.stream().destroy()
      throw new StowageError('UNSUPPORTED', `${this.location} ignores ranges: it sent all of ${key}.`)
    }
    return { info: infoOf(key, response), body: response.stream() }
  }

  async write(key: string, body: Body, options: WriteOptions = {}): Promise<FileInfo> {
    this.#checkWrite(key, options)
    const stop = new AbortController()
    const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
    const { segmentSize } = this.#options
    const segments = cut(body, { key, segmentSize, announced: options.size, signal })
    try {
      const first = await segments.next()
      if (first.done) throw new StowageError('UNKNOWN', 'A body has at least one segment.')
      if (first.value.isLast) {
        const { value } = first
        const patience = { attempts, ...(options.signal ? { signal: options.signal } : {}) }
        return await retry(async () => this.#writeSmall(key, value, options), patience)
      }
      const all = chained(first.value, segments)
      if (!(await knowsLarge(this.#place))) return await this.#writeWhole(key, all, options, signal)
      const target = { path: this.#path(key), headers: headersOf(options) }
      const { size, etag } = await sendLarge(this.#place, target, all, { stop, signal }, (total) =>
        checkSize(key, total, options.size),
      )
      return writtenInfo(key, size, etag, options)
    } finally {
      await segments.return(undefined)
    }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}): Promise<FileInfo> {
    this.#checkWrite(key, options)
    return this.#writeSmall(key, { bytes, md5: hash('md5', bytes) }, options)
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const response = await this.#service.request({ method: 'HEAD', path: this.#path(key), signal: options.signal })
    await response.bytes()
    return infoOf(key, response)
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    this.#check(options)
    for await (const entry of listed(this.#service, this.#options.container, directory, options)) {
      yield entry
      this.#check(options)
    }
  }

  async delete(key: string, options: CallOptions = {}): Promise<void> {
    this.#check(options)
    const path = this.#path(key)
    const { paths } = await formerOf(this.#place, path, options.signal)
    await this.#remove(path, paths, options.signal)
  }

  async deleteMany(keys: readonly string[], options: CallOptions = {}): Promise<void> {
    this.#check(options)
    const { signal } = options
    const [plain, failures]: [string[], unknown[]] = [[], []]
    const fail = (error: unknown) => void failures.push(error)
    const look = async (path: string) => {
      const { paths } = await formerOf(this.#place, path, signal)
      if (paths.length === 0) plain.push(path)
      else await this.#remove(path, paths, signal)
    }
    await each(keys, looksAtOnce, async (key) => look(this.#path(key)).catch(fail), signal)
    await removeAll(this.#service, plain, signal).catch(fail)
    if (failures.length > 0) throw failures[0]
  }

  async copy(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    this.#checkWrite(to, options)
    const { signal = new AbortController().signal } = options
    const [source, target] = [this.#path(from), this.#path(to)]
    const response = await this.#service.request({ method: 'HEAD', path: source, signal })
    await response.bytes()
    if (from === to) return infoOf(to, response)
    if (isLarge(response) || isDynamic(response)) {
      const { lines } = await formerOf(this.#place, source, signal)
      if (!lines) return this.#copyThroughUs(from, to, options)
      await copyLarge(this.#place, { path: target, headers: keptHeaders(response.headers) }, lines, signal)
    } else {
      const replaced = await formerOf(this.#place, target, signal)
      await copyObject(this.#service, source, target, signal)
      await discard(this.#place, replaced.paths)
    }
    return this.stat(to, options)
  }

  async signedUrl(key: string, options: { method: 'GET' | 'PUT'; expiresInSeconds: number }): Promise<string> {
    this.#check({})
    const { method, expiresInSeconds } = options
    if (!(expiresInSeconds >= 1))
      throw new StowageError('INVALID_ARGUMENT', 'A signed URL is valid for at least one second.')
    const secret = this.#options.tempUrlKey ?? (await this.#storedTempUrlKey())
    const { origin, pathname } = await this.#service.account()
    const digest = await this.#service.tempUrlDigest()
    const path = this.#path(key)
    const base = pathname.replace(/\/+$/, '')
    const expires = Math.floor(Date.now() / 1000 + expiresInSeconds)
    const signed = createHmac(digest, secret).update(`${method}\n${expires}\n${decodeURIComponent(base)}${path}`)
    return `${origin}${base}${encodePath(path)}?temp_url_sig=${signed.digest('hex')}&temp_url_expires=${expires}`
  }

  async close() {
    this.#isClosed = true
    await this.#service.close()
  }

  #check({ signal }: CallOptions) {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
  }

  #checkWrite(key: string, options: WriteOptions) {
    this.#check(options)
    if (options.ifAbsent || options.ifMatch !== undefined)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot keep a condition on a write.`)
    if (`${key}/`.startsWith(hidden))
      throw new StowageError('INVALID_KEY', `${key} cannot be stored in ${this.location}.`, {
        hint: `Segments of large objects are kept below ${hidden}.`,
      })
  }

  #path(key: string): string {
    return `/${this.#options.container}/${key}`
  }

  /** First what has the key, so that it is there whole or not at all; then its segments. */
  async #remove(path: string, segments: readonly string[], signal: AbortSignal | undefined) {
    await remove(this.#service, path, signal)
    await discard(this.#place, segments)
  }

  async #writeSmall(key: string, segment: Pick<Segment, 'bytes' | 'md5'>, options: WriteOptions): Promise<FileInfo> {
    const { bytes, md5 } = segment
    checkSize(key, bytes.byteLength, options.size)
    const headers = headersOf(options)
    const path = this.#path(key)
    if (bytes.byteLength > hastyBytes || !(await this.#putFirst(path, segment, headers, options))) {
      const replaced = await formerOf(this.#place, path, options.signal)
      await put(this.#service, path, segment, headers, options.signal)
      await discard(this.#place, replaced.paths)
    }
    return writtenInfo(key, bytes.byteLength, md5, options)
  }

  /** Where nothing is yet, nothing has segments: then one request does. Resolves to false where something is. */
  async #putFirst(
    path: string,
    segment: Pick<Segment, 'bytes' | 'md5'>,
    headers: Record<string, string>,
    { signal }: CallOptions,
  ): Promise<boolean> {
    try {
      await put(this.#service, path, segment, { ...headers, 'if-none-match': '*' }, signal)
      return true
    } catch (error) {
      if (codeOf(error) === 'CONFLICT') return false
      throw error
    }
  }

  /** As one object, at the pace of the service; what it has stored is compared when it is there. */
  async #writeWhole(key: string, segments: AsyncIterable<Segment>, options: WriteOptions, signal: AbortSignal) {
    const digest = createHash('md5')
    let size = 0
    const body = async function* () {
      for await (const { bytes } of segments) {
        digest.update(bytes)
        size += bytes.byteLength
        yield bytes
      }
    }
    const path = this.#path(key)
    const headers = headersOf(options)
    const replaced = await formerOf(this.#place, path, signal)
    const request = { method: 'PUT', path, headers, body: body(), size: options.size, signal }
    const response = await this.#service.request(request)
    await response.bytes()
    const md5 = digest.digest('hex')
    checkStored(path, response, md5)
    await discard(this.#place, replaced.paths)
    return writtenInfo(key, size, md5, options)
  }

  /** For objects of other clients, made of parts that may be anything. */
  async #copyThroughUs(from: string, to: string, options: CallOptions): Promise<FileInfo> {
    const { info, body } = await this.read(from, options)
    const { size, contentType, metadata } = info
    try {
      return await this.write(to, body, {
        ...options,
        size,
        ...(contentType ? { contentType } : {}),
        ...(metadata ? { metadata } : {}),
      })
    } finally {
      body.destroy()
    }
  }

  async #storedTempUrlKey(): Promise<string> {
    const places = [
      ['', 'x-account-meta-temp-url-key'],
      [`/${this.#options.container}`, 'x-container-meta-temp-url-key'],
    ] as const
    for (const [path, name] of places) {
      const { headers } = await this.#service.look(path)
      const key = headers[name]
      if (key) return key
    }
    throw new StowageError('UNSUPPORTED', `${this.location} has no key to sign URLs with.`, {
      hint: 'Set X-Account-Meta-Temp-URL-Key on the account, or give temp_url_key.',
    })
  }
}

async function* chained(first: Segment, rest: AsyncGenerator<Segment>): AsyncGenerator<Segment> {
  yield first
  yield* rest
}

function headersOf({ contentType, cacheControl, metadata, modified }: WriteOptions): Record<string, string> {
  const headers: Record<string, string> = {}
  if (contentType) headers['content-type'] = headerValue('content type', contentType)
  if (cacheControl) headers['cache-control'] = headerValue('cache control', cacheControl)
  for (const [name, value] of Object.entries(metadata ?? {})) {
    // Swift has no underscores in names: it makes hyphens of them.
    if (!/^[\w-]+$/.test(name)) throw unfit(`name of the metadata ${JSON.stringify(name)}`)
    headers[`x-object-meta-${name.toLowerCase().replaceAll('_', '-')}`] = headerValue(`metadata ${name}`, value)
  }
  // The way rclone keeps modification times, so that its comparisons work on what we wrote.
  if (modified) headers['x-object-meta-mtime'] = String(modified.getTime() / 1000)
  return headers
}

function headerValue(what: string, value: string): string {
  if (!/^[\x20-\x7e]*$/.test(value)) throw unfit(what)
  return value.trim()
}

function unfit(what: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', `The ${what} has characters that no header can carry.`, {
    hint: 'Use ASCII, or encode the value.',
  })
}

/** Ceph keeps the second one among what users give. */
const unseen: ReadonlySet<string> = new Set(['x-object-meta-mtime', 'x-object-meta-static-large-object'])

/** What a copy has to be told, because it is a new object. */
function keptHeaders(headers: Record<string, string>): Record<string, string> {
  const names = [
    'content-type',
    'cache-control',
    'content-disposition',
    'content-encoding',
    'content-language',
    'expires',
  ]
  const kept = Object.entries(headers).filter(([name]) => names.includes(name) || name.startsWith('x-object-meta-'))
  return Object.fromEntries(kept)
}

/** Is it what all objects are that begin so? */
function isDynamic({ headers }: HttpResponse): boolean {
  return headers['x-object-manifest'] !== undefined
}

function infoOf(key: string, response: HttpResponse): FileInfo {
  const { headers } = response
  const total = /\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1]
  const metadata: Record<string, string> = {}
  for (const name in headers)
    if (name.startsWith('x-object-meta-') && !unseen.has(name))
      // Other clients write UTF-8 into headers, which came to us byte by byte.
      metadata[name.slice(14)] = Buffer.from(headers[name] ?? '', 'latin1').toString()
  const seconds = Number(headers['x-object-meta-mtime']) || Number(headers['x-timestamp'])
  const modified = seconds > 0 ? new Date(seconds * 1000) : new Date(headers['last-modified'] ?? Number.NaN)
  const { etag } = etagOf(headers['etag'])
  const isWhole = !isLarge(response) && !isDynamic(response)
  return {
    key,
    size: Number(total ?? headers['content-length'] ?? 0),
    ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
    ...(etag === undefined ? {} : { etag }),
    ...(headers['content-type'] ? { contentType: headers['content-type'] } : {}),
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
    ...(isWhole && etag !== undefined && /^[0-9a-f]{32}$/.test(etag) ? { digests: { md5: etag } } : {}),
  }
}

function writtenInfo(key: string, size: number, etag: string, { contentType, metadata }: WriteOptions): FileInfo {
  return { key, size, etag, ...(contentType ? { contentType } : {}), ...(metadata ? { metadata } : {}) }
}

function readCertificates(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StowageError('INVALID_CONFIG', `The certificates in ${file} cannot be read: ${code}.`, { cause: error })
  }
}
