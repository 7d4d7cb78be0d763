/** The configuration: one schema for stowage.config.ts, .json and .yaml. All mistakes are told at once, each with its place. */
import { existsSync, readFileSync, realpathSync } from 'node:fs'
import * as path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { z } from 'zod'
import { StowageError } from '../core/errors.ts'
import { parseStorageUrl } from '../core/storage-url.ts'
import { parseDuration, parseSize } from '../core/units.ts'
import type { ProcessorSpec } from '../conveyor/processors/index.ts'

const duration = (meaning: string) => measured(parseDuration, `${meaning} A duration: 500ms, 10s, 10m, 2h, 3d or 5w.`)
const size = (meaning: string) => measured(parseSize, `${meaning} A size: 100B, 64KiB, 5MB or 10GiB.`)
const name = z
  .string()
  .regex(/^[a-z][a-z0-9_-]*$/i, 'is not a name: begin with a letter, then letters, digits, "-" and "_"')

const store = z.union([
  z.string(),
  z.array(z.string()).min(1),
  z.strictObject({
    url: z
      .union([z.string(), z.array(z.string()).min(1)])
      .describe('Where files are kept; of several, the nearest first.'),
    publicUrl: z.url().optional().describe('Address below which the files are served.'),
  }),
])

const source = z.strictObject({
  directory: z.string().min(1).describe('What is watched. Relative to this file.'),
  ignore: z
    .array(z.string())
    .default(['.git', 'node_modules', '.DS_Store', '*.tmp', '*.swp', '*~'])
    .describe('Names (at any depth) or paths (with a slash) of what does not exist for us.'),
  settle: duration('How long a file must have rested before it is taken.').default(500),
  polling: duration('Look every so often instead of listening for events, as for network file systems.').optional(),
})

const filter = z.strictObject({
  paths: z.array(z.string()).optional().describe('Directories or files, relative to the source.'),
  extensions: z.array(z.string().regex(/^[^./]+$/, 'is not an extension: write "css", without dot')).optional(),
  ignoredDirs: z.array(z.string()).optional().describe('Names of directories, at any depth, that do not match.'),
  pattern: z.string().refine(isPattern, 'is not a regular expression').optional().describe('Tried on the path.'),
  size: z.strictObject({ minimum: size('').optional(), maximum: size('').optional() }).optional(),
})

const destination = z.strictObject({
  store: z.string().describe('The name of a store.'),
  path: z.string().default('').describe('A directory within it.'),
  maxConnections: z.int().min(1).max(1024).optional().describe('Deliveries at once; adapts by itself when left out.'),
})

const rule = z.strictObject({
  label: z.string().min(1).optional().describe('Identifies the rule; changing it delivers anew.'),
  source: z.string(),
  filter: filter.default({}),
  processors: z.array(z.union([z.string(), z.looseObject({ use: z.string() })])).default([]),
  destinations: z.array(destination).min(1, 'needs at least one destination'),
  deleteSourceAfter: duration('Delete the original so long after it was delivered everywhere.').optional(),
  supersededAfter: duration('Keep superseded copies so long.').default(0),
  timeLimit: duration('For one run of the processors.').default(600_000),
})

const schema = z.strictObject({
  $schema: z.string().optional(),
  state: z
    .string()
    .default('stowage.db')
    .describe('The file that remembers what was delivered. Relative to this file.'),
  workDirectory: z.string().optional().describe('Where processors work. Default: .stowage-work beside the state.'),
  stores: z.record(name, store).describe('Named places to keep files.'),
  sources: z.record(name, source).describe('Directories that are watched.'),
  rules: z.array(rule).min(1, 'needs at least one rule').describe('Which files go through what, to which stores.'),
})

/** What people write. */
export type ConfigInput = z.input<typeof schema>

/** A checked configuration: paths are absolute, durations milliseconds, sizes bytes, and every name is defined. */
export interface Config {
  /** Where the file is: relative module names of processors start there. */
  directory: string
  state: string
  workDirectory: string
  stores: Record<string, { url: string | readonly string[]; publicUrl?: string }>
  sources: Record<string, { directory: string; ignore: readonly string[]; settleMs: number; pollingMs?: number }>
  rules: {
    label: string
    source: string
    filter: {
      paths?: readonly string[]
      extensions?: readonly string[]
      ignoredDirs?: readonly string[]
      pattern?: RegExp
      size?: { minimum?: number; maximum?: number }
    }
    processors: ProcessorSpec[]
    destinations: { store: string; path: string; maxConnections?: number }[]
    deleteSourceAfterMs?: number
    supersededAfterMs: number
    timeLimitMs: number
  }[]
}

/** Types a configuration and returns it as it is. */
export function defineConfig(config: ConfigInput): ConfigInput {
  return config
}

/** The names under which a configuration is looked for, in this order. */
export const configNames = ['ts', 'js', 'json', 'yaml', 'yml'].map((extension) => `stowage.config.${extension}`)

/** Reads and checks a configuration; without a file, the one in `directory`. Rejects with INVALID_CONFIG. */
export async function loadConfig(file?: string, directory = process.cwd()): Promise<Config> {
  const found =
    file === undefined
      ? configNames.map((each) => path.join(directory, each)).find(existsSync)
      : path.resolve(directory, file)
  if (found === undefined)
    throw invalid(
      `There is no ${configNames.join(', ')} in ${directory}.`,
      'Write one with `stowage init`, or give --config FILE.',
    )
  if (!existsSync(found)) throw invalid(`There is no configuration ${found}.`)
  return checkConfig(await readConfig(found), path.dirname(found), found)
}

/**
 * Checks a configuration and completes it. `directory` is what its relative paths are relative to, `origin` names it in
 * errors. Rejects with INVALID_CONFIG and one line for each mistake.
 */
export function checkConfig(input: unknown, directory = process.cwd(), origin = 'The configuration'): Config {
  const result = schema.safeParse(input)
  const problems = result.success ? [] : result.error.issues.flatMap((issue) => describeIssue(issue))
  // What refers to what is looked at even when something else is wrong: people want to hear of everything at once.
  problems.push(...crossCheck(result.success ? result.data : (input as ConfigInput), directory))
  if (problems.length > 0 || !result.success)
    throw invalid(`${origin} is not right:\n${[...new Set(problems)].map((line) => `  ${line}`).join('\n')}`)
  return complete(result.data, directory)
}

/** The schema as JSON Schema (draft 2020-12), for editors. */
export function configSchema(): Record<string, unknown> {
  return z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
}

function complete(config: z.output<typeof schema>, directory: string): Config {
  const state = path.resolve(directory, config.state)
  const entries = <T, U>(record: Record<string, T>, turn: (value: T) => U) =>
    Object.fromEntries(Object.entries(record).map(([key, value]) => [key, turn(value)]))
  return {
    directory,
    state,
    workDirectory: config.workDirectory
      ? path.resolve(directory, config.workDirectory)
      : path.join(path.dirname(state), '.stowage-work'),
    stores: entries(config.stores, (each) => {
      const { url, publicUrl } =
        typeof each === 'string' || Array.isArray(each) ? { url: each, publicUrl: undefined } : each
      const absolute =
        typeof url === 'string' ? absoluteUrl(url, directory) : url.map((one) => absoluteUrl(one, directory))
      return { url: absolute, ...(publicUrl === undefined ? {} : { publicUrl }) }
    }),
    sources: entries(config.sources, ({ settle, polling, ...each }) => ({
      ...each,
      directory: realDirectory(path.resolve(directory, each.directory)),
      settleMs: settle,
      ...(polling === undefined ? {} : { pollingMs: polling }),
    })),
    rules: config.rules.map(completeRule),
  }
}

function completeRule(each: z.output<typeof rule>, index: number): Config['rules'][number] {
  const { deleteSourceAfter, supersededAfter, timeLimit, filter: given, destinations, ...rest } = each
  const { pattern, ...conditions } = given
  return {
    ...rest,
    label: labelOf(each, index),
    filter: withoutAbsent({ ...conditions, ...(pattern === undefined ? {} : { pattern: new RegExp(pattern) }) }),
    destinations: destinations.map((to) => withoutAbsent({ ...to, path: to.path.replace(/^\/+|\/+$/g, '') })),
    ...(deleteSourceAfter === undefined ? {} : { deleteSourceAfterMs: deleteSourceAfter }),
    supersededAfterMs: supersededAfter,
    timeLimitMs: timeLimit,
  }
}

type Present<T> = { [K in keyof T]: Exclude<T[K], undefined> }

function withoutAbsent<T extends object>(object: T): Present<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Present<T>
}

function labelOf({ label }: { label?: string | undefined }, index: number): string {
  return label ?? `rule ${index + 1}`
}

/** `file:./out` is relative to the configuration. */
function absoluteUrl(url: string, directory: string): string {
  if (!url.startsWith('file:') || url.startsWith('file:/')) return url
  const [place = '', query] = url.slice('file:'.length).split('?')
  const absolute = pathToFileURL(path.resolve(directory, decodeURIComponent(place))).href
  return query === undefined ? absolute : `${absolute}?${query}`
}

function realDirectory(directory: string): string {
  try {
    return realpathSync(directory)
  } catch {
    return directory // it may come later
  }
}

/** What a schema cannot say: names that must exist, URLs that must parse, directories that must not meet. */
function crossCheck(config: ConfigInput, directory: string): string[] {
  const { stores = {}, sources = {}, rules = [] } = (config ?? {}) as Partial<ConfigInput>
  const problems: string[] = []
  const places = checkStores(asRecord(stores), directory, problems)
  const directories = checkSources(asRecord(sources), directory, problems)
  const labels = new Set<string>()
  for (const [index, each] of (Array.isArray(rules) ? rules : []).entries()) {
    const where = `rules[${index}]`
    if (typeof each !== 'object' || each === null) continue
    const label = labelOf(each, index)
    if (labels.has(label)) problems.push(`${where}.label: there is another rule "${label}"; labels identify rules.`)
    labels.add(label)
    checkName(each.source, Object.keys(asRecord(sources)), `${where}.source`, 'source', problems)
    for (const [at, to] of (Array.isArray(each.destinations) ? each.destinations : []).entries()) {
      const place = `${where}.destinations[${at}]`
      checkName(to?.store, Object.keys(asRecord(stores)), `${place}.store`, 'store', problems)
      for (const local of places.get(to?.store) ?? [])
        for (const [watched, root] of directories)
          if (isWithin(local, root))
            problems.push(
              `${place}.store: ${to.store} lies within the source ${watched}, so deliveries would be delivered again. Put it elsewhere.`,
            )
    }
  }
  return problems
}

/** The local directories of each store. */
function checkStores(stores: Record<string, unknown>, directory: string, problems: string[]): Map<string, string[]> {
  const places = new Map<string, string[]>()
  for (const [key, value] of Object.entries(stores)) {
    const given = typeof value === 'object' && value !== null && 'url' in value ? value.url : value
    const urls = (Array.isArray(given) ? given : [given]).filter((url): url is string => typeof url === 'string')
    for (const url of urls)
      try {
        const absolute = absoluteUrl(url, directory)
        parseStorageUrl(absolute)
        if (absolute.startsWith('file:'))
          places.set(key, [...(places.get(key) ?? []), fileURLToPath(absolute.split('?')[0] ?? '')])
      } catch (error) {
        problems.push(`stores.${key}: ${(error as Error).message}`)
      }
  }
  return places
}

function checkSources(sources: Record<string, unknown>, directory: string, problems: string[]): Map<string, string> {
  const directories = new Map<string, string>()
  for (const [key, value] of Object.entries(sources)) {
    const given = (value as { directory?: unknown } | null)?.directory
    if (typeof given !== 'string') continue
    const root = realDirectory(path.resolve(directory, given))
    for (const [other, taken] of directories)
      if (isWithin(root, taken) || isWithin(taken, root))
        problems.push(
          `sources.${key}.directory: it overlaps with that of ${other}; a file belongs to one source. Use rules with paths instead.`,
        )
    directories.set(key, root)
  }
  return directories
}

function isWithin(inner: string, outer: string): boolean {
  return inner === outer || inner.startsWith(outer.endsWith(path.sep) ? outer : outer + path.sep)
}

function checkName(given: unknown, names: string[], where: string, what: string, problems: string[]) {
  if (typeof given !== 'string' || names.includes(given)) return
  problems.push(`${where}: there is no ${what} ${JSON.stringify(given)}.${suggest(given, names)}`)
}

function describeIssue(issue: z.core.$ZodIssue): string[] {
  const where = issue.path
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
    .join('')
    .replace(/^\./, '')
  const at = where === '' ? '' : `${where}: `
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map(
      (key) => `${where === '' ? '' : `${where}.`}${key}: is not known here.${suggest(key, knownKeys(issue.path))}`,
    )
  if (issue.code === 'invalid_union') {
    const branches = issue.errors.map((issues) =>
      issues.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] })),
    )
    // The branch that got furthest into the value is the one that was meant.
    const best = branches.toSorted((a, b) => depth(b) - depth(a))[0] ?? []
    if (depth(best) > issue.path.length || best.some(({ code }) => code === 'unrecognized_keys'))
      return best.flatMap(describeIssue)
    return [`${at}is none of the forms it can have: a URL, a list of URLs, or an object with url.`]
  }
  if (issue.code === 'invalid_type' && issue.input === undefined && /received undefined/.test(issue.message))
    return [`${at}is missing.`]
  return [`${at}${issue.message}.`.replace(/\.\.$/, '.')]
}

function depth(issues: readonly z.core.$ZodIssue[]): number {
  return Math.max(0, ...issues.map(({ path: at }) => at.length))
}

/** What could stand beside a key that is not known. */
function knownKeys(at: readonly PropertyKey[]): string[] {
  const [top, , third] = at
  if (top === undefined) return Object.keys(schema.shape)
  if (top === 'stores') return ['url', 'publicUrl']
  if (top === 'sources') return Object.keys(source.shape)
  if (third === 'filter') return Object.keys(at[3] === 'size' ? { minimum: 0, maximum: 0 } : filter.shape)
  if (third === 'destinations') return Object.keys(destination.shape)
  return Object.keys(rule.shape)
}

function suggest(given: string, known: string[]): string {
  const close = known.map((word) => ({ word, distance: editDistance(given.toLowerCase(), word.toLowerCase()) }))
  const best = close.sort((a, b) => a.distance - b.distance)[0]
  if (best && best.distance <= Math.max(2, given.length / 3)) return ` Did you mean ${JSON.stringify(best.word)}?`
  return known.length > 0 ? ` There ${known.length === 1 ? 'is' : 'are'}: ${known.join(', ')}.` : ''
}

/** How many letters must be changed, added or taken away (Levenshtein 1966). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1))
    row = next
  }
  return row[b.length] ?? 0
}

async function readConfig(file: string): Promise<unknown> {
  const extension = path.extname(file)
  if (extension === '.json') return readJson(file)
  if (extension === '.yaml' || extension === '.yml') return readYaml(file)
  try {
    const loaded = (await import(pathToFileURL(file).href)) as { default?: unknown }
    if (loaded.default === undefined) throw new Error('it has no default export')
    return loaded.default
  } catch (error) {
    throw invalid(
      `${file} cannot be loaded: ${(error as Error).message}.`,
      'It should say `export default defineConfig({ … })`.',
    )
  }
}

function readJson(file: string): unknown {
  const text = readFileSync(file, 'utf8')
  try {
    return JSON.parse(text)
  } catch (error) {
    const position = Number(/position (\d+)/.exec((error as Error).message)?.[1] ?? Number.NaN)
    const before = text.slice(0, position).split('\n')
    const where = Number.isNaN(position) ? '' : ` (line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1})`
    // V8's own message may quote a part of the file, which may be a secret.
    throw invalid(`${file} is not JSON${where}.`, 'A comma too many or a missing quote are the usual reasons.')
  }
}

async function readYaml(file: string): Promise<unknown> {
  const { parseDocument } = await import('yaml')
  const document = parseDocument(readFileSync(file, 'utf8'), { prettyErrors: true })
  const [error] = document.errors
  if (error) {
    const at = error.linePos?.[0]
    throw invalid(`${file} is not YAML${at ? ` (line ${at.line}, column ${at.col})` : ''}: ${error.code}.`)
  }
  return document.toJS()
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
}

function isPattern(text: string): boolean {
  try {
    return new RegExp(text) instanceof RegExp
  } catch {
    return false
  }
}

function measured(parse: (value: string | number) => number, description: string) {
  return z
    .union([z.string(), z.number()])
    .transform((value, context) => {
      try {
        return parse(value)
      } catch (error) {
        context.addIssue({ code: 'custom', message: (error as Error).message })
        return z.NEVER
      }
    })
    .describe(description.trim())
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_CONFIG', message, hint === undefined ? {} : { hint })
}
