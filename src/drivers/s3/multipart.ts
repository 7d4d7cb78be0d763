/** Uploads in parts: whatever fails, nothing of them stays, because unfinished uploads cost money and nobody sees them. */
import { codeOf, StowageError } from '../../core/errors.ts'
import { Limit } from '../../core/limit.ts'
import { isRefusal, retry } from '../../core/retry.ts'
import type { Part, PartPool } from './parts.ts'
import { checksumOf, type Service } from './service.ts'
import { encode } from './sign.ts'
import { escapeXml, readXml, textOf } from './xml.ts'

const partsAtOnce = 4
/** Of all uploads of a driver together; each may have one on its way in any case, so none waits for another. */
const partsOfAll = 8
/** The parts on their way hold no more than this, unless a single one does. */
const bytesAtOnce = 64 << 20
/** Parts are in memory or at the service, so a passing failure of one need not cost the whole upload. */
const attempts = 4
const abandonMs = 30_000

/** What an upload is for. */
export interface Target {
  service: Service
  key: string
  /** Of the finished object. */
  headers: Readonly<Record<string, string>>
  /** Headers that let the object only come into being under a condition. */
  conditions: Readonly<Record<string, string>>
}

interface DonePart {
  etag: string
  checksum?: string
}

/**
 * Sends a body in parts, some at once. Resolves to its size and etag. `stop` must also end the body when it fires: it
 * does when a part has failed for good, or when `signal`, which follows it, was fired by the caller.
 */
export async function sendParts(
  target: Target,
  parts: AsyncIterable<Part>,
  { pool, stop, signal }: { pool: PartPool; stop: AbortController; signal: AbortSignal },
  check: (size: number) => void,
): Promise<{ size: number; etag: string | undefined }> {
  return uploading(target, signal, stop, async (upload) => {
    const sending = new Set<Promise<void>>()
    const done: DonePart[] = []
    let size = 0
    let failure: unknown
    // The first failure is the one to tell: after it, the others are only told to stop.
    const fail = (error: unknown) => {
      failure ??= error
      stop.abort()
    }
    try {
      for await (const { bytes, buffer } of parts) {
        size += bytes.byteLength
        const number = done.push({ etag: '' })
        pool.sending++
        const receive = (part: DonePart) => {
          done[number - 1] = part
          pool.give(buffer)
          sending.delete(sent)
        }
        const sent: Promise<void> = upload
          .send(number, bytes)
          .then(receive, fail)
          .finally(() => pool.sending--)
        sending.add(sent)
        const room = Math.max(1, Math.min(partsAtOnce, Math.floor(bytesAtOnce / bytes.byteLength)))
        // No further part is read before there is a place for it.
        while (failure === undefined && sending.size > 0 && (sending.size >= room || pool.sending >= partsOfAll))
          await Promise.race(sending)
        if (failure !== undefined) break
      }
    } catch (error) {
      fail(error)
    }
    await Promise.all(sending)
    if (failure !== undefined) throw failure
    check(size)
    return { size, etag: await upload.complete(done) }
  })
}

/** Copies an object within the service in parts, for those that are too large for one request. */
export async function copyParts(
  target: Target,
  source: { bucket: string; key: string; size: number; etag: string | undefined },
  partBytes: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const headers = {
    'x-amz-copy-source': copySource(source.bucket, source.key),
    ...(source.etag === undefined ? {} : { 'x-amz-copy-source-if-match': source.etag }),
  }
  const stop = new AbortController()
  const both = signal ? AbortSignal.any([signal, stop.signal]) : stop.signal
  await uploading(target, both, stop, async (upload) => {
    const limit = new Limit(partsAtOnce)
    const starts = Array.from({ length: Math.ceil(source.size / partBytes) }, (_, index) => index * partBytes)
    const copying = starts.map(async (start, index) =>
      limit.run(async () => {
        const range = `bytes=${start}-${Math.min(source.size, start + partBytes) - 1}`
        return upload.copy(index + 1, { ...headers, 'x-amz-copy-source-range': range })
      }, both),
    )
    const done = await Promise.all(copying).catch(async (error: unknown) => {
      stop.abort()
      await Promise.allSettled(copying)
      throw error
    })
    await upload.complete(done)
  })
}

/** An object as CopyObject and UploadPartCopy want it named. */
export function copySource(bucket: string, key: string): string {
  return `/${encode(bucket)}/${key.split('/').map(encode).join('/')}`
}

/** Begins an upload, and takes it back when the work on it fails. */
async function uploading<T>(
  target: Target,
  signal: AbortSignal,
  stop: AbortController,
  work: (upload: Upload) => Promise<T>,
): Promise<T> {
  const upload = await Upload.begin(target, signal)
  try {
    return await work(upload)
  } catch (error) {
    stop.abort()
    await upload.abandon()
    throw error
  }
}

/** One upload at the service. */
class Upload {
  readonly #target: Target
  readonly #signal: AbortSignal
  readonly #id: string
  /** Whether the service has agreed to keep CRC32s of the parts; AWS refuses parts with them otherwise. */
  readonly #hasChecksums: boolean

  private constructor(target: Target, signal: AbortSignal, id: string, hasChecksums: boolean) {
    this.#target = target
    this.#signal = signal
    this.#id = id
    this.#hasChecksums = hasChecksums
  }

  static async begin(target: Target, signal: AbortSignal): Promise<Upload> {
    const { service, key } = target
    const headers = { ...target.headers, 'x-amz-checksum-algorithm': 'CRC32' }
    const response = await retry(
      async () => service.request({ method: 'POST', key, query: { uploads: '' }, headers, signal }),
      { attempts, signal },
    )
    const id = textOf(readXml(await response.bytes()), 'UploadId')
    if (!id) throw new StowageError('UNREACHABLE', `The service began no upload of ${key}.`)
    return new Upload(target, signal, id, response.headers['x-amz-checksum-algorithm'] === 'CRC32')
  }

  async send(number: number, body: Buffer): Promise<DonePart> {
    const response = await this.#insist(async () => {
      const { service, key } = this.#target
      const query = { partNumber: String(number), uploadId: this.#id }
      const checksum = this.#hasChecksums
      const answer = await service.request({ method: 'PUT', key, query, body, checksum, signal: this.#signal })
      await answer.bytes()
      return answer
    })
    const { etag = '' } = response.headers
    return this.#hasChecksums ? { etag, checksum: checksumOf(body) } : { etag }
  }

  async copy(number: number, headers: Record<string, string>): Promise<DonePart> {
    const query = { partNumber: String(number), uploadId: this.#id }
    const { service, key } = this.#target
    const bytes = await this.#insist(async () =>
      service.requestLate({ method: 'PUT', key, query, headers, signal: this.#signal }),
    )
    const answer = readXml(bytes)
    const checksum = textOf(answer, 'ChecksumCRC32')
    return { etag: textOf(answer, 'ETag') ?? '', ...(checksum ? { checksum } : {}) }
  }

  /** Makes the object of its parts. Resolves to its etag where the service tells it. */
  async complete(parts: readonly DonePart[]): Promise<string | undefined> {
    const lines = parts.map(({ etag, checksum }, index) => {
      const sum = checksum ? `<ChecksumCRC32>${checksum}</ChecksumCRC32>` : ''
      return `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escapeXml(etag)}</ETag>${sum}</Part>`
    })
    const xmlns = 'http://s3.amazonaws.com/doc/2006-03-01/'
    const body = Buffer.from(`<CompleteMultipartUpload xmlns="${xmlns}">${lines.join('')}</CompleteMultipartUpload>`)
    const { service, key, conditions } = this.#target
    const headers = { 'content-type': 'application/xml', ...conditions }
    const query = { uploadId: this.#id }
    const bytes = await retry(
      async (attempt) =>
        service
          .requestLate({ method: 'POST', key, query, headers, body, signal: this.#signal })
          .catch(async (error: unknown) => this.#whenLost(error, attempt, parts.length)),
      { attempts, signal: this.#signal, ...(Object.keys(conditions).length > 0 && { isRepeatable: isRefusal }) },
    )
    return (bytes.byteLength > 0 && textOf(readXml(bytes), 'ETag')) || undefined
  }

  /** An upload that is gone at the second try may have been completed by the first, whose answer was lost. */
  async #whenLost(error: unknown, attempt: number, count: number): Promise<Buffer> {
    if (attempt === 1 || codeOf(error) !== 'NOT_FOUND') throw error
    const { service, key } = this.#target
    const { headers } = await service.request({ method: 'HEAD', key, signal: this.#signal })
    if (!headers['etag']?.replaceAll('"', '').endsWith(`-${count}`)) throw error
    return Buffer.alloc(0)
  }

  /** Takes the upload back; the failure that brought us here is the one to tell, so this one's is not. */
  async abandon(): Promise<void> {
    const { service, key } = this.#target
    const signal = AbortSignal.timeout(abandonMs)
    const query = { uploadId: this.#id }
    await retry(async () => (await service.request({ method: 'DELETE', key, query, signal, accept: [404] })).bytes(), {
      attempts,
      signal,
    }).catch(() => undefined)
  }

  async #insist<T>(work: () => Promise<T>): Promise<T> {
    return retry(work, { attempts, signal: this.#signal })
  }
}
