/** `stowage ls WHERE`: what is there. */
import { isNotFound, StowageError } from '../core/errors.ts'
import { formatBytes } from '../core/units.ts'
import type { Entry } from '../store/driver.ts'
import type { Context } from './main.ts'
import { Places } from './places.ts'

interface Options {
  recursive?: boolean
  long?: boolean
}

/** Prints the entries below a directory, named relative to it. Of a file, the file. */
export async function run(
  { config, output, signal }: Context,
  [where = '']: string[],
  { recursive = false, long = false }: Options,
): Promise<undefined> {
  await using places = new Places(config)
  const { store, key } = await places.directory(where)
  const print = (entry: Entry, name: string) => {
    output.object({ ...entry, key: name })
    output.line(long ? longLine(entry, name) : label(entry, name))
  }
  let isEmpty = true
  for await (const entry of store.list(key, { recursive, signal })) {
    isEmpty = false
    print(entry, key === '' ? entry.key : entry.key.slice(key.length + 1))
  }
  if (!isEmpty || (await isRoot(places, where))) return undefined
  const file = await places.file(where)
  try {
    const info = await file.store.stat(file.key, { signal })
    print({ kind: 'file', ...info }, info.key)
  } catch (error) {
    if (!isNotFound(error)) throw error
    throw new StowageError('NOT_FOUND', `There is nothing at ${file.key} in ${file.store.location}.`, { cause: error })
  }
  return undefined
}

/** The root of a store may be empty; a directory that is empty does not exist. */
async function isRoot(places: Places, where: string): Promise<boolean> {
  try {
    await places.file(where)
    return false
  } catch {
    return true
  }
}

function label(entry: Entry, name: string): string {
  return entry.kind === 'directory' ? `${name}/` : name
}

function longLine(entry: Entry, name: string): string {
  const size = entry.kind === 'file' ? formatBytes(entry.size) : '-'
  const time = entry.kind === 'file' ? (entry.modified?.toISOString().slice(0, 19).replace('T', ' ') ?? '') : ''
  return `${size.padStart(11)}  ${time.padEnd(19)}  ${label(entry, name)}`
}
