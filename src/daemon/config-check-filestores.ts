/** What a schema cannot say about filestores: where they offload to, and whose directories must not meet. */
import * as path from 'node:path'
import { realPath } from '../core/real-path.ts'
import { asRecord, checkName, isWithin, type Draft, type Loose } from './config-draft.ts'

/** Notes where the directory of a filestore is. */
export function noteFilestore(draft: Draft, name: string, { directory }: Loose): void {
  if (typeof directory !== 'string') return
  const root = realPath(path.resolve(draft.directory, directory))
  draft.filestores.set(name, root)
  draft.stores.get(name)?.directories.push(root)
}

/**
 * Checks all filestores and their cache, once every store and source is noted. `own` are files and directories of ours by
 * their places in the configuration. Returns the directory of the cache, if there will be one.
 */
export function checkFilestores(
  draft: Draft,
  stores: Loose,
  { own, cache }: { own: Loose; cache: string },
): string | undefined {
  for (const [name, value] of Object.entries(stores)) {
    const { filestore } = asRecord(value)
    if (filestore !== undefined) checkRemotes(draft, name, asRecord(filestore), stores)
  }
  checkDirectories(draft)
  const files = Object.entries(own).flatMap(([place, file]) =>
    typeof file === 'string' ? [[place, realPath(path.resolve(draft.directory, file))] as const] : [],
  )
  for (const [place, file] of files) checkOutside(draft, place, file)
  if (draft.filestores.size === 0) return undefined
  checkCache(draft, realPath(cache), files)
  return cache
}

function checkRemotes(draft: Draft, name: string, { remote, remotes }: Loose, stores: Loose) {
  const place = `stores.${name}.filestore`
  if (typeof remote === 'function' && remotes === undefined)
    draft.problems.push(`${place}.remotes: is missing. List the stores that the function chooses from.`)
  const one = (given: unknown, where: string) => checkRemote(draft, { name, given, where }, stores)
  if (typeof remote === 'string') one(remote, `${place}.remote`)
  if (Array.isArray(remote))
    for (const [index, rule] of remote.entries()) one(asRecord(rule)['remote'], `${place}.remote[${index}].remote`)
  if (Array.isArray(remotes)) for (const [index, each] of remotes.entries()) one(each, `${place}.remotes[${index}]`)
}

function checkRemote(
  draft: Draft,
  { name, given, where }: { name: string; given: unknown; where: string },
  stores: Loose,
) {
  const { problems } = draft
  const choices = [...draft.stores.keys()].filter((each) => !holdsFilestore(each, stores))
  const store = draft.stores.get(String(given))
  if (!store) return checkName(draft, given, choices, where, 'store')
  if (given === name) problems.push(`${where}: a filestore cannot be its own remote. Name the store that files go to.`)
  else if (holdsFilestore(String(given), stores))
    problems.push(`${where}: ${String(given)} is or holds a filestore. Name the store that files go to in the end.`)
  else if (store.isReadOnly) problems.push(`${where}: ${String(given)} is read only.`)
  const root = draft.filestores.get(name)
  if (root !== undefined && given !== name && store.directories.some((each) => overlap(each, root)))
    problems.push(`${where}: ${String(given)} and the directory of ${name} overlap. Put one of them elsewhere.`)
}

/** Is it one, or a store of mounts with one in it? */
function holdsFilestore(name: string, stores: Loose, within: readonly string[] = []): boolean {
  const { filestore, mounts } = asRecord(stores[name])
  if (filestore !== undefined || within.includes(name)) return filestore !== undefined
  return Object.values(asRecord(mounts)).some((inner) => holdsFilestore(String(inner), stores, [...within, name]))
}

function checkDirectories(draft: Draft) {
  const all = [...draft.filestores]
  for (const [index, [name, root]] of all.entries()) {
    const place = `stores.${name}.filestore.directory`
    for (const [other, taken] of all.slice(0, index))
      if (overlap(root, taken))
        draft.problems.push(`${place}: it overlaps with that of ${other}; a file belongs to one filestore.`)
    for (const [source, { root: watched }] of draft.sources)
      if (overlap(root, watched))
        draft.problems.push(
          `${place}: it overlaps with the source ${source}, for which files that are offloaded would be gone. Put one elsewhere.`,
        )
  }
}

/** What we write ourselves is no file of an application. */
function checkOutside(draft: Draft, place: string, file: string) {
  for (const [name, root] of draft.filestores)
    if (isWithin(file, root))
      draft.problems.push(`${place}: it lies within the directory of the filestore ${name}. Put it elsewhere.`)
}

/** Whatever is in its directory and not of the cache is removed. */
function checkCache(draft: Draft, root: string, own: readonly (readonly [place: string, file: string])[]) {
  const others = [
    ['this configuration', draft.directory],
    ...own,
    ...[...draft.sources].map(([name, source]) => [`the source ${name}`, source.root]),
    ...[...draft.stores].flatMap(([name, { directories }]) => directories.map((each) => [`the store ${name}`, each])),
  ]
  const isInside = others.filter(([, file = '']) => isWithin(file, root)).map(([what = '']) => what)
  const around = [...draft.filestores].find(([, directory]) => isWithin(root, directory))
  if (isInside.length > 0)
    draft.problems.push(
      `cache.directory: ${isInside.join(' and ')} would be in it, and what is in it is removed. Give it a directory of its own.`,
    )
  else if (around)
    draft.problems.push(
      `cache.directory: it lies within the directory of the filestore ${around[0]}. Put it elsewhere.`,
    )
}

function overlap(one: string, other: string): boolean {
  return isWithin(one, other) || isWithin(other, one)
}
