/** Signature Version 4 of AWS (docs.aws.amazon.com, "Create a signed AWS API request"), for headers and for query strings. */
import { createHmac, hash } from 'node:crypto'

/** What signs. */
export interface Credentials {
  accessKeyId: string
  secretAccessKey: string
  /** Of temporary credentials. */
  sessionToken?: string
  /** When temporary credentials end, in milliseconds since the epoch. */
  expiresMs?: number
}

/** What is signed. */
export interface Signable {
  method: string
  /** Percent-encoded. */
  path: string
  /** Parameters, not encoded. */
  query: Readonly<Record<string, string>>
  /** Lower-case names; Host must be among them. All are signed. */
  headers: Record<string, string>
  /** Hex SHA-256 of the body, or UNSIGNED-PAYLOAD. */
  payload: string
}

const algorithm = 'AWS4-HMAC-SHA256'

/** Signs requests of one region and service. The derived key is kept for the day it holds. */
export class Signer {
  readonly region: string
  readonly #service: string
  #key: { day: string; secret: string; value: HmacKey } | undefined

  constructor(region: string, service = 's3') {
    this.region = region
    this.#service = service
  }

  /** Adds the date, payload, token and authorization headers. */
  sign({ method, path, query, headers, payload }: Signable, credentials: Credentials, now: Date): void {
    const time = amzDate(now)
    headers['x-amz-date'] = time
    headers['x-amz-content-sha256'] = payload
    if (credentials.sessionToken) headers['x-amz-security-token'] = credentials.sessionToken
    const names = Object.keys(headers).sort()
    const signedHeaders = names.join(';')
    let canonical = `${method}\n${path}\n${encodeQuery(query)}\n`
    for (const name of names) canonical += `${name}:${headers[name]}\n`
    canonical += `\n${signedHeaders}\n${payload}`
    const signature = this.#signature(canonical, time, credentials)
    const scope = this.#scope(time)
    headers['authorization'] =
      `${algorithm} Credential=${credentials.accessKeyId}/${scope}, SignedHeaders=${signedHeaders}, Signature=${signature}`
  }

  /** The query string of a URL that works without further credentials until it expires. */
  presign(
    { method, path, query, headers, payload }: Signable,
    credentials: Credentials,
    now: Date,
    expiresInSeconds: number,
  ): string {
    const time = amzDate(now)
    const names = Object.keys(headers).sort()
    const all = {
      ...query,
      'X-Amz-Algorithm': algorithm,
      'X-Amz-Credential': `${credentials.accessKeyId}/${this.#scope(time)}`,
      'X-Amz-Date': time,
      'X-Amz-Expires': String(expiresInSeconds),
      'X-Amz-SignedHeaders': names.join(';'),
      ...(credentials.sessionToken ? { 'X-Amz-Security-Token': credentials.sessionToken } : {}),
    }
    const lines = names.map((name) => `${name}:${headers[name]}\n`).join('')
    const canonical = `${method}\n${path}\n${encodeQuery(all)}\n${lines}\n${names.join(';')}\n${payload}`
    return `${encodeQuery(all)}&X-Amz-Signature=${this.#signature(canonical, time, credentials)}`
  }

  #signature(canonical: string, time: string, credentials: Credentials): string {
    const text = `${algorithm}\n${time}\n${this.#scope(time)}\n${hash('sha256', canonical)}`
    return this.#keyOf(time.slice(0, 8), credentials).sign(text)
  }

  #scope(time: string): string {
    return `${time.slice(0, 8)}/${this.region}/${this.#service}/aws4_request`
  }

  #keyOf(day: string, { secretAccessKey: secret }: Credentials): HmacKey {
    if (this.#key?.day !== day || this.#key.secret !== secret) {
      const steps = [day, this.region, this.#service, 'aws4_request']
      const key = steps.reduce<Buffer>(
        (above, step) => createHmac('sha256', above).update(step).digest(),
        Buffer.from(`AWS4${secret}`),
      )
      this.#key = { day, secret, value: new HmacKey(key) }
    }
    return this.#key.value
  }
}

/**
 * HMAC-SHA-256 (RFC 2104) of many texts with one key. Hashing the padded key in front of each text costs a fifth of what
 * setting up node's own Hmac does.
 */
class HmacKey {
  readonly #inner = Buffer.alloc(64, 0x36)
  readonly #outer = Buffer.alloc(96, 0x5c)

  constructor(key: Buffer) {
    for (const [index, byte] of key.entries()) {
      this.#inner.writeUInt8(byte ^ 0x36, index)
      this.#outer.writeUInt8(byte ^ 0x5c, index)
    }
  }

  /** Hex. */
  sign(text: string): string {
    const inner = hash('sha256', Buffer.concat([this.#inner, Buffer.from(text)]), 'buffer')
    inner.copy(this.#outer, 64)
    return hash('sha256', this.#outer)
  }
}

/** Percent-encodes everything but the unreserved characters of RFC 3986. */
export function encode(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

/** Encodes a query with its parameters in order of their names. */
export function encodeQuery(query: Readonly<Record<string, string>>): string {
  const names = Object.keys(query)
  if (names.length === 0) return ''
  const pairs = names.map((name) => [encode(name), encode(query[name] ?? '')] as const)
  return pairs
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name}=${value}`)
    .join('&')
}

/** `20261121T030405Z`, kept for the second it holds. */
function amzDate(now: Date): string {
  const second = Math.floor(now.getTime() / 1000)
  if (second !== lastDate.second) lastDate = { second, text: now.toISOString().replace(/[-:]|\.\d{3}/g, '') }
  return lastDate.text
}

let lastDate = { second: Number.NaN, text: '' }
