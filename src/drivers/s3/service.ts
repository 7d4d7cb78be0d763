/** One request to S3: addressed, signed, sent, and its failure put into our words. */
import { hash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { StowageError, type ErrorCode } from '../../core/errors.ts'
import { HttpClient, type HttpResponse } from '../http-client.ts'
import type { CredentialSource } from './credentials.ts'
import { encode, encodeQuery, Signer } from './sign.ts'

/** Where and how to speak to S3. */
export interface ServiceOptions {
  host: string
  port: number
  tls: boolean
  ca?: string
  bucket: string
  region: string
  /** The bucket in the path instead of in the name of the host. */
  pathStyle: boolean
  /** Sign the bytes of the body, not only its checksum. */
  signPayload: boolean
  credentials: CredentialSource
  /** So long without a byte in either direction ends a request. Default 60 s. */
  timeoutMs?: number
  /** Default 10 s. */
  connectTimeoutMs?: number
}

/** What is asked. */
export interface ServiceRequest {
  method: string
  /** The object; absent for the bucket itself. */
  key?: string
  query?: Record<string, string>
  headers?: Record<string, string>
  body?: Uint8Array
  /** The body is an object or a part of one, which S3 takes a CRC32 of. Other bodies are small and always signed. */
  checksum?: boolean
  signal?: AbortSignal | undefined
  /** Statuses besides 2xx that are answers, not failures. */
  accept?: readonly number[]
}

const emptyDigest = hash('sha256', '')

/** A bucket of a service. */
export class Service {
  readonly #options: ServiceOptions
  #client: HttpClient
  /** Those of regions that were the wrong ones: what they have begun, they may finish. */
  readonly #formerClients: HttpClient[] = []
  #host: string
  #signer: Signer
  /** How far the service's clock is ahead of ours. */
  #skewMs = 0

  constructor(options: ServiceOptions) {
    this.#options = options
    // The old global name is us-east-1; other regions answer it with a redirection.
    const isGlobal = options.host === 's3.amazonaws.com' && options.region !== 'us-east-1'
    this.#host = this.#hostOf(isGlobal ? `s3.${options.region}.amazonaws.com` : options.host)
    this.#client = this.#connect()
    this.#signer = new Signer(options.region)
  }

  /** Sends a request. Follows the service once to the right region and the right time; rejects with what S3 said. */
  async request(request: ServiceRequest): Promise<HttpResponse> {
    for (let attempt = 1; ; attempt++) {
      // Others may have learned better in the meantime; then this one only has to be sent again.
      const sent: Assumptions = { skewMs: this.#skewMs, region: this.#signer.region }
      const response = await this.#send(request)
      const { status } = response
      if ((status >= 200 && status < 300) || request.accept?.includes(status)) return response
      const refusal = refusalOf(await response.bytes(1 << 20))
      if (attempt > 2 || !(this.#correctClock(refusal, response, sent) || this.#correctRegion(refusal, response, sent)))
        throw explain(refusal, response, request, this.#options)
    }
  }

  /**
   * Sends a request whose answer begins before the work is done, so that it may say 200 first and only then that it has
   * failed. Resolves to the answer's body.
   */
  async requestLate(request: ServiceRequest): Promise<Buffer> {
    const response = await this.request(request)
    const bytes = await response.bytes()
    const refusal = refusalOf(bytes)
    if (refusal.code === undefined) return bytes
    throw explain(refusal, response, request, this.#options)
  }

  /** A URL for one object that needs no credentials until it expires. */
  async presign(method: string, key: string, expiresInSeconds: number): Promise<string> {
    const path = this.#path(key)
    const headers = { host: this.#hostHeader() }
    const query = this.#signer.presign(
      { method, path, query: {}, headers, payload: 'UNSIGNED-PAYLOAD' },
      await this.#options.credentials(),
      this.#now(),
      expiresInSeconds,
    )
    return `${this.#options.tls ? 'https' : 'http'}://${headers.host}${path}?${query}`
  }

  async close(): Promise<void> {
    await Promise.all([this.#client, ...this.#formerClients].map(async (client) => client.close()))
  }

  async #send(request: ServiceRequest): Promise<HttpResponse> {
    const { method, key, query = {}, headers: given, body, signal } = request
    const path = this.#path(key)
    const headers: Record<string, string> = { ...given, host: this.#hostHeader() }
    const payload = body && body.byteLength > 0 ? this.#protect(body, request, headers) : emptyDigest
    this.#signer.sign({ method, path, query, headers, payload }, await this.#options.credentials(), this.#now())
    const search = encodeQuery(query)
    const response = await this.#client.request({
      method,
      path: search === '' ? path : `${path}?${search}`,
      headers,
      ...(body ? { body } : {}),
      ...(signal ? { signal } : {}),
    })
    const [ours, theirs] = [headers['x-amz-checksum-crc32'], response.headers['x-amz-checksum-crc32']]
    if (ours === undefined || theirs === undefined || ours === theirs) return response
    await response.bytes()
    throw new StowageError('CORRUPT', `${key} arrived in ${this.#host} as something else than what was sent.`, {
      retryable: true,
    })
  }

  /**
   * Over TLS, and to this machine itself, nobody can change the bytes on the way, so a checksum that the service verifies
   * is enough; over a plain network the bytes are signed, which costs five times as much.
   */
  #protect(body: Uint8Array, { checksum }: ServiceRequest, headers: Record<string, string>): string {
    if (this.#options.signPayload || (!checksum && body.byteLength < 1 << 20)) return hash('sha256', body)
    if (checksum) headers['x-amz-checksum-crc32'] = checksumOf(body)
    return 'UNSIGNED-PAYLOAD'
  }

  #path(key: string | undefined): string {
    const object = key === undefined ? '' : key.split('/').map(encode).join('/')
    return this.#options.pathStyle
      ? `/${encode(this.#options.bucket)}/${object}`.replace(/\/$/, key === undefined ? '' : '/')
      : `/${object}`
  }

  #hostHeader(): string {
    const { port, tls } = this.#options
    return port === (tls ? 443 : 80) ? this.#host : `${this.#host}:${port}`
  }

  #hostOf(endpoint: string): string {
    return this.#options.pathStyle ? endpoint : `${this.#options.bucket}.${endpoint}`
  }

  #connect(): HttpClient {
    const { port, tls, ca, timeoutMs, connectTimeoutMs } = this.#options
    return new HttpClient({
      host: this.#host,
      port,
      tls,
      ...(ca === undefined ? {} : { ca }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    })
  }

  #now(): Date {
    return new Date(Date.now() + this.#skewMs)
  }

  /** A clock that is off by more than S3 bears (15 min) is corrected by the service's own. */
  #correctClock({ code }: Refusal, { headers, status }: HttpResponse, sent: Assumptions): boolean {
    const theirs = Date.parse(headers['date'] ?? '')
    const isOff = Math.abs(theirs - Date.now() - sent.skewMs) > 4 * 60_000
    // Answers to HEAD say nothing but 403.
    const isAboutTime =
      code === 'RequestTimeTooSkewed' || (isOff && status === 403 && (code === undefined || code === 'AccessDenied'))
    if (!isAboutTime || Number.isNaN(theirs)) return false
    this.#skewMs = theirs - Date.now()
    return true
  }

  /** A bucket lives in one region; the service says in which when it is asked in another. */
  #correctRegion({ region }: Refusal, { headers, status }: HttpResponse, sent: Assumptions): boolean {
    const right = headers['x-amz-bucket-region'] ?? region
    if (right === undefined || !/^[\w-]{1,64}$/.test(right) || ![301, 307, 400, 403].includes(status)) return false
    if (right === sent.region) return false
    if (right === this.#signer.region) return true
    this.#signer = new Signer(right)
    if (this.#options.host.endsWith('.amazonaws.com')) {
      this.#host = this.#hostOf(`s3.${right}.amazonaws.com`)
      this.#formerClients.push(this.#client)
      this.#client = this.#connect()
    }
    return true
  }
}

/** What a request was signed with. */
interface Assumptions {
  skewMs: number
  region: string
}

/** The CRC32 of an object or part as S3 writes it. */
export function checksumOf(bytes: Uint8Array): string {
  const checksum = Buffer.allocUnsafe(4)
  checksum.writeUInt32BE(crc32(bytes))
  return checksum.toString('base64')
}

/** The version of an object as S3 gives it, without the quotes. */
export function etagOf(raw: string | undefined): { etag?: string } {
  const etag = raw?.replaceAll('"', '')
  return etag ? { etag } : {}
}

/** What S3 says when it refuses. Answers to HEAD have no body, so everything may be missing. */
interface Refusal {
  code?: string | undefined
  message?: string | undefined
  region?: string | undefined
}

/** Reads an error document; also of an answer whose status said that all was well, as after a long copy. */
export function refusalOf(bytes: Buffer): Refusal {
  const text = bytes.toString()
  // Proxies answer with HTML, so this is looked at rather than parsed.
  if (!/<Error[\s>]/.test(text)) return {}
  const find = (name: string) => new RegExp(`<${name}>([^<]{0,500})</${name}>`).exec(text)?.[1]
  return { code: find('Code') ?? 'InternalError', message: find('Message'), region: find('Region') }
}

const codes: Record<string, ErrorCode> = {
  NoSuchKey: 'NOT_FOUND',
  NoSuchUpload: 'NOT_FOUND',
  NoSuchBucket: 'INVALID_CONFIG',
  PermanentRedirect: 'INVALID_CONFIG',
  AuthorizationHeaderMalformed: 'INVALID_CONFIG',
  InvalidBucketName: 'INVALID_CONFIG',
  InternalError: 'UNREACHABLE',
  IncompleteBody: 'UNREACHABLE',
  OperationAborted: 'UNREACHABLE',
  ExpiredToken: 'DENIED',
  InvalidToken: 'DENIED',
  AccessDenied: 'DENIED',
  SlowDown: 'THROTTLED',
  SlowDownRead: 'THROTTLED',
  SlowDownWrite: 'THROTTLED',
  TooManyRequests: 'THROTTLED',
  RequestTimeout: 'UNREACHABLE',
  PreconditionFailed: 'CONFLICT',
  ConditionalRequestConflict: 'CONFLICT',
  ConcurrentModification: 'CONFLICT',
  BadDigest: 'CORRUPT',
  InvalidDigest: 'CORRUPT',
  XAmzContentSHA256Mismatch: 'CORRUPT',
  QuotaExceeded: 'NO_SPACE',
  EntityTooLarge: 'INVALID_ARGUMENT',
  MetadataTooLarge: 'INVALID_ARGUMENT',
  KeyTooLongError: 'INVALID_KEY',
  InvalidRange: 'INVALID_ARGUMENT',
  NotImplemented: 'UNSUPPORTED',
}

const statuses: Record<number, ErrorCode> = {
  401: 'DENIED',
  403: 'DENIED',
  404: 'NOT_FOUND',
  408: 'UNREACHABLE',
  409: 'CONFLICT',
  411: 'UNSUPPORTED',
  412: 'CONFLICT',
  413: 'INVALID_ARGUMENT',
  416: 'INVALID_ARGUMENT',
  429: 'THROTTLED',
  501: 'UNSUPPORTED',
  503: 'THROTTLED',
}

/** Two writers met: who comes again finds out who was first. */
const passing = new Set([
  'ConditionalRequestConflict',
  'ConcurrentModification',
  'BadDigest',
  'XAmzContentSHA256Mismatch',
])

const wrongRegion = 'Mend aws_region.'
const hints: Record<string, string> = {
  DENIED:
    'Check the key, the secret, and what they are allowed; without the right to list, S3 also denies what is absent.',
  InvalidAccessKeyId: 'Check the key: the service does not know it.',
  SignatureDoesNotMatch: 'Check the secret: it does not belong to the key.',
  NoSuchBucket: 'Create the bucket, or mend s3_bucket; Stowage never creates one.',
  InvalidBucketName: 'Mend s3_bucket.',
  PermanentRedirect: wrongRegion,
  AuthorizationHeaderMalformed: wrongRegion,
}

/** What an error of S3 is called here. Unknown ones go by the status of their answer. */
export function codeOfRefusal(code: string | undefined, status: number): ErrorCode {
  return (code && codes[code]) || statuses[status] || (status >= 500 ? 'UNREACHABLE' : 'UNKNOWN')
}

/** The failure in our words. S3's message may repeat what was sent but never a secret: secrets are not sent. */
function explain(
  refusal: Refusal,
  { status, headers }: HttpResponse,
  { method, key }: ServiceRequest,
  { bucket, host }: ServiceOptions,
): StowageError {
  const code = codeOfRefusal(refusal.code, status)
  const subject = key === undefined ? `the bucket ${bucket}` : `${key} in the bucket ${bucket}`
  const said = [status, refusal.code, refusal.message].filter((part) => part !== undefined && part !== '').join(' ')
  const hint = hints[refusal.code ?? ''] ?? hints[code]
  const wait = waitOf(headers['retry-after'])
  return new StowageError(code, `${method} of ${subject} at ${host} was answered with ${said}.`, {
    ...(hint ? { hint } : {}),
    ...(wait > 0 ? { retryAfterMs: wait } : {}),
    ...(passing.has(refusal.code ?? '') ? { retryable: true } : {}),
  })
}

/** Retry-After is a number of seconds or a date (RFC 9110, section 10.2.3). In milliseconds; an hour at most. */
function waitOf(header: string | undefined): number {
  if (header === undefined) return 0
  const wait = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Math.min(Number.isNaN(wait) ? 0 : wait, 3_600_000)
}
