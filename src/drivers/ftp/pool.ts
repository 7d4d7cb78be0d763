/** Connections to one FTP server. Each does one thing at a time, so there are several. */
import type { Client, FTPError } from 'basic-ftp'
import type { ConnectionOptions as TlsOptions } from 'node:tls'
import { onAbort } from '../../core/abort.ts'
import { StowageError, type ErrorCode } from '../../core/errors.ts'
import { Limit } from '../../core/limit.ts'

/** Where a server is and who we are there. */
export interface FtpServer {
  host: string
  port: number
  /** Default: anonymous. */
  user?: string
  password?: string
  /** `explicit` begins in the clear and turns to TLS before the login; `implicit` speaks nothing else. Default: no TLS. */
  tls?: 'explicit' | 'implicit'
  /** Certificates to trust instead of the system's, as PEM. */
  ca?: string
  /** Check the server's certificate. Default true; without it anybody may pose as the server. */
  verify?: boolean
  /** Connections at once. Default 8. */
  connections?: number
  /** So long the server may be silent, in milliseconds. Default 60,000. */
  timeoutMs?: number
}

/** A connection that rested for longer is asked whether it is still there. */
const restedMs = 10_000

/** A failure that is not the server's: it comes through as it is, and costs the connection. */
export class OwnFailure extends Error {
  constructor(cause: unknown) {
    super('', { cause })
  }
}

/** Too many of ours are there already. */
class TooMany extends Error {}

class Places extends Limit {
  shrink(max: number): void {
    this.resize(Math.max(1, max))
  }
}

/** The connections of a driver. */
export class Pool {
  readonly name: string
  readonly #server: FtpServer
  readonly #places: Places
  readonly #idle: { client: Client; sinceMs: number }[] = []
  readonly #open = new Set<Client>()
  #isClosed = false

  constructor(server: FtpServer) {
    this.#server = server
    this.#places = new Places(server.connections ?? 8)
    this.name = `${server.host}:${server.port}`
  }

  /**
   * Does something with a connection of its own. The connection is used again when the work says so by resolving; after a
   * failure only if the server itself has refused something. Rejects with the reasons in our words.
   */
  async run<T>(signal: AbortSignal | undefined, work: (client: Client) => Promise<T>): Promise<T> {
    for (;;)
      try {
        return await this.#places.run(async () => this.#with(signal, work), signal)
      } catch (error) {
        if (!(error instanceof TooMany)) throw error
        // As many as there are is what the server lets us have.
        this.#places.shrink(this.#open.size)
      }
  }

  async close(): Promise<void> {
    this.#isClosed = true
    for (const client of this.#open) client.close()
  }

  async #with<T>(signal: AbortSignal | undefined, work: (client: Client) => Promise<T>): Promise<T> {
    const client = await this.#connected(signal)
    const stopListening = onAbort(signal, () => client.close())
    try {
      const result = await work(client)
      this.#rest(client)
      return result
    } catch (error) {
      if (isRefusal(error)) this.#rest(client)
      else this.#drop(client)
      throw error instanceof OwnFailure ? error.cause : this.explain(error, signal)
    } finally {
      stopListening()
    }
  }

  #rest(client: Client) {
    if (client.closed || this.#isClosed) this.#drop(client)
    else {
      client.ftp.socket.unref()
      this.#idle.push({ client, sinceMs: performance.now() })
    }
  }

  #drop(client: Client) {
    client.close()
    this.#open.delete(client)
  }

  async #connected(signal: AbortSignal | undefined): Promise<Client> {
    if (this.#isClosed) throw new StowageError('CLOSED', `The connection to ${this.name} was closed.`)
    for (let rested = this.#idle.pop(); rested; rested = this.#idle.pop()) {
      const { client, sinceMs } = rested
      client.ftp.socket.ref()
      const isThere = performance.now() - sinceMs < restedMs || (await client.send('NOOP').catch(() => undefined))
      if (isThere && !client.closed) return client
      this.#drop(client)
    }
    return this.#connect(signal)
  }

  async #connect(signal: AbortSignal | undefined): Promise<Client> {
    const { host, port, user, password, tls, timeoutMs = 60_000 } = this.#server
    const { Client } = await import('basic-ftp')
    const client = new Client(timeoutMs, { maxListingBytes: 1 << 30, allowSeparateTransferHost: false })
    const { parseList } = client
    client.parseList = (text) => {
      // Nothing else tells that a listing was cut; one that was cut between two lines is taken for whole.
      if (text !== '' && !text.endsWith('\n'))
        throw new StowageError('UNREACHABLE', `${this.name} sent only a part of a listing.`)
      return parseList(text)
    }
    const others = this.#open.size
    this.#open.add(client)
    const stopListening = onAbort(signal, () => client.close())
    try {
      await client.access({
        host: host.replace(/^\[|\]$/g, ''),
        port,
        ...(user === undefined ? {} : { user }),
        ...(password === undefined ? {} : { password }),
        secure: tls === 'implicit' ? 'implicit' : tls === 'explicit',
        ...(tls ? { secureOptions: this.#tlsOptions() } : {}),
      })
      if (this.#isClosed) throw new StowageError('CLOSED', `The connection to ${this.name} was closed.`)
      return client
    } catch (error) {
      this.#drop(client)
      if (others > 0 && isRefusal(error, /too many|maximum|limit/i)) throw new TooMany()
      throw this.explain(error, signal)
    } finally {
      stopListening()
    }
  }

  #tlsOptions(): TlsOptions {
    const { host, ca, verify = true } = this.#server
    return { host, rejectUnauthorized: verify, ...(ca === undefined ? {} : { ca }) }
  }

  /** What the server or the network says, in our words (RFC 959, section 4.2). */
  explain(error: unknown, signal?: AbortSignal): unknown {
    if (error instanceof StowageError) return error
    if (signal?.aborted) return new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })
    if (this.#isClosed) return new StowageError('CLOSED', `The connection to ${this.name} was closed.`)
    const { message, code } = error as Error & { code?: unknown }
    if (typeof code === 'number') return this.#refusal(code, message)
    if (typeof code === 'string' && isCertificateError(code))
      return new StowageError('UNREACHABLE', `The certificate of ${this.name} is not to be trusted: ${code}.`, {
        retryable: false,
        hint: 'Mend it, or name the certificates to trust with ca.',
        cause: error,
      })
    if (/timeout|stalled/i.test(message))
      return new StowageError('TIMEOUT', `${this.name} did not answer in time.`, { cause: error })
    const what = typeof code === 'string' ? code : 'it was lost'
    return new StowageError('UNREACHABLE', `The connection to ${this.name} broke off: ${what}.`, { cause: error })
  }

  #refusal(code: number, message: string): StowageError {
    const said = message
      .replace(/^\d+[ -]/, '')
      .trim()
      .replace(/\.$/, '')
      .slice(-200) // the reason stands behind the name
    const meaning = code === 550 ? meaningOf550(message) : codes[code]
    const what = `${this.name} answered ${code}: ${said}.`
    if (code === 530) return new StowageError('DENIED', what, { hint: 'Check the user and the password.' })
    if (code === 421) return new StowageError('UNREACHABLE', what)
    return new StowageError(meaning ?? (code < 500 ? 'UNREACHABLE' : 'UNKNOWN'), what)
  }
}

const codes: Record<number, ErrorCode> = {
  450: 'CONFLICT',
  452: 'NO_SPACE',
  500: 'UNSUPPORTED',
  501: 'INVALID_ARGUMENT',
  502: 'UNSUPPORTED',
  503: 'UNSUPPORTED',
  504: 'UNSUPPORTED',
  522: 'INVALID_CONFIG',
  532: 'DENIED',
  534: 'INVALID_CONFIG',
  552: 'NO_SPACE',
  553: 'CONFLICT',
}

/** One number for everything that is wrong with a file; only the text tells what. */
function meaningOf550(text: string): ErrorCode {
  if (/no such|not found|not exist|cannot find|can't find/i.test(text)) return 'NOT_FOUND'
  if (/denied|not permitted|permission|not allowed/i.test(text)) return 'DENIED'
  if (/space|quota/i.test(text)) return 'NO_SPACE'
  return 'CONFLICT'
}

/** Has the server answered, so that the connection is as good as before? */
function isRefusal(error: unknown, text = /./): error is FTPError {
  const { code, message } = error as Partial<FTPError>
  return typeof code === 'number' && code >= 400 && (code !== 421 || text.source !== '.') && text.test(message ?? '')
}

function isCertificateError(code: string): boolean {
  return /CERT|SELF_SIGNED|UNABLE_TO_|ERR_TLS/.test(code)
}
