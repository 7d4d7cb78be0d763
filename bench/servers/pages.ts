/** Listings of as many keys as the name of a bucket or container says, `keys-100000`, as S3, Swift and Azure give them. Prints its port. */
import * as http from 'node:http'
import type { AddressInfo } from 'node:net'

const modified = 'Fri, 20 Nov 2026 00:00:00 GMT'

const server = http.createServer((request, response) => {
  const url = new URL(request.url ?? '/', 'http://localhost')
  const { port } = server.address() as AddressInfo
  if (url.pathname === '/auth/v1.0')
    return response.writeHead(200, { 'x-storage-url': `http://127.0.0.1:${port}/v1/a`, 'x-auth-token': 't' }).end()
  const count = Number(/keys-(\d+)/.exec(url.pathname)?.[1])
  const query = (name: string) => url.searchParams.get(name) ?? ''
  if (url.pathname.startsWith('/v1/a'))
    return response.end(swiftPage(count, query('marker'), Number(query('limit')) || 10_000))
  response.setHeader('content-type', 'application/xml')
  if (query('comp') === 'list') return response.end(azurePage(count, Number(query('marker')) || 0))
  response.end(s3Page(count, query('continuation-token') || query('start-after')))
})
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port))

const nameOf = (index: number) =>
  `d${String(Math.floor(index / 1000)).padStart(4, '0')}/f${String(index).padStart(7, '0')}`
const indexAfter = (marker: string) => Number(/f(\d+)$/.exec(marker)?.[1] ?? -1) + 1

function indexes(from: number, count: number, most: number): number[] {
  return Array.from({ length: Math.max(0, Math.min(most, count - from)) }, (_, i) => from + i)
}

function s3Page(count: number, marker: string): string {
  const from = indexAfter(decodeURIComponent(marker))
  const page = indexes(from, count, 1000)
  const last = page.at(-1) ?? count
  const contents = page.map(
    (i) =>
      `<Contents><Key>${encodeURIComponent(nameOf(i))}</Key><Size>5</Size><ETag>"e"</ETag><LastModified>2026-11-20T00:00:00.000Z</LastModified></Contents>`,
  )
  const more = last < count - 1
  const next = more ? `<NextContinuationToken>${nameOf(last)}</NextContinuationToken>` : ''
  return `<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>${more}</IsTruncated>${next}${contents.join('')}</ListBucketResult>`
}

function swiftPage(count: number, marker: string, limit: number): string {
  const last_modified = '2026-11-20T00:00:00.000000'
  const page = indexes(indexAfter(marker), count, limit)
  return JSON.stringify(
    page.map((i) => ({ name: nameOf(i), bytes: 5, hash: 'e', content_type: 'text/plain', last_modified })),
  )
}

function azurePage(count: number, from: number): string {
  const page = indexes(from, count, 5000)
  const blobs = page.map(
    (i) =>
      `<Blob><Name>${nameOf(i)}</Name><Properties><Last-Modified>${modified}</Last-Modified><Etag>e</Etag><Content-Length>5</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>`,
  )
  const next = from + page.length
  const marker = next < count ? String(next) : ''
  return `<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="http://x/" ContainerName="c"><Blobs>${blobs.join('')}</Blobs><NextMarker>${marker}</NextMarker></EnumerationResults>`
}
