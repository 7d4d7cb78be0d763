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
}

/** What is asked. */
export interface ServiceRequest {
  method: string
  /** The object; absent for the bucket itself. */
  key?: string
  query?: Record<string, string>
  headers?: Record<string, string>
  body?: Uint8Array
  signal?: AbortSignal | undefined
  /** Statuses besides 2xx that are answers, not failures. */
  accept?: readonly number[]
}

const emptyDigest = hash('sha256', '')

/** A bucket of a service. */
export class Service {
  readonly #options: ServiceOptions
  #client: HttpClient
  #host: string
  #signer: Signer
  /** How far the service's clock is ahead of ours. */
  #skewMs = 0

  constructor(options: ServiceOptions) {
    this.#options = options
    this.#host = options.pathStyle ? options.host : `${options.bucket}.${options.host}`
    this.#client = this.#connect()
    this.#signer = new Signer(options.region)
  }

  /** Sends a request. Follows the service once to the right region and the right time; rejects with what S3 said. */
  async request(request: ServiceRequest): Promise<HttpResponse> {
    for (let attempt = 1; ; attempt++) {
      const response = await this.#send(request)
      const { status } = response
      if ((status >= 200 && status < 300) || request.accept?.includes(status)) return response
      const refusal = await readRefusal(response)
      if (attempt > 2 || !(this.#correctClock(refusal, response) || this.#correctRegion(refusal, response)))
        throw explain(refusal, response, request, this.#options)
    }
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
    await this.#client.close()
  }

  async #send({ method, key, query = {}, headers: given, body, signal }: ServiceRequest): Promise<HttpResponse> {
    const path = this.#path(key)
    const headers: Record<string, string> = { ...given, host: this.#hostHeader() }
    let payload = emptyDigest
    if (body && body.byteLength > 0) payload = this.#protect(body, headers)
    this.#signer.sign({ method, path, query, headers, payload }, await this.#options.credentials(), this.#now())
    const search = encodeQuery(query)
    return this.#client.request({
      method,
      path: search === '' ? path : `${path}?${search}`,
      headers,
      ...(body ? { body } : {}),
      ...(signal ? { signal } : {}),
    })
  }

  /**
   * Over TLS, and to this machine itself, nobody can change the bytes on the way, so a checksum that the service verifies
   * is enough; over a plain network the bytes are signed, which costs five times as much.
   */
  #protect(body: Uint8Array, headers: Record<string, string>): string {
    if (this.#options.signPayload) return hash('sha256', body)
    const checksum = Buffer.alloc(4)
    checksum.writeUInt32BE(crc32(body))
    if (headers['content-md5'] === undefined) headers['x-amz-checksum-crc32'] = checksum.toString('base64')
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

  #connect(): HttpClient {
    const { port, tls, ca } = this.#options
    return new HttpClient({ host: this.#host, port, tls, ...(ca === undefined ? {} : { ca }) })
  }

  #now(): Date {
    return new Date(Date.now() + this.#skewMs)
  }

  /** A clock that is off by more than S3 bears (15 min) is corrected by the service's own. */
  #correctClock({ code }: Refusal, { headers }: HttpResponse): boolean {
    const theirs = Date.parse(headers['date'] ?? '')
    const isOff = Math.abs(theirs - this.#now().getTime()) > 4 * 60_000
    const isAboutTime =
      code === 'RequestTimeTooSkewed' || (code === undefined && isOff) || (code === 'AccessDenied' && isOff)
    if (!isAboutTime || Number.isNaN(theirs)) return false
    this.#skewMs = theirs - Date.now()
    return true
  }

  /** A bucket lives in one region; the service says in which when it is asked in another. */
  #correctRegion({ region }: Refusal, { headers, status }: HttpResponse): boolean {
    const right = headers['x-amz-bucket-region'] ?? region
    if (right === undefined || right === this.#signer.region || ![301, 307, 400, 403].includes(status)) return false
    this.#signer = new Signer(right)
    if (this.#options.host.endsWith('.amazonaws.com')) {
      const base = `s3.${right}.amazonaws.com`
      this.#host = this.#options.pathStyle ? base : `${this.#options.bucket}.${base}`
      void this.#client.close()
      this.#client = this.#connect()
    }
    return true
  }
}

/** What S3 says when it refuses. Answers to HEAD have no body, so everything may be missing. */
interface Refusal {
  code?: string | undefined
  message?: string | undefined
  region?: string | undefined
}

async function readRefusal(response: HttpResponse): Promise<Refusal> {
  const bytes = await response.bytes(1 << 20)
  return refusalOf(bytes)
}

/** Reads an error document; also of an answer whose status said that all was well, as after a long copy. */
export function refusalOf(bytes: Buffer): Refusal {
  const text = bytes.toString()
  // Proxies answer with HTML, so this is looked at rather than parsed.
  const find = (name: string) => new RegExp(`<${name}>([^<]{0,500})</${name}>`).exec(text)?.[1]
  return { code: find('Code'), message: find('Message'), region: find('Region') }
}

const codes: Record<string, ErrorCode> = {
  NoSuchKey: 'NOT_FOUND',
  NoSuchUpload: 'NOT_FOUND',
  NoSuchBucket: 'INVALID_CONFIG',
  PermanentRedirect: 'INVALID_CONFIG',
  AuthorizationHeaderMalformed: 'INVALID_CONFIG',
  InvalidBucketName: 'INVALID_CONFIG',
  SlowDown: 'THROTTLED',
  SlowDownRead: 'THROTTLED',
  SlowDownWrite: 'THROTTLED',
  TooManyRequests: 'THROTTLED',
  RequestTimeout: 'UNREACHABLE',
  PreconditionFailed: 'CONFLICT',
  ConditionalRequestConflict: 'CONFLICT',
  BadDigest: 'CORRUPT',
  InvalidDigest: 'CORRUPT',
  XAmzContentSHA256Mismatch: 'CORRUPT',
  QuotaExceeded: 'NO_SPACE',
  EntityTooLarge: 'INVALID_ARGUMENT',
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

const hints: Partial<Record<string, string>> = {
  DENIED:
    'Check the key, the secret, and what they are allowed; without the right to list, S3 also denies what is absent.',
  NoSuchBucket: 'Create the bucket, or mend s3_bucket; Stowage never creates one.',
  INVALID_CONFIG: 'Mend aws_region.',
}

/** The failure in our words. S3's message may repeat what was sent but never a secret: secrets are not sent. */
function explain(
  refusal: Refusal,
  response: HttpResponse,
  request: ServiceRequest,
  options: ServiceOptions,
): StowageError {
  const { status, headers } = response
  const code = (refusal.code && codes[refusal.code]) || statuses[status] || (status >= 500 ? 'UNREACHABLE' : 'UNKNOWN')
  const subject =
    request.key === undefined ? `the bucket ${options.bucket}` : `${request.key} in the bucket ${options.bucket}`
  const said = [status, refusal.code, refusal.message].filter((part) => part !== undefined && part !== '').join(' ')
  const hint = hints[refusal.code ?? ''] ?? hints[code]
  const wait = Number(headers['retry-after'])
  return new StowageError(code, `${request.method} of ${subject} at ${options.host} was answered with ${said}.`, {
    ...(hint ? { hint } : {}),
    ...(wait > 0 ? { retryAfterMs: wait * 1000 } : {}),
    ...(refusal.code === 'ConditionalRequestConflict' || refusal.code === 'BadDigest' ? { retryable: true } : {}),
  })
}
