/** One request to Swift: addressed, with a token, sent, and its failure put into our words. */
import { isNotFound, StowageError, type ErrorCode } from '../../core/errors.ts'
import { HttpClient, type HttpResponse } from '../http-client.ts'
import { Auth, type AuthServer, type Login, type Session } from './auth.ts'

/** Where and how to speak to Swift. */
export interface ServiceOptions extends AuthServer {
  login: Login
  container: string
}

/** What is asked. */
export interface ServiceRequest {
  method: string
  /** Of an object `/container/name`, of a container `/container`, of the account nothing; not encoded. */
  path: string
  query?: Record<string, string>
  headers?: Record<string, string>
  /** A stream is sent once: nobody has it again when the token is refused. */
  body?: Uint8Array | AsyncIterable<Uint8Array>
  /** How many bytes the stream has, when that is known. */
  size?: number | undefined
  signal?: AbortSignal | undefined
  /** Statuses besides 2xx that are answers, not failures. */
  accept?: readonly number[]
}

/** So long it is believed that a container is there which was there. */
const seenMs = 10_000

/** An account of a Swift. */
export class Service {
  readonly #options: ServiceOptions
  readonly #auth: Auth
  /** By origin. What was begun with a former address may be finished there. */
  readonly #clients = new Map<string, HttpClient>()
  /** When something was last found in a container, in milliseconds of a steady clock. */
  readonly #seen = new Map<string, number>()
  #isClosed = false

  constructor(options: ServiceOptions) {
    this.#options = options
    this.#auth = new Auth(options, options.login)
  }

  /** Sends a request, with a new token if the first is refused. Rejects with what Swift said. */
  async request(request: ServiceRequest): Promise<HttpResponse> {
    let session = await this.#auth.session(request.signal)
    let response = await this.#send(session, request)
    if (response.status === 401 && !(request.body && Symbol.asyncIterator in request.body)) {
      await response.bytes()
      session = await this.#auth.after(session, request.signal)
      response = await this.#send(session, request)
    }
    const { status } = response
    if (status >= 200 && status < 300) this.#seen.set(containerOf(request.path), performance.now())
    else if (!request.accept?.includes(status)) throw await this.#explain(request, response)
    return response
  }

  /** Looks at a container or the account. HEAD Swift answers with the end of a body, which might be taken for the next answer. */
  async look(path: string, signal?: AbortSignal): Promise<HttpResponse> {
    const query = { limit: '0' }
    const response = await this.request({ method: 'GET', path, query, signal, accept: [401, 403, 404] })
    await response.bytes()
    return response
  }

  /** The account's address. */
  async account(): Promise<URL> {
    return (await this.#auth.session()).storageUrl
  }

  /**
   * The best digest that temporary URLs may be signed with there. A cluster that tells of itself but not of digests is so
   * old that it knows only one; one that tells nothing hides something, but not its age.
   */
  async tempUrlDigest(): Promise<'sha256' | 'sha1'> {
    const url = await this.account()
    const path = `${url.pathname.replace(/\/v1(\/.*)?$/, '')}/info`
    const response = await this.#clientOf(url).request({ method: 'GET', path, headers: { host: url.host } })
    const text = (await response.bytes(1 << 20)).toString()
    if (response.status !== 200) return 'sha256'
    try {
      const { tempurl } = JSON.parse(text) as { tempurl?: { allowed_digests?: string[] } }
      return tempurl?.allowed_digests?.includes('sha256') ? 'sha256' : 'sha1'
    } catch {
      return 'sha256'
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await Promise.all([this.#auth, ...this.#clients.values()].map(async (client) => client.close()))
  }

  async #send({ storageUrl, token }: Session, request: ServiceRequest): Promise<HttpResponse> {
    const { method, path, query, headers, body, size, signal } = request
    const base = storageUrl.pathname.replace(/\/+$/, '')
    const search = query ? `?${queryOf(query)}` : ''
    return this.#clientOf(storageUrl).request({
      method,
      path: `${base}${encodePath(path)}${search}`,
      headers: { ...headers, host: storageUrl.host, 'x-auth-token': token },
      ...(body ? { body } : {}),
      ...(size === undefined ? {} : { size }),
      ...(signal ? { signal } : {}),
    })
  }

  #clientOf({ origin, protocol, hostname, port }: URL): HttpClient {
    const known = this.#clients.get(origin)
    if (known) return known
    if (this.#isClosed) throw new StowageError('CLOSED', `The connection to ${hostname} was closed.`)
    const tls = protocol === 'https:'
    const { ca, timeoutMs, connectTimeoutMs } = this.#options
    const client = new HttpClient({
      host: hostname,
      port: Number(port) || (tls ? 443 : 80),
      tls,
      ...(ca === undefined ? {} : { ca }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
      ...(connectTimeoutMs === undefined ? {} : { connectTimeoutMs }),
    })
    this.#clients.set(origin, client)
    return client
  }

  /** The failure in our words. Swift's message may repeat names, but no secret. */
  async #explain(request: ServiceRequest, response: HttpResponse): Promise<StowageError> {
    const { method, path } = request
    const { status, headers } = response
    const text = textOf(await response.bytes(1 << 20).catch(() => Buffer.alloc(0)))
    if (status === 404 && (await this.#isContainerAbsent(request))) return this.absent(containerOf(path))
    const code = codeOfStatus(status, method, text)
    const wait = waitOf(headers['retry-after'])
    const what = `${method} of ${path || 'the account'} at ${this.#options.host} was answered with ${status}`
    return new StowageError(code, `${what}${text && `: ${text}`}.`, {
      ...(hints[code] ? { hint: hints[code] } : {}),
      ...(wait > 0 ? { retryAfterMs: wait } : {}),
      ...(passing.has(status) ? { retryable: true } : {}),
    })
  }

  /** The failure of a request about a container that is not there. */
  absent(container: string): StowageError {
    return new StowageError('INVALID_CONFIG', `There is no container ${container} at ${this.#options.host}.`, {
      hint: 'Create the container, or mend the name; Stowage never creates one.',
    })
  }

  /** Swift has the same answer for an object that is absent and for one whose container is. */
  async #isContainerAbsent({ method, path, headers, signal }: ServiceRequest): Promise<boolean> {
    const container = containerOf(path)
    if (container === '') return false
    const isNew = method === 'PUT' && headers?.['x-copy-from'] === undefined
    if (path === `/${container}` || isNew) return true
    if (performance.now() - (this.#seen.get(container) ?? Number.NEGATIVE_INFINITY) < seenMs) return false
    const response = await this.look(`/${container}`, signal)
    return response.status === 404
  }
}

/** The path with its parts percent-encoded. */
export function encodePath(path: string): string {
  return path.split('/').map(encodeURIComponent).join('/')
}

/** Absence as undefined. */
export function unlessAbsent(error: unknown): undefined {
  if (!isNotFound(error)) throw error
}

/** An etag as it is compared: large objects have theirs in quotes. */
export function etagOf(raw: string | undefined): { etag?: string } {
  const etag = raw?.replaceAll('"', '')
  return etag ? { etag } : {}
}

function containerOf(path: string): string {
  return path.split('/')[1] ?? ''
}

function queryOf(query: Record<string, string>): string {
  return Object.entries(query)
    .map(([name, value]) => (value === '' ? name : `${name}=${encodeURIComponent(value)}`))
    .join('&')
}

const statuses: Record<number, ErrorCode> = {
  400: 'INVALID_ARGUMENT',
  401: 'DENIED',
  403: 'DENIED',
  404: 'NOT_FOUND',
  405: 'UNSUPPORTED',
  408: 'UNREACHABLE',
  409: 'CONFLICT',
  411: 'UNSUPPORTED',
  412: 'CONFLICT',
  413: 'INVALID_ARGUMENT',
  416: 'INVALID_ARGUMENT',
  422: 'CORRUPT',
  429: 'THROTTLED',
  498: 'THROTTLED',
  501: 'UNSUPPORTED',
  507: 'NO_SPACE',
}

/** A newer write of the same object was there first, or the bytes changed on their way: both can be tried again. */
const passing = new Set([409, 422])

const hints: Partial<Record<ErrorCode, string>> = {
  DENIED: 'Check the key, and what the user may do with the container.',
  NO_SPACE: 'Raise the quota, or make room.',
}

/** What a status of Swift is called here. */
export function codeOfStatus(status: number, method = '', text = ''): ErrorCode {
  if (status === 413 && /quota/i.test(text)) return 'NO_SPACE'
  // Segments of a large object are missing, or are not the ones it was made of.
  if (status === 409 && method === 'GET') return 'CORRUPT'
  return statuses[status] ?? (status >= 500 ? 'UNREACHABLE' : 'UNKNOWN')
}

/** Errors are small pages. */
function textOf(bytes: Buffer): string {
  return bytes
    .toString('utf8', 0, 2000)
    .replace(/<h1>.*?<\/h1>|<[^>]*>|\s+/gs, ' ')
    .trim()
    .replace(/\.$/, '')
    .slice(0, 200)
}

/** Retry-After is a number of seconds or a date (RFC 9110, section 10.2.3). In milliseconds; an hour at most. */
function waitOf(header: string | undefined): number {
  if (header === undefined) return 0
  const wait = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Math.min(Number.isNaN(wait) ? 0 : wait, 3_600_000)
}
