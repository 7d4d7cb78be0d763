/**
 * Files below a directory of this machine. Writes go to a temporary name, are synced, and are renamed into place, so a
 * crash leaves the old file or the new one. No key leaves the root, nor through a symbolic link planted below it.
 */
import { constants, linkSync, renameSync, unlinkSync, type BigIntStats } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { StowageError, type ErrorCode } from '../core/errors.ts'
import { compareKeys, maxKeyBytes } from '../core/keys.ts'
import { isOwnerAlive, owner } from '../core/owner.ts'
import type { Body, Driver, Entry, FileInfo, ListOptions, ReadOptions, WriteOptions } from '../store/driver.ts'
import { checkSize, throwIfAborted } from '../store/driving.ts'

/** The directory below the root where files are while they are written. Not a key, never listed. */
const temporaryDirectory = '.stowage-tmp'

/** Settings of the file driver. */
export interface FileOptions {
  /** The root; made at the first write. */
  directory: string
  /** Wait until the disk has the bytes before a write is called done. Default true. */
  fsync?: boolean
}

/** Opens a directory as a store. */
export function fileDriver(options: FileOptions): Driver {
  return new FileDriver(path.resolve(options.directory), options.fsync ?? true)
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
  #count = 0
  #swept: Promise<void> | undefined

  constructor(root: string, fsync: boolean) {
    this.#root = root
    this.#fsync = fsync
    this.#publisher = new Publisher(fsync)
    this.location = `file://${root}`
  }

  async read(key: string, options: ReadOptions = {}) {
    throwIfAborted(options.signal)
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
    return this.#store(key, options, async (handle) => {
      let size = 0
      for await (const chunk of body) {
        throwIfAborted(options.signal)
        size += chunk.byteLength
        await handle.writeFile(chunk)
      }
      return size
    })
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}) {
    return this.#store(key, options, async (handle) => {
      await handle.writeFile(bytes)
      return bytes.byteLength
    })
  }

  async stat(key: string, options: ReadOptions = {}) {
    throwIfAborted(options.signal)
    const stats = await this.#lstat(key)
    if (!stats.isFile()) throw this.#absent(key)
    return infoOf(key, stats)
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    await this.#checkParents(directory === '' ? '' : `${directory}/x`, 'list')
    yield* this.#walk(directory, options)
  }

  async delete(key: string, options: ReadOptions = {}) {
    throwIfAborted(options.signal)
    try {
      await this.#checkParents(key, 'delete')
      await fs.unlink(this.localPath(key))
      if (this.#fsync) await syncDirectory(path.dirname(this.localPath(key)))
      await this.#removeEmptyParents(key)
    } catch (error) {
      const { code } = this.#explain(error, 'delete', key)
      if (code !== 'NOT_FOUND' && (error as NodeJS.ErrnoException).code !== 'EISDIR')
        throw this.#explain(error, 'delete', key)
    }
  }

  async close() {
    const temporary = path.join(this.#root, temporaryDirectory)
    await sweep(temporary)
    // It is empty only when nobody else is writing here.
    await fs.rmdir(temporary).catch(() => undefined)
  }

  localPath(key: string): string {
    return path.join(this.#root, key)
  }

  /** Opens a temporary file, lets `fill` write it, and puts it under its key. Nothing remains of a failure. */
  async #store(key: string, options: WriteOptions, fill: (handle: fs.FileHandle) => Promise<number>) {
    throwIfAborted(options.signal)
    this.#refuseOwnName(key)
    if (options.ifMatch !== undefined)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot replace only a certain version of ${key}.`)
    const temporary = path.join(this.#root, temporaryDirectory, `${owner}-${this.#count++}`)
    try {
      await this.#checkParents(key, 'write')
      this.#swept ??= sweep(path.dirname(temporary))
      await this.#swept
      const handle = await openInside(temporary)
      try {
        const size = await fill(handle)
        checkSize(key, size, options.size)
        if (options.modified) await handle.utimes(options.modified, options.modified)
        if (this.#fsync) await handle.datasync()
      } finally {
        await handle.close()
      }
      throwIfAborted(options.signal)
      await this.#publisher.publish(temporary, this.localPath(key), options.ifAbsent ?? false)
      return infoOf(key, await fs.lstat(this.localPath(key), { bigint: true }))
    } catch (error) {
      await fs.rm(temporary, { force: true })
      throw this.#explain(error, 'write', key)
    }
  }

  async #open(key: string): Promise<fs.FileHandle> {
    try {
      await this.#checkParents(key, 'read')
      return await fs.open(this.localPath(key), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    } catch (error) {
      throw this.#explain(error, 'read', key)
    }
  }

  async #lstat(key: string): Promise<BigIntStats> {
    try {
      await this.#checkParents(key, 'stat')
      return await fs.lstat(this.localPath(key), { bigint: true })
    } catch (error) {
      throw this.#explain(error, 'stat', key)
    }
  }

  /** Refuses keys whose directories pass through a symbolic link. */
  async #checkParents(key: string, verb: string) {
    this.#refuseOwnName(key)
    let directory = this.#root
    for (const part of key.split('/').slice(0, -1)) {
      directory = path.join(directory, part)
      const stats = await fs.lstat(directory).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined
        throw this.#explain(error, verb, key)
      })
      if (!stats) return
      if (stats.isSymbolicLink())
        throw new StowageError('DENIED', `Cannot ${verb} ${key} in ${this.location}: ${directory} is a symbolic link.`)
    }
  }

  #refuseOwnName(key: string) {
    if (key === temporaryDirectory || key.startsWith(`${temporaryDirectory}/`))
      throw new StowageError('INVALID_KEY', `The name ${temporaryDirectory} is kept for files being written.`)
  }

  async *#walk(directory: string, options: ListOptions): AsyncGenerator<Entry> {
    throwIfAborted(options.signal)
    for (const { key, isDirectory } of await this.#children(directory)) {
      const isPast = options.after === undefined || compareKeys(key, options.after) > 0
      if (isDirectory && options.recursive !== false) yield* this.#walk(key, options)
      else if (isDirectory && isPast) yield { kind: 'directory', key }
      else if (!isDirectory && isPast) {
        const stats = await fs.lstat(this.localPath(key), { bigint: true }).catch(() => undefined)
        if (stats?.isFile()) yield { kind: 'file', ...infoOf(key, stats) }
      }
    }
  }

  /** The children of a directory in key order. A directory sorts as if its name ended in a slash when we descend into it. */
  async #children(directory: string) {
    const prefix = directory === '' ? '' : `${directory}/`
    const found = await fs
      .readdir(path.join(this.#root, directory), { withFileTypes: true })
      .catch((error: unknown) => {
        const explained = this.#explain(error, 'list', directory)
        if (explained.code === 'NOT_FOUND') return []
        throw explained
      })
    return found
      .filter((entry) => (entry.isFile() || entry.isDirectory()) && prefix + entry.name !== temporaryDirectory)
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

  #explain(error: unknown, verb: string, key: string): StowageError {
    if (error instanceof StowageError) return error
    const errno = (error as NodeJS.ErrnoException).code ?? ''
    const code = codes[errno]
    if (code === 'NOT_FOUND' && verb !== 'write') return this.#absent(key)
    if (!code && !errno) throw error // the body's own failure comes through as it is
    const reason = reasons[errno] ?? errno
    return new StowageError(code ?? 'UNKNOWN', `Cannot ${verb} ${key} in ${this.location}: ${reason}.`, {
      cause: error,
    })
  }
}

const codes: Record<string, ErrorCode> = {
  ENOENT: 'NOT_FOUND',
  ENOTDIR: 'NOT_FOUND',
  EISDIR: 'CONFLICT',
  EEXIST: 'EXISTS',
  ENOTEMPTY: 'CONFLICT',
  ELOOP: 'DENIED',
  EACCES: 'DENIED',
  EPERM: 'DENIED',
  EROFS: 'READ_ONLY',
  ENOSPC: 'NO_SPACE',
  EDQUOT: 'NO_SPACE',
  EMFILE: 'BUSY',
  ENAMETOOLONG: 'INVALID_KEY',
  ABORT_ERR: 'ABORTED',
}

const reasons: Record<string, string> = {
  EACCES: 'permission denied. Check the owner and mode of the directory',
  EPERM: 'permission denied. Check the owner and mode of the directory',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota is used up',
  EROFS: 'the file system is read-only',
  EEXIST: 'there is such a file already',
  EISDIR: 'there is a directory of that name',
  ELOOP: 'it is a symbolic link',
  ENAMETOOLONG: 'the name is longer than this file system takes',
  EMFILE: 'too many files are open',
}

function sortName({ key, isDirectory }: { key: string; isDirectory: boolean }): string {
  return isDirectory ? `${key}/` : key
}

async function openInside(temporary: string): Promise<fs.FileHandle> {
  try {
    return await fs.open(temporary, 'wx', 0o666)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') await fs.unlink(temporary)
    else if (code === 'ENOENT') await fs.mkdir(path.dirname(temporary), { recursive: true })
    else throw error
    return fs.open(temporary, 'wx', 0o666)
  }
}

/** What processes that died while writing have left. */
async function sweep(directory: string) {
  const names = await fs.readdir(directory).catch(() => [])
  const left = names.filter((name) => !isOwnerAlive(name.slice(0, name.lastIndexOf('-'))))
  await Promise.allSettled(left.map(async (name) => fs.rm(path.join(directory, name), { force: true })))
}

interface Finished {
  temporary: string
  target: string
  ifAbsent: boolean
  resolve: () => void
  reject: (error: unknown) => void
}

/**
 * Gives finished files their names. Those that wait together are renamed together, and each directory is then synced
 * once for all of them: on a journalling file system the first sync carries the others.
 */
class Publisher {
  readonly #fsync: boolean
  #waiting: Finished[] = []
  #isRunning = false

  constructor(fsync: boolean) {
    this.#fsync = fsync
  }

  /** Resolves when the file has its name, durably. */
  async publish(temporary: string, target: string, ifAbsent: boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ temporary, target, ifAbsent, resolve, reject })
      if (!this.#isRunning) void this.#run()
    })
  }

  async #run() {
    this.#isRunning = true
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#waiting.length > 0) {
      const group = this.#waiting
      this.#waiting = []
      await this.#publishGroup(group)
    }
    this.#isRunning = false
  }

  async #publishGroup(group: Finished[]) {
    const results = await Promise.allSettled(group.map(async (file) => this.#rename(file)))
    const directories = new Set(group.map(({ target }) => path.dirname(target)))
    try {
      if (this.#fsync) await Promise.all([...directories].map(syncDirectory))
    } catch (error) {
      for (const { reject } of group) reject(error)
    }
    for (const [index, { resolve, reject }] of group.entries()) {
      const result = results[index]
      if (result?.status === 'rejected') reject(result.reason)
      else resolve()
    }
  }

  /** The parent may be removed by a delete next to us, so it is made anew if need be. */
  async #rename({ temporary, target, ifAbsent }: Finished) {
    for (let attempt = 1; ; attempt++)
      try {
        if (!ifAbsent) return renameSync(temporary, target)
        linkSync(temporary, target)
        return unlinkSync(temporary)
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt > 10) throw error
        await this.#makeDirectory(path.dirname(target))
      }
  }

  /** Makes a directory with its parents; each new one is on disk only when the one above it is synced. */
  async #makeDirectory(directory: string) {
    const first = await fs.mkdir(directory, { recursive: true })
    if (first === undefined || !this.#fsync) return
    for (let made = directory; made.length >= first.length; made = path.dirname(made))
      await syncDirectory(path.dirname(made))
  }
}

/** A rename is on disk only when its directory is. */
async function syncDirectory(directory: string) {
  const handle = await fs.open(directory, 'r').catch(() => undefined)
  if (!handle) return
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

function infoOf(key: string, stats: BigIntStats): FileInfo {
  return {
    key,
    size: Number(stats.size),
    modified: new Date(Number(stats.mtimeMs)),
    etag: `${stats.mtimeNs.toString(36)}-${stats.ino.toString(36)}-${stats.size.toString(36)}`,
  }
}
