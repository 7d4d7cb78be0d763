/**
 * Files below a directory of this machine. Writes go to a temporary name, are synced, and are renamed into place, so a
 * crash leaves the old file or the new one. No key leaves the root, nor through a symbolic link planted below it; links of
 * our own, into directories that were named for that, see file-links.ts.
 */
import * as sync from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { diskError } from '../core/disk-error.ts'
import { StowageError } from '../core/errors.ts'
import { compareKeys, maxKeyBytes } from '../core/keys.ts'
import { isOwnerAlive, owner } from '../core/owner.ts'
import type { StorageUrl } from '../core/storage-url.ts'
import type {
  Body,
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  LinkKind,
  ListOptions,
  ReadOptions,
  WriteOptions,
} from '../store/driver.ts'
import { checkSize, throwIfAborted } from '../store/driving.ts'
import { Links } from './file-links.ts'
import { Publisher } from './file-publisher.ts'

/** The directory below the root where files are while they are written. Not a key, never listed. */
const temporaryDirectory = '.stowage-tmp'

/**
 * Up to this size a file is written by calls that do not leave the thread: they only fill the page cache, and going to
 * the thread pool and back costs more. At 32 KiB that is twice as fast, from 128 KiB on it is no gain. The wait for the
 * disk is always elsewhere.
 */
const smallBytes = 64 * 1024

/** Of what is listed so many files are looked at together: each look is a way to the thread pool and back. */
const looksAtOnce = 32

/** Neither follows a link nor waits for the other end of a pipe. */
const readFlags = sync.constants.O_RDONLY | sync.constants.O_NOFOLLOW | sync.constants.O_NONBLOCK

/** Settings of the file driver. */
export interface FileOptions {
  /** The root; made at the first write. */
  directory: string
  /** Wait until the disk has the bytes before a write is called done. Default true. */
  fsync?: boolean
  /** Directories into which symbolic links in the place of files may lead. Default: none, such links are refused. */
  linksInto?: readonly string[]
}

/**
 * `file:///directory`, or `file:directory` within the working directory, with `fsync` (default true) and `links_into`
 * (directories that links may lead into, separated by colons; a colon within one is written %3A).
 */
export function fileFromUrl(url: StorageUrl): Driver {
  if (url.host !== '' && url.host !== 'localhost')
    throw new StowageError('INVALID_ARGUMENT', `file://${url.host}/… names another machine.`, {
      hint: 'Write file:///directory.',
    })
  const fsync = url.parameters.flag('fsync', true)
  const linksInto = directoriesOf(url.parameters.text('links_into') ?? '')
  url.parameters.end()
  const isAbsolute = url.printable.startsWith('file:/')
  return fileDriver({ directory: path.resolve(isAbsolute ? '/' : '.', url.path), fsync, linksInto })
}

/** Opens a directory as a store. */
export function fileDriver(options: FileOptions): Driver {
  const root = path.resolve(options.directory)
  return new FileDriver(root, options.fsync ?? true, new Links(root, options.linksInto ?? []))
}

class FileDriver implements Driver {
  readonly location: string
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
    maxKeyBytes,
    maxPartBytes: 255,
  }
  readonly #root: string
  readonly #fsync: boolean
  readonly #publisher: Publisher
  readonly #links: Links
  #swept: Promise<void> | undefined
  #isClosed = false

  constructor(root: string, fsync: boolean, links: Links) {
    this.#root = root
    this.#fsync = fsync
    this.#links = links
    this.#publisher = new Publisher(fsync)
    this.location = `file://${root}`
  }

  async read(key: string, options: ReadOptions = {}) {
    this.#check(options)
    const handle = await this.#open(key)
    try {
      const stats = await handle.stat({ bigint: true })
      if (!stats.isFile()) throw this.#absent(key)
      const { start = 0, end } = options.range ?? {}
      const body = handle.createReadStream({
        start,
        ...(end === undefined ? {} : { end: end - 1 }),
        highWaterMark: 256 * 1024,
        ...(options.signal ? { signal: options.signal } : {}),
      })
      return { info: infoOf(key, stats), body }
    } catch (error) {
      await handle.close()
      throw this.#explain(error, 'read', key)
    }
  }

  async write(key: string, body: Body, options: WriteOptions = {}) {
    return this.#store(key, options, async (temporary) => {
      const handle = await openTemporary(temporary)
      try {
        let size = 0
        for await (const chunk of ownErrors(body)) {
          throwIfAborted(options.signal)
          size += chunk.byteLength
          await handle.writeFile(chunk)
        }
        checkSize(key, size, options.size)
        if (options.modified) await handle.utimes(options.modified, options.modified)
        if (this.#fsync) await handle.datasync()
        return await handle.stat({ bigint: true })
      } finally {
        await handle.close()
      }
    })
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}) {
    if (bytes.byteLength > smallBytes) return this.write(key, once(bytes), options)
    return this.#store(key, options, async (temporary) => {
      checkSize(key, bytes.byteLength, options.size)
      const descriptor = openTemporarySync(temporary)
      try {
        sync.writeFileSync(descriptor, bytes)
        if (options.modified) sync.futimesSync(descriptor, options.modified, options.modified)
        if (this.#fsync) await dataSync(descriptor)
        return sync.fstatSync(descriptor, { bigint: true })
      } finally {
        sync.closeSync(descriptor)
      }
    })
  }

  async link(key: string, file: string, kind: LinkKind, options: CallOptions = {}) {
    this.#check(options)
    if (this.#links.isLinked(this.localPath(key), file, kind)) return this.stat(key, options)
    return this.#store(key, options, async (temporary) => {
      makeDirectoryOf(temporary)
      return this.#links.make(temporary, file, kind, this.#fsync)
    })
  }

  async stat(key: string, options: CallOptions = {}) {
    this.#check(options)
    const stats = await this.#lstat(key)
    if (!stats.isFile()) throw this.#absent(key)
    return infoOf(key, stats)
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    this.#check(options)
    await this.#checkParents(directory === '' ? '' : `${directory}/x`, 'list')
    yield* this.#walk(directory, options)
  }

  async delete(key: string, options: CallOptions = {}) {
    this.#check(options)
    try {
      this.#checkParentsSync(key, 'delete')
      await this.#publisher.remove(this.localPath(key))
      await this.#removeEmptyParents(key)
    } catch (error) {
      const explained = this.#explain(error, 'delete', key)
      // Absent is success, and a directory is no file.
      if (explained.code !== 'NOT_FOUND' && errnoOf(error) !== 'EISDIR') throw explained
    }
  }

  async move(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}) {
    this.#check(options)
    this.#refuseOwnName(to)
    if (!(await this.#lstat(from)).isFile()) throw this.#absent(from)
    if (from !== to)
      try {
        this.#checkParentsSync(from, 'read')
        this.#checkParentsSync(to, 'write')
        await this.#publisher.publish(this.localPath(from), this.localPath(to), options.ifAbsent ?? false)
        await this.#removeEmptyParents(from)
      } catch (error) {
        throw errnoOf(error) === 'ENOENT' ? this.#absent(from) : this.#explain(error, 'write', to)
      }
    return this.stat(to, options)
  }

  async close() {
    if (this.#isClosed) return
    this.#isClosed = true
    const temporary = path.join(this.#root, temporaryDirectory)
    await sweep(temporary)
    // It is empty only when nobody else is writing here.
    await fs.rmdir(temporary).catch(() => undefined)
  }

  localPath(key: string): string {
    return path.join(this.#root, key)
  }

  #check({ signal }: CallOptions) {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
  }

  /** Lets `fill` write a temporary file, and puts that under its key. Nothing remains of a failure. */
  async #store(key: string, options: WriteOptions, fill: (temporary: string) => Promise<sync.BigIntStats>) {
    this.#check(options)
    this.#refuseOwnName(key)
    if (options.ifMatch !== undefined)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot replace only a certain version of ${key}.`)
    const temporary = path.join(this.#root, temporaryDirectory, `${owner}-${writes++}`)
    try {
      this.#checkParentsSync(key, 'write')
      await (this.#swept ??= sweep(path.dirname(temporary)))
      const stats = await fill(temporary)
      throwIfAborted(options.signal)
      await this.#publisher.publish(temporary, this.localPath(key), options.ifAbsent ?? false)
      return infoOf(key, stats)
    } catch (error) {
      await fs.rm(temporary, { force: true }).catch(() => undefined)
      throw this.#explain(error, 'write', key)
    }
  }

  async #open(key: string): Promise<fs.FileHandle> {
    try {
      this.#checkParentsSync(key, 'read')
      return await this.#openFile(this.localPath(key))
    } catch (error) {
      throw this.#explain(error, 'read', key)
    }
  }

  async #lstat(key: string): Promise<sync.BigIntStats> {
    try {
      await this.#checkParents(key, 'stat')
      return await this.#lookAt(this.localPath(key))
    } catch (error) {
      throw this.#explain(error, 'stat', key)
    }
  }

  /** Opens the file itself, or what a link of ours leads to. */
  async #openFile(file: string, looks = 3): Promise<fs.FileHandle> {
    try {
      return await fs.open(file, readFlags)
    } catch (error) {
      if (errnoOf(error) !== 'ELOOP' || !this.#links.areAllowed || looks === 0) throw error
      const target = this.#links.follow(file)
      // A writer may have put a file in the place of the link meanwhile.
      return target === undefined ? this.#openFile(file, looks - 1) : fs.open(target, readFlags)
    }
  }

  /** The same for what is known about it. */
  async #lookAt(file: string, looks = 3): Promise<sync.BigIntStats> {
    const stats = await fs.lstat(file, { bigint: true })
    if (!stats.isSymbolicLink() || !this.#links.areAllowed || looks === 0) return stats
    const target = this.#links.follow(file)
    return target === undefined ? this.#lookAt(file, looks - 1) : fs.lstat(target, { bigint: true })
  }

  /** Refuses keys whose directories pass through a symbolic link. */
  async #checkParents(key: string, verb: Verb) {
    this.#refuseOwnName(key)
    for (const directory of this.#parentsOf(key)) {
      const stats = await fs.lstat(directory).catch((error: unknown) => {
        if (errnoOf(error) === 'ENOENT') return undefined
        throw this.#explain(error, verb, key)
      })
      if (!stats) return
      this.#checkParent(stats, directory, verb, key)
    }
  }

  /** The same for changes. It is made just before the change, without a pause in between in which a link could be planted. */
  #checkParentsSync(key: string, verb: Verb) {
    this.#refuseOwnName(key)
    for (const directory of this.#parentsOf(key)) {
      const stats = sync.lstatSync(directory, { throwIfNoEntry: false })
      if (!stats) return
      this.#checkParent(stats, directory, verb, key)
    }
  }

  #checkParent(stats: sync.Stats, directory: string, verb: Verb, key: string) {
    if (stats.isSymbolicLink())
      throw new StowageError('DENIED', `Cannot ${verb} ${key} in ${this.location}: ${directory} is a symbolic link.`)
    if (stats.isDirectory()) return
    if (verb !== 'write') throw this.#absent(key)
    throw new StowageError('CONFLICT', `Cannot write ${key} in ${this.location}: ${directory} is not a directory.`)
  }

  *#parentsOf(key: string) {
    for (let slash = key.indexOf('/'); slash > 0; slash = key.indexOf('/', slash + 1))
      yield path.join(this.#root, key.slice(0, slash))
  }

  #refuseOwnName(key: string) {
    if (key === temporaryDirectory || key.startsWith(`${temporaryDirectory}/`))
      throw new StowageError('INVALID_KEY', `The name ${temporaryDirectory} is kept for files being written.`)
  }

  async *#walk(directory: string, options: ListOptions): AsyncGenerator<Entry> {
    throwIfAborted(options.signal)
    const isPast = (child: Child) => options.after === undefined || compareKeys(sortName(child), options.after) > 0
    const children = await this.#children(directory)
    for (let at = 0; at < children.length; at += looksAtOnce) {
      const some = children.slice(at, at + looksAtOnce)
      const looks = await Promise.all(
        some.map(async (child) => (child.isDirectory || !isPast(child) ? undefined : this.#lookAtListed(child))),
      )
      for (const [index, child] of some.entries()) {
        const { key, isDirectory } = child
        const stats = looks[index]
        if (isDirectory && options.recursive !== false) yield* this.#walk(key, options)
        else if (isDirectory && isPast(child)) yield { kind: 'directory', key }
        else if (stats?.isFile()) yield { kind: 'file', ...infoOf(key, stats) }
      }
    }
  }

  async #lookAtListed({ key }: Child): Promise<sync.BigIntStats | undefined> {
    return this.#lookAt(this.localPath(key)).catch(() => undefined)
  }

  /** The children of a directory in key order. A directory sorts as if its name ended in a slash when we descend into it. */
  async #children(directory: string): Promise<Child[]> {
    const prefix = directory === '' ? '' : `${directory}/`
    const found = await fs
      .readdir(path.join(this.#root, directory), { withFileTypes: true })
      .catch((error: unknown) => {
        const explained = this.#explain(error, 'list', directory)
        if (explained.code === 'NOT_FOUND') return []
        throw explained
      })
    return found
      .filter((entry) => entry.isFile() || entry.isDirectory() || (entry.isSymbolicLink() && this.#links.areAllowed))
      .filter((entry) => prefix + entry.name !== temporaryDirectory)
      .map((entry) => ({ key: prefix + entry.name, isDirectory: entry.isDirectory() }))
      .sort((a, b) => compareKeys(sortName(a), sortName(b)))
  }

  /** Directories are implied by keys, so one without files goes. Another writer's file makes rmdir fail: then it stays. */
  async #removeEmptyParents(key: string) {
    const parts = key.split('/')
    while (parts.pop() !== undefined && parts.length > 0)
      try {
        await fs.rmdir(path.join(this.#root, ...parts))
      } catch {
        return
      }
  }

  #absent(key: string): StowageError {
    return new StowageError('NOT_FOUND', `There is no file ${key} in ${this.location}.`)
  }

  #explain(error: unknown, verb: Verb, key: string): StowageError {
    if (error instanceof StowageError) return error
    if (error instanceof BodyError) throw error.cause // comes through as it is
    const errno = errnoOf(error)
    if (verb !== 'write' && (errno === 'ENOENT' || errno === 'ENOTDIR')) return this.#absent(key)
    const explained = diskError(error, `Cannot ${verb} ${key} in ${this.location}`)
    if (!explained) throw error
    return explained
  }
}

interface Child {
  key: string
  isDirectory: boolean
}

type Verb = 'read' | 'write' | 'stat' | 'list' | 'delete'

/** Tells the temporary files of this process apart, of all its drivers. */
let writes = 0

/** A failure of the body, which is not one of the disk even if it looks like one. */
class BodyError extends Error {}

async function* ownErrors(body: Body): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } catch (cause) {
    throw new BodyError('', { cause })
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

function errnoOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException | undefined)?.code
}

function sortName({ key, isDirectory }: Child): string {
  return isDirectory ? `${key}/` : key
}

async function openTemporary(temporary: string): Promise<fs.FileHandle> {
  try {
    return await fs.open(temporary, 'wx', 0o666)
  } catch (error) {
    makeRoomFor(temporary, error)
    return fs.open(temporary, 'wx', 0o666)
  }
}

function openTemporarySync(temporary: string): number {
  try {
    return sync.openSync(temporary, 'wx', 0o666)
  } catch (error) {
    makeRoomFor(temporary, error)
    return sync.openSync(temporary, 'wx', 0o666)
  }
}

function makeRoomFor(temporary: string, error: unknown) {
  const errno = errnoOf(error)
  if (errno === 'EEXIST') sync.unlinkSync(temporary)
  else if (errno === 'ENOENT') makeDirectoryOf(temporary)
  else throw error
}

function makeDirectoryOf(temporary: string) {
  sync.mkdirSync(path.dirname(temporary), { recursive: true })
}

function directoriesOf(text: string): string[] {
  return text
    .split(':')
    .filter((part) => part !== '')
    .map((part) => decodeURIComponent(part))
}

async function dataSync(descriptor: number): Promise<void> {
  return new Promise((resolve, reject) => {
    sync.fdatasync(descriptor, (error) => (error ? reject(error) : resolve()))
  })
}

/** What processes that died while writing have left. */
async function sweep(directory: string) {
  const names = await fs.readdir(directory).catch(() => [])
  const left = names.filter((name) => !isOwnerAlive(name.slice(0, name.lastIndexOf('-'))))
  await Promise.allSettled(left.map(async (name) => fs.rm(path.join(directory, name), { force: true })))
}

function infoOf(key: string, stats: sync.BigIntStats): FileInfo {
  return { key, size: Number(stats.size), modified: new Date(Number(stats.mtimeMs)), etag: fileVersion(stats) }
}

/** The etag of a file on disk: it stays when the file gets another name, and not when it gets other bytes. */
export function fileVersion({ mtimeNs, ino, size }: Pick<sync.BigIntStats, 'mtimeNs' | 'ino' | 'size'>): string {
  return `${mtimeNs.toString(36)}-${ino.toString(36)}-${size.toString(36)}`
}
