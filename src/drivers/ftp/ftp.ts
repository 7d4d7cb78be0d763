/** Files on an FTP server (RFC 959; listings and facts by RFC 3659), with TLS where it is asked for (RFC 4217). */
import { readFileSync } from 'node:fs'
import { Readable, Transform } from 'node:stream'
import type { Client, FileInfo as Listed } from 'basic-ftp'
import { codeOf, StowageError } from '../../core/errors.ts'
import { maxKeyBytes } from '../../core/keys.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type { ByteRange, CallOptions, Driver, WriteOptions } from '../../store/driver.ts'
import { remoteDriver, type RemoteChild, type RemoteFiles, type RemoteStat } from '../remote-files.ts'
import { OwnFailure, Pool, type FtpServer } from './pool.ts'

/** How a directory of a server is reached. */
export interface FtpOptions extends FtpServer {
  /** Absolute. Default: the root. */
  directory?: string
}

/**
 * `ftp://USER:PASSWORD@host/path/to/folder`, or `ftps://…` with TLS, which is implicit on port 990 and explicit on others;
 * with `use_tls` (on ftp: explicit TLS), `ca` (a file of certificates to trust), `verify` (default true; false takes any
 * certificate) and `connections` (default 8). Without a user: anonymous.
 */
export function ftpFromUrl(url: StorageUrl): Driver {
  const { scheme, host, user, password, path, parameters } = url
  const isSecure = scheme === 'ftps'
  const port = url.port ?? 21
  const useTls = parameters.flag('use_tls', isSecure)
  const ca = parameters.text('ca')
  const verify = parameters.flag('verify', true)
  const connections = parameters.number('connections')
  if (parameters.text('private_key') !== undefined || parameters.text('key') !== undefined)
    throw invalid('FTP knows no private keys.', 'Write sftp:// if the server speaks SFTP, which is something else.')
  parameters.end()
  if (host === '')
    throw invalid(`The ${scheme} URL does not name a host.`, `Write ${scheme}://USER:PASSWORD@host/path.`)
  if (connections === 0) throw invalid('The parameter connections must be at least 1.', 'Leave it out for 8.')
  if (/[\r\n]/.test(`${user}${password}`))
    throw invalid('The user and the password may not have line breaks.', 'Mend them.')
  const tls = useTls ? { tls: isSecure && port === 990 ? ('implicit' as const) : ('explicit' as const) } : {}
  return ftpDriver({
    host,
    port,
    verify,
    ...tls,
    directory: `/${path}`,
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...(ca === undefined ? {} : { ca: readCertificates(ca) }),
    ...(connections === undefined ? {} : { connections }),
  })
}

/** Opens a directory of a server. Nothing is contacted yet. */
export function ftpDriver(options: FtpOptions): Driver {
  return remoteDriver(new FtpFiles(options), options.directory ?? '/')
}

class FtpFiles implements RemoteFiles {
  readonly location: string
  /** FTP does not say whether renaming replaces what is there; most servers do that, in one step. */
  readonly supports = {
    write: true,
    list: true,
    range: true,
    atomicWrite: false,
    ifAbsent: false,
    ifMatch: false,
    contentType: false,
    metadata: false,
    keyUnderFile: false,
    maxKeyBytes,
    maxPartBytes: 255,
    refuses: [{ pattern: /[\r\n]/, reason: 'FTP has no way to write a line break in a name.' }],
  }
  readonly #pool: Pool
  /** Those that are known to be there, of the few that are written to. */
  readonly #directories = new Set<string>()
  #features: Promise<Map<string, string>> | undefined

  constructor(options: FtpOptions) {
    const { host, port, tls, directory = '/' } = options
    this.#pool = new Pool(options)
    const isUsual = port === (tls === 'implicit' ? 990 : 21)
    this.location = `${tls ? 'ftps' : 'ftp'}://${host}${isUsual ? '' : `:${port}`}${directory.replace(/\/$/, '')}`
  }

  async stat(path: string, { signal }: CallOptions): Promise<RemoteStat> {
    return this.#pool.run(signal, async (client) => this.#stat(client, path))
  }

  async children(path: string, { signal }: CallOptions): Promise<RemoteChild[]> {
    return this.#pool.run(signal, async (client) =>
      (await client.list(path)).filter(({ name }) => name !== '.' && name !== '..').map(childOf),
    )
  }

  async read(path: string, range: ByteRange | undefined, { signal }: CallOptions) {
    const opened = Promise.withResolvers<{ stat: RemoteStat; body: Readable }>()
    // The connection is busy until the body has been read.
    this.#pool
      .run(signal, async (client) => {
        const stat = await this.#stat(client, path)
        const size = stat.kind === 'file' ? stat.size : 0
        const { start, end } = { start: Math.min(range?.start ?? 0, size), end: Math.min(range?.end ?? size, size) }
        if (start === end) return opened.resolve({ stat, body: Readable.from([], { objectMode: false }) })
        const explained = (error: unknown) => this.#pool.explain(error, signal) as Error
        const part = new Part(end - start, client, explained)
        opened.resolve({ stat, body: part })
        try {
          await client.downloadTo(part, path, start)
        } catch (error) {
          // What was not wanted any more has failed because the connection was given up for it.
          if (part.isWhole) return
          const reason = explained(error)
          part.destroy(reason)
          throw reason
        }
        if (part.isWhole) return
        const reason = new StowageError('UNREACHABLE', `${path} in ${this.location} ended before its end.`)
        part.destroy(reason)
        throw reason
      })
      .catch(opened.reject)
    return opened.promise
  }

  async store(path: string, body: AsyncIterable<Uint8Array>, { signal, modified }: WriteOptions): Promise<void> {
    const sent = new Sent(body)
    await this.#pool
      .run(signal, async (client) => {
        await this.#checkDirectory(client, path.slice(0, path.lastIndexOf('/')))
        try {
          await client.uploadFrom(Readable.from(sent, { objectMode: false, highWaterMark: 256 * 1024 }), path)
        } catch (error) {
          this.#directories.clear()
          throw sent.failure ? new OwnFailure(sent.failure.error) : error
        }
      })
      .catch((error: unknown) => {
        // TLS servers have trouble with data connections that bring no data. Whether they made the file is seen below.
        if (!(sent.isWhole && sent.size === 0 && codeOf(error) === 'UNREACHABLE')) throw error
      })
    await this.#pool.run(signal, async (client) => {
      // A connection that is cut looks like the end of a file to the server.
      if (modified && (await this.#hasFeature(client, 'MFMT')))
        await client.send(`MFMT ${stampOf(modified)} ${path}`).catch(ifRefused)
      const { size } = await this.#stat(client, path)
      if (size !== sent.size)
        throw new StowageError('UNREACHABLE', `${this.location} has ${size} of the ${sent.size} bytes that were sent.`)
    })
  }

  async rename(from: string, to: string, { signal }: CallOptions): Promise<void> {
    await this.#pool.run(signal, async (client) => {
      const before = await this.#stat(client, from)
      try {
        await client.rename(from, to)
      } catch (error) {
        // Some servers replace nothing: there is a moment without either then.
        const isRefused = [550, 553].includes(Number((error as { code?: unknown }).code))
        if (!isRefused || (await this.#kindOf(client, to)) !== 'file') throw error
        await client.remove(to)
        await client.rename(from, to)
      }
      // A server may do what half a command says when the line ends in the middle of it.
      const { size, modified } = await this.#stat(client, to)
      if (size !== before.size || modified?.getTime() !== before.modified?.getTime())
        throw new StowageError('UNREACHABLE', `${this.location} did not rename a file to ${to} as it said.`)
    })
  }

  async claim(): Promise<never> {
    throw new StowageError('UNSUPPORTED', `${this.location} cannot decide who was first.`)
  }

  async remove(path: string, { signal }: CallOptions): Promise<void> {
    await this.#pool.run(signal, async (client) => client.send(`DELE ${path}`))
  }

  async makeDirectory(path: string, { signal }: CallOptions): Promise<void> {
    await this.#pool.run(signal, async (client) => client.send(`MKD ${path}`))
  }

  async removeDirectory(path: string, { signal }: CallOptions): Promise<void> {
    await this.#pool.run(signal, async (client) => client.send(`RMD ${path}`))
  }

  async close(): Promise<void> {
    await this.#pool.close()
  }

  /**
   * A directory that is not there is found out before anything is sent: afterwards the server breaks off the data before
   * it says why.
   */
  async #checkDirectory(client: Client, path: string) {
    if (this.#directories.has(path)) return
    const { kind } = await this.#stat(client, path)
    if (kind !== 'directory') throw new StowageError('CONFLICT', `${path} in ${this.location} is not a directory.`)
    this.#directories.add(path)
  }

  /** By MLST, or by what older servers have. Whatever they do not want to show is not there. */
  async #stat(client: Client, path: string): Promise<RemoteStat> {
    if (await this.#hasFeature(client, 'MLST')) {
      const { message } = await client.send(`MLST ${path}`).catch(async (error: unknown) => this.#notThere(error))
      return factsOf(message)
    }
    const size = await this.#sizeOf(client, path)
    if (size !== undefined) {
      const modified = await client.lastMod(path).catch(ifRefused)
      return { kind: 'file', size, ...(modified && { modified }) }
    }
    await client.send(`CWD ${path}`).catch(async (error: unknown) => this.#notThere(error))
    return { kind: 'directory', size: 0 }
  }

  async #notThere(error: unknown): Promise<never> {
    const explained = this.#pool.explain(error)
    if (codeOf(explained) !== 'CONFLICT') throw error
    throw new StowageError('NOT_FOUND', (explained as Error).message)
  }

  async #kindOf(client: Client, path: string): Promise<RemoteStat['kind'] | undefined> {
    return this.#stat(client, path).then(
      ({ kind }) => kind,
      () => undefined,
    )
  }

  async #sizeOf(client: Client, path: string): Promise<number | undefined> {
    const answer = await client.send(`SIZE ${path}`).catch(ifRefused)
    const size = /^213 (\d+)/.exec(answer?.message ?? '')?.[1]
    return size === undefined ? undefined : Number(size)
  }

  async #hasFeature(client: Client, name: string): Promise<boolean> {
    this.#features ??= client.features()
    const features = await this.#features.catch((error: unknown) => {
      this.#features = undefined
      throw error
    })
    return features.has(name)
  }
}

/** A body as it is sent: how much of it, and whether it failed by itself. */
class Sent implements AsyncIterable<Uint8Array> {
  size = 0
  isWhole = false
  failure: { error: unknown } | undefined
  readonly #body: AsyncIterable<Uint8Array>

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#body = body
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    try {
      for await (const chunk of this.#body) {
        this.size += chunk.byteLength
        yield chunk
      }
      this.isWhole = true
    } catch (error) {
      this.failure = { error }
      throw error
    }
  }
}

/** So much is read to the end and thrown away; of what is longer, the connection is given up. */
const drainedBytes = 256 * 1024

/** The bytes of a file from where the server begins on, up to a number of them. */
class Part extends Transform {
  readonly #client: Client
  readonly #explained: (error: unknown) => Error
  #left: number
  #behind = 0

  constructor(bytes: number, client: Client, explained: (error: unknown) => Error) {
    super({ highWaterMark: 1 << 20 })
    this.#left = bytes
    this.#client = client
    this.#explained = explained
    this.on('error', () => undefined) // heard by whoever reads
    this.once('close', () => this.isWhole || this.#client.close())
  }

  /** Has all of it come? */
  get isWhole(): boolean {
    return this.#left === 0
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error) => void): void {
    const wanted = chunk.subarray(0, this.#left)
    this.#left -= wanted.byteLength
    this.#behind += chunk.byteLength - wanted.byteLength
    if (wanted.byteLength > 0) this.push(wanted)
    if (this.isWhole) this.push(null)
    if (this.#behind > drainedBytes) this.#client.close()
    done()
  }

  /** The client ends it with the error of its socket, which is nobody's language. */
  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    done(error && this.#explained(error))
  }

  /** An end that comes too early is none: whoever downloads knows the reason. */
  override _flush(done: () => void): void {
    if (this.isWhole) done()
  }
}

function childOf({ name, size, modifiedAt, isFile, isDirectory, isSymbolicLink }: Listed): RemoteChild {
  const kind = isFile || isSymbolicLink ? 'file' : isDirectory ? 'directory' : 'other'
  return { name, kind, size, ...(modifiedAt && { modified: modifiedAt }) }
}

/** The facts of MLST: `type=file;size=5;modify=20260102030405; name`. */
function factsOf(message: string): RemoteStat {
  const line = message.split('\n').find((each) => /^ ?\S*;/.test(each)) ?? ''
  const facts = new Map<string, string>()
  for (const fact of (/^ ?(\S*;)/.exec(line)?.[1] ?? '').split(';')) {
    const equals = fact.indexOf('=')
    if (equals > 0) facts.set(fact.slice(0, equals).toLowerCase(), fact.slice(equals + 1))
  }
  const type = facts.get('type')?.toLowerCase() ?? ''
  const modified = timeOf(facts.get('modify') ?? '')
  return {
    kind: type === 'file' ? 'file' : /^([cp])?dir$/.test(type) ? 'directory' : 'other',
    size: Number(facts.get('size') ?? facts.get('sizd') ?? 0),
    ...(modified && { modified }),
  }
}

/** `YYYYMMDDHHMMSS` with or without a fraction, in UTC (RFC 3659, section 2.3). */
function timeOf(text: string): Date | undefined {
  const [, year, month, day, hour, minute, second] = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)/.exec(text) ?? []
  if (year === undefined) return undefined
  return new Date(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`)
}

function stampOf(time: Date): string {
  return time.toISOString().replace(/\..*$/, '').replace(/\D/g, '')
}

/** Resolves to nothing where the server refuses or does not know something. */
function ifRefused(error: unknown): undefined {
  if (typeof (error as { code?: unknown }).code === 'number') return undefined
  throw error
}

function readCertificates(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StowageError('INVALID_CONFIG', `The certificates in ${file} cannot be read: ${code}.`, { cause: error })
  }
}

function invalid(message: string, hint: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, { hint })
}
