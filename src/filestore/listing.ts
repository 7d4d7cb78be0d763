/** Listings, made from the registry. */
import { compareKeys } from '../core/keys.ts'
import type { Entry, ListOptions } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { infoOf, type Registry } from './registry.ts'

/** The files of a directory, or one level of it with the directories, in key order, page by page. */
export async function* listed(registry: Registry, below: string, options: ListOptions): AsyncGenerator<Entry> {
  const prefix = below === '' ? '' : `${below}/`
  // "0" follows "/": what comes before it is all that is in a directory.
  const end = below === '' ? {} : { before: `${below}0` }
  const isDeep = options.recursive !== false
  let position: { from: string } | { after: string } = { from: prefix }
  if (options.after !== undefined && compareKeys(options.after, prefix) >= 0)
    position = beyond(options.after, isDeep ? undefined : prefix)
  for (let limit = isDeep ? 1000 : 100; ; ) {
    throwIfAborted(options.signal)
    const page = await registry.page({ ...position, ...end, limit })
    let directory: string | undefined
    let listed = 0
    for (const row of page) {
      if (directory !== undefined && row.key.startsWith(`${directory}/`)) continue
      const slash = isDeep ? -1 : row.key.indexOf('/', prefix.length)
      directory = slash < 0 ? undefined : row.key.slice(0, slash)
      listed++
      yield directory === undefined ? { kind: 'file', ...infoOf(row) } : { kind: 'directory', key: directory }
    }
    const last = page.at(-1)
    if (!last) return
    position = directory === undefined ? { after: last.key } : { from: `${directory}0` }
    // Of what is in a directory only one file is needed.
    limit = Math.min(1000, 2 * listed)
  }
}

/** Where a listing goes on. Where only one level is listed, below a prefix, a directory counts as a whole. */
function beyond(after: string, prefix: string | undefined): { from: string } | { after: string } {
  const slash = prefix !== undefined && after.startsWith(prefix) ? after.indexOf('/', prefix.length) : -1
  return slash < 0 ? { after } : { from: `${after.slice(0, slash)}0` }
}
