/**
 * What the drivers of remote file systems have in common: files are written under a temporary name and renamed, directories
 * are made as keys need them and go when they are empty.
 */
import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import { toBody } from '../core/bytes.ts'
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
import type {
  Body,
  ByteRange,
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  ListOptions,
  ReadOptions,
  Supports,
  WriteOptions,
} from '../store/driver.ts'
import { checkSize, guarded, throwIfAborted, walk } from '../store/driving.ts'

/** What is at a path. */
export interface RemoteStat {
  kind: 'file' | 'directory' | 'other'
  size: number
  modified?: Date
}

/** What is in a directory. */
export interface RemoteChild extends RemoteStat {
  name: string
}

/**
 * A file system somewhere else. Paths are as the server wants them. Failures are NOT_FOUND, DENIED, UNREACHABLE, TIMEOUT,
 * ABORTED, or CONFLICT for whatever else the server refuses without saying why.
 */
export interface RemoteFiles {
  readonly location: string
  readonly supports: Supports
  stat(path: string, call: CallOptions): Promise<RemoteStat>
  /** In any order. */
  children(path: string, call: CallOptions): Promise<RemoteChild[]>
  /** Opens a file; of a directory the stat alone is asked for. */
  read(path: string, range: ByteRange | undefined, call: CallOptions): Promise<{ stat: RemoteStat; body: Readable }>
  /** Writes a file that others do not see yet. Resolves when the server has all of it. */
  store(path: string, body: AsyncIterable<Uint8Array>, options: WriteOptions): Promise<void>
  /** Renames over whatever file is there. */
  rename(from: string, to: string, call: CallOptions): Promise<void>
  /** Gives a file its name, if that is free, otherwise CONFLICT; UNSUPPORTED where the server cannot decide that. */
  claim(from: string, to: string, call: CallOptions): Promise<void>
  /** Has the server copy a file; absent where it cannot. */
  copy?(from: string, to: string, call: CallOptions): Promise<void>
  remove(path: string, call: CallOptions): Promise<void>
  makeDirectory(path: string, call: CallOptions): Promise<void>
  removeDirectory(path: string, call: CallOptions): Promise<void>
  close(): Promise<void>
}

/** The directory below the root where files are while they are written. Not a key, never listed. */
const temporaryDirectory = '.stowage-tmp'
/** What has been there for longer was left by a process that died. */
const temporaryMs = 7 * 24 * 3_600_000
/** So long the traces of a failed write may take to go. */
const cleaningMs = 5000
/** Others may take an empty directory away just as we want to use it. */
const attemptsAtMost = 5

/** A directory of a remote file system as a driver. `root` is its path; empty for where the server puts us. */
export function remoteDriver(files: RemoteFiles, root: string): Driver {
  return new RemoteDriver(files, root)
}

class RemoteDriver implements Driver {
  readonly location: string
  readonly supports: Supports
  readonly #files: RemoteFiles
  readonly #root: string
  #isSwept = false
  #isClosed = false

  constructor(files: RemoteFiles, root: string) {
    this.#files = files
    this.#root = root
    this.supports = files.supports
    this.location = files.location
  }

  async read(key: string, options: ReadOptions = {}) {
    this.#check(key, options)
    const { stat, body } = await this.#files
      .read(this.#path(key), options.range, options)
      .catch((error: unknown) => this.#absentIfDirectory(key, error, options))
    if (stat.kind === 'file') return { info: infoOf(key, stat), body }
    body.destroy()
    throw this.#absent(key)
  }

  async write(key: string, body: Body, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(key, options)
    if (options.ifMatch !== undefined)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot replace only a certain version of ${key}.`)
    if (options.ifAbsent && !this.supports.ifAbsent)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot store ${key} only where there is no file.`)
    const counted = new Counted(key, body, options)
    const fill = async (temporary: string) => {
      await this.#files.store(temporary, counted, options)
      checkSize(key, counted.size, options.size)
    }
    await this.#publish(key, options, fill, () => !counted.isBegun)
    return { key, size: counted.size }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}): Promise<FileInfo> {
    checkSize(key, bytes.byteLength, options.size)
    return this.write(key, toBody(bytes), options)
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(key, options)
    const stat = await this.#files.stat(this.#path(key), options)
    if (stat.kind !== 'file') throw this.#absent(key)
    return infoOf(key, stat)
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    this.#check(directory, options)
    for await (const entry of walk(async (below) => this.#children(below, options), directory, options)) {
      this.#check('', options)
      yield entry
    }
  }

  async delete(key: string, options: CallOptions = {}): Promise<void> {
    this.#check(key, options)
    try {
      await this.#files.remove(this.#path(key), options)
    } catch (error) {
      if (isNotFound(error)) return
      // A directory is no file.
      if (['CONFLICT', 'DENIED'].includes(codeOf(error)) && (await this.#kindOf(key, options)) !== 'file') return
      throw error
    }
    await this.#removeEmptyParents(key, options)
  }

  async copy(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    this.#check(to, options)
    const info = await this.stat(from, options)
    if (from === to) return info
    await this.#publish(to, options, async (temporary) => {
      if (this.#files.copy) return this.#files.copy(this.#path(from), temporary, options)
      const { body } = await this.#files.read(this.#path(from), undefined, options)
      const { size } = info
      await this.#files.store(temporary, guarded(from, body, size, neverAborted), { ...options, size })
    })
    return { ...info, key: to }
  }

  async move(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    this.#check(to, options)
    const info = await this.stat(from, options)
    if (from === to) return info
    await this.#name(this.#path(from), to, options)
    await this.#removeEmptyParents(from, options)
    return { ...info, key: to }
  }

  async close() {
    this.#isClosed = true
    await this.#files.close()
  }

  #check(key: string, { signal }: CallOptions) {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
    if (key === temporaryDirectory || key.startsWith(`${temporaryDirectory}/`))
      throw new StowageError('INVALID_KEY', `The name ${temporaryDirectory} is kept for files being written.`)
  }

  #path(key: string): string {
    if (key === '') return this.#root === '' ? '.' : this.#root
    return this.#root === '' ? key : `${this.#root.replace(/\/$/, '')}/${key}`
  }

  /** Lets `fill` make a temporary file, and puts that under its key. Nothing remains of a failure. */
  async #publish(
    key: string,
    options: CallOptions & { ifAbsent?: boolean },
    fill: (temporary: string) => Promise<void>,
    isRepeatable?: () => boolean,
  ) {
    await this.#sweep(options)
    const temporary = this.#path(`${temporaryDirectory}/${Date.now().toString(36)}-${randomUUID()}`)
    try {
      await this.#inDirectory(temporaryDirectory, options, async () => fill(temporary), isRepeatable)
      throwIfAborted(options.signal)
      await this.#name(temporary, key, options)
    } catch (error) {
      // What went wrong first is what counts.
      await this.#files.remove(temporary, { signal: AbortSignal.timeout(cleaningMs) }).catch(() => undefined)
      throw error
    }
  }

  /** Puts a file under a key. */
  async #name(from: string, key: string, options: CallOptions & { ifAbsent?: boolean }) {
    const target = this.#path(key)
    try {
      await this.#inDirectory(parentOf(key), options, async () =>
        options.ifAbsent ? this.#files.claim(from, target, options) : this.#files.rename(from, target, options),
      )
    } catch (error) {
      throw await this.#obstacle(key, error, options)
    }
  }

  /** Does the work, and again once the directory is there: mostly it is. */
  async #inDirectory(directory: string, call: CallOptions, work: () => Promise<void>, isRepeatable = () => true) {
    for (let attempt = 1; ; attempt++)
      try {
        return await work()
      } catch (error) {
        if (!isNotFound(error) || attempt === attemptsAtMost || !isRepeatable()) throw error
        await this.#makeDirectories(directory, call)
      }
  }

  async #makeDirectories(directory: string, call: CallOptions): Promise<void> {
    const path = this.#path(directory)
    try {
      await this.#files.makeDirectory(path, call)
    } catch (error) {
      if (isNotFound(error)) {
        await (directory === '' ? this.#makeRoot(call) : this.#makeDirectories(parentOf(directory), call))
        await this.#files
          .makeDirectory(path, call)
          .catch(async (again: unknown) => this.#unlessThere(path, again, call))
      } else await this.#unlessThere(path, error, call)
    }
  }

  /** The directories above the root belong to nobody's keys, and are made like any other. */
  async #makeRoot(call: CallOptions) {
    for (let slash = this.#root.indexOf('/', 1); slash > 0; slash = this.#root.indexOf('/', slash + 1)) {
      const path = this.#root.slice(0, slash)
      await this.#files.makeDirectory(path, call).catch(async (error: unknown) => this.#unlessThere(path, error, call))
    }
  }

  async #unlessThere(path: string, error: unknown, call: CallOptions) {
    const found = await this.#files.stat(path, call).catch(() => undefined)
    if (found?.kind !== 'directory') throw error
  }

  /** What is in the way of a key if something is, otherwise the error. */
  async #obstacle(key: string, error: unknown, options: CallOptions & { ifAbsent?: boolean }): Promise<unknown> {
    if (!['CONFLICT', 'NOT_FOUND', 'DENIED'].includes(codeOf(error))) return error
    for (let slash = key.indexOf('/'); slash > 0; slash = key.indexOf('/', slash + 1))
      if ((await this.#kindOf(key.slice(0, slash), options)) === 'file')
        return this.#inTheWay(key.slice(0, slash), 'a file')
    const kind = await this.#kindOf(key, options)
    if (kind === 'directory') return this.#inTheWay(key, 'a directory')
    if (kind === 'file' && options.ifAbsent)
      return new StowageError('EXISTS', `The file ${key} is already in ${this.location}.`, { cause: error })
    return error
  }

  async #kindOf(key: string, call: CallOptions): Promise<RemoteStat['kind'] | undefined> {
    return this.#files.stat(this.#path(key), call).then(
      ({ kind }) => kind,
      () => undefined,
    )
  }

  async #absentIfDirectory(key: string, error: unknown, call: CallOptions): Promise<never> {
    const isDoubtful = codeOf(error) === 'CONFLICT' || codeOf(error) === 'DENIED'
    if (isDoubtful && (await this.#kindOf(key, call)) === 'directory') throw this.#absent(key)
    throw error
  }

  async #children(directory: string, call: CallOptions): Promise<Entry[]> {
    const children = await this.#files.children(this.#path(directory), call).catch(async (error: unknown) => {
      if (isNotFound(error)) return []
      if (codeOf(error) === 'CONFLICT' && (await this.#kindOf(directory, call)) === 'file') return []
      throw error
    })
    const entries: Entry[] = []
    for (const { name, ...stat } of children) {
      const key = directory === '' ? name : `${directory}/${name}`
      if (key === temporaryDirectory || stat.kind === 'other') continue
      entries.push(stat.kind === 'file' ? { kind: 'file', ...infoOf(key, stat) } : { kind: 'directory', key })
    }
    return entries
  }

  /** Directories are implied by keys, so one without files goes. Another writer's file keeps it from going. */
  async #removeEmptyParents(key: string, call: CallOptions) {
    for (let directory = parentOf(key); directory !== ''; directory = parentOf(directory))
      try {
        await this.#files.removeDirectory(this.#path(directory), call)
      } catch {
        return
      }
  }

  /** Removes what processes that died have left. */
  async #sweep(call: CallOptions) {
    if (this.#isSwept) return
    this.#isSwept = true
    const left = await this.#files.children(this.#path(temporaryDirectory), call).catch(() => [])
    for (const { name } of left) {
      const begun = /^([0-9a-z]+)-[0-9a-f-]{36}$/.exec(name)?.[1]
      if (begun === undefined || Number.parseInt(begun, 36) > Date.now() - temporaryMs) continue
      await this.#files.remove(this.#path(`${temporaryDirectory}/${name}`), call).catch(() => undefined)
    }
  }

  #absent(key: string): StowageError {
    return new StowageError('NOT_FOUND', `There is no file ${key} in ${this.location}.`)
  }

  #inTheWay(key: string, what: string): StowageError {
    return new StowageError('CONFLICT', `Cannot write in ${this.location}: ${key} is ${what}.`)
  }
}

const neverAborted = new AbortController().signal

/** A body that is counted, and left when its writer is cancelled. It begins when somebody reads it. */
class Counted implements AsyncIterable<Uint8Array> {
  size = 0
  isBegun = false
  readonly #key: string
  readonly #body: Body
  readonly #options: WriteOptions

  constructor(key: string, body: Body, options: WriteOptions) {
    this.#key = key
    this.#body = body
    this.#options = options
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    const { size, signal = neverAborted } = this.#options
    this.isBegun = true
    for await (const chunk of guarded(this.#key, this.#body, size, signal)) {
      this.size += chunk.byteLength
      yield chunk
    }
  }
}

function infoOf(key: string, { size, modified }: RemoteStat): FileInfo {
  return { key, size, ...(modified ? { modified } : {}) }
}

/** The directory of a key; the empty string at the root. */
function parentOf(key: string): string {
  return key.slice(0, Math.max(0, key.lastIndexOf('/')))
}
