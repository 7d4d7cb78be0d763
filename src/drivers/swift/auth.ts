/** Tokens of Swift: TempAuth and its kin (v1), and Keystone's Identity API v3 (docs.openstack.org/api-ref/identity/v3). */
import { onAbort } from '../../core/abort.ts'
import { StowageError } from '../../core/errors.ts'
import { HttpClient, type HttpResponse } from '../http-client.ts'
import { readJson } from './json.ts'

/** The server that gives tokens. It alone is sent the secret. */
export interface AuthServer {
  host: string
  port: number
  tls: boolean
  /** Certificates to trust instead of the system's, as PEM. */
  ca?: string
  /** So long without a byte in either direction ends a request, in milliseconds. Default 60,000. */
  timeoutMs?: number
  /** In milliseconds. Default 10,000. */
  connectTimeoutMs?: number
}

/** What proves who we are, and which account is meant. */
export type Login = LoginV1 | LoginV3

/** A user and a key, as TempAuth and Ceph know them. */
export interface LoginV1 {
  version: 1
  /** Path of the login. Default /auth/v1.0. */
  path?: string
  user: string
  key: string
}

/** A user of a project, or an application credential, as Keystone knows them. */
export interface LoginV3 {
  version: 3
  /** Path of the API. Default /v3. */
  path?: string
  proof:
    | { user: string; password: string; project: string; userDomain?: string; projectDomain?: string }
    | { applicationCredentialId: string; applicationCredentialSecret: string }
  /** Default: the only one that has a Swift. */
  region?: string
  /** Which of the addresses of a Swift. Default public. */
  interface?: 'public' | 'internal'
}

/** What a login gives. */
export interface Session {
  /** The account, below which are its containers. */
  storageUrl: URL
  token: string
}

/** A session, and its times in milliseconds since the epoch. */
interface Held extends Session {
  renewMs: number
  endMs: number
}

/** A token is replaced so long before its end, or when a fifth of its time is left. */
const marginMs = 5 * 60_000

/** Logs in when somebody needs a token, once however many do, and again before it ends. */
export class Auth {
  readonly #server: AuthServer
  readonly #login: Login
  readonly #client: HttpClient
  #held: Held | undefined
  #logging: Promise<Session> | undefined

  constructor(server: AuthServer, login: Login) {
    this.#server = server
    this.#login = login
    this.#client = new HttpClient(server)
  }

  /**
   * A token that has not ended; one that is about to is renewed behind it. Rejects with DENIED, UNREACHABLE, TIMEOUT,
   * ABORTED, or INVALID_CONFIG.
   */
  async session(signal?: AbortSignal): Promise<Session> {
    const [held, now] = [this.#held, Date.now()]
    if (held && now < held.renewMs) return held
    const renewed = this.#renew(signal)
    if (!held || now >= held.endMs) return renewed
    renewed.catch(() => undefined) // while this one is good, nobody has to know
    return held
  }

  /** Another token than one that was refused. */
  async after(refused: Session, signal?: AbortSignal): Promise<Session> {
    if (this.#held?.token === refused.token) this.#held = undefined
    return this.session(signal)
  }

  async close(): Promise<void> {
    await this.#client.close()
  }

  /** The login goes on for the others when one of those who wait for it is cancelled. */
  async #renew(signal: AbortSignal | undefined): Promise<Session> {
    this.#logging ??= this.#logIn().finally(() => {
      this.#logging = undefined
    })
    const logging = this.#logging
    return new Promise((resolve, reject) => {
      const stopListening = onAbort(signal, () =>
        reject(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal?.reason })),
      )
      logging.then(resolve, reject).finally(stopListening)
    })
  }

  async #logIn(): Promise<Session> {
    const login = this.#login
    const { session, lifeMs } = login.version === 1 ? await this.#logInV1(login) : await this.#logInV3(login)
    this.#checkStorage(session.storageUrl)
    const endMs = Date.now() + lifeMs
    this.#held = { ...session, endMs, renewMs: endMs - Math.min(marginMs, lifeMs / 5) }
    return session
  }

  async #logInV1({ path = '/auth/v1.0', user, key }: LoginV1): Promise<Fresh> {
    const headers = { 'x-auth-user': user, 'x-auth-key': key }
    const response = await this.#ask('GET', path, headers)
    await response.bytes()
    const { 'x-storage-url': url, 'x-auth-token': token, 'x-auth-token-expires': seconds } = response.headers
    if (!url || !token) throw this.#strange('no X-Storage-Url and X-Auth-Token')
    const lifeMs = seconds && /^\d+$/.test(seconds) ? Number(seconds) * 1000 : Number.POSITIVE_INFINITY
    return { session: { storageUrl: this.#parse(url), token }, lifeMs }
  }

  async #logInV3(login: LoginV3): Promise<Fresh> {
    const body = Buffer.from(JSON.stringify({ auth: authOf(login) }))
    const path = `${(login.path ?? '/v3').replace(/\/+$/, '')}/auth/tokens`
    const response = await this.#ask('POST', path, { 'content-type': 'application/json' }, body)
    const { token: found } = readJson(await response.bytes()) as { token?: Token }
    const token = response.headers['x-subject-token']
    if (!found || !token) throw this.#strange('no token')
    // Their clock may be another than ours.
    const lifeMs = Date.parse(found.expires_at ?? '') - Date.parse(found.issued_at ?? '')
    const storageUrl = this.#parse(this.#findStorage(found, login))
    return { session: { storageUrl, token }, lifeMs: Number.isNaN(lifeMs) ? Number.POSITIVE_INFINITY : lifeMs }
  }

  /** Which of several regions is meant is never guessed: files would go to the wrong one. */
  #findStorage({ catalog = [] }: Token, { region, interface: wanted = 'public' }: LoginV3): string {
    const all = catalog.filter(({ type }) => type === 'object-store').flatMap(({ endpoints = [] }) => endpoints)
    const offered = all.filter((endpoint) => endpoint.interface === wanted)
    const regionOf = (endpoint: Endpoint) => endpoint.region_id ?? endpoint.region ?? ''
    const found = offered.filter((endpoint) => region === undefined || regionOf(endpoint) === region)
    const regions = [...new Set(offered.map(regionOf))]
    if (found[0] && (region !== undefined || regions.length === 1)) return found[0].url
    throw new StowageError(
      'INVALID_CONFIG',
      `The catalogue of ${this.#name} has ${found.length === 0 ? 'no' : 'more than one'} ${wanted} object-store` +
        `${region === undefined ? '' : ` in the region ${region}`}.`,
      { hint: regions.length > 0 ? `Set region to one of: ${regions.join(', ')}.` : 'Check project and interface.' },
    )
  }

  async #ask(method: string, path: string, headers: Record<string, string>, body?: Uint8Array): Promise<HttpResponse> {
    const { host, port, tls } = this.#server
    const isUsual = port === (tls ? 443 : 80)
    const response = await this.#client.request({
      method,
      path,
      headers: { host: isUsual ? host : `${host}:${port}`, accept: 'application/json', ...headers },
      ...(body ? { body } : {}),
    })
    if (response.status >= 200 && response.status < 300) return response
    response.stream().destroy()
    throw this.#refusal(response.status, path)
  }

  /** What the server said about it is not repeated: that may hold what we have sent. */
  #refusal(status: number, path: string): StowageError {
    const what = `The login at ${this.#name}${path} was answered with ${status}.`
    // An application credential that it does not know is absent to Keystone, and not refused.
    const isUnknown = status === 404 && this.#login.version === 3 && 'applicationCredentialId' in this.#login.proof
    if (status === 401 || status === 403 || isUnknown)
      return new StowageError('DENIED', what, {
        hint: isUnknown ? 'Check the application credential, and auth_path.' : 'Check user, key, project and domains.',
      })
    if (status === 429 || status === 498) return new StowageError('THROTTLED', what)
    if (status >= 500 || status === 408) return new StowageError('UNREACHABLE', what)
    return new StowageError('INVALID_CONFIG', what, { hint: 'Check the address, auth_version and auth_path.' })
  }

  get #name(): string {
    return `${this.#server.host}:${this.#server.port}`
  }

  #parse(url: string): URL {
    if (URL.canParse(url)) return new URL(url)
    throw this.#strange('a storage URL that is none')
  }

  #strange(what: string): StowageError {
    return new StowageError('UNREACHABLE', `The login at ${this.#name} gave ${what}.`, {
      retryable: false,
      hint: 'Check the address, auth_version and auth_path.',
    })
  }

  #checkStorage({ protocol, host }: URL) {
    const isPlain = protocol === 'http:'
    if (protocol === 'https:' || (isPlain && !this.#server.tls)) return
    throw new StowageError(
      'INVALID_CONFIG',
      `${this.#name} sends us to ${protocol}//${host}, where the token would be ${isPlain ? 'sent in the clear' : 'of no use'}.`,
      { hint: 'Have the storage URL begin with https, or try another interface.' },
    )
  }
}

interface Fresh {
  session: Session
  lifeMs: number
}

interface Token {
  issued_at?: string
  expires_at?: string
  catalog?: { type: string; endpoints?: Endpoint[] }[]
}

interface Endpoint {
  interface: string
  region?: string
  region_id?: string
  url: string
}

function authOf({ proof }: LoginV3) {
  if ('applicationCredentialId' in proof) {
    const { applicationCredentialId: id, applicationCredentialSecret: secret } = proof
    return { identity: { methods: ['application_credential'], application_credential: { id, secret } } }
  }
  const { user, password, project, userDomain, projectDomain } = proof
  return {
    identity: { methods: ['password'], password: { user: { name: user, password, domain: domainOf(userDomain) } } },
    scope: { project: { name: project, domain: domainOf(projectDomain) } },
  }
}

/** Keystone's first domain has the id `default`, and is meant where none is named. */
function domainOf(name = 'default') {
  return name === 'default' ? { id: name } : { name }
}
