/** Several stores as one: each below a prefix of its own, as file systems are mounted in a tree. */
import { StowageError } from '../core/errors.ts'
import { cleanDirectory, compareKeys } from '../core/keys.ts'
import type { Driver, Entry, ListOptions } from './driver.ts'
import { commonSupports, merged, placeOf } from './driving.ts'
import { renamed } from './wrappers/renamed.ts'

/** A driver under the keys it has in the tree. */
interface Mount {
  /** With a slash at its end; empty for the root. */
  prefix: string
  driver: Driver
  /** As it was given. */
  origin: Driver
}

/**
 * Routes keys to drivers: `table` maps prefixes to them, the longest one that fits is taken, and the rest of the key goes
 * to its driver. The empty prefix takes what no other does; without it such keys are not found, and cannot be stored
 * (INVALID_KEY). What a driver has below the prefix of another is hidden. Closing closes all of them.
 */
export function mounted(table: Readonly<Record<string, Driver>>): Driver {
  const mounts = mountsOf(table)
  const find = (key: string) => mounts.find(({ prefix }) => key.startsWith(prefix))
  const reading = (key: string) => {
    const found = find(key)
    if (found) return found.driver
    throw new StowageError('NOT_FOUND', `There is no file ${key}: nothing is mounted there.`)
  }
  const writing = (key: string) => {
    const found = find(key)
    if (found) return found.driver
    throw new StowageError('INVALID_KEY', `${key} cannot be stored: nothing is mounted there.`, {
      hint: `There are stores at: ${mounts.map(({ prefix }) => prefix).join(', ')}.`,
    })
  }
  return {
    // What is mounted may be replaced by another place.
    get location() {
      return mounts.map(({ prefix, origin }) => `/${prefix} = ${origin.location}`).join(', ')
    },
    get supports() {
      const all = mounts.map(({ origin }) => origin.supports)
      return { ...commonSupports(all), write: all.some(({ write }) => write) }
    },
    read: async (key, call) => reading(key).read(key, call),
    stat: async (key, call) => reading(key).stat(key, call),
    write: async (key, body, call) => writing(key).write(key, body, call),
    delete: async (key, call) => find(key)?.driver.delete(key, call),
    list: (directory, call = {}) => listTree(mounts, directory === '' ? '' : `${directory}/`, call),
    close: async () => {
      await Promise.all(mounts.map(async ({ driver }) => driver.close()))
    },
  }
}

/** The longest prefix first, so that the first that fits is the right one. */
function mountsOf(table: Readonly<Record<string, Driver>>): Mount[] {
  const mounts = Object.entries(table).map(([path, driver]) => {
    const directory = cleanDirectory(path)
    const prefix = directory === '' ? '' : `${directory}/`
    return { prefix, driver: prefix === '' ? driver : below(driver, prefix), origin: driver }
  })
  if (mounts.length === 0) throw new StowageError('INVALID_ARGUMENT', 'A tree of mounts needs at least one store.')
  if (new Set(mounts.map(({ prefix }) => prefix)).size < mounts.length)
    throw new StowageError('INVALID_ARGUMENT', 'Two stores are mounted at the same place.')
  return mounts.sort((a, b) => b.prefix.length - a.prefix.length)
}

/** The driver as it is seen in the tree: its keys have the prefix. */
function below(driver: Driver, prefix: string): Driver {
  const inner = (key: string) => key.slice(prefix.length)
  return {
    ...renamed(driver, { inner, outer: (key) => prefix + key }),
    list: async function* (directory, { after, ...call } = {}) {
      // What is before the prefix is before everything here, and what is behind it is behind everything.
      const isWithin = after?.startsWith(prefix)
      if (after !== undefined && !isWithin && compareKeys(after, prefix) > 0) return
      const inside = after !== undefined && isWithin ? { after: inner(after) } : {}
      for await (const entry of driver.list(inner(directory), { ...call, ...inside }))
        yield { ...entry, key: prefix + entry.key }
    },
  }
}

/** The listing of the driver a directory belongs to, joined by those of the drivers that are mounted below it. */
function listTree(mounts: readonly Mount[], inside: string, options: ListOptions): AsyncIterable<Entry> {
  const owner = mounts.find(({ prefix }) => inside.startsWith(prefix))
  const inner = mounts.filter((mount) => mount !== owner && mount.prefix.startsWith(inside))
  const hidden = inner.map(({ prefix }) => prefix)
  const listings: AsyncIterable<Entry>[] = []
  if (owner) listings.push(without(hidden, owner.driver.list(inside.replace(/\/$/, ''), options)))
  for (const mount of inner)
    if (options.recursive === false) listings.push(directoryOf(mount, inside, options))
    else
      listings.push(
        without(
          hidden.filter((prefix) => prefix !== mount.prefix && prefix.startsWith(mount.prefix)),
          mount.driver.list(mount.prefix.replace(/\/$/, ''), options),
        ),
      )
  return merged(listings)
}

/** Entries that are not in the place of another driver. */
async function* without(hidden: readonly string[], entries: AsyncIterable<Entry>): AsyncGenerator<Entry> {
  for await (const entry of entries) if (!hidden.some((prefix) => placeOf(entry).startsWith(prefix))) yield entry
}

/** A mount as one level of a listing shows it: the next directory on the way to it. */
async function* directoryOf({ prefix }: Mount, inside: string, { after }: ListOptions): AsyncGenerator<Entry> {
  const key = prefix.slice(0, prefix.indexOf('/', inside.length))
  const entry: Entry = { kind: 'directory', key }
  if (after === undefined || compareKeys(placeOf(entry), after) > 0) yield entry
}
