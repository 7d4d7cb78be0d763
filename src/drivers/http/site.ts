/** One web server: requests with credentials, redirections, and failures in our words. What http and webdav have in common. */
import { StowageError, type ErrorCode } from '../../core/errors.ts'
import { HttpClient, type HttpClientOptions, type HttpRequest, type HttpResponse } from '../http-client.ts'
import { Authorization, type Login } from './authorization.ts'

/** Where a site is and who we are there. */
export interface SiteOptions extends HttpClientOptions {
  /** Sent to this server alone, and only in answer to its challenge; over TLS as Basic at once. */
  login?: Login
}

/** What is asked. */
export interface SiteRequest {
  method: string
  /** The path, decoded and without slashes at its ends. */
  key: string
  /** The path ends in a slash. */
  isDirectory?: boolean
  headers?: Record<string, string>
  body?: HttpRequest['body']
  size?: number | undefined
  mayRepeat?: boolean
  signal?: AbortSignal | undefined
  /** Statuses besides 2xx that are answers, not failures. */
  accept?: readonly number[]
}

const redirections = new Set([301, 302, 303, 307, 308])
const redirectionsAtMost = 5
/** Servers that ours redirects to. */
const othersAtMost = 16
/** Small servers serve few at once, and drop the rest. */
const maxSockets = 32

/** The answer that a key is a directory, which is no file. */
export class IsDirectory extends StowageError {
  constructor(key: string, location: string) {
    super('NOT_FOUND', `There is no file ${key} in ${location}: it is a directory.`)
  }
}

/** A web server. */
export class Site {
  /** Safe to print. */
  readonly location: string
  readonly #options: SiteOptions
  readonly #origin: string
  readonly #client: HttpClient
  readonly #others = new Map<string, HttpClient>()
  readonly #authorization: Authorization | undefined

  /** `scheme` is how URLs of this kind of store begin. */
  constructor(options: SiteOptions, scheme: string) {
    const { host, port, tls, login, verify = true } = options
    const { origin, hostname } = new URL(`${tls ? 'https' : 'http'}://${host}:${port}`)
    this.#origin = origin
    this.#options = { maxSockets, ...options, host: hostname }
    this.#client = new HttpClient(this.#options)
    if (login) this.#authorization = new Authorization(login, tls && verify)
    const isUsual = port === (tls ? 443 : 80)
    this.location = `${scheme}://${host}${isUsual ? '' : `:${port}`}`
  }

  /** The address of a file or directory. */
  urlOf(key: string, isDirectory = false): URL {
    const slash = isDirectory && key !== '' ? '/' : ''
    return new URL(`/${key.split('/').map(encodeURIComponent).join('/')}${slash}`, this.#origin)
  }

  /**
   * Sends a request; GET and HEAD follow redirections. Rejects with what the status means, and with {@link IsDirectory}
   * where a redirection only adds a slash.
   */
  async request(request: SiteRequest): Promise<HttpResponse> {
    let url = this.urlOf(request.key, request.isDirectory)
    for (let hops = 0; ; hops++) {
      const response = await this.#send(request, url)
      const { status, headers } = response
      if ((status >= 200 && status < 300) || request.accept?.includes(status)) return response
      await drain(response)
      const location = headers['location']
      if (!redirections.has(status) || location === undefined) throw this.refusal(request, response, url.origin)
      url = this.#redirected(request, { from: url, location, hops })
    }
  }

  /** What an answer means that is none, of this server or of one that it redirected to. */
  refusal(
    { method, key }: SiteRequest,
    { status, headers }: Pick<HttpResponse, 'status' | 'headers'>,
    origin = this.#origin,
  ): StowageError {
    const code = codes[status] ?? (status >= 500 ? 'UNREACHABLE' : 'UNKNOWN')
    const what = `${method} of ${this.#subject(key)} was answered with ${status}.`
    const hint = status === 401 ? this.#loginHint(headers['www-authenticate'], origin) : hints[status]
    const wait = waitOf(headers['retry-after'])
    return new StowageError(code, what, {
      ...(hint ? { hint } : {}),
      ...(wait > 0 ? { retryAfterMs: wait } : {}),
      ...(status === 423 ? { retryable: true } : {}),
    })
  }

  async close(): Promise<void> {
    await Promise.all([this.#client, ...this.#others.values()].map(async (client) => client.close()))
  }

  /** Sends it once, or again when the server has told how it wants to know who we are. */
  async #send({ method, headers = {}, body, size, mayRepeat, signal }: SiteRequest, url: URL): Promise<HttpResponse> {
    const isHome = url.origin === this.#origin
    const client = isHome ? this.#client : this.#other(url)
    const authorization = isHome ? this.#authorization : undefined
    const path = url.pathname + url.search
    for (let attempt = 1; ; attempt++) {
      const grant = authorization?.grant(method, path)
      const response = await client.request({
        method,
        path,
        headers: {
          host: url.host,
          'user-agent': 'stowage',
          'accept-encoding': 'identity',
          ...headers,
          ...(grant && { authorization: grant.header }),
        },
        ...(body && { body }),
        ...(size !== undefined && { size }),
        ...(mayRepeat !== undefined && { mayRepeat }),
        ...(signal && { signal }),
      })
      if (grant && response.status !== 401) authorization?.accepted(grant)
      const hasLearned = response.status === 401 && authorization?.learn(response.headers['www-authenticate'], grant)
      if (!hasLearned || attempt > 3) return response
      await drain(response)
      if (body && !(body instanceof Uint8Array)) throw this.#unrepeatable()
    }
  }

  #redirected(request: SiteRequest, { from, location, hops }: { from: URL; location: string; hops: number }): URL {
    const to = URL.canParse(location, from.href) ? new URL(location, from) : undefined
    if (!to || !/^https?:$/.test(to.protocol)) throw this.#refuse(request, 'to something that is no web address')
    if (to.hostname === from.hostname && to.pathname === `${from.pathname}/`)
      throw new IsDirectory(request.key, this.location)
    const target = `to ${to.origin}${to.pathname}`
    if (from.protocol === 'https:' && to.protocol === 'http:')
      throw this.#refuse(request, `${target}, from https to http`, 'What was protected is not asked for in the open.')
    if (request.method !== 'GET' && request.method !== 'HEAD')
      throw this.#refuse(request, target, 'Give the address it redirects to.')
    if (hops >= redirectionsAtMost)
      throw this.#refuse(request, `${target}, after ${redirectionsAtMost} others`, 'They seem to go in circles.')
    return to
  }

  /** Another server gets neither our name nor our certificate. */
  #other({ origin, protocol, hostname, port }: URL): HttpClient {
    const known = this.#others.get(origin)
    if (known) return known
    if (this.#others.size >= othersAtMost)
      for (const [eldest, client] of this.#others) {
        this.#others.delete(eldest)
        void client.close()
        break
      }
    const { login: _login, identity: _identity, verify: _verify, ...options } = this.#options
    const tls = protocol === 'https:'
    const client = new HttpClient({ ...options, host: hostname, port: Number(port) || (tls ? 443 : 80), tls })
    this.#others.set(origin, client)
    return client
  }

  #refuse({ method, key }: SiteRequest, where: string, hint?: string): StowageError {
    const what = `${method} of ${this.#subject(key)} was redirected ${where}`
    return new StowageError('INVALID_CONFIG', `${what}; that was not followed.`, hint === undefined ? {} : { hint })
  }

  #unrepeatable(): StowageError {
    const what = `${this.location} asked who we are in the middle of a body, which cannot be sent again.`
    return new StowageError('DENIED', what, { retryable: true })
  }

  #subject(key: string): string {
    return `${key || 'the root'} in ${this.location}`
  }

  #loginHint(challenge = '', origin: string): string {
    if (origin !== this.#origin) return `It redirects to ${origin}, which is not told the password: give that address.`
    if (!this.#authorization) return 'It wants a user and a password: write them before the host, as USER:PASSWORD@.'
    if (/\b(basic|digest)\b/i.test(challenge)) return 'Check the user and the password.'
    return 'It wants neither Basic nor Digest authentication, and Stowage speaks no other.'
  }
}

const codes: Record<number, ErrorCode> = {
  400: 'INVALID_ARGUMENT',
  401: 'DENIED',
  403: 'DENIED',
  404: 'NOT_FOUND',
  405: 'UNSUPPORTED',
  407: 'DENIED',
  408: 'UNREACHABLE',
  409: 'CONFLICT',
  410: 'NOT_FOUND',
  411: 'UNSUPPORTED',
  412: 'CONFLICT',
  413: 'INVALID_ARGUMENT',
  414: 'INVALID_KEY',
  421: 'UNREACHABLE',
  423: 'CONFLICT',
  425: 'UNREACHABLE',
  429: 'THROTTLED',
  501: 'UNSUPPORTED',
  503: 'THROTTLED',
  505: 'UNSUPPORTED',
  507: 'NO_SPACE',
}

const hints: Record<number, string> = {
  403: 'Check what the user is allowed.',
  413: 'It is larger than the server takes.',
  423: 'Somebody has locked it.',
}

/** Reads what a refusal still has to say, so that its connection can be used again. */
export async function drain(response: HttpResponse): Promise<void> {
  // What is long, or breaks off, costs the connection and nothing else.
  await response.bytes(1 << 20).catch(() => undefined)
}

/** Retry-After is a number of seconds or a date (RFC 9110, section 10.2.3). In milliseconds; an hour at most. */
function waitOf(header: string | undefined): number {
  if (header === undefined) return 0
  const wait = /^\d+$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now()
  return Math.min(Number.isNaN(wait) ? 0 : wait, 3_600_000)
}
