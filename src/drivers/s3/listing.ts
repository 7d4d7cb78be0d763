/** Listings of S3 (ListObjectsV2), page by page. */
import { cleanKey, compareKeys } from '../../core/keys.ts'
import type { Entry, ListOptions } from '../../store/driver.ts'
import { placeOf } from '../../store/driving.ts'
import { etagOf, type Service } from './service.ts'
import { readXml, textOf, type XmlTree } from './xml.ts'

const pageBytes = 64 << 20

/** Entries below a directory, in the order of their keys' bytes, which is also S3's. */
export async function* listed(service: Service, directory: string, options: ListOptions): AsyncGenerator<Entry> {
  const { after, signal } = options
  const prefix = directory === '' ? '' : `${directory}/`
  const query: Record<string, string> = { 'list-type': '2', 'encoding-type': 'url', 'max-keys': '1000', prefix }
  if (options.recursive === false) query['delimiter'] = '/'
  if (after !== undefined) query['start-after'] = after
  for (;;) {
    const response = await service.request({ method: 'GET', query, signal })
    const page = readXml(await response.bytes(pageBytes))
    for (const entry of entriesOf(page))
      if (isAddressable(entry.key) && (after === undefined || compareKeys(placeOf(entry), after) > 0)) yield entry
    const token = textOf(page, 'NextContinuationToken')
    if (textOf(page, 'IsTruncated') !== 'true' || token === undefined) return
    delete query['start-after']
    query['continuation-token'] = token
  }
}

/** Others put marker objects (`a/`) and names such as `a//b` into buckets, which are no keys. */
function isAddressable(key: string): boolean {
  try {
    cleanKey(key)
    return true
  } catch {
    return false
  }
}

/** A page of a listing, files and directories in one order. Keys come percent-encoded, as XML cannot hold them all. */
function entriesOf(page: XmlTree): Entry[] {
  const isEncoded = textOf(page, 'EncodingType') === 'url'
  const decode = (text = '') => (isEncoded ? decoded(text) : text)
  const files = (page.children['Contents'] ?? []).map((each): Entry => {
    const modified = new Date(textOf(each, 'LastModified') ?? Number.NaN)
    return {
      kind: 'file',
      key: decode(textOf(each, 'Key')),
      size: Number(textOf(each, 'Size') ?? 0),
      ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
      ...etagOf(textOf(each, 'ETag')),
    }
  })
  const directories = (page.children['CommonPrefixes'] ?? []).map(
    (each): Entry => ({ kind: 'directory', key: decode(textOf(each, 'Prefix')).replace(/\/$/, '') }),
  )
  if (directories.length === 0) return files
  return [...files, ...directories].sort((a, b) => compareKeys(placeOf(a), placeOf(b)))
}

/** What is not UTF-8 is no key either. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    return ''
  }
}
