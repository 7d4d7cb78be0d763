/** Listings of a Swift container, page by page. */
import { cleanKey, compareKeys } from '../../core/keys.ts'
import type { Entry, ListOptions } from '../../store/driver.ts'
import { placeOf } from '../../store/driving.ts'
import { readJson } from './json.ts'
import { hidden } from './large.ts'
import { etagOf, type Service } from './service.ts'

const pageBytes = 128 << 20

/** A line of a page: an object, or what several have in common up to a slash. */
interface Line {
  name?: string
  subdir?: string
  bytes?: number
  hash?: string
  slo_etag?: string
  content_type?: string
  last_modified?: string
}

/**
 * Entries below a directory, in the order of their keys' bytes, which is also Swift's. How long a page is the cluster
 * decides, and some have short ones in the middle: only an empty one is the end.
 */
export async function* listed(
  service: Service,
  container: string,
  directory: string,
  options: ListOptions,
): AsyncGenerator<Entry> {
  const { after, signal } = options
  const prefix = directory === '' ? '' : `${directory}/`
  const query: Record<string, string> = { format: 'json' }
  if (prefix !== '') query['prefix'] = prefix
  if (options.recursive === false) query['delimiter'] = '/'
  for (let marker = after; ; ) {
    if (marker !== undefined) query['marker'] = marker
    const response = await service.request({ method: 'GET', path: `/${container}`, query, signal })
    const bytes = await response.bytes(pageBytes)
    const page = bytes.byteLength === 0 ? [] : (readJson(bytes) as Line[])
    for (const line of page) {
      const entry = entryOf(line)
      if (entry && (after === undefined || compareKeys(placeOf(entry), after) > 0)) yield entry
    }
    const last = page.at(-1)
    const end = last?.name ?? last?.subdir
    if (end === undefined || (marker !== undefined && compareKeys(end, marker) <= 0)) return
    marker = end.startsWith(hidden) ? `${hidden}\u{10ffff}` : end
  }
}

/** What a line means here. Others put markers of directories and names such as `a//b` into containers, which are no keys. */
function entryOf({ name, subdir, bytes = 0, hash, slo_etag: large, content_type: type, last_modified: time }: Line) {
  const key = name ?? subdir?.replace(/\/$/, '') ?? ''
  const isMarker = type?.startsWith('application/directory') && bytes === 0
  if (isMarker || `${key}/`.startsWith(hidden) || !isClean(key)) return undefined
  if (name === undefined) return { kind: 'directory', key } satisfies Entry
  // The time is universal, and does not say so.
  const modified = new Date(`${time?.replace(/Z$/, '')}Z`)
  return {
    kind: 'file',
    key,
    size: bytes,
    ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
    ...etagOf(large ?? hash),
    ...(type ? { contentType: type } : {}),
  } satisfies Entry
}

function isClean(key: string): boolean {
  try {
    cleanKey(key)
    return true
  } catch {
    return false
  }
}
