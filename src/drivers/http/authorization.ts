/** Basic and Digest authentication (RFC 7617 and 7616), in answer to a server's challenge. */
import { hash, randomBytes } from 'node:crypto'

/** Who we are. */
export interface Login {
  user: string
  password: string
}

/** What is sent with one request, and the agreement it was made under. */
export interface Grant {
  header: string
  agreement: Agreement
}

/** How a server wants to be shown who we are. */
type Agreement = Basic | Digest

interface Challenge {
  scheme: string
  parameters: Record<string, string>
}

/** What one server has asked for so far. */
export class Authorization {
  readonly #login: Login
  readonly #nonce: () => string
  #agreement: Agreement | undefined

  /**
   * With `atOnce` the password is sent before anybody asked: only for servers that have proved who they are. `nonce` is
   * where Digest has the client's random text from.
   */
  constructor(login: Login, atOnce: boolean, nonce = () => randomBytes(16).toString('hex')) {
    this.#login = login
    this.#nonce = nonce
    if (atOnce) this.#agreement = new Basic(login)
  }

  /** What to send with a request; nothing as long as the server has not asked. */
  grant(method: string, target: string): Grant | undefined {
    const agreement = this.#agreement
    return agreement && { agreement, header: agreement.header(method, target) }
  }

  /** A request with this grant was not refused. */
  accepted(grant: Grant): void {
    grant.agreement.hasWorked = true
  }

  /** Learns from a refusal. True when the same request may be answered otherwise now. */
  learn(header: string | undefined, refused: Grant | undefined): boolean {
    // Somebody else has learned something since that request was sent.
    if (this.#agreement !== refused?.agreement) return true
    const challenges = parseChallenges(header ?? '')
    const digest = challenges.find((challenge) => Digest.isKnown(challenge))
    if (digest) return this.#learnDigest(digest, refused)
    if (refused || !challenges.some(({ scheme }) => scheme === 'basic')) return false
    this.#agreement = new Basic(this.#login)
    return true
  }

  /** A nonce has its time, and dies with its server; but a password that never worked is not sent again. */
  #learnDigest(challenge: Challenge, refused: Grant | undefined): boolean {
    const before = refused?.agreement
    const isStale = /^true$/i.test(challenge.parameters['stale'] ?? '')
    if (before instanceof Digest && !isStale && !before.hasWorked) return false
    this.#agreement = new Digest(this.#login, challenge.parameters, this.#nonce())
    return true
  }
}

class Basic {
  hasWorked = false
  readonly #header: string

  constructor({ user, password }: Login) {
    this.#header = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
  }

  header(): string {
    return this.#header
  }
}

const algorithms: Record<string, string> = { MD5: 'md5', 'SHA-256': 'sha256' }

class Digest {
  hasWorked = false
  readonly #user: string
  readonly #parameters: Record<string, string>
  readonly #algorithm: string
  readonly #clientNonce: string
  readonly #secret: string
  #count = 0

  static isKnown({ scheme, parameters: { nonce, qop, algorithm } }: Challenge): boolean {
    const isAuth = (qop ?? '').split(/[\s,]+/).includes('auth')
    return scheme === 'digest' && nonce !== undefined && isAuth && baseOf(algorithm) in algorithms
  }

  constructor({ user, password }: Login, parameters: Record<string, string>, clientNonce: string) {
    const { realm = '', nonce = '', algorithm } = parameters
    this.#user = user
    this.#parameters = parameters
    this.#algorithm = algorithms[baseOf(algorithm)] ?? ''
    this.#clientNonce = clientNonce
    const secret = this.#hash(`${user}:${realm}:${password}`)
    this.#secret = /-sess$/i.test(algorithm ?? '') ? this.#hash(`${secret}:${nonce}:${this.#clientNonce}`) : secret
  }

  header(method: string, target: string): string {
    const { realm = '', nonce = '', opaque, algorithm } = this.#parameters
    const count = (++this.#count).toString(16).padStart(8, '0')
    const request = this.#hash(`${method}:${target}`)
    const response = this.#hash(`${this.#secret}:${nonce}:${count}:${this.#clientNonce}:auth:${request}`)
    const parts = [
      nameOf(this.#user),
      `realm=${quoted(realm)}`,
      `nonce=${quoted(nonce)}`,
      `uri=${quoted(target)}`,
      ...(algorithm === undefined ? [] : [`algorithm=${algorithm}`]),
      ...(opaque === undefined ? [] : [`opaque=${quoted(opaque)}`]),
      `qop=auth, nc=${count}, cnonce="${this.#clientNonce}", response="${response}"`,
    ]
    return `Digest ${parts.join(', ')}`
  }

  #hash(text: string): string {
    return hash(this.#algorithm, text)
  }
}

function baseOf(algorithm = 'MD5'): string {
  return algorithm.toUpperCase().replace(/-SESS$/, '')
}

/** A header has only ASCII; other names are written as RFC 7616 wants it. */
function nameOf(user: string): string {
  if (/^[\x20-\x7e]*$/.test(user)) return `username=${quoted(user)}`
  return `username*=UTF-8''${encodeURIComponent(user).replace(/['()*]/g, escape)}`
}

function quoted(text: string): string {
  return `"${text.replace(/["\\]/g, '\\$&')}"`
}

/** A name, and its value if it has one: quoted, or not. */
const element = /([\w!#$%&'*+.^`|~-]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+)))?/g

/** Takes WWW-Authenticate apart, in which several challenges may stand (RFC 9110, section 11.6.1). The strongest come first. */
function parseChallenges(header: string): Challenge[] {
  const challenges: Challenge[] = []
  for (const [, name = '', inQuotes, bare] of header.matchAll(element)) {
    const value = inQuotes?.replace(/\\(.)/g, '$1') ?? bare
    if (value === undefined) challenges.push({ scheme: name.toLowerCase(), parameters: Object.create(null) })
    else {
      const current = challenges.at(-1)
      if (current) current.parameters[name.toLowerCase()] = value
    }
  }
  const isStrong = ({ parameters }: Challenge) => Number(baseOf(parameters['algorithm']) === 'SHA-256')
  return challenges.sort((a, b) => isStrong(b) - isStrong(a))
}
