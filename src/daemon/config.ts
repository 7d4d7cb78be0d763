/** The configuration: one schema for stowage.config.ts, .json and .yaml. All mistakes are told at once, each with its place. */
import { existsSync } from 'node:fs'
import * as path from 'node:path'
import { z } from 'zod'
import { StowageError } from '../core/errors.ts'
import { realPath } from '../core/real-path.ts'
import type { StoreSettings } from '../drivers/stores.ts'
import type { ProcessorSpec } from '../conveyor/processors/index.ts'
import type { AssetSettings } from '../conveyor/asset-manifest.ts'
import type { Source } from '../conveyor/intake.ts'
import type { Rule } from '../conveyor/rules.ts'
import { absoluteUrl, crossCheck, labelOf } from './config-check.ts'
import { suggest } from './config-draft.ts'
import { readConfigFile } from './config-file.ts'
import {
  cache,
  completeFilestore,
  filestore,
  filestoreKeys,
  remoteRuleKeys,
  type FilestoreSettings,
} from './config-filestores.ts'
import { duration, name, size } from './config-units.ts'

const urls = z.union([z.string(), z.array(z.string()).min(1, 'needs at least one URL')])
const storeSettings = z.strictObject({
  url: urls.optional().describe('Where files are kept; of several, the nearest first.'),
  mounts: z
    .record(z.string(), z.string())
    .optional()
    .describe(
      'Instead of a URL: other stores by name, each below a prefix; the empty prefix takes what no other does.',
    ),
  filestore: filestore.optional().describe('Instead of a URL: files are local first, and offloaded to other stores.'),
  publicUrl: z.url('is not a URL').optional().describe('Address below which the files are served.'),
  readOnly: z.boolean().optional().describe('Refuse every change.'),
  saved: z
    .boolean()
    .optional()
    .describe('Where files are kept is saved with `stowage store set`; a URL here is the default until then.'),
  cleanName: z.literal('ascii', 'can only be "ascii"').optional().describe('Turn names into web-safe ASCII.'),
})
const store = z.union([...urls.options, storeSettings])

const source = z.strictObject({
  directory: z.string().min(1).describe('What is watched. Relative to this file.'),
  ignore: z
    .array(z.string())
    .default(['.git', 'node_modules', '.DS_Store', '*.tmp', '*.swp', '*~'])
    .describe('Names (at any depth) or paths (with a slash) of what does not exist for us.'),
  settle: duration('How long a file must have rested before it is taken.').default(500),
  documentRoot: z
    .string()
    .min(1)
    .optional()
    .describe('What "/" is in the links of its files. Default: the directory. Relative to this file.'),
  basePath: z
    .string()
    .regex(/^\/(.*\/)?$/, 'must begin and end with a slash')
    .optional()
    .describe('Where the site begins below "/", if not at it.'),
  polling: z
    .union(
      [
        duration('Look every so often instead of listening for events, as network file systems need.'),
        z.literal(false),
      ],
      'must be a duration such as 30s, or false',
    )
    .optional(),
})

const filter = z.strictObject({
  paths: z.array(z.string()).optional().describe('Directories or files, relative to the source.'),
  extensions: z.array(z.string().regex(/^[^./]+$/, 'is not an extension: write "css", without dot')).optional(),
  ignoredDirs: z.array(z.string()).optional().describe('Names of directories, at any depth, that do not match.'),
  pattern: z.string().refine(isPattern, 'is not a regular expression').optional().describe('Tried on the path.'),
  size: z.strictObject({ minimum: size('').optional(), maximum: size('').optional() }).optional(),
})

const header = z.string().regex(/^[\x20-\x7e]*$/, 'must be printable ASCII')
const destination = z.strictObject({
  store: z.string().describe('The name of a store.'),
  path: z.string().default('').describe('A directory within it.'),
  maxConnections: z.int().min(1).max(1024).optional().describe('Deliveries at once; adapts by itself when left out.'),
  url: z
    .url('is not a URL')
    .optional()
    .describe('Address below which the keys are served. Default: that of the store.'),
  cacheControl: z
    .union([header, z.strictObject({ versioned: header.optional(), other: header.optional() })])
    .optional()
    .describe('The header Cache-Control. Default: a year for versioned names, none for others.'),
  link: z
    .enum(['symlink', 'hard'], 'must be "symlink" or "hard"')
    .optional()
    .describe('Link to unprocessed originals instead of copying them.'),
  invalidate: z
    .string()
    .regex(/^[A-Z0-9]+$/, 'is not the id of a distribution, such as E1A2B3C4D5E6F7')
    .optional()
    .describe('The CloudFront distribution that is to forget what is replaced under a name without version.'),
})

const rule = z.strictObject({
  label: z.string().min(1).optional().describe('Identifies the rule; changing it delivers anew.'),
  source: z.string(),
  filter: filter.default({}),
  processors: z.array(z.union([z.string(), z.looseObject({ use: z.string() })])).default([]),
  destinations: z.array(destination).min(1, 'needs at least one destination'),
  deleteSourceAfter: duration('Delete the original so long after it was delivered everywhere.').optional(),
  supersededAfter: duration(
    'Keep superseded copies so long. Default: 1h where files have asset URLs, else 0.',
  ).optional(),
  timeLimit: duration('For one run of the processors.').default(600_000),
})

const baseUrl = z.string().regex(/^(https?:)?\/\/[^/?#]+[^?#]*$|^\/(?!\/)[^?#]*$/, 'is neither a URL nor a path from /')
const assetDomain = z.strictObject({
  url: baseUrl.optional().describe('Base of what was not delivered. Default: the public URL of the store.'),
  source: z.string().optional().describe('Whose deliveries are shown. Default: that of assets.'),
  path: z.string().default('').describe('A directory within the source.'),
})
const assets = z.strictObject({
  source: z.string().describe('The files that have asset URLs.'),
  store: z.string().describe('Whose addresses are given.'),
  manifest: z.string().default('assets.json').describe('The file that applications read. Relative to this file.'),
  key: z.string().min(1).optional().describe('Where the manifest is also kept in the store.'),
  domains: z
    .record(name, z.union([baseUrl, assetDomain]))
    .default({})
    .describe('Base URLs; "default" is the one of the source.'),
})

const schema = z.strictObject({
  $schema: z.string().optional(),
  state: z
    .string()
    .default('stowage.db')
    .describe('The file that remembers what was delivered. Relative to this file.'),
  workDirectory: z.string().optional().describe('Where processors work. Default: .stowage-work beside the state.'),
  stores: z.record(name, store).describe('Named places to keep files.'),
  cache: cache.optional().describe('What was fetched for filestores is kept here for the next time.'),
  sources: z
    .record(name, source)
    .optional()
    .describe('Directories that are watched. Not needed where there is a filestore.'),
  rules: z
    .array(rule)
    .min(1, 'needs at least one rule')
    .optional()
    .describe('Which files go through what, to which stores. Needed for sources.'),
  assets: assets.optional().describe('Public addresses for applications, looked up by source name.'),
})

/** What people write. */
export type ConfigInput = z.input<typeof schema>

/** A checked configuration: paths are absolute, durations milliseconds, sizes bytes, and every name is defined. */
export interface Config {
  /** Where the file is: relative module names of processors start there. */
  directory: string
  state: string
  workDirectory: string
  /** Those that are no filestores. */
  stores: Record<string, StoreSettings>
  filestores: Record<string, FilestoreSettings>
  /** Of all filestores; made when there is one. */
  cache: { directory: string; maxBytes?: number }
  sources: Record<string, Omit<Source, 'name'>>
  rules: RuleConfig[]
  assets?: AssetSettings
}

/** A rule whose processors are not loaded yet. */
type RuleConfig = Omit<Rule, 'processors'> & { processors: ProcessorSpec[] }

/** Types a configuration and returns it as it is. */
export function defineConfig(config: ConfigInput): ConfigInput {
  return config
}

/** The names under which a configuration is looked for, in this order. */
export const configNames = ['ts', 'js', 'json', 'yaml', 'yml'].map((extension) => `stowage.config.${extension}`)

/** How strictly a configuration is checked. */
export interface CheckOptions {
  /** Is it a mistake when a secret (`env:NAME`, `file:PATH`) cannot be had now? Default true. */
  secrets?: boolean
}

/** Reads and checks a configuration; without a file, the one in `directory`. Rejects with INVALID_CONFIG. */
export async function loadConfig(
  file?: string,
  directory = process.cwd(),
  options: CheckOptions = {},
): Promise<Config> {
  const found =
    file === undefined
      ? configNames.map((each) => path.join(directory, each)).find((each) => existsSync(each))
      : path.resolve(directory, file)
  if (found === undefined)
    throw invalid(
      `There is no ${configNames.join(', ')} in ${directory}.`,
      'Write one with `stowage init`, or give --config FILE.',
    )
  if (!existsSync(found)) throw invalid(`There is no configuration ${found}.`)
  return checkConfig(await readConfigFile(found), path.dirname(found), found, options)
}

/**
 * Checks a configuration and completes it. `directory` is what its relative paths are relative to, `origin` names it in
 * errors. Rejects with INVALID_CONFIG and one line for each mistake.
 */
export function checkConfig(
  input: unknown,
  directory = process.cwd(),
  origin = 'The configuration',
  { secrets = true }: CheckOptions = {},
): Config {
  const result = schema.safeParse(input)
  const problems = result.success ? [] : result.error.issues.flatMap((issue) => describeIssue(issue))
  // What refers to what is looked at even when something else is wrong: people want to hear of everything at once.
  problems.push(...crossCheck(result.success ? result.data : input, directory, secrets))
  if (problems.length > 0 || !result.success)
    throw invalid(`${origin} is not right:\n${[...new Set(problems)].map((line) => `  ${line}`).join('\n')}`)
  return complete(result.data, directory)
}

/** The schema as JSON Schema (draft 2020-12), for editors. */
export function configSchema(): Record<string, unknown> {
  return z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
    // A function is none of what JSON can say.
    override: ({ zodSchema, jsonSchema }) => {
      if (zodSchema._zod.def.type === 'custom') jsonSchema.not = {}
    },
  })
}

function complete(config: z.output<typeof schema>, directory: string): Config {
  const state = path.resolve(directory, config.state)
  const entries = <T, U>(record: Record<string, T>, turn: (value: T, key: string) => U) =>
    Object.fromEntries(Object.entries(record).map(([key, value]) => [key, turn(value, key)]))
  const own = (given: string | undefined, name: string) =>
    given === undefined ? path.join(path.dirname(state), name) : path.resolve(directory, given)
  const [plain, filestores] = partition(config.stores)
  return {
    directory,
    state,
    workDirectory: own(config.workDirectory, '.stowage-work'),
    stores: entries(plain, (each, store) => completeStore(each, directory, linkedSources(config, store))),
    filestores: entries(filestores, (each) => completeFilestoreOf(each, directory)),
    cache: withoutAbsent({ ...config.cache, directory: own(config.cache?.directory, '.stowage-cache') }),
    sources: entries(config.sources ?? {}, ({ settle, polling, documentRoot, ...each }) => ({
      ...withoutAbsent(each),
      directory: realPath(path.resolve(directory, each.directory)),
      settleMs: settle,
      ...(typeof polling === 'number' ? { pollingMs: polling } : {}),
      ...(documentRoot === undefined ? {} : { documentRoot: path.resolve(directory, documentRoot) }),
    })),
    rules: (config.rules ?? []).map((each, index) => completeRule(each, index, config.assets)),
    ...(config.assets ? { assets: completeAssets(config.assets, directory) } : {}),
  }
}

/** Without a word about it, the domain `default` shows the source; of another domain that is only a URL nothing is delivered. */
function completeAssets(each: z.output<typeof assets>, directory: string): AssetSettings {
  const { source: usual, manifest, domains, ...rest } = each
  const all: typeof domains = { default: { path: '' }, ...domains }
  const complete = Object.entries(all).map(([domain, given]) => {
    const { source, path: below, ...settings } = typeof given === 'string' ? { url: given, path: '' } : given
    const isPlain = typeof given === 'string' && domain !== 'default'
    const from = isPlain ? {} : { source: source ?? usual, path: below.replace(/^\/+|\/+$/g, '') }
    return [domain, withoutAbsent({ ...settings, ...from })]
  })
  return withoutAbsent({ ...rest, manifest: path.resolve(directory, manifest), domains: Object.fromEntries(complete) })
}

/** The directories whose files a store gets links to. */
function linkedSources({ rules = [], sources = {} }: z.output<typeof schema>, store: string): string[] {
  return Object.entries(sources)
    .filter(([source]) =>
      rules.some(
        (each) => each.source === source && each.destinations.some((to) => to.store === store && to.link === 'symlink'),
      ),
    )
    .map(([, each]) => each.directory)
}

type StoreEntry = z.output<typeof store>
type FilestoreEntry = z.output<typeof storeSettings> & { filestore: object }

/** The stores that are places, and those that are filestores. */
function partition(stores: Record<string, StoreEntry>): [Record<string, StoreEntry>, Record<string, FilestoreEntry>] {
  const isFilestore = (each: StoreEntry): each is FilestoreEntry =>
    typeof each === 'object' && 'filestore' in each && each.filestore !== undefined
  const all = Object.entries(stores)
  const plain = all.filter(([, each]) => !isFilestore(each))
  return [Object.fromEntries(plain), Object.fromEntries(all.filter(([, each]) => isFilestore(each))) as never]
}

function completeFilestoreOf(each: FilestoreEntry, directory: string): FilestoreSettings {
  const { filestore: settings, publicUrl, cleanName, readOnly } = each
  return { ...completeFilestore(settings, directory), ...withoutAbsent({ publicUrl, cleanName, readOnly }) }
}

function completeStore(each: StoreEntry, directory: string, linksInto: readonly string[]): StoreSettings {
  const { url, ...rest } = typeof each === 'string' || Array.isArray(each) ? { url: each } : each
  const absolute =
    typeof url === 'string'
      ? withLinks(absoluteUrl(url, directory), directory, linksInto)
      : url?.map((one) => absoluteUrl(one, directory))
  return withoutAbsent({ url: absolute, ...rest })
}

/** The store reads back what was linked there: the sources are named in its URL, unless somebody has done that. */
function withLinks(url: string, directory: string, linksInto: readonly string[]): string {
  if (linksInto.length === 0 || /[?&]links_into=/.test(url)) return url
  const places = linksInto.map((each) => encodeURIComponent(realPath(path.resolve(directory, each)))).join(':')
  return `${url}${url.includes('?') ? '&' : '?'}links_into=${encodeURIComponent(places)}`
}

/** Pages that were made a moment ago refer to the former address of an asset, so it is kept a while. */
const assetSupersededMs = 3_600_000

function completeRule(each: z.output<typeof rule>, index: number, shown?: z.output<typeof assets>): RuleConfig {
  const { deleteSourceAfter, supersededAfter, timeLimit, filter: given, destinations, ...rest } = each
  const { pattern, ...conditions } = given
  const hasAssets = shown !== undefined && destinations.some((to) => to.store === shown.store)
  return {
    ...rest,
    label: labelOf(each, index),
    filter: withoutAbsent({ ...conditions, ...(pattern === undefined ? {} : { pattern: new RegExp(pattern) }) }),
    destinations: destinations.map((to) => withoutAbsent({ ...to, path: to.path.replace(/^\/+|\/+$/g, '') })),
    ...(deleteSourceAfter === undefined ? {} : { deleteSourceAfterMs: deleteSourceAfter }),
    supersededAfterMs: supersededAfter ?? (hasAssets ? assetSupersededMs : 0),
    timeLimitMs: timeLimit,
  }
}

type Present<T> = { [K in keyof T]: Exclude<T[K], undefined> }

function withoutAbsent<T extends object>(object: T): Present<T> {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== undefined)) as Present<T>
}

/** One line for each mistake: its place, what is wrong, and what to do. Values are not quoted: they may be secrets. */
function describeIssue(issue: z.core.$ZodIssue): string[] {
  const at = placeOf(issue.path)
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map(
      (key) => `${placeOf([...issue.path, key])}is not known here.${suggest(key, knownKeys(issue.path))}`,
    )
  if (issue.code === 'invalid_union') return describeUnion(issue)
  if (issue.code === 'invalid_key') return [`${at}${issue.issues[0]?.message ?? issue.message}.`]
  const received = /received (\w+)/.exec(issue.message)?.[1]
  if (issue.code === 'invalid_type' && received === 'undefined' && at !== '') return [`${at}is missing.`]
  if (issue.code === 'invalid_type' && issue.expected === 'int') return [`${at}must be a whole number.`]
  if (issue.code === 'invalid_type')
    return [`${at}must be ${withArticle(issue.expected)}, not ${withArticle(received ?? 'that')}.`]
  if (issue.code === 'too_small' && issue.origin === 'number') return [`${at}must be ${String(issue.minimum)} or more.`]
  if (issue.code === 'too_big' && issue.origin === 'number') return [`${at}must be ${String(issue.maximum)} or less.`]
  return [`${at}${issue.message}.`.replace(/\.\.$/, '.')]
}

/** Of several forms a value may have, the one that explains most of it was meant. */
function describeUnion(issue: z.core.$ZodIssueInvalidUnion): string[] {
  if (issue.message !== 'Invalid input') return [`${placeOf(issue.path)}${issue.message}.`]
  const branches = issue.errors.map((issues) =>
    issues.map((inner) => ({ ...inner, path: [...issue.path, ...inner.path] })),
  )
  const best = branches.toSorted((a, b) => depth(b) - depth(a))[0] ?? []
  if (depth(best) > issue.path.length || best.some(({ code }) => code === 'unrecognized_keys'))
    return best.flatMap(describeIssue)
  const forms = branches.flat().flatMap((inner) => (inner.code === 'invalid_type' ? [withArticle(inner.expected)] : []))
  return [`${placeOf(issue.path)}must be ${[...new Set(forms)].join(' or ') || 'something else'}.`]
}

function placeOf(at: readonly PropertyKey[]): string {
  const parts = at.map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
  return parts.length === 0 ? '' : `${parts.join('').replace(/^\./, '')}: `
}

function withArticle(type: string): string {
  const word = type === 'array' ? 'list' : type
  if (['null', 'undefined', 'that'].includes(word)) return word === 'undefined' ? 'nothing' : word
  return `${/^[aeio]/.test(word) ? 'an' : 'a'} ${word === 'record' ? 'table of names' : word}`
}

function depth(issues: readonly z.core.$ZodIssue[]): number {
  return Math.max(0, ...issues.map(({ path: at }) => at.length))
}

/** What could stand beside a key that is not known. */
function knownKeys(at: readonly PropertyKey[]): string[] {
  const [top, , third] = at
  if (top === undefined) return Object.keys(schema.shape)
  if (third === 'filestore') return at.length > 3 ? remoteRuleKeys : filestoreKeys
  if (top === 'stores') return Object.keys(storeSettings.shape)
  if (top === 'cache') return Object.keys(cache.shape)
  if (top === 'sources') return Object.keys(source.shape)
  if (top === 'assets') return Object.keys(at.length > 1 ? assetDomain.shape : assets.shape)
  if (third === 'filter') return Object.keys(at[3] === 'size' ? { minimum: 0, maximum: 0 } : filter.shape)
  if (third === 'destinations') return Object.keys(destination.shape)
  return Object.keys(rule.shape)
}

function isPattern(text: string): boolean {
  try {
    return new RegExp(text) instanceof RegExp
  } catch {
    return false
  }
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_CONFIG', message, hint === undefined ? {} : { hint })
}
