/** One SSH connection that speaks SFTP: made when it is needed, made anew when it was lost, with time limits. */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import * as path from 'node:path'
import type { Client, ConnectConfig, ServerHostKeyAlgorithm, SFTPWrapper } from 'ssh2'
import { onAbort } from '../../core/abort.ts'
import { StowageError, type ErrorCode } from '../../core/errors.ts'
import { fingerprintOf, KnownHosts } from './known-hosts.ts'

/** Where a server is and who we are there. */
export interface ConnectionOptions {
  host: string
  port: number
  user: string
  password?: string
  /** PEM or OpenSSH. Without it, and without a password, the agent of SSH_AUTH_SOCK is asked. */
  privateKey?: string
  passphrase?: string
  /** Check the server's key. Default true; without it anybody may pose as the server. */
  validateHost?: boolean
  /** Default ~/.ssh/known_hosts. */
  knownHosts?: string
  /** Default 10 s. */
  connectTimeoutMs?: number
  /** So long the server may leave requests without any answer. Default 60 s. */
  timeoutMs?: number
}

/** Asks the server for something; the last argument of ssh2's calls. */
export type Callback<T> = (error: Error | null | undefined, result: T) => void

/** The connection of a driver. */
export class Connection {
  readonly name: string
  readonly #options: ConnectionOptions
  #session: Promise<Session> | undefined
  #isClosed = false

  constructor(options: ConnectionOptions) {
    this.#options = options
    this.name = `${options.host}:${options.port}`
  }

  /** A session that is not known to be lost. Rejects with DENIED, UNREACHABLE, TIMEOUT, INVALID_CONFIG or CLOSED. */
  async session(signal?: AbortSignal): Promise<Session> {
    if (this.#isClosed) throw new StowageError('CLOSED', `The connection to ${this.name} was closed.`)
    const opening = (this.#session ??= this.#open())
    return abortable(opening, signal, undefined)
  }

  async close(): Promise<void> {
    this.#isClosed = true
    const session = await this.#session?.catch(() => undefined)
    session?.end()
  }

  async #open(): Promise<Session> {
    try {
      const session = await openSession(this.#options)
      session.onEnd(() => (this.#session = undefined))
      if (this.#isClosed) session.end()
      return session
    } catch (error) {
      this.#session = undefined
      throw error
    }
  }
}

/** A connection that stands. */
export class Session {
  readonly sftp: SFTPWrapper
  readonly #client: Client
  readonly #name: string
  readonly #timeoutMs: number
  readonly #pending = new Set<(error: StowageError) => void>()
  readonly #endListeners: (() => void)[] = []
  #lost: StowageError | undefined
  #lastMs = performance.now()
  #watch: NodeJS.Timeout | undefined
  #isGathering = false

  constructor(client: Client, sftp: SFTPWrapper, name: string, timeoutMs: number) {
    this.#client = client
    this.sftp = sftp
    this.#name = name
    this.#timeoutMs = timeoutMs
    client.on('close', () => this.#lose('UNREACHABLE', 'was lost'))
    client.on('error', (error) => this.#lose('UNREACHABLE', 'broke off', error))
    sftp.on('close', () => this.#lose('UNREACHABLE', 'was ended by the server'))
  }

  onEnd(listener: () => void): void {
    if (this.#lost) listener()
    else this.#endListeners.push(listener)
  }

  /**
   * Makes a request. Rejects at once with ABORTED when the signal fires; `late` is given the answer that comes after all, to
   * undo what it did. A lost connection, and a server that is silent for too long, reject all requests.
   */
  async call<T>(ask: (done: Callback<T>) => void, signal?: AbortSignal, late?: (result: T) => void): Promise<T> {
    if (this.#lost) throw this.#lost
    const answer = new Promise<T>((resolve, reject) => {
      const lose = (error: StowageError) => reject(error)
      this.#begin(lose)
      const answered: Callback<T> = (error, result) => {
        this.#end(lose)
        if (error) reject(this.#explain(error))
        else resolve(result)
      }
      this.#gather()
      try {
        ask(answered)
      } catch (error) {
        // ssh2 throws at once when the server has not offered an extension.
        this.#end(lose)
        reject(
          new StowageError('UNSUPPORTED', `${this.#name} cannot do that: ${(error as Error).message}.`, {
            cause: error,
          }),
        )
      }
    })
    return abortable(answer, signal, late)
  }

  /** Bytes the server gives or takes in one request. */
  get pieceBytes(): { read: number; write: number } {
    const { _maxReadLen: read = leastPieceBytes, _maxWriteLen: write = leastPieceBytes } = this.sftp as SftpLimits
    return { read: Math.max(leastPieceBytes, read), write: Math.max(leastPieceBytes, write) }
  }

  /** Ends it without waiting; requests under way reject with CLOSED. */
  end(): void {
    this.#lose('CLOSED', 'was closed')
  }

  /** What is asked in one turn of the event loop goes out as one piece: a system call for each costs more than the request. */
  #gather() {
    if (this.#isGathering) return
    this.#isGathering = true
    const socket = socketOf(this.#client)
    socket?.cork?.()
    setImmediate(() => {
      this.#isGathering = false
      socket?.uncork?.()
    })
  }

  /** While nothing is asked for, an open connection does not keep the process alive. */
  #begin(lose: (error: StowageError) => void) {
    if (this.#pending.size === 0) {
      refSocket(this.#client, true)
      this.#lastMs = performance.now()
      this.#watch = setInterval(() => this.#look(), Math.min(1000, this.#timeoutMs / 2))
    }
    this.#pending.add(lose)
  }

  #end(lose: (error: StowageError) => void) {
    this.#lastMs = performance.now()
    this.#pending.delete(lose)
    if (this.#pending.size > 0) return
    clearInterval(this.#watch)
    refSocket(this.#client, false)
  }

  #look() {
    if (performance.now() - this.#lastMs > this.#timeoutMs)
      this.#lose('TIMEOUT', `gave no answer for ${this.#timeoutMs / 1000} s`)
  }

  #lose(code: ErrorCode, what: string, cause?: unknown) {
    if (this.#lost) return
    this.#lost = new StowageError(code, `The connection to ${this.#name} ${what}.`, { cause })
    clearInterval(this.#watch)
    for (const reject of this.#pending) reject(this.#lost)
    this.#pending.clear()
    for (const listener of this.#endListeners) listener()
    endClient(this.#client)
  }

  /** What the statuses of SFTP mean (draft-ietf-secsh-filexfer-02, section 7). */
  #explain(error: Error & { code?: unknown }): StowageError {
    if (this.#lost) return this.#lost
    const code = typeof error.code === 'number' ? statuses[error.code] : undefined
    const said = error.message.replace(/\.$/, '')
    return new StowageError(code ?? 'UNREACHABLE', `${this.#name} answered: ${said}.`, { cause: error })
  }
}

const statuses: Record<number, ErrorCode> = {
  1: 'UNKNOWN',
  2: 'NOT_FOUND',
  3: 'DENIED',
  4: 'CONFLICT', // "failure": the server does not say which
  5: 'UNKNOWN',
  6: 'UNREACHABLE',
  7: 'UNREACHABLE',
  8: 'UNSUPPORTED',
}

async function openSession(options: ConnectionOptions): Promise<Session> {
  const { host, port, timeoutMs = 60_000, connectTimeoutMs = 10_000 } = options
  const name = `${host}:${port}`
  const { Client } = (await import('ssh2')).default
  const client = new Client()
  const guard = new HostGuard(options)
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  client.once('ready', resolve)
  client.on('keyboard-interactive', (_name, _instructions, _language, prompts, finish) =>
    finish(prompts.map(() => options.password ?? '')),
  )
  client.on('error', (error) => reject(guard.refusal ?? connectError(error, name, connectTimeoutMs)))
  client.once('close', () => reject(new StowageError('UNREACHABLE', `${name} hung up before we were let in.`)))
  try {
    client.connect({ ...configOf(options), ...guard.config(), readyTimeout: connectTimeoutMs })
    await promise
    // Without this every request waits for the acknowledgement of the one before: 250 times slower.
    client.setNoDelay(true)
    const sftp = await within(connectTimeoutMs, name, (done: Callback<SFTPWrapper>) => client.sftp(done))
    return new Session(client, sftp, name, timeoutMs)
  } catch (error) {
    endClient(client)
    throw error instanceof StowageError ? error : connectError(error as Error, name, connectTimeoutMs)
  }
}

async function within<T>(ms: number, name: string, ask: (done: Callback<T>) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const late = new StowageError('TIMEOUT', `${name} took longer than ${ms / 1000} s to begin SFTP.`)
    const timer = setTimeout(() => reject(late), ms)
    ask((error, result) => {
      clearTimeout(timer)
      if (error)
        reject(new StowageError('UNREACHABLE', `${name} does not offer SFTP.`, { cause: error, retryable: false }))
      else resolve(result)
    })
  })
}

function configOf({ host, port, user, password, privateKey, passphrase }: ConnectionOptions): ConnectConfig {
  const agent = process.env['SSH_AUTH_SOCK']
  return {
    host: host.replace(/^\[|\]$/g, ''),
    port,
    username: user,
    keepaliveInterval: 30_000,
    ...(password === undefined ? {} : { password, tryKeyboard: true }),
    ...(privateKey === undefined ? {} : { privateKey }),
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(password === undefined && privateKey === undefined && agent !== undefined ? { agent } : {}),
  }
}

/** Lets only hosts pass that are known, and remembers why it did not. */
class HostGuard {
  readonly #options: ConnectionOptions
  refusal: StowageError | undefined

  constructor(options: ConnectionOptions) {
    this.#options = options
  }

  config(): ConnectConfig {
    if (this.#options.validateHost === false) return {}
    const { host, port } = this.#options
    const file = this.#options.knownHosts ?? path.join(homedir(), '.ssh', 'known_hosts')
    const known = new KnownHosts(readKnown(file, this.#options.knownHosts !== undefined), host, port)
    const algorithms = known.types.flatMap((type) => algorithmsOf[type] ?? [])
    return {
      ...(algorithms.length > 0 ? { algorithms: { serverHostKey: algorithms } } : {}),
      hostVerifier: (key: Buffer) => {
        const verdict = known.judge(key)
        if (verdict === 'known') return true
        this.refusal = this.#refuse(verdict, fingerprintOf(key), file)
        return false
      },
    }
  }

  #refuse(verdict: 'unknown' | 'changed' | 'revoked', fingerprint: string, file: string): StowageError {
    const { host, port } = this.#options
    const add = `ssh-keyscan -p ${port} ${host} >> ${file}`
    const [what, hint] = {
      unknown: ['is not known', `If it is the right one, add it: ${add}`],
      changed: [
        'is another than the known one',
        `Somebody may be posing as it. If it has a new key, replace the old in ${file}.`,
      ],
      revoked: ['was revoked', `It must not be trusted: see ${file}.`],
    }[verdict]
    return new StowageError('DENIED', `The key of ${host}:${port}, ${fingerprint}, ${what}.`, { hint: hint ?? '' })
  }
}

/** The signatures that can be made with a key of each type. */
const algorithmsOf: Record<string, ServerHostKeyAlgorithm[]> = {
  'ssh-ed25519': ['ssh-ed25519'],
  'ecdsa-sha2-nistp256': ['ecdsa-sha2-nistp256'],
  'ecdsa-sha2-nistp384': ['ecdsa-sha2-nistp384'],
  'ecdsa-sha2-nistp521': ['ecdsa-sha2-nistp521'],
  'ssh-rsa': ['rsa-sha2-512', 'rsa-sha2-256', 'ssh-rsa'],
}

/** No file of one's own is no known host; one that was named must be there. */
function readKnown(file: string, isNamed: boolean): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (!isNamed && code === 'ENOENT') return ''
    throw new StowageError('INVALID_CONFIG', `The known hosts in ${file} cannot be read: ${code}.`, { cause: error })
  }
}

function connectError(error: Error & { level?: string; code?: string }, name: string, timeoutMs: number): StowageError {
  if (error.level === 'client-authentication')
    return new StowageError('DENIED', `${name} does not let us in.`, {
      cause: error,
      hint: 'Check the user and the password or key.',
    })
  if (error.level === 'client-timeout')
    return new StowageError('TIMEOUT', `${name} took longer than ${timeoutMs / 1000} s to let us in.`, { cause: error })
  if (/parse privateKey|private key/i.test(error.message))
    return new StowageError('INVALID_CONFIG', 'The private key cannot be read.', {
      hint: 'Check private_key and private_key_pass: the passphrase is missing or wrong, or the format is not known.',
    })
  if (error.level === 'handshake')
    return new StowageError('UNREACHABLE', `${name} and we have no way to speak in common: ${error.message}.`, {
      cause: error,
      retryable: false,
    })
  return new StowageError('UNREACHABLE', `Cannot connect to ${name}: ${error.code ?? error.message}.`, { cause: error })
}

/** Waits for an answer no longer than the signal allows. */
async function abortable<T>(
  answer: Promise<T>,
  signal: AbortSignal | undefined,
  late: ((result: T) => void) | undefined,
): Promise<T> {
  if (!signal) return answer
  return new Promise((resolve, reject) => {
    const stopListening = onAbort(signal, () => {
      reject(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason }))
      if (late) answer.then(late, () => undefined)
    })
    answer.then(resolve, reject).finally(stopListening)
  })
}

/** Every server takes requests of this size (draft-ietf-secsh-filexfer-02, section 3). */
const leastPieceBytes = 32 * 1024

/** What ssh2 knows of the server's limits, and keeps to itself. */
type SftpLimits = SFTPWrapper & { _maxReadLen?: number; _maxWriteLen?: number }

type SocketLike = Partial<Record<'ref' | 'unref' | 'cork' | 'uncork' | 'destroy', () => void>>

/** ssh2 has no public way to its socket. */
function socketOf(client: Client): SocketLike | undefined {
  return (client as unknown as { _sock?: SocketLike })._sock
}

/** Lets go of a connection at once. ssh2 leaves a socket half open that it has ended itself, for as long as the server likes. */
function endClient(client: Client) {
  client.on('error', () => undefined) // what else it may say is of no interest
  client.destroy()
  socketOf(client)?.destroy?.()
}

function refSocket(client: Client, isNeeded: boolean) {
  const socket = socketOf(client)
  if (isNeeded) socket?.ref?.()
  else socket?.unref?.()
}
