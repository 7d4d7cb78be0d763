/** What a schema cannot say about a configuration: names that must exist, URLs that must parse, directories that must not meet. */
import * as path from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { codeOf } from '../core/errors.ts'
import { realPath } from '../core/real-path.ts'
import { parseStorageUrl } from '../core/storage-url.ts'
import { schemeNames } from '../drivers/index.ts'
import { ignoreMatcher } from '../watch/ignore.ts'
import { checkFilestores, noteFilestore } from './config-check-filestores.ts'
import { asRecord, checkName, isWithin, type Draft, type Loose } from './config-draft.ts'

/**
 * The mistakes in how the parts of a configuration fit together, one line each, beginning with the place. `secrets` says
 * whether a secret that cannot be had now is one.
 */
export function crossCheck(input: unknown, directory: string, secrets: boolean): string[] {
  const { stores, sources, rules, state, workDirectory, assets, cache } = asRecord(input)
  const sourceNames = Object.keys(asRecord(sources))
  const maps = { stores: new Map(), filestores: new Map(), sources: new Map() }
  const draft: Draft = { directory, secrets, sourceNames, problems: [], ...maps }
  for (const [name, value] of Object.entries(asRecord(stores))) checkStore(draft, name, value)
  if (asRecord(input) === input) checkNeeded(draft, input as Loose)
  for (const [name, value] of Object.entries(asRecord(stores)))
    checkMounts(draft, name, asRecord(asRecord(value)['mounts']))
  for (const [name, value] of Object.entries(asRecord(sources))) checkSource(draft, name, asRecord(value))
  const own = { state: state ?? 'stowage.db', workDirectory }
  for (const [place, value] of Object.entries(own))
    if (typeof value === 'string') checkOwn(draft, place, path.resolve(directory, value))
  const { directory: given = path.join(path.dirname(typeof state === 'string' ? state : ''), '.stowage-cache') } =
    asRecord(cache)
  const { manifest } = asRecord(assets)
  const cached = checkFilestores(draft, asRecord(stores), {
    own: { ...own, 'assets.manifest': manifest },
    cache: path.resolve(directory, String(given)),
  })
  if (cached !== undefined) checkOwn(draft, 'cache.directory', cached)
  checkRules(draft, Array.isArray(rules) ? rules.map(asRecord) : [])
  if (assets !== undefined) checkAssets(draft, asRecord(assets))
  return draft.problems
}

/** `file:./out` is relative to the configuration. */
export function absoluteUrl(url: string, directory: string): string {
  if (!url.startsWith('file:') || url.startsWith('file:/')) return url
  const [place = '', query] = url.slice('file:'.length).split('?')
  const absolute = pathToFileURL(path.resolve(directory, decodeURIComponent(place))).href
  return query === undefined ? absolute : `${absolute}?${query}`
}

/** The label of a rule that has none is made of its place. */
export function labelOf({ label }: { label?: unknown }, index: number): string {
  return typeof label === 'string' ? label : `rule ${index + 1}`
}

/** Somewhere files must come from: a source with its rules, or whoever uses a filestore. */
function checkNeeded({ problems, filestores, sourceNames }: Draft, { sources, rules }: Loose) {
  if (sources === undefined && filestores.size === 0) problems.push('sources: is missing.')
  if (rules === undefined && (sourceNames.length > 0 || filestores.size === 0)) problems.push('rules: is missing.')
}

function checkStore(draft: Draft, name: string, value: unknown) {
  const { problems } = draft
  // `s3:photos` on a command line should not have two meanings.
  if (schemeNames.includes(name.toLowerCase())) problems.push(`stores.${name}: is a kind of URL; choose another name.`)
  const directories: string[] = []
  const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
  const { url, mounts, saved, readOnly, filestore } = asRecord(value)
  const isSaved = saved === true && filestore === undefined
  const kinds = [url, mounts, filestore].filter((each) => each !== undefined)
  if (isObject && !isSaved && kinds.length !== 1)
    problems.push(`stores.${name}: needs one of url, mounts and filestore.`)
  if (saved === true && filestore !== undefined)
    problems.push(`stores.${name}.saved: a filestore is where its directory is; its remotes can be saved.`)
  if (isSaved) {
    if (mounts !== undefined || (Array.isArray(url) && url.length > 1))
      problems.push(`stores.${name}.saved: a store that is saved has one place, so at most one url and no mounts.`)
    if (readOnly === true)
      problems.push(`stores.${name}.saved: what is saved is tried by writing, so it cannot be readOnly.`)
  }
  const given = isObject ? url : value
  for (const url of (Array.isArray(given) ? given : [given]).filter((each) => typeof each === 'string'))
    try {
      const absolute = absoluteUrl(url, draft.directory)
      parseStorageUrl(absolute)
      if (/^file:/i.test(absolute)) directories.push(realPath(fileURLToPath(absolute.split('?')[0] ?? '')))
    } catch (error) {
      if (draft.secrets || codeOf(error) !== 'INVALID_CONFIG')
        problems.push(
          `stores.${name}: ${codeOf(error) === 'UNKNOWN' ? 'the URL is malformed.' : (error as Error).message}`,
        )
    }
  const hasUrl =
    typeof asRecord(value)['publicUrl'] === 'string' ||
    [given].flat().some((each) => typeof each === 'string' && /[?&]cloudfront_domain=/.test(each))
  const isDirectory = typeof given === 'string' && /^file:/i.test(given) && !isSaved
  const isReadOnly = asRecord(value)['readOnly'] === true
  draft.stores.set(name, { isReadOnly, hasUrl, isDirectory, directories })
  noteFilestore(draft, name, asRecord(filestore))
}

/** A store of mounts is where those stores are; one within itself would never end. */
function checkMounts(draft: Draft, name: string, mounts: Loose) {
  for (const [prefix, inner] of Object.entries(mounts)) {
    checkName(draft, inner, [...draft.stores.keys()], `stores.${name}.mounts[${JSON.stringify(prefix)}]`, 'store')
    draft.stores.get(name)?.directories.push(...(draft.stores.get(String(inner))?.directories ?? []))
  }
}

function checkSource(draft: Draft, name: string, { directory, ignore }: Loose) {
  if (typeof directory !== 'string') return
  const root = realPath(path.resolve(draft.directory, directory))
  for (const [other, taken] of draft.sources)
    if (isWithin(root, taken.root) || isWithin(taken.root, root))
      draft.problems.push(
        `sources.${name}.directory: it overlaps with that of ${other}; a file belongs to one source. Use rules with paths instead.`,
      )
  const patterns = Array.isArray(ignore) ? ignore.filter((each) => typeof each === 'string') : []
  draft.sources.set(name, { root, ignore: patterns })
}

/** What we write ourselves must not be watched. */
function checkOwn(draft: Draft, place: string, file: string) {
  const isFile = place !== 'workDirectory' && place !== 'cache.directory'
  const name = sourceThatSees(draft, realPath(file), isFile)
  if (name !== undefined)
    draft.problems.push(`${place}: it lies within the source ${name}, which would see it change. Put it elsewhere.`)
}

function checkRules(draft: Draft, rules: readonly Loose[]) {
  const labels = new Set<string>()
  const feeds = new Map<string, Set<string>>()
  const fed: { place: string; from: string; to: string; store: string }[] = []
  for (const [index, rule] of rules.entries()) {
    const where = `rules[${index}]`
    const label = labelOf(rule, index)
    if (labels.has(label))
      draft.problems.push(`${where}.label: there is another rule ${JSON.stringify(label)}; labels identify rules.`)
    labels.add(label)
    checkName(draft, rule['source'], draft.sourceNames, `${where}.source`, 'source')
    checkLinked(draft, rule, rules, where)
    const destinations = Array.isArray(rule['destinations']) ? rule['destinations'].map(asRecord) : []
    for (const [at, to] of destinations.entries()) {
      const place = `${where}.destinations[${at}].store`
      for (const target of checkDestination(draft, to, place)) {
        const from = String(rule['source'])
        feeds.set(from, (feeds.get(from) ?? new Set()).add(target))
        fed.push({ place, from, to: target, store: String(to['store']) })
      }
    }
  }
  for (const { place, from, to, store } of fed)
    if (leadsTo(feeds, to, from))
      draft.problems.push(
        `${place}: ${store} lies within the source ${to}, so what is delivered would be delivered again, without end. Put it elsewhere.`,
      )
}

/** A link needs the original for as long as it stands, whichever rule made it. */
function checkLinked(draft: Draft, rule: Loose, rules: readonly Loose[], where: string) {
  const isLinked = rules.some(
    ({ source, destinations }) =>
      source === rule['source'] &&
      Array.isArray(destinations) &&
      destinations.some((to) => asRecord(to)['link'] === 'symlink'),
  )
  if (isLinked && rule['deleteSourceAfter'] !== undefined)
    draft.problems.push(
      `${where}.deleteSourceAfter: links (link: symlink) lead to the originals of this source, so they cannot be deleted.`,
    )
}

/** Checks a destination by itself. Returns the sources that would see what is delivered there. */
function checkDestination(draft: Draft, to: Loose, place: string): string[] {
  checkName(draft, to['store'], [...draft.stores.keys()], place, 'store')
  const store = draft.stores.get(String(to['store']))
  if (to['invalidate'] !== undefined && to['url'] === undefined && store && !store.hasUrl)
    draft.problems.push(
      `${place.replace(/store$/, 'invalidate')}: ${String(to['store'])} has no public address. Give it cloudfront_domain or a publicUrl.`,
    )
  if (to['link'] !== undefined && store && !store.isDirectory)
    draft.problems.push(
      `${place.replace(/store$/, 'link')}: ${String(to['store'])} is not one directory of this machine, where links could be.`,
    )
  if (store?.isReadOnly) draft.problems.push(`${place}: ${String(to['store'])} is read only.`)
  const below = typeof to['path'] === 'string' ? to['path'] : ''
  return (store?.directories ?? [])
    .map((directory) => sourceThatSees(draft, realPath(path.join(directory, below)), false))
    .filter((name) => name !== undefined)
}

function checkAssets(draft: Draft, { source, store, manifest, key, domains }: Loose) {
  checkName(draft, source, draft.sourceNames, 'assets.source', 'source')
  checkName(draft, store, [...draft.stores.keys()], 'assets.store', 'store')
  for (const [domain, value] of Object.entries(asRecord(domains)))
    checkName(draft, asRecord(value)['source'], draft.sourceNames, `assets.domains.${domain}.source`, 'source')
  const file = typeof manifest === 'string' ? manifest : 'assets.json'
  checkOwn(draft, 'assets.manifest', path.resolve(draft.directory, file))
  const known = draft.stores.get(String(store))
  if (known && !known.hasUrl)
    draft.problems.push(`assets.store: ${String(store)} has no public address. Give it a publicUrl.`)
  if (known?.isReadOnly && key !== undefined) draft.problems.push(`assets.key: ${String(store)} is read only.`)
}

function sourceThatSees(draft: Draft, place: string, isFile: boolean): string | undefined {
  for (const [name, { root, ignore }] of draft.sources) {
    if (!isWithin(place, root)) continue
    const parts = path.relative(root, place).split(path.sep)
    const directories = parts.slice(0, isFile ? -1 : undefined).map((_, depth) => parts.slice(0, depth + 1).join('/'))
    const isIgnored = ignoreMatcher(ignore)
    if (!directories.some((directory) => directory !== '' && isIgnored(directory, true))) return name
  }
  return undefined
}

/** One source may feed another, through a store; not itself. */
function leadsTo(feeds: ReadonlyMap<string, ReadonlySet<string>>, from: string, to: string): boolean {
  const seen = new Set<string>()
  const open = [from]
  for (let name = open.pop(); name !== undefined; name = open.pop()) {
    if (name === to) return true
    if (seen.has(name)) continue
    seen.add(name)
    open.push(...(feeds.get(name) ?? []))
  }
  return false
}
