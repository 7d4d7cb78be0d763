/** S3 and what speaks like it (docs.aws.amazon.com/AmazonS3/latest/API). Never lists or creates buckets; rights on one prefix are enough. */
import { createHash, hash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { isIP } from 'node:net'
import { Readable } from 'node:stream'
import { codeOf, StowageError } from '../../core/errors.ts'
import { FileBody } from '../../core/file-body.ts'
import { Limit } from '../../core/limit.ts'
import { isRefusal, retry } from '../../core/retry.ts'
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
import { checkSize, guarded, throwIfAborted } from '../../store/driving.ts'
import { prefixed } from '../../store/wrappers/prefix.ts'
import { cloudFrontUrl } from '../cloudfront.ts'
import type { HttpResponse } from '../http-client.ts'
import { credentialChain, fixedCredentials } from './credentials.ts'
import { cut, cutFile, PartPool, type Part } from './parts.ts'
import { codeOfRefusal, etagOf, refusalOf, Service, type ServiceOptions } from './service.ts'

// multipart.ts, listing.ts and xml.ts are loaded when they are needed: small writes never do.

/** Larger objects are copied in parts. */
const copyLimit = 5 * 2 ** 30
const copyPartBytes = 2 ** 29
const verifiedBytes = 1 << 20
const batchKeys = 1000
const batchesAtOnce = 4
/** A body that has been read and is in memory is sent again; nobody else could. */
const attempts = 4

/** How a bucket is reached. */
export interface S3Options extends Omit<ServiceOptions, 'credentials'> {
  /** Without them the usual chain of AWS is asked. */
  accessKeyId?: string
  secretAccessKey?: string
  sessionToken?: string
}

/**
 * `s3://KEY:SECRET@host/prefix?s3_bucket=…`, with `aws_region` (default: AWS_REGION, us-east-1), `use_ssl` (default true),
 * `path_style` (default: for all but amazonaws.com, and for buckets with a dot), `sign_payload` (default: without TLS, except to this machine), `session_token`,
 * `ca` (a file of certificates to trust), and `cloudfront_domain` (what shows the bucket to the public).
 */
export function s3FromUrl(url: StorageUrl): Driver {
  const { host, port, user, password, path, parameters } = url
  const tls = parameters.flag('use_ssl', true)
  const bucket = parameters.text('s3_bucket')
  const isAws = host.endsWith('.amazonaws.com')
  const sessionToken = parameters.text('session_token')
  const ca = parameters.text('ca')
  cloudFrontUrl(url)
  const options: S3Options = {
    host: host || 's3.amazonaws.com',
    port: port ?? (tls ? 443 : 80),
    tls,
    bucket: bucket ?? '',
    region:
      parameters.text('aws_region') ?? process.env['AWS_REGION'] ?? process.env['AWS_DEFAULT_REGION'] ?? 'us-east-1',
    // No certificate for *.s3.amazonaws.com holds for a name with one dot more.
    pathStyle: parameters.flag('path_style', !isAws || bucket?.includes('.') === true),
    signPayload: parameters.flag('sign_payload', !tls && !isLoopback(host)),
    ...(ca === undefined ? {} : { ca: readCertificates(ca) }),
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
    confirms: true,
    maxKeyBytes: 1024,
    maxPartBytes: 1024,
  }
  readonly #service: Service
  readonly #options: ServiceOptions
  readonly #pool = new PartPool()
  #isClosed = false

  constructor(options: ServiceOptions) {
    this.#options = options
    this.#service = new Service(options)
    const isUsual = options.port === (options.tls ? 443 : 80)
    this.location = `s3://${options.host}${isUsual ? '' : `:${options.port}`}/${options.bucket}`
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
    const from = `bytes ${start}-`
    if (options.range && !(response.status === 206 && response.headers['content-range']?.startsWith(from))) {
      response.stream().destroy()
      throw new StowageError('UNSUPPORTED', `${this.location} ignores ranges: it sent all of ${key}.`)
    }
    // Without a length, nobody could tell a body that was cut from one that is whole.
    if (response.headers['content-length'] === undefined) {
      response.stream().destroy()
      throw new StowageError('UNSUPPORTED', `${this.location} does not tell how long ${key} is.`, {
        hint: 'Something between us and S3 may change its answers.',
      })
    }
    // The stream exists from now on: whoever drops it unread still gives the connection back. It never ends early in silence.
    return { info: infoOf(key, response), body: response.stream() }
  }

  async write(key: string, body: Body, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const stop = new AbortController()
    const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
    const parts =
      body instanceof FileBody && options.size !== undefined
        ? cutFile(body, options.size, this.#pool, signal)
        : cut(guarded(key, body, options.size, signal), options.size, this.#pool)
    try {
      const first = await parts.next()
      if (first.done) throw new StowageError('UNKNOWN', 'A body has at least one part.')
      if (!first.value.isLast)
        return await this.#writeParts(key, chained(first.value, parts), options, { stop, signal })
      const { bytes, buffer } = first.value
      const isConditional = options.ifAbsent || options.ifMatch !== undefined
      const patience = { attempts, ...withSignal(options.signal), ...(isConditional && { isRepeatable: isRefusal }) }
      const info = await retry(async () => this.writeBytes(key, bytes, options), patience)
      this.#pool.give(buffer)
      return info
    } finally {
      await parts.return(undefined)
    }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options)
    checkSize(key, bytes.byteLength, options.size)
    const headers = { ...headersOf(options), ...this.#conditions(options) }
    const { signal } = options
    const response = await this.#conditional(key, options, async () =>
      this.#service.request({ method: 'PUT', key, headers, body: bytes, checksum: true, signal }),
    )
    await response.bytes()
    this.#verify(key, bytes, response.headers)
    return writtenInfo(key, bytes.byteLength, response.headers['etag'], options)
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const response = await this.#service.request({ method: 'HEAD', key, signal: options.signal })
    return infoOf(key, response)
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    this.#check(options)
    const { listed } = await import('./listing.ts')
    for await (const entry of listed(this.#service, directory, options)) {
      yield entry
      this.#check(options)
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
    this.#check(options)
    // XML has no way to write these, so such keys are deleted one by one.
    const isPlain = (key: string) => !/[\p{Cc}\ufffe\uffff]/u.test(key)
    const batches: string[][] = []
    const plain = keys.filter(isPlain)
    for (let at = 0; at < plain.length; at += batchKeys) batches.push(plain.slice(at, at + batchKeys))
    const limit = new Limit(batchesAtOnce)
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
    const { signal } = options
    if (options.ifAbsent) await this.#refuseExisting(to, options)
    const { headers: known } = await this.#service.request({ method: 'HEAD', key: from, signal })
    // Services refuse to copy a file onto itself.
    if (from === to) return this.stat(to, options)
    const { copyParts, copySource } = await import('./multipart.ts')
    const size = Number(known['content-length'])
    const { bucket } = this.#options
    const conditions = this.#conditions(options)
    if (size > copyLimit) {
      const source = { bucket, key: from, size, etag: known['etag'] }
      const target = { service: this.#service, key: to, headers: keptHeaders(known), conditions }
      const partBytes = Math.max(copyPartBytes, Math.ceil(size / 10_000))
      await this.#conditional(to, options, async () => copyParts(target, source, partBytes, signal))
    } else {
      const headers = { 'x-amz-copy-source': copySource(bucket, from), ...conditions }
      await this.#conditional(to, options, async () =>
        this.#service.requestLate({ method: 'PUT', key: to, headers, signal }),
      )
    }
    return this.stat(to, options)
  }

  async signedUrl(key: string, options: { method: 'GET' | 'PUT'; expiresInSeconds: number }): Promise<string> {
    this.#check({})
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

  get #isAws(): boolean {
    return this.#options.host.endsWith('.amazonaws.com')
  }

  /** AWS wants the etag in quotes; Ceph takes it on writes only without. */
  #conditions({ ifAbsent, ifMatch }: { ifAbsent?: boolean; ifMatch?: string }): Record<string, string> {
    return {
      ...(ifAbsent ? { 'if-none-match': '*' } : {}),
      ...(ifMatch === undefined ? {} : { 'if-match': this.#isAws ? `"${ifMatch}"` : ifMatch }),
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

  /**
   * For what not every service does under a condition (Ceph ignores it on copies and at the end of uploads in parts). Who
   * may not list is not told what is absent either; then the condition alone has to do, which AWS knows everywhere.
   */
  async #refuseExisting(key: string, options: CallOptions) {
    const found = await this.stat(key, withSignal(options.signal)).catch((error: unknown) => {
      if (codeOf(error) === 'NOT_FOUND' || (codeOf(error) === 'DENIED' && this.#isAws)) return undefined
      throw error
    })
    if (found) throw new StowageError('EXISTS', `The file ${key} is already in ${this.location}.`)
  }

  /**
   * What S3 stored in one piece without encrypting it has its MD5 as etag. Where the service has confirmed the checksum,
   * or nobody could have changed the bytes on the way, that is enough.
   */
  #verify(key: string, bytes: Uint8Array, headers: Record<string, string>) {
    const etag = headers['etag']?.replaceAll('"', '') ?? ''
    const isEncrypted =
      headers['x-amz-server-side-encryption']?.startsWith('aws:kms') ||
      headers['x-amz-server-side-encryption-customer-algorithm'] !== undefined
    const isConfirmed = headers['x-amz-checksum-crc32'] !== undefined
    if (isEncrypted || isConfirmed || this.#options.tls) return
    if (bytes.byteLength > verifiedBytes || !/^[0-9a-f]{32}$/.test(etag)) return
    if (hash('md5', bytes) !== etag)
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
    const code = textOf(first, 'Code')
    const count = `${errors.length} of ${keys.length} files in ${this.location} were not deleted`
    const said = `${code} ${textOf(first, 'Message') ?? ''}`.trim()
    throw new StowageError(codeOfRefusal(code, 500), `${count}, the first being ${textOf(first, 'Key')}: ${said}.`)
  }

  async #writeParts(
    key: string,
    parts: AsyncIterable<Part>,
    options: WriteOptions,
    flow: { stop: AbortController; signal: AbortSignal },
  ): Promise<FileInfo> {
    if (options.ifAbsent) await this.#refuseExisting(key, options)
    const { sendParts } = await import('./multipart.ts')
    const conditions = this.#conditions(options)
    const target = { service: this.#service, key, headers: headersOf(options), conditions }
    const { size, etag } = await this.#conditional(key, options, async () =>
      sendParts(target, parts, { pool: this.#pool, ...flow }, (total) => checkSize(key, total, options.size)),
    )
    if (etag !== undefined) return writtenInfo(key, size, etag, options)
    return this.stat(key, withSignal(options.signal))
  }
}

async function* chained(first: Part, rest: AsyncGenerator<Part>): AsyncGenerator<Part> {
  yield first
  yield* rest
}

function headersOf({ contentType, cacheControl, metadata, modified }: WriteOptions): Record<string, string> {
  const headers: Record<string, string> = {}
  if (contentType) headers['content-type'] = headerValue('content type', contentType)
  if (cacheControl) headers['cache-control'] = headerValue('cache control', cacheControl)
  for (const [name, value] of Object.entries(metadata ?? {})) {
    if (!/^[\w-]+$/.test(name)) throw unfit(`name of the metadata ${JSON.stringify(name)}`)
    headers[`x-amz-meta-${name.toLowerCase()}`] = headerValue(`metadata ${name}`, value)
  }
  // The way rclone keeps modification times, so that its comparisons work on what we wrote.
  if (modified) headers['x-amz-meta-mtime'] = String(modified.getTime() / 1000)
  return headers
}

/** Spaces are collapsed, because signatures are made of headers in that form. */
function headerValue(what: string, value: string): string {
  if (!/^[\x20-\x7e]*$/.test(value)) throw unfit(what)
  return value.trim().replace(/ +/g, ' ')
}

function unfit(what: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', `The ${what} has characters that no header can carry.`, {
    hint: 'Use ASCII, or encode the value.',
  })
}

/** What a copy in parts has to be told, because it is a new object. */
function keptHeaders(headers: Record<string, string>): Record<string, string> {
  const names = [
    'content-type',
    'cache-control',
    'content-disposition',
    'content-encoding',
    'content-language',
    'expires',
  ]
  const kept = Object.entries(headers).filter(([name]) => names.includes(name) || name.startsWith('x-amz-meta-'))
  return Object.fromEntries(kept)
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

function isLoopback(host: string): boolean {
  const address = host.replace(/^\[|\]$/g, '')
  return address === 'localhost' || address === '::1' || (isIP(address) === 4 && address.startsWith('127.'))
}

function readCertificates(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StowageError('INVALID_CONFIG', `The certificates in ${file} cannot be read: ${code}.`, { cause: error })
  }
}
