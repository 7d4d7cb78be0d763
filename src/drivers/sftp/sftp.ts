/** Files on a server by SFTP, version 3 as OpenSSH speaks it (draft-ietf-secsh-filexfer-02, and PROTOCOL of OpenSSH). */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import type { Attributes, FileEntryWithStats, Stats } from 'ssh2'
import { codeOf, StowageError } from '../../core/errors.ts'
import { maxKeyBytes } from '../../core/keys.ts'
import { Limit } from '../../core/limit.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type { ByteRange, CallOptions, Driver, WriteOptions } from '../../store/driver.ts'
import { remoteDriver, type RemoteChild, type RemoteFiles, type RemoteStat } from '../remote-files.ts'
import { Connection, type ConnectionOptions, type Session } from './connection.ts'
import { readFile, writeFile } from './transfer.ts'

/** Files at once: servers have few handles to give. */
const filesAtOnce = 64
/** A further connection is made when those there are have so many files in hand: each has a process of its own at the server. */
const filesOfOne = 8

/** How a directory of a server is reached. */
export interface SftpOptions extends ConnectionOptions {
  /** Absolute, or relative to where the server puts us. Default: there. */
  directory?: string
  /** Connections at most. Default 2. */
  connections?: number
  /** Wait until the server's disk has the bytes before a write is called done, where the server can say so. Default true. */
  fsync?: boolean
}

/**
 * `sftp://USER:PASSWORD@host/path/to/folder`, with `private_key` (a file), `private_key_pass`, `validate_host` (default true;
 * false takes any host for the right one), `known_hosts` (default ~/.ssh/known_hosts), `connections` (default 2) and `fsync` (default true). Without
 * a path, and below `/~/`, files are in the user's home directory.
 */
export function sftpFromUrl(url: StorageUrl): Driver {
  const { host, port = 22, user, password, path, parameters } = url
  const keyFile = parameters.text('private_key')
  const passphrase = parameters.text('private_key_pass')
  const knownHosts = parameters.text('known_hosts')
  const validateHost = parameters.flag('validate_host', true)
  const fsync = parameters.flag('fsync', true)
  const connections = parameters.number('connections')
  parameters.end()
  if (connections === 0) throw invalid('The parameter connections must be at least 1.', 'Leave it out for 2.')
  if (host === '') throw invalid('The sftp URL does not name a host.', 'Write sftp://USER@host/path.')
  if (!user) throw invalid('The sftp URL does not name a user.', `Write sftp://USER:PASSWORD@${host}/path.`)
  return sftpDriver({
    host,
    port,
    user,
    validateHost,
    fsync,
    ...(connections === undefined ? {} : { connections }),
    directory: path === '' ? '' : path.startsWith('~') ? path.replace(/^~\/?/, '') : `/${path}`,
    ...(password === undefined ? {} : { password }),
    ...(keyFile === undefined ? {} : { privateKey: readKey(keyFile) }),
    ...(passphrase === undefined ? {} : { passphrase }),
    ...(knownHosts === undefined ? {} : { knownHosts }),
  })
}

/** Opens a directory of a server. Nothing is contacted yet. */
export function sftpDriver(options: SftpOptions): Driver {
  const { directory = '' } = options
  return remoteDriver(new SftpFiles(options), directory)
}

class SftpFiles implements RemoteFiles {
  readonly location: string
  /** `ifAbsent` needs hard links, which every server on a usual file system has. */
  readonly supports = {
    write: true,
    list: true,
    range: true,
    atomicWrite: true,
    ifAbsent: true,
    ifMatch: false,
    contentType: false,
    metadata: false,
    keyUnderFile: false,
    verify: true,
    maxKeyBytes,
    maxPartBytes: 255,
  }
  readonly #lines: { connection: Connection; files: number }[]
  readonly #limit = new Limit(filesAtOnce)
  readonly #fsync: boolean

  constructor(options: SftpOptions) {
    const { host, port, directory = '', fsync = true, connections = 2 } = options
    this.#lines = Array.from({ length: connections }, () => ({ connection: new Connection(options), files: 0 }))
    this.#fsync = fsync
    const place = directory.startsWith('/') ? directory : `/~/${directory}`
    this.location = `sftp://${host}${port === 22 ? '' : `:${port}`}${place.replace(/\/$/, '')}`
  }

  async stat(path: string, { signal }: CallOptions): Promise<RemoteStat> {
    return this.#run(signal, async (session) =>
      statOf(await session.call<Stats>((done) => session.sftp.stat(path, done), signal)),
    )
  }

  async children(path: string, { signal }: CallOptions): Promise<RemoteChild[]> {
    return this.#run(signal, async (session) => {
      const entries = await session.call<FileEntryWithStats[]>((done) => session.sftp.readdir(path, done), signal)
      // What is no UTF-8 has no key.
      const named = entries.filter(({ filename }) => !['.', '..'].includes(filename) && !filename.includes('\ufffd'))
      return Promise.all(
        named.map(async ({ filename: name, attrs }) => ({
          name,
          ...(typeOf(attrs.mode) === linkType ? await this.#follow(session, `${path}/${name}`, signal) : statOf(attrs)),
        })),
      )
    })
  }

  async read(path: string, range: ByteRange | undefined, { signal }: CallOptions) {
    const opened = Promise.withResolvers<{ stat: RemoteStat; body: Readable }>()
    // The place is kept until the body has been read, because so long the handle is open.
    this.#run(signal, async (session) => {
      const handle = await openFile(session, path, 'r', signal)
      const closed = Promise.withResolvers<void>()
      const close = () => void closeFile(session, handle).finally(closed.resolve)
      try {
        const stat = statOf(await session.call<Stats>((done) => session.sftp.fstat(handle, done), signal))
        const size = stat.kind === 'file' ? stat.size : 0
        const part = { start: Math.min(range?.start ?? 0, size), end: Math.min(range?.end ?? size, size) }
        const onShort = () => new StowageError('UNREACHABLE', `${path} became shorter while it was read.`)
        opened.resolve({ stat, body: readFile(session, handle, part, { signal, onShort, close }) })
      } catch (error) {
        close()
        throw error
      }
      await closed.promise
    }).catch(opened.reject)
    return opened.promise
  }

  async store(
    path: string,
    body: AsyncIterable<Uint8Array>,
    { signal, modified, verify }: WriteOptions,
  ): Promise<void> {
    await this.#run(signal, async (session) => {
      const { sftp } = session
      const handle = await openFile(session, path, verify ? 'xw+' : 'wx', signal)
      try {
        const sent = verify ? new Digest(body) : undefined
        const size = await writeFile(session, handle, sent ?? body, signal)
        if (sent && (await digestOf(session, handle, size, signal)) !== sent.hex)
          throw new StowageError(
            'CORRUPT',
            `${this.location} has something else than what was sent; it was not stored.`,
            {
              retryable: true,
            },
          )
        const seconds = modified && Math.floor(modified.getTime() / 1000)
        if (seconds !== undefined) {
          const times = { atime: seconds, mtime: seconds }
          await session.call<void>((done) => sftp.fsetstat(handle, times, done as NoResult), signal)
        }
        if (this.#fsync)
          await session
            .call<void>((done) => sftp.ext_openssh_fsync(handle, done as NoResult), signal)
            .catch(unlessUnsupported)
      } finally {
        const closed = closeFile(session, handle)
        // Whoever has cancelled does not wait for a server that may be silent; what is asked next comes after this anyway.
        if (!signal?.aborted) await closed
      }
    })
  }

  async rename(from: string, to: string, { signal }: CallOptions): Promise<void> {
    await this.#run(signal, async (session) => {
      const { sftp } = session
      const isUnsupported = await session
        .call<void>((done) => sftp.ext_openssh_rename(from, to, done as NoResult), signal)
        .catch(unlessUnsupported)
      if (!isUnsupported) return
      // Without the extension nothing is replaced in one step: there is a moment without either.
      await session.call<void>((done) => sftp.unlink(to, done as NoResult), signal).catch(() => undefined)
      await session.call<void>((done) => sftp.rename(from, to, done as NoResult), signal)
    })
  }

  async claim(from: string, to: string, { signal }: CallOptions): Promise<void> {
    await this.#run(signal, async (session) => {
      const { sftp } = session
      await session.call<void>((done) => sftp.ext_openssh_hardlink(from, to, done as NoResult), signal)
      await session.call<void>((done) => sftp.unlink(from, done as NoResult))
    })
  }

  async remove(path: string, { signal }: CallOptions): Promise<void> {
    await this.#run(signal, async (session) =>
      session.call<void>((done) => session.sftp.unlink(path, done as NoResult), signal),
    )
  }

  async makeDirectory(path: string, { signal }: CallOptions): Promise<void> {
    await this.#run(signal, async (session) =>
      session.call<void>((done) => session.sftp.mkdir(path, done as NoResult), signal),
    )
  }

  async removeDirectory(path: string, { signal }: CallOptions): Promise<void> {
    await this.#run(signal, async (session) =>
      session.call<void>((done) => session.sftp.rmdir(path, done as NoResult), signal),
    )
  }

  async close(): Promise<void> {
    await Promise.all(this.#lines.map(async ({ connection }) => connection.close()))
  }

  async #run<T>(signal: AbortSignal | undefined, work: (session: Session) => Promise<T>): Promise<T> {
    return this.#limit.run(async () => {
      const line = this.#freest()
      line.files++
      try {
        return await work(await line.connection.session(signal))
      } finally {
        line.files--
      }
    }, signal)
  }

  /** The first that has not much to do, or the one with the least. */
  #freest() {
    const first = this.#lines.find(({ files }) => files < filesOfOne)
    return first ?? this.#lines.reduce((a, b) => (b.files < a.files ? b : a))
  }

  /** What a link leads to; one that leads nowhere is no file. */
  async #follow(session: Session, path: string, signal: AbortSignal | undefined): Promise<RemoteStat> {
    return session
      .call<Stats>((done) => session.sftp.stat(path, done), signal)
      .then(statOf, (error: unknown) => {
        if (codeOf(error) === 'NOT_FOUND' || codeOf(error) === 'CONFLICT') return { kind: 'other' as const, size: 0 }
        throw error
      })
  }
}

/** ssh2's calls that have no result give their callback none. */
type NoResult = (error?: Error | null) => void

async function openFile(session: Session, path: string, flags: 'r' | 'wx' | 'xw+', signal: AbortSignal | undefined) {
  const close = (handle: Buffer) => void closeFile(session, handle)
  return session.call<Buffer>((done) => session.sftp.open(path, flags, done), signal, close)
}

/** A body and the digest of what was taken from it. */
class Digest implements AsyncIterable<Uint8Array> {
  readonly #body: AsyncIterable<Uint8Array>
  readonly #sum = createHash('sha256')

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#body = body
  }

  get hex(): string {
    return this.#sum.digest('hex')
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for await (const chunk of this.#body) {
      this.#sum.update(chunk)
      yield chunk
    }
  }
}

/** The digest of what the server has, read through the handle it was written with. */
async function digestOf(
  session: Session,
  handle: Buffer,
  size: number,
  signal: AbortSignal | undefined,
): Promise<string> {
  const sum = createHash('sha256')
  const onShort = () => new StowageError('CORRUPT', 'The server has fewer bytes than were sent.', { retryable: true })
  const body = readFile(session, handle, { start: 0, end: size }, { signal, onShort, close: () => undefined })
  for await (const chunk of body) sum.update(chunk as Buffer)
  return sum.digest('hex')
}

/** What cannot be closed is closed with its connection. */
async function closeFile(session: Session, handle: Buffer): Promise<void> {
  await session.call<void>((done) => session.sftp.close(handle, done as NoResult)).catch(() => undefined)
}

/** Resolves to whether the server does not know such a request. */
function unlessUnsupported(error: unknown): true {
  if (codeOf(error) === 'UNSUPPORTED') return true
  throw error
}

const [fileType, directoryType, linkType] = [0o100000, 0o040000, 0o120000]

function typeOf(mode: number): number {
  return mode & 0o170000
}

function statOf({ mode, size, mtime }: Attributes): RemoteStat {
  const type = typeOf(mode)
  const kind = type === fileType ? 'file' : type === directoryType ? 'directory' : 'other'
  return { kind, size, modified: new Date(mtime * 1000) }
}

function readKey(file: string): string {
  if (file.includes('PRIVATE KEY-----')) return file // by env: or file:
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StowageError('INVALID_CONFIG', `The private key in ${file} cannot be read: ${code}.`, { cause: error })
  }
}

function invalid(message: string, hint: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, { hint })
}
