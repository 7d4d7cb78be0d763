/** Many files with hashes for names, spread over directories, because no file system likes a million names in one. */
import { compareKeys } from '../../core/keys.ts'
import type { Driver, Entry, ListOptions } from '../driver.ts'
import { merged, placeOf } from '../driving.ts'
import { renamed } from './renamed.ts'

/**
 * The driver with names of 64 hexadecimal digits (a SHA-256) kept below one directory for each of their first `levels`
 * digits: `abcd…` is kept as `a/b/c/d/abcd…` when there are four. Other keys stay as they are.
 */
export function sharded(driver: Driver, levels: number): Driver {
  const spread = new RegExp(`^${'([0-9a-f])/'.repeat(levels)}([0-9a-f]{64})$`)
  const inner = (key: string) => (/^[0-9a-f]{64}$/.test(key) ? key.slice(0, levels).replace(/./g, '$&/') + key : key)
  /** The hash that is kept under a key, if it is one of ours. */
  const hashOf = (key: string) => {
    const name = spread.exec(key)?.at(-1)
    return name !== undefined && inner(name) === key ? name : undefined
  }
  const names = { inner, outer: (key: string) => hashOf(key) ?? key }

  /** Hashes are elsewhere in the order than the directories they are kept in, so the two kinds are listed apart. */
  async function* others(options: ListOptions): AsyncGenerator<Entry> {
    for await (const entry of driver.list('', { ...options, recursive: true }))
      if (hashOf(entry.key) === undefined) yield entry
  }
  async function* hashes({ after, ...options }: ListOptions): AsyncGenerator<Entry> {
    for await (const entry of driver.list('', { ...options, recursive: true })) {
      const key = hashOf(entry.key)
      if (key !== undefined && (after === undefined || compareKeys(key, after) > 0)) yield { ...entry, key }
    }
  }
  return {
    ...renamed(driver, names),
    list: (directory, options = {}) => {
      if (directory !== '') return driver.list(directory, options)
      const listed = merged([hashes(options), others(options)])
      return options.recursive === false ? firstLevel(listed, options) : listed
    },
  }
}

/** The first level of a listing: its files there, and each directory once. */
async function* firstLevel(entries: AsyncIterable<Entry>, { after }: ListOptions): AsyncGenerator<Entry> {
  let last: string | undefined
  for await (const entry of entries) {
    const slash = entry.key.indexOf('/')
    const shown: Entry = slash < 0 ? entry : { kind: 'directory', key: entry.key.slice(0, slash) }
    const isNew = placeOf(shown) !== last && (after === undefined || compareKeys(placeOf(shown), after) > 0)
    if (isNew) yield shown
    last = placeOf(shown)
  }
}
