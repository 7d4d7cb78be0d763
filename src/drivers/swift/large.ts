/**
 * Static large objects (docs.openstack.org/swift, "Large Object Support"): segments, and a manifest that names them. The
 * manifest comes last, so whatever fails before, the object under the key is still the former one. Segments that nothing
 * refers to any more are deleted as well as that can be done; what is in doubt is kept.
 */
import { hash, randomUUID } from 'node:crypto'
import { codeOf, StowageError, type ErrorCode } from '../../core/errors.ts'
import { retry } from '../../core/retry.ts'
import type { HttpResponse } from '../http-client.ts'
import { readJson } from './json.ts'
import type { Segment } from './segments.ts'
import { each, removeAll } from './removal.ts'
import { encodePath, unlessAbsent, type Service } from './service.ts'

/** Segments have names that begin so; rclone hides the same ones. */
export const hidden = '.file-segments/'

const segmentsAtOnce = 4
/** Of all uploads of a driver together; each may have one on its way in any case, so none waits for another. */
const segmentsOfAll = 8
/** The segments on their way hold no more than this, unless a single one does. */
const bytesAtOnce = 64 << 20
/** Segments are in memory or at the service, so a passing failure of one need not cost the whole upload. */
const attempts = 4
const discardMs = 60_000

/** Where large objects are kept. */
export interface Place {
  service: Service
  /** Of the manifests. */
  container: string
  segmentsContainer: string
  /** How many segments a manifest may name. */
  manifestSegments: number
  /** What is known or going on, of all uploads. */
  state: {
    /** Segments on their way. */
    sending: number
    /** Does the service know large objects? Absent before somebody had to find out. */
    knowsLarge?: Promise<boolean> | undefined
  }
}

/** A line of a manifest, as it is sent. */
interface Line {
  path: string
  etag: string
  size_bytes: number
}

/** A line of a manifest, as it is read. */
interface StoredLine {
  name?: string
  hash?: string
  bytes?: number
  range?: string
  sub_slo?: boolean
}

/** An object that is being replaced, deleted or copied. */
export interface Former {
  /** Segments that belong to it alone; manifests below the first come after what they name. */
  paths: string[]
  /** Its segments, if it is a static large object and made of nothing but whole ones. */
  lines: Line[] | undefined
}

/** Looks whether there is an object under the path that has segments. */
export async function formerOf(place: Place, path: string, signal: AbortSignal | undefined): Promise<Former> {
  const response = await place.service.request({ method: 'HEAD', path, signal }).catch(unlessAbsent)
  await response?.bytes()
  return response && isLarge(response) ? readManifest(place, path, signal) : { paths: [], lines: undefined }
}

/** Is the answer about a static large object? */
export function isLarge({ headers }: HttpResponse): boolean {
  return headers['x-static-large-object']?.toLowerCase() === 'true'
}

/**
 * Finds out once whether the service knows static large objects. Who does not takes the manifest for the file, but for its
 * etag; and Ceph's lists such a file with the size of its manifest, which it never gives out again.
 */
export async function knowsLarge(place: Place): Promise<boolean> {
  place.state.knowsLarge ??= tryLarge(place).catch((error: unknown) => {
    place.state.knowsLarge = undefined
    throw error
  })
  return place.state.knowsLarge
}

async function tryLarge(place: Place): Promise<boolean> {
  const start = `/${place.segmentsContainer}/${hidden}${randomUUID()}`
  const [path, manifest, bytes] = [`${start}/segment`, `${start}/manifest`, Buffer.from('x')]
  const line = { path, etag: hash('md5', bytes), size_bytes: bytes.byteLength }
  const make = async () => {
    await put(place.service, path, { bytes, md5: line.etag }, {}, undefined)
    await putManifest(place, { path: manifest, headers: {} }, [line], undefined)
    return (await readManifest(place, manifest, undefined)).paths.length > 0
  }
  try {
    return await retry(make, { attempts: 2 })
  } catch (error) {
    if (codeOf(error) === 'CORRUPT') return false
    throw error
  } finally {
    await discard(place, [manifest, path])
  }
}

/** Deletes segments that nothing refers to any more. That they may stay is not worth failing what brought us here. */
export async function discard({ service }: Place, paths: readonly string[]): Promise<void> {
  if (paths.length === 0) return
  const signal = AbortSignal.timeout(discardMs)
  await retry(async () => removeAll(service, paths, signal), { attempts, signal }).catch(() => undefined)
}

/** Stores segments and the manifest of them. Resolves to size and etag. `stop` must also end the segments when it fires. */
export async function sendLarge(
  place: Place,
  target: { path: string; headers: Readonly<Record<string, string>> },
  segments: AsyncIterable<Segment>,
  { stop, signal }: { stop: AbortController; signal: AbortSignal },
  check: (size: number) => void,
): Promise<{ size: number; etag: string }> {
  return making(place, target, signal, async (name) => {
    const lines: Line[] = []
    await sendEach(place, segments, stop, async (segment) => {
      const line = { path: name(), etag: segment.md5, size_bytes: segment.bytes.byteLength }
      lines.push(line)
      await retry(async () => put(place.service, line.path, segment, {}, signal), { attempts, signal })
    })
    check(lines.reduce((sum, line) => sum + line.size_bytes, 0))
    return lines
  })
}

/** Copies segments within the service, and makes a manifest of the copies. */
export async function copyLarge(
  place: Place,
  target: { path: string; headers: Readonly<Record<string, string>> },
  lines: readonly Line[],
  signal: AbortSignal,
): Promise<void> {
  await making(place, target, signal, async (name) => {
    let isFailed = false
    return each(lines, segmentsAtOnce, async ({ path: from, etag, size_bytes }) => {
      const path = name()
      const copying = async () => copyObject(place.service, from, path, signal)
      if (!isFailed)
        await retry(copying, { attempts, signal }).catch((error: unknown) => {
          isFailed = true
          throw error
        })
      return { path, etag, size_bytes }
    })
  })
}

/** Has the service copy an object, with all that is known of it. */
export async function copyObject(
  service: Service,
  from: string,
  to: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  const headers = { 'x-copy-from': encodePath(from) }
  await (await service.request({ method: 'PUT', path: to, headers, signal })).bytes()
}

/** Stores bytes as one object. The service refuses them when they are not what we say; so do we when its answer does. */
export async function put(
  service: Service,
  path: string,
  { bytes, md5 }: Pick<Segment, 'bytes' | 'md5'>,
  headers: Readonly<Record<string, string>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const response = await service.request({
    method: 'PUT',
    path,
    headers: { ...headers, etag: md5 },
    body: bytes,
    signal,
  })
  await response.bytes()
  checkStored(path, response, md5)
}

/** Throws CORRUPT when the service says that it has stored something else. */
export function checkStored(path: string, { headers }: HttpResponse, md5: string): void {
  const etag = headers['etag']?.replaceAll('"', '')
  if (etag !== undefined && etag !== md5)
    throw new StowageError('CORRUPT', `${path} was stored as something else than what was sent.`, { retryable: true })
}

/** Makes segments, then the manifest. What was made of an object that did not come to be is deleted again. */
async function making(
  place: Place,
  target: { path: string; headers: Readonly<Record<string, string>> },
  signal: AbortSignal,
  make: (name: () => string) => Promise<Line[]>,
): Promise<{ size: number; etag: string }> {
  const id = randomUUID()
  const made: string[] = []
  const name = () => {
    const path = `/${place.segmentsContainer}/${hidden}${id}/${String(made.length).padStart(8, '0')}`
    made.push(path)
    return path
  }
  const state = { isInDoubt: false }
  try {
    let lines = await make(name)
    const size = lines.reduce((sum, line) => sum + line.size_bytes, 0)
    const most = place.manifestSegments
    while (lines.length > most) {
      const groups = Array.from({ length: Math.ceil(lines.length / most) }, (_, at) =>
        lines.slice(at * most, (at + 1) * most),
      )
      lines = await each(groups, segmentsAtOnce, async (group) => {
        const path = name()
        const etag = await retry(async () => putManifest(place, { path, headers: {} }, group, signal), {
          attempts,
          signal,
        })
        return { path, etag, size_bytes: group.reduce((sum, line) => sum + line.size_bytes, 0) }
      })
    }
    return { size, etag: await commit(place, target, lines, signal, state) }
  } catch (error) {
    if (!state.isInDoubt) await discard(place, made)
    throw error
  }
}

/** Failures after which a manifest may have been stored, or may yet be. */
const doubtful: ReadonlySet<ErrorCode> = new Set(['UNREACHABLE', 'TIMEOUT', 'ABORTED', 'CLOSED', 'UNKNOWN'])

/**
 * Puts the object under its key. From here on it is not cancelled, and its segments stay unless the service refused it
 * each time: an object whose segments are gone would be worse than segments too many.
 */
async function commit(
  place: Place,
  target: { path: string; headers: Readonly<Record<string, string>> },
  lines: readonly Line[],
  signal: AbortSignal,
  state: { isInDoubt: boolean },
): Promise<string> {
  const former = await formerOf(place, target.path, signal)
  const etag = await retry(
    async () =>
      putManifest(place, target, lines, undefined).catch((error: unknown) => {
        state.isInDoubt ||= doubtful.has(codeOf(error))
        throw error
      }),
    { attempts },
  )
  await discard(place, former.paths)
  return etag
}

/**
 * The etag of the object that a manifest stands for is made of those of its segments. Sent along, it also keeps a service
 * without large objects from storing the manifest itself as the file.
 */
async function putManifest(
  { service }: Place,
  { path, headers }: { path: string; headers: Readonly<Record<string, string>> },
  lines: readonly Line[],
  signal: AbortSignal | undefined,
): Promise<string> {
  const etag = hash('md5', lines.map((line) => line.etag).join(''))
  const query = { 'multipart-manifest': 'put' }
  const body = Buffer.from(JSON.stringify(lines))
  const response = await service.request({ method: 'PUT', path, query, headers: { ...headers, etag }, body, signal })
  await response.bytes()
  return etag
}

/** Sends segments, some at once; after the first failure, the others are only told to stop. */
async function sendEach(
  { state }: Place,
  segments: AsyncIterable<Segment>,
  stop: AbortController,
  send: (segment: Segment) => Promise<void>,
): Promise<void> {
  const sending = new Set<Promise<void>>()
  const failures: unknown[] = []
  const fail = (error: unknown) => {
    failures.push(error)
    stop.abort()
  }
  try {
    for await (const segment of segments) {
      state.sending++
      const sent: Promise<void> = send(segment)
        .catch(fail)
        .finally(() => {
          state.sending--
          sending.delete(sent)
        })
      sending.add(sent)
      const room = Math.max(1, Math.min(segmentsAtOnce, Math.floor(bytesAtOnce / segment.bytes.byteLength)))
      // No further segment is read before there is a place for it.
      while (failures.length === 0 && sending.size > 0 && (sending.size >= room || state.sending >= segmentsOfAll))
        await Promise.race(sending)
      if (failures.length > 0) break
    }
  } catch (error) {
    fail(error)
  }
  await Promise.all(sending)
  if (failures.length > 0) throw failures[0]
}

/** Manifests may name further manifests. Segments that somebody keeps elsewhere are not ours to delete: others may refer to them. */
async function readManifest(place: Place, path: string, signal: AbortSignal | undefined): Promise<Former> {
  const query = { 'multipart-manifest': 'get', format: 'json' }
  const response = await place.service.request({ method: 'GET', path, query, signal }).catch(unlessAbsent)
  // Somebody replaced it in the meantime.
  if (!response || !isLarge(response)) {
    response?.stream().destroy()
    return { paths: [], lines: undefined }
  }
  const stored = readJson(await response.bytes()) as StoredLine[]
  const former: Former = { paths: [], lines: [] }
  const manifests: string[] = []
  for (const { name, hash: etag, bytes, range, sub_slo: isManifest } of stored) {
    const isOurs = name !== undefined && isSegment(place, name)
    if (isManifest && name !== undefined) {
      const below = await readManifest(place, name, signal)
      former.paths.push(...below.paths)
      former.lines = below.lines && former.lines?.concat(below.lines)
      if (isOurs) manifests.push(name)
    } else if (name === undefined || etag === undefined || bytes === undefined || range !== undefined)
      former.lines = undefined
    else former.lines?.push({ path: name, etag, size_bytes: bytes })
    if (isOurs && !isManifest) former.paths.push(name)
  }
  former.paths.push(...manifests)
  return former
}

/** Is it a name that only segments have: ours and rclone's, or those of the usual second container? */
function isSegment({ container, segmentsContainer }: Place, name: string): boolean {
  return [`/${container}/${hidden}`, `/${segmentsContainer}/${hidden}`, `/${container}_segments/`].some((start) =>
    name.startsWith(start),
  )
}
