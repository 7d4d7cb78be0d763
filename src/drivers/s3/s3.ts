/** S3 and what speaks like it (docs.aws.amazon.com/AmazonS3/latest/API). Never lists or creates buckets; rights on one prefix are enough. */
import { createHash, hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { Readable } from 'node:stream'
import { codeOf, StowageError } from '../../core/errors.ts'
import { compareKeys } from '../../core/keys.ts'
import { Limit } from '../../core/limit.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type {
  Body,
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  ListOptions,
  ReadOptions,
  WriteOptions,
} from '../../store/driver.ts'
import { checkSize, throwIfAborted } from '../../store/driving.ts'
import { prefixed } from '../../store/wrappers/prefix.ts'
import type { HttpResponse } from '../http-client.ts'
import { credentialChain, fixedCredentials } from './credentials.ts'
import { cut, PartPool, type Part } from './parts.ts'
import { refusalOf, Service, type ServiceOptions } from './service.ts'
import { encode } from './sign.ts'

/** Bodies up to this size are one request; longer ones go in parts of it. */
const partBytes = 16 << 20
const partsAtOnce = 4
/** S3 takes 10,000 parts; so that longer bodies fit, parts grow after so many. */
const growAfterParts = 1000
const copyLimit = 5 * 2 ** 30
const verifiedBytes = 1 << 20

/** How a bucket is reached. */
export interface S3Options extends Omit<ServiceOptions, 'credentials'> {
  /** Without them the usual chain of AWS is asked. */
  accessKeyId?: string
  secretAccessKey?: string
  sessionToken?: string
}

/**
 * `s3://KEY:SECRET@host/prefix?s3_bucket=…`, with `aws_region` (default us-east-1), `use_ssl` (default true), `path_style`
 * (default: for all but amazonaws.com), `sign_payload` (default: without TLS, except to this machine), `session_token`,
 * and `ca` (a file of certificates to trust).
 */
export function s3FromUrl(url: StorageUrl): Driver {
  const { host, port, user, password, path, parameters } = url
  const tls = parameters.flag('use_ssl', true)
  const bucket = parameters.text('s3_bucket')
  const isAws = host.endsWith('.amazonaws.com')
  const sessionToken = parameters.text('session_token')
  const ca = parameters.text('ca')
  const options: S3Options = {
    host: host || 's3.amazonaws.com',
    port: port ?? (tls ? 443 : 80),
    tls,
    bucket: bucket ?? '',
    region: parameters.text('aws_region') ?? process.env['AWS_REGION'] ?? 'us-east-1',
    pathStyle: parameters.flag('path_style', !isAws),
    signPayload: parameters.flag('sign_payload', !tls && !isLoopback(host)),
    ...(ca === undefined ? {} : { ca: readFileSync(ca, 'utf8') }),
    ...(user === undefined ? {} : { accessKeyId: user }),
    ...(password === undefined ? {} : { secretAccessKey: password }),
    ...(sessionToken === undefined ? {} : { sessionToken }),
  }
  parameters.end()
  if (!bucket)
    throw new StowageError('INVALID_ARGUMENT', 'The s3 URL does not say which bucket.', {
      hint: 'Add ?s3_bucket=NAME.',
    })
  if ((user === undefined) !== (password === undefined))
    throw new StowageError('INVALID_ARGUMENT', 'The s3 URL has a key without a secret.', {
      hint: 'Write s3://KEY:SECRET@host/…, or neither.',
    })
  return prefixed(s3Driver(options), path)
}

/** Opens a bucket. Nothing is contacted yet. */
export function s3Driver(options: S3Options): Driver {
  const { accessKeyId, secretAccessKey, sessionToken } = options
  const credentials =
    accessKeyId !== undefined && secretAccessKey !== undefined
      ? fixedCredentials({ accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) })
      : credentialChain(options.region)
  return new S3Driver({ ...options, credentials })
}

class S3Driver implements Driver {
  readonly location: string
  readonly supports = {
    write: true,
    list: true,
    range: true,
    atomicWrite: true,
    ifAbsent: true,
    ifMatch: true,
    contentType: true,
    metadata: true,
    keyUnderFile: true,
    maxKeyBytes: 1024,
    maxPartBytes: 1024,
  }
  readonly #service: Service
  readonly #options: ServiceOptions
  readonly #pool = new PartPool(partBytes)
  #isClosed = false

  constructor(options: ServiceOptions) {
    this.#options = options
    this.#service = new Service(options)
    this.location = `s3://${options.host}/${options.bucket}`
  }

  async read(key: string, options: ReadOptions = {}) {
    this.#check(options)
    const { start = 0, end } = options.range ?? {}
    const range: Record<string, string> = options.range
      ? { range: `bytes=${start}-${end === undefined ? '' : end - 1}` }
      : {}
    const response = await this.#service.request({
      method: 'GET',
      key,
      headers: range,
      signal: options.signal,
      accept: [416],
    })
    if (response.status === 416) return this.#emptyRange(key, response, options)
    const info = infoOf(key, response)
    const expected = Number(response.headers['content-length'])
    return {
      info,
      body: Readable.from(whole(response, key, expected), { objectMode: false, highWaterMark: 256 * 1024 }),
    }
  }

  async write(key: string, body: Body, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const parts = cut(watched(body, options), partBytes, this.#pool)
    const first = await parts.next()
    if (first.done) throw new StowageError('UNKNOWN', 'A body has at least one part.')
    if (!first.value.isLast) return this.#writeParts(key, first.value, parts, options)
    try {
      return await this.writeBytes(key, first.value.bytes, options)
    } finally {
      this.#pool.give(first.value.buffer)
    }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options)
    checkSize(key, bytes.byteLength, options.size)
    const headers = { ...headersOf(options), ...this.#conditions(options) }
    const { signal } = options
    const response = await this.#conditional(key, options, async () =>
      this.#service.request({ method: 'PUT', key, headers, body: bytes, signal }),
    )
    await response.bytes()
    const etag = response.headers['etag']
    this.#verify(key, bytes, etag)
    return writtenInfo(key, bytes.byteLength, etag, options)
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const response = await this.#service.request({ method: 'HEAD', key, signal: options.signal })
    return infoOf(key, response)
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    const prefix = directory === '' ? '' : `${directory}/`
    let query: Record<string, string> = { 'list-type': '2', 'encoding-type': 'url', 'max-keys': '1000', prefix }
    if (options.recursive === false) query['delimiter'] = '/'
    if (options.after !== undefined) query['start-after'] = options.after
    for (;;) {
      this.#check(options)
      const response = await this.#service.request({ method: 'GET', query, signal: options.signal })
      const { readXml, textOf } = await import('./xml.ts')
      const page = readXml(await response.bytes(64 << 20))
      for (const entry of entriesOf(page)) {
        const isMarker = entry.kind === 'file' && (entry.key.endsWith('/') || entry.key === directory)
        if (!isMarker && (options.after === undefined || compareKeys(entry.key, options.after) > 0)) yield entry
      }
      const token = textOf(page, 'NextContinuationToken')
      if (textOf(page, 'IsTruncated') !== 'true' || token === undefined) return
      const { 'start-after': _, ...rest } = query
      query = { ...rest, 'continuation-token': token }
    }
  }

  async delete(key: string, options: CallOptions = {}): Promise<void> {
    this.#check(options)
    const response = await this.#service.request({ method: 'DELETE', key, signal: options.signal, accept: [404] })
    const { code } = refusalOf(await response.bytes())
    if (response.status === 404 && code === 'NoSuchBucket')
      throw new StowageError('INVALID_CONFIG', `There is no bucket ${this.#options.bucket} at ${this.#options.host}.`)
  }

  async deleteMany(keys: readonly string[], options: CallOptions = {}): Promise<void> {
    // XML has no way to write these, so such keys are deleted one by one.
    const isPlain = (key: string) => !/[\p{Cc}\ufffe\uffff]/u.test(key)
    const batches: string[][] = []
    const plain = keys.filter(isPlain)
    for (let at = 0; at < plain.length; at += 1000) batches.push(plain.slice(at, at + 1000))
    const limit = new Limit(4)
    const results = await Promise.allSettled([
      ...batches.map(async (batch) => limit.run(async () => this.#deleteBatch(batch, options), options.signal)),
      ...keys
        .filter((key) => !isPlain(key))
        .map(async (key) => limit.run(async () => this.delete(key, options), options.signal)),
    ])
    const failure = results.find((result) => result.status === 'rejected')
    if (failure) throw failure.reason
  }

  async copy(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    this.#check(options)
    if (options.ifAbsent) await this.#refuseExisting(to, options)
    const source = `/${encode(this.#options.bucket)}/${from.split('/').map(encode).join('/')}`
    const { size } = await this.stat(from, options)
    if (size > copyLimit) return this.#copyParts(source, from, to, size, options)
    const headers = { 'x-amz-copy-source': source, ...this.#conditions(options) }
    const response = await this.#conditional(to, options, async () =>
      this.#service.request({ method: 'PUT', key: to, headers, signal: options.signal }),
    )
    // A copy takes long, so S3 says 200 first and only then whether it worked.
    await this.#checkLateAnswer(response, `Copying ${from} to ${to}`)
    return this.stat(to, options)
  }

  async signedUrl(key: string, options: { method: 'GET' | 'PUT'; expiresInSeconds: number }): Promise<string> {
    const { method, expiresInSeconds } = options
    if (!(expiresInSeconds >= 1 && expiresInSeconds <= 604_800))
      throw new StowageError('INVALID_ARGUMENT', 'A signed URL can be valid from one second to seven days.')
    return this.#service.presign(method, key, Math.floor(expiresInSeconds))
  }

  async close() {
    this.#isClosed = true
    await this.#service.close()
  }

  #check({ signal }: CallOptions) {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
  }

  /** AWS wants the etag in quotes, Ceph without. */
  #conditions({ ifAbsent, ifMatch }: { ifAbsent?: boolean; ifMatch?: string }): Record<string, string> {
    const isAws = this.#options.host.endsWith('.amazonaws.com')
    return {
      ...(ifAbsent ? { 'if-none-match': '*' } : {}),
      ...(ifMatch === undefined ? {} : { 'if-match': isAws ? `"${ifMatch}"` : ifMatch }),
    }
  }

  /** A condition that did not hold is EXISTS or CONFLICT, by which condition it was. */
  async #conditional<T>(
    key: string,
    { ifAbsent, ifMatch }: { ifAbsent?: boolean; ifMatch?: string },
    work: () => Promise<T>,
  ): Promise<T> {
    try {
      return await work()
    } catch (error) {
      const isRefused = codeOf(error) === 'CONFLICT' && !(error as StowageError).retryable
      if (ifAbsent && isRefused)
        throw new StowageError('EXISTS', `The file ${key} is already in ${this.location}.`, { cause: error })
      if (ifMatch !== undefined && (isRefused || codeOf(error) === 'NOT_FOUND'))
        throw new StowageError(
          'CONFLICT',
          `The file ${key} in ${this.location} is not the version that was expected.`,
          { cause: error },
        )
      throw error
    }
  }

  async #refuseExisting(key: string, options: CallOptions) {
    const found = await this.stat(key, withSignal(options.signal)).catch((error: unknown) => {
      if (codeOf(error) === 'NOT_FOUND') return undefined
      throw error
    })
    if (found) throw new StowageError('EXISTS', `The file ${key} is already in ${this.location}.`)
  }

  /** What S3 stored in one piece without encryption of its own has its MD5 as etag. */
  #verify(key: string, bytes: Uint8Array, etag: string | undefined) {
    const plain = etag?.replaceAll('"', '') ?? ''
    if (bytes.byteLength > verifiedBytes || !/^[0-9a-f]{32}$/.test(plain) || this.#options.tls) return
    if (hash('md5', bytes) !== plain && plain !== emptyMd5)
      throw new StowageError('CORRUPT', `${key} arrived in ${this.location} as something else than what was sent.`, {
        retryable: true,
      })
  }

  async #emptyRange(key: string, response: HttpResponse, options: ReadOptions) {
    await response.bytes()
    return {
      info: await this.stat(key, withSignal(options.signal)),
      body: Readable.from([], { objectMode: false }),
    }
  }

  async #deleteBatch(keys: string[], options: CallOptions) {
    const { escapeXml, readXml, textOf } = await import('./xml.ts')
    const objects = keys.map((key) => `<Object><Key>${escapeXml(key)}</Key></Object>`).join('')
    const body = Buffer.from(
      `<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>true</Quiet>${objects}</Delete>`,
    )
    const headers = {
      'content-md5': createHash('md5').update(body).digest('base64'),
      'content-type': 'application/xml',
    }
    const response = await this.#service
      .request({ method: 'POST', query: { delete: '' }, headers, body, signal: options.signal })
      .catch((error: unknown) => {
        if (codeOf(error) === 'UNSUPPORTED') return undefined
        throw error
      })
    if (!response) {
      for (const key of keys) await this.delete(key, options)
      return
    }
    const errors = readXml(await response.bytes()).children['Error'] ?? []
    const [first] = errors
    if (!first) return
    const said = `${textOf(first, 'Code')} ${textOf(first, 'Message') ?? ''}`.trim()
    throw new StowageError(
      textOf(first, 'Code') === 'AccessDenied' ? 'DENIED' : 'UNREACHABLE',
      `${errors.length} of ${keys.length} files in ${this.location} were not deleted, the first being ${textOf(first, 'Key')}: ${said}.`,
    )
  }

  /** Sends the parts of a long body, some at once. Whatever fails, nothing of it stays: an unfinished upload costs money. */
  async #writeParts(key: string, first: Part, rest: AsyncGenerator<Part>, options: WriteOptions): Promise<FileInfo> {
    const uploadId = await this.#begin(key, options)
    const stop = new AbortController()
    const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
    const limit = new Limit(partsAtOnce)
    const sending: Promise<void>[] = []
    const etags: string[] = []
    let size = 0
    try {
      for await (const part of grown(first, rest, this.#pool)) {
        size += part.bytes.byteLength
        const number = etags.push('')
        const sent = limit.run(async () => {
          etags[number - 1] = await this.#sendPart(key, uploadId, number, part.bytes, signal)
          this.#pool.give(part.buffer)
        }, signal)
        sent.catch(() => stop.abort())
        sending.push(sent)
        // No further part is read before there is a place for it.
        if (limit.waiting > 0 || limit.running >= partsAtOnce)
          await Promise.race(sending.splice(0, sending.length - partsAtOnce + 1))
        throwIfAborted(signal)
      }
      await Promise.all(sending)
      checkSize(key, size, options.size)
      const etag = await this.#complete(key, uploadId, etags, options)
      return writtenInfo(key, size, etag, options)
    } catch (error) {
      stop.abort()
      const results = await Promise.allSettled(sending)
      await this.#abandon(key, uploadId)
      const cause = results.find((result) => result.status === 'rejected' && codeOf(result.reason) !== 'ABORTED')
      throw codeOf(error) === 'ABORTED' && !options.signal?.aborted && cause?.status === 'rejected'
        ? cause.reason
        : error
    }
  }

  async #begin(key: string, options: WriteOptions): Promise<string> {
    if (options.ifAbsent) await this.#refuseExisting(key, options)
    const headers = headersOf(options)
    const response = await this.#service.request({
      method: 'POST',
      key,
      query: { uploads: '' },
      headers,
      signal: options.signal,
    })
    const { readXml, textOf } = await import('./xml.ts')
    const uploadId = textOf(readXml(await response.bytes()), 'UploadId')
    if (!uploadId) throw new StowageError('UNREACHABLE', `${this.location} began no upload of ${key}.`)
    return uploadId
  }

  async #sendPart(key: string, uploadId: string, number: number, body: Buffer, signal: AbortSignal): Promise<string> {
    const query = { partNumber: String(number), uploadId }
    for (let attempt = 1; ; attempt++)
      try {
        const response = await this.#service.request({ method: 'PUT', key, query, body, signal })
        await response.bytes()
        return response.headers['etag'] ?? ''
      } catch (error) {
        // The part is still in memory, so a passing failure need not cost the whole upload.
        if (!(error instanceof StowageError) || !error.retryable || attempt >= 4) throw error
        throwIfAborted(signal)
        const { waitToRetry } = await import('../../core/retry.ts')
        await waitToRetry(error, attempt, { attempts: 4, signal })
      }
  }

  async #complete(key: string, uploadId: string, etags: string[], options: WriteOptions): Promise<string | undefined> {
    const { escapeXml, readXml, textOf } = await import('./xml.ts')
    const parts = etags.map(
      (etag, index) => `<Part><PartNumber>${index + 1}</PartNumber><ETag>${escapeXml(etag)}</ETag></Part>`,
    )
    const body = Buffer.from(
      `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${parts.join('')}</CompleteMultipartUpload>`,
    )
    const headers = { 'content-type': 'application/xml', ...this.#conditions(options) }
    const query = { uploadId }
    const response = await this.#conditional(key, options, async () =>
      this.#service.request({ method: 'POST', key, query, headers, body, signal: options.signal }),
    )
    const bytes = await this.#checkLateAnswer(response, `Storing ${key}`)
    return bytes.byteLength > 0 ? textOf(readXml(bytes), 'ETag') : undefined
  }

  async #abandon(key: string, uploadId: string) {
    const signal = AbortSignal.timeout(30_000)
    await this.#service
      .request({ method: 'DELETE', key, query: { uploadId }, signal, accept: [404] })
      .then(async (response) => response.bytes())
      .catch(() => undefined) // the failure that brought us here is the one to tell
  }

  async #copyParts(source: string, from: string, to: string, size: number, options: CallOptions): Promise<FileInfo> {
    const { contentType, metadata } = await this.stat(from, options)
    const write = { ...options, ...(contentType ? { contentType } : {}), ...(metadata ? { metadata } : {}) }
    const uploadId = await this.#begin(to, write)
    try {
      const { readXml, textOf } = await import('./xml.ts')
      const partSize = Math.max(2 ** 29, Math.ceil(size / 10_000))
      const etags: string[] = []
      for (let at = 0; at < size; at += partSize) {
        const range = `bytes=${at}-${Math.min(size, at + partSize) - 1}`
        const query = { partNumber: String(etags.length + 1), uploadId }
        const headers = { 'x-amz-copy-source': source, 'x-amz-copy-source-range': range }
        const response = await this.#service.request({ method: 'PUT', key: to, query, headers, signal: options.signal })
        etags.push(textOf(readXml(await this.#checkLateAnswer(response, `Copying ${from}`)), 'ETag') ?? '')
      }
      await this.#complete(to, uploadId, etags, write)
    } catch (error) {
      await this.#abandon(to, uploadId)
      throw error
    }
    return this.stat(to, options)
  }

  async #checkLateAnswer(response: HttpResponse, what: string): Promise<Buffer> {
    const bytes = await response.bytes()
    const { code, message } = refusalOf(bytes)
    if (code === undefined) return bytes
    throw new StowageError(
      code === 'PreconditionFailed' ? 'CONFLICT' : 'UNREACHABLE',
      `${what} in ${this.location} failed: ${code} ${message ?? ''}.`,
    )
  }
}

/** What servers that check nothing give for anything. */
const emptyMd5 = 'd41d8cd98f00b204e9800998ecf8427e'

/** The size is checked while the body is there to be refused; the signal between its pieces. */
async function* watched(body: Body, { signal }: WriteOptions): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    throwIfAborted(signal)
    yield chunk
  }
  throwIfAborted(signal)
}

/** After many parts they grow, so that S3's 10,000 hold a body of any length it takes (5 TiB). */
async function* grown(first: Part, rest: AsyncGenerator<Part>, pool: PartPool): AsyncGenerator<Part> {
  yield first
  let count = 1
  let gathered: Buffer[] = []
  for await (const part of rest) {
    const factor = count < growAfterParts ? 1 : 2 ** Math.floor(count / growAfterParts)
    if (factor === 1) {
      count++
      yield part
      continue
    }
    gathered.push(Buffer.from(part.bytes))
    pool.give(part.buffer)
    if (gathered.length < factor && !part.isLast) continue
    const bytes = Buffer.concat(gathered)
    gathered = []
    count++
    yield { bytes, buffer: bytes, isLast: part.isLast }
  }
}

/** The body of an answer, which is an error when it is shorter than announced. */
async function* whole(response: HttpResponse, key: string, expected: number): AsyncGenerator<Uint8Array> {
  const stream = response.stream()
  let size = 0
  try {
    for await (const chunk of stream as AsyncIterable<Uint8Array>) {
      size += chunk.byteLength
      yield chunk
    }
  } finally {
    stream.destroy()
  }
  if (!Number.isNaN(expected) && size !== expected)
    throw new StowageError('UNREACHABLE', `${key} ended after ${size} of ${expected} bytes.`)
}

function headersOf({ contentType, cacheControl, metadata, modified }: WriteOptions): Record<string, string> {
  const headers: Record<string, string> = {}
  if (contentType) headers['content-type'] = contentType
  if (cacheControl) headers['cache-control'] = cacheControl
  for (const [name, value] of Object.entries(metadata ?? {}))
    headers[`x-amz-meta-${name.toLowerCase()}`] = checkedHeader(name, value)
  // The way rclone keeps modification times, so that its comparisons work on what we wrote.
  if (modified) headers['x-amz-meta-mtime'] = String(modified.getTime() / 1000)
  return headers
}

function checkedHeader(name: string, value: string): string {
  if (!/^[\x20-\x7e]*$/.test(value) || !/^[\w-]+$/.test(name))
    throw new StowageError(
      'INVALID_ARGUMENT',
      `The metadata ${JSON.stringify(name)} has characters that no header can carry.`,
      {
        hint: 'Use ASCII, or encode the value.',
      },
    )
  return value.trim().replace(/ +/g, ' ')
}

function infoOf(key: string, { headers }: HttpResponse): FileInfo {
  const total = /\/(\d+)$/.exec(headers['content-range'] ?? '')?.[1]
  const metadata: Record<string, string> = {}
  for (const name in headers)
    if (name.startsWith('x-amz-meta-') && name !== 'x-amz-meta-mtime') metadata[name.slice(11)] = headers[name] ?? ''
  const kept = Number(headers['x-amz-meta-mtime'])
  const modified = kept > 0 ? new Date(kept * 1000) : new Date(headers['last-modified'] ?? Number.NaN)
  return {
    key,
    size: Number(total ?? headers['content-length'] ?? 0),
    ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
    ...etagOf(headers['etag']),
    ...(headers['content-type'] ? { contentType: headers['content-type'] } : {}),
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
  }
}

function writtenInfo(
  key: string,
  size: number,
  etag: string | undefined,
  { contentType, metadata }: WriteOptions,
): FileInfo {
  return { key, size, ...etagOf(etag), ...(contentType ? { contentType } : {}), ...(metadata ? { metadata } : {}) }
}

function withSignal(signal: AbortSignal | undefined): CallOptions {
  return signal ? { signal } : {}
}

function etagOf(raw: string | undefined): { etag?: string } {
  const etag = raw?.replaceAll('"', '')
  return etag ? { etag } : {}
}

/** A page of a listing, files and directories in one order. Keys come percent-encoded, as XML cannot hold them all. */
function entriesOf(page: import('./xml.ts').XmlTree): Entry[] {
  const decode = (text: string) => decodeURIComponent(text.replaceAll('+', ' '))
  const first = (tree: import('./xml.ts').XmlTree, name: string) => tree.children[name]?.[0]?.text
  const files = (page.children['Contents'] ?? []).map((each): Entry => {
    const modified = new Date(first(each, 'LastModified') ?? Number.NaN)
    return {
      kind: 'file',
      key: decode(first(each, 'Key') ?? ''),
      size: Number(first(each, 'Size') ?? 0),
      ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
      ...etagOf(first(each, 'ETag')),
    }
  })
  const directories = (page.children['CommonPrefixes'] ?? []).map(
    (each): Entry => ({ kind: 'directory', key: decode(first(each, 'Prefix') ?? '').replace(/\/$/, '') }),
  )
  if (directories.length === 0) return files
  return [...files, ...directories].sort((a, b) => compareKeys(sortKey(a), sortKey(b)))
}

function sortKey({ kind, key }: Entry): string {
  return kind === 'directory' ? `${key}/` : key
}

function isLoopback(host: string): boolean {
  const address = host.replace(/^\[|\]$/g, '')
  return address === 'localhost' || address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}
