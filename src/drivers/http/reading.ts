/** Opening a file with GET (RFC 9110), whatever a server does about ranges, lengths and encodings. What http and webdav have in common. */
import { Readable } from 'node:stream'
import { StowageError } from '../../core/errors.ts'
import type { ByteRange, FileInfo, OpenFile, ReadOptions } from '../../store/driver.ts'
import type { HttpResponse } from '../http-client.ts'
import type { Site } from './site.ts'

/** What a file is known to be, from somewhere else than the answer to GET. */
export interface Known {
  stat: () => Promise<FileInfo>
  /** Does `stat` tell the size of the bytes that are stored, and what is a directory? Not when it is as much HTTP as GET is. */
  isCertain: boolean
}

/** Where the bytes of an answer stand in the file. */
interface Extent {
  start: number
  /** Excluded; undefined when the answer goes on to an end that it does not tell. */
  end: number | undefined
  /** Of the whole file. */
  size: number | undefined
}

/**
 * Opens a file. Where ranges are ignored, what comes before the range is read and thrown away. Where the answer does not
 * tell the size, `known` does. Rejects with UNSUPPORTED when the bytes are not those of the file but an encoding of them.
 */
export async function openFile(site: Site, key: string, options: ReadOptions, known: Known): Promise<OpenFile> {
  const response = await get(site, key, options)
  const extent = extentOf(response, options.range)
  if (isEncoded(response) && !known.isCertain) throw encoded(site, key, response)
  const isDoubtful = isEncoded(response) || (known.isCertain && isMute(response))
  if (extent?.size !== undefined && !isDoubtful) return opened(site, key, { response, extent, options })
  // Holding this answer while the next is waited for could take the last socket from all who do the same.
  response.stream().destroy()
  const info = await known.stat()
  return reopened(site, key, options, info)
}

/** What the headers tell of a file. */
export function infoOf(key: string, size: number, headers: Record<string, string>): FileInfo {
  const modified = new Date(headers['last-modified'] ?? Number.NaN)
  const contentType = headers['content-type']
  return {
    key,
    size,
    ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
    ...etagOf(headers['etag'], modified, headers['date']),
    ...(contentType === undefined ? {} : { contentType }),
  }
}

/**
 * A version without its quotes. Weak and strong are not told apart: Apache calls weak what is strong a second later. nginx
 * makes it of the second of the modification and the size, so as long as the next version may have the same it is none.
 */
export function etagOf(raw: string | undefined, modified: Date, now: string | undefined): { etag?: string } {
  const etag = /^(?:W\/)?"?([^"]*)"?$/.exec(raw?.trim() ?? '')?.[1]
  if (!etag) return {}
  const isOfSecond = etag.startsWith(`${Math.floor(modified.getTime() / 1000).toString(16)}-`)
  return isOfSecond && Date.parse(now ?? '') - modified.getTime() < settledMs ? {} : { etag }
}

/** File systems' clocks tick more slowly than those that tell the time: a second, and one for that. */
const settledMs = 2000

/** The size of the whole file as an answer to GET or HEAD tells it. */
export function sizeOf(response: HttpResponse): number | undefined {
  return extentOf(response, undefined)?.size
}

/** Were the bytes compressed, although that was not asked for? Then neither they nor their number are the file's. */
export function isEncoded({ headers }: HttpResponse): boolean {
  return !/^(identity)?$/i.test(headers['content-encoding'] ?? '')
}

/** The error of an answer that {@link isEncoded}. Lets go of it. */
export function encoded(site: Site, key: string, response: HttpResponse): StowageError {
  response.stream().destroy()
  const encoding = response.headers['content-encoding']
  return new StowageError('UNSUPPORTED', `${key} comes from ${site.location} only in the encoding ${encoding}.`, {
    hint: 'Let the server send what is not encoded to those who ask for it.',
  })
}

async function get(site: Site, key: string, { range, signal }: ReadOptions): Promise<HttpResponse> {
  const headers: Record<string, string> = range
    ? { range: `bytes=${range.start}-${range.end === undefined ? '' : range.end - 1}` }
    : {}
  return site.request({ method: 'GET', key, headers, signal, ...(range && { accept: [416] }) })
}

/** The second time, when what the answer left open is known. */
async function reopened(site: Site, key: string, options: ReadOptions, info: FileInfo): Promise<OpenFile> {
  const response = await get(site, key, options)
  const { start = 0, end, size } = extentOf(response, options.range) ?? {}
  if (isEncoded(response) && size !== info.size) throw encoded(site, key, response)
  const { etag = info.etag } = infoOf(key, info.size, response.headers)
  if ((size ?? info.size) !== info.size || (etag ?? info.etag) !== (info.etag ?? etag)) {
    response.stream().destroy()
    throw new StowageError('CONFLICT', `${key} changed in ${site.location} while it was opened.`, { retryable: true })
  }
  return opened(site, key, { response, extent: { start, end, size: info.size }, options })
}

/** An answer about a file has at least one of these; a page that was made up has neither. */
function isMute({ headers }: HttpResponse): boolean {
  return headers['etag'] === undefined && headers['last-modified'] === undefined
}

function extentOf({ status, headers }: HttpResponse, range: ByteRange | undefined): Extent | undefined {
  const length = headers['content-length'] === undefined ? undefined : Number(headers['content-length'])
  const told = /^bytes (?:(\d+)-(\d+)|\*)\/(\d+|\*)$/.exec(headers['content-range'] ?? '')
  const size = told?.[3] === undefined || told[3] === '*' ? undefined : Number(told[3])
  if (status === 200) return { start: 0, end: length, size: length }
  if (status === 416) return { start: range?.start ?? 0, end: range?.start ?? 0, size }
  if (status !== 206 || told?.[1] === undefined) return undefined
  return { start: Number(told[1]), end: Number(told[2]) + 1, size }
}

interface Answer {
  response: HttpResponse
  extent: Extent
  options: ReadOptions
}

async function opened(site: Site, key: string, { response, extent, options }: Answer): Promise<OpenFile> {
  const { start = 0, end = Infinity } = options.range ?? {}
  const size = extent.size ?? 0
  const last = Math.min(end, size)
  const info = infoOf(key, size, response.headers)
  if (response.status === 416 || start >= size) {
    if (response.status === 416 || size === 0) await response.bytes()
    else response.stream().destroy()
    if (start < size) throw misplaced(site, key)
    return { info, body: Readable.from([], { objectMode: false }) }
  }
  if (extent.start > start || (extent.end ?? Infinity) < last) {
    response.stream().destroy()
    throw misplaced(site, key)
  }
  const stream = response.stream()
  if (extent.start === start && extent.end === last) return { info, body: stream }
  const cut = pieces(stream, { skip: start - extent.start, take: last - start, isExact: last === size }, key)
  const body = Readable.from(cut, { objectMode: false })
  // A generator that was never begun has no end either.
  return { info, body: body.once('close', () => stream.destroy()) }
}

function misplaced(site: Site, key: string): StowageError {
  return new StowageError('UNSUPPORTED', `${site.location} sent another part of ${key} than was asked for.`)
}

/** A part of a stream. It never ends early in silence. */
async function* pieces(
  stream: Readable,
  { skip, take, isExact }: { skip: number; take: number; isExact: boolean },
  key: string,
): AsyncGenerator<Uint8Array> {
  let at = -skip
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    const wanted = chunk.subarray(Math.max(0, -at), Math.max(0, take - at))
    at += chunk.byteLength
    if (at > take && isExact) throw changed(key)
    if (wanted.byteLength > 0) yield wanted
    if (at >= take && !isExact) return
  }
  if (at < take) throw changed(key)
}

function changed(key: string): StowageError {
  return new StowageError('UNREACHABLE', `${key} was not as long as the server had said; it may have changed.`)
}
