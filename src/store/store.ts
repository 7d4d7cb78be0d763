/** What everybody holds: one API over every kind of place. Checks keys and ranges once and fills in what a driver lacks. */
import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream, type Stats } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { collect, toBody, type Content } from '../core/bytes.ts'
import { diskError } from '../core/disk-error.ts'
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
import { asciiKey, cleanDirectory, cleanKey } from '../core/keys.ts'
import { Limit } from '../core/limit.ts'
import type {
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  ListOptions,
  OpenFile,
  ReadOptions,
  Supports,
  WriteOptions,
} from './driver.ts'
import { throwIfAborted } from './driving.ts'
import { FileWriter } from './file-writer.ts'
import { isLocations, locate, type Found, type Which } from './locations.ts'

/** A key as callers may give it. */
export type Key = string | readonly string[]

/** Settings of a store. */
export interface StoreOptions {
  /** Public address below which the files are served; keys are appended to it, percent-encoded. */
  publicUrl?: string
  /** Turns every key into web-safe ASCII, see `asciiKey`. Default: keys are kept byte for byte. */
  cleanName?: 'ascii'
}

/** Which of a store's locations a call is for. */
export interface Located {
  /**
   * `near`, `far`, or `all` (the default): a read is then served by the first location that has the file, and a change is
   * made at every one.
   */
  location?: Which
}

/** How far one transfer has come. */
export interface TransferProgress {
  /** Bytes so far. */
  bytes: number
  /** Bytes of the whole file, where that is known. */
  total?: number
}

/** Settings of a transfer. */
export interface TransferOptions {
  /** Called after each piece. */
  onProgress?: (progress: TransferProgress) => void
}

/** What became of one file of many. */
export interface UploadOutcome {
  file: string
  key: Key
  /** What was stored; absent when that failed. */
  info?: FileInfo
  /** Why it was not stored. */
  error?: unknown
}

/** How far uploading many files has come. */
export interface UploadProgress {
  filesDone: number
  filesTotal: number
  /** Of the files that were stored. */
  bytesDone: number
  /** The file that was done last. */
  outcome: UploadOutcome
}

/** Settings of {@link Store.uploadBatch}. */
export interface UploadBatchOptions extends CallOptions, Located {
  /** How many at once. Default 16. */
  concurrency?: number
  /** Called after each file. */
  onProgress?: (progress: UploadProgress) => void
}

/** Files up to this size are read whole before they are sent, so that a failed sending can be repeated. */
const smallBytes = 128 * 1024

/** How many calls at once where one call stands for many. */
const defaultConcurrency = 16

/** How many files of a directory are deleted at a time. */
const deleteBatch = 1000

/** A named place to keep files. Every method takes a `signal`, and rejects with {@link StowageError} alone. */
export class Store {
  readonly driver: Driver
  readonly #options: StoreOptions

  constructor(driver: Driver, options: StoreOptions = {}) {
    this.driver = driver
    this.#options = options
  }

  /** Where the store points, safe to print. */
  get location(): string {
    return this.driver.location
  }

  /** What the place can do. */
  get supports(): Supports {
    return this.driver.supports
  }

  /** One location of the store, as a store: the nearest, the farthest, or all. Close the whole store, not its parts. */
  at(which: Which): Store {
    return new Store(this.#driver({ location: which }), this.#options)
  }

  /** All bytes of a file. Rejects with NOT_FOUND. Stream large files with {@link open}. */
  async get(key: Key, options?: ReadOptions & Located): Promise<Buffer> {
    return collect((await this.open(key, options)).body)
  }

  /** Opens a file for streaming; read the body to its end or destroy it. Rejects with NOT_FOUND. */
  async open(key: Key, options: ReadOptions & Located = {}): Promise<OpenFile> {
    checkRange(options.range)
    return this.#driver(options).read(this.#key(key), options)
  }

  /** Stores content under a key, replacing what is there unless `ifAbsent` is given. */
  async put(key: Key, content: Content, options: WriteOptions & Located & TransferOptions = {}): Promise<FileInfo> {
    const driver = this.#driver(options)
    const target = this.#target(key, driver)
    const { onProgress } = options
    const bytes = typeof content === 'string' ? Buffer.from(content) : content
    if (!(bytes instanceof Uint8Array))
      return driver.write(target, watched(toBody(bytes), options.size, onProgress), options)
    const sized = { ...options, size: options.size ?? bytes.byteLength }
    const info = await (driver.writeBytes?.(target, bytes, sized) ?? driver.write(target, toBody(bytes), sized))
    onProgress?.({ bytes: bytes.byteLength, total: bytes.byteLength })
    return info
  }

  /**
   * A stream to write a file to. The file is stored when the stream ends, and then `finish` comes; a stream that is
   * destroyed stores nothing. `stored` resolves to what was stored.
   */
  create(key: Key, options: WriteOptions & Located = {}): FileWriter {
    const driver = this.#driver(options)
    const target = this.#target(key, driver)
    return new FileWriter(async (body) => driver.write(target, body, options))
  }

  /** What is known about a file. Rejects with NOT_FOUND. */
  async stat(key: Key, options: CallOptions & Located = {}): Promise<FileInfo> {
    return this.#driver(options).stat(this.#key(key), options)
  }

  /** What is known about a file, or undefined where there is none. Other failures reject. */
  async find(key: Key, options?: CallOptions & Located): Promise<FileInfo | undefined> {
    try {
      return await this.stat(key, options)
    } catch (error) {
      if (isNotFound(error)) return undefined
      throw error
    }
  }

  /** Is there such a file? A place that cannot be asked rejects: it is not an absent file. */
  async exists(key: Key, options?: CallOptions & Located): Promise<boolean> {
    return (await this.find(key, options)) !== undefined
  }

  /** What each location knows of a file, nearest first: that it has it, that it has not, or why it could not be asked. */
  async locate(key: Key, options: CallOptions & Located = {}): Promise<Found[]> {
    return locate(this.#driver(options), this.#key(key), options)
  }

  /** Entries below a directory, the root by default, in key order. */
  list(directory: Key = '', options: ListOptions & Located = {}): AsyncIterable<Entry> {
    return this.#driver(options).list(this.#directory(directory), options)
  }

  /** Deletes a file; an absent one is success. */
  async delete(key: Key, options: CallOptions & Located = {}): Promise<void> {
    return this.#driver(options).delete(this.#key(key), options)
  }

  /** Deletes many files; absent ones are success. Tries all, then rejects with the first failure. */
  async deleteMany(keys: readonly Key[], options: CallOptions & Located = {}): Promise<void> {
    const driver = this.#driver(options)
    const clean = keys.map((key) => this.#key(key))
    if (driver.deleteMany) return driver.deleteMany(clean, options)
    const limit = new Limit(defaultConcurrency)
    const results = await Promise.allSettled(
      clean.map(async (key) => limit.run(async () => driver.delete(key, options), options.signal)),
    )
    const failure = results.find((result) => result.status === 'rejected')
    if (failure) throw failure.reason
  }

  /**
   * Deletes a directory: all files below it when `recursive`, otherwise it must be empty (CONFLICT). Never the root. An
   * absent one is success. Resolves to how many files were deleted.
   */
  async deleteDirectory(
    directory: Key,
    options: CallOptions & Located & { recursive?: boolean } = {},
  ): Promise<number> {
    const clean = this.#directory(directory)
    if (clean === '')
      throw new StowageError('INVALID_ARGUMENT', `The root of ${this.location} is not deleted.`, {
        hint: 'Name a directory below it.',
      })
    let count = 0
    let batch: string[] = []
    const flush = async () => {
      await this.deleteMany(batch, options)
      count += batch.length
      batch = []
    }
    for await (const { key } of this.list(clean, { ...options, recursive: true })) {
      if (!options.recursive)
        throw new StowageError('CONFLICT', `The directory ${clean} in ${this.location} is not empty.`, {
          hint: 'Say recursive to delete all files below it.',
        })
      if (batch.push(key) === deleteBatch) await flush()
    }
    await flush()
    return count
  }

  /** Copies a file within the store. */
  async copy(from: Key, to: Key, options: CallOptions & Located & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const driver = this.#driver(options)
    const [source, target] = [this.#key(from), this.#target(to, driver)]
    if (driver.copy) return driver.copy(source, target, options)
    const { info, body } = await driver.read(source, options)
    const { contentType, metadata, size } = info
    try {
      return await driver.write(target, body, { ...options, contentType, metadata, size })
    } finally {
      body.destroy()
    }
  }

  /** Renames a file within the store: in one step where the place can, otherwise the original goes after its copy is stored. */
  async move(from: Key, to: Key, options: CallOptions & Located & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const driver = this.#driver(options)
    const [source, target] = [this.#key(from), this.#target(to, driver)]
    if (source === target) return this.stat(source, options)
    if (driver.move) return driver.move(source, target, options)
    const info = await this.copy(source, target, options)
    await driver.delete(source, options)
    return info
  }

  /**
   * A key that is the caller's alone: the one asked for, or one with a random part before its name when that is taken.
   * It is reserved by an empty file, which the caller replaces, or deletes when it is not needed. Where the place cannot
   * decide who was first, the random part is always there and does without the file.
   */
  async uniqueKey(key: Key, options: CallOptions & Located = {}): Promise<string> {
    const driver = this.#driver(options)
    const asked = this.#target(key, driver)
    if (driver.supports.ifAbsent)
      try {
        await driver.write(asked, toBody(''), { ...options, size: 0, ifAbsent: true })
        return asked
      } catch (error) {
        if (codeOf(error) !== 'EXISTS') throw error
      }
    const slash = asked.lastIndexOf('/') + 1
    return this.#target(`${asked.slice(0, slash)}${randomUUID()}-${asked.slice(slash)}`, driver)
  }

  /** Streams a file to the local disk: to a temporary name beside the target, synced, then renamed. Makes directories. */
  async download(key: Key, file: string, options: CallOptions & Located & TransferOptions = {}): Promise<FileInfo> {
    const { info, body } = await this.open(key, options)
    const part = `${file}.${randomUUID()}.part`
    try {
      await makeDirectory(path.dirname(file))
      const watching = watched(body, info.size, options.onProgress)
      await pipeline(watching, createWriteStream(part, { flush: true, flags: 'wx' }), { signal: options.signal })
      const { size } = await fs.stat(part)
      if (size !== info.size)
        throw new StowageError(
          'CORRUPT',
          `${info.key} from ${this.location} has ${size} bytes instead of ${info.size}.`,
        )
      await fs.rename(part, file)
      return info
    } catch (error) {
      body.destroy()
      await fs.rm(part, { force: true }).catch(() => undefined) // what went wrong first is what counts
      throw diskError(error, `Cannot write ${file}`) ?? error
    }
  }

  /** Streams a file of the local disk into the store. A file that changes its size meanwhile stores nothing. */
  async upload(file: string, key: Key, options: WriteOptions & Located & TransferOptions = {}): Promise<FileInfo> {
    const { size } = await statFile(file)
    const sized = { ...options, size }
    if (size > smallBytes) return this.put(key, fileBody(file), sized)
    return this.put(key, await collect(fileBody(file)), sized)
  }

  /**
   * Streams many files of the local disk into the store, several at once, and tells what became of each, in the order
   * given. A file that fails stops no other. Rejects with ABORTED, once what was running has ended, when the signal fires.
   */
  async uploadBatch(
    pairs: Iterable<readonly [file: string, key: Key]>,
    options: UploadBatchOptions = {},
  ): Promise<UploadOutcome[]> {
    const { concurrency = defaultConcurrency, onProgress, ...call } = options
    const limit = new Limit(concurrency)
    const all = [...pairs]
    let [filesDone, bytesDone] = [0, 0]
    const outcomes = all.map(async ([file, key]) => {
      const outcome: UploadOutcome = { file, key }
      try {
        outcome.info = await limit.run(async () => this.upload(file, key, call), call.signal)
        bytesDone += outcome.info.size
      } catch (error) {
        outcome.error = error
      }
      onProgress?.({ filesDone: ++filesDone, filesTotal: all.length, bytesDone, outcome })
      return outcome
    })
    const settled = await Promise.all(outcomes)
    throwIfAborted(call.signal)
    return settled
  }

  /**
   * An address at which one file can be read, or with `PUT` stored, without credentials until it expires. Rejects with
   * UNSUPPORTED where the place has no such thing.
   */
  async signedUrl(key: Key, options: { method?: 'GET' | 'PUT'; expiresInSeconds: number } & Located): Promise<string> {
    const { method = 'GET', expiresInSeconds } = options
    const driver = this.#driver(options)
    const clean = method === 'PUT' ? this.#target(key, driver) : this.#key(key)
    if (driver.signedUrl) return driver.signedUrl(clean, { method, expiresInSeconds })
    throw new StowageError('UNSUPPORTED', `${driver.location} cannot sign URLs.`)
  }

  /** The public address of a file, whether or not there is one. Throws NO_PUBLIC_URL where the store has none. */
  url(key: Key): string {
    const { publicUrl } = this.#options
    if (publicUrl === undefined)
      throw new StowageError('NO_PUBLIC_URL', `The store ${this.location} has no public address.`, {
        hint: 'Set publicUrl in its configuration.',
      })
    return publicUrl.replace(/\/*$/, '/') + this.#key(key).split('/').map(encodeURIComponent).join('/')
  }

  /**
   * The path of a file on this machine's disk, whether or not there is one; only read it. Throws UNSUPPORTED where the
   * files are not on this machine: a workbench has copies of those.
   */
  localPath(key: Key, options: Located = {}): string {
    const driver = this.#driver(options)
    if (driver.localPath) return driver.localPath(this.#key(key))
    throw new StowageError('UNSUPPORTED', `The files of ${driver.location} have no path on this machine.`, {
      hint: 'Make a local copy with download, or on a workbench with localize.',
    })
  }

  /** Releases connections. */
  async close(): Promise<void> {
    return this.driver.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #driver({ location }: Located): Driver {
    return isLocations(this.driver) ? this.driver.at(location ?? 'all') : this.driver
  }

  #key(key: Key): string {
    return this.#options.cleanName === 'ascii' ? cleanKey(asciiKey(key)) : cleanKey(key)
  }

  #directory(directory: Key): string {
    return cleanDirectory(this.#options.cleanName === 'ascii' ? asciiKey(directory) : directory)
  }

  /** A key to store under. Places differ in what names they take, and each would say so in its own way. */
  #target(key: Key, { supports, location }: Driver): string {
    const clean = this.#key(key)
    if (!supports.write)
      throw new StowageError('READ_ONLY', `${clean} cannot be stored in ${location}: it takes no writes.`)
    const unfit = (hint: string) =>
      new StowageError('INVALID_KEY', `${clean} cannot be stored in ${location}.`, { hint })
    const refused = supports.refuses?.find(({ pattern }) => pattern.test(clean))
    if (refused) throw unfit(refused.reason)
    if (clean.split('/').some((part) => Buffer.byteLength(part) > supports.maxPartBytes))
      throw unfit(`A part of the name may have at most ${supports.maxPartBytes} bytes there.`)
    if (Buffer.byteLength(clean) > supports.maxKeyBytes)
      throw unfit(`A name may have at most ${supports.maxKeyBytes} bytes there.`)
    return clean
  }
}

/** A body that tells how far it has come. */
function watched(
  body: AsyncIterable<Uint8Array>,
  total: number | undefined,
  onProgress: TransferOptions['onProgress'],
): AsyncIterable<Uint8Array> {
  return onProgress ? counted(body, total, onProgress) : body
}

async function* counted(
  body: AsyncIterable<Uint8Array>,
  total: number | undefined,
  onProgress: NonNullable<TransferOptions['onProgress']>,
): AsyncGenerator<Uint8Array> {
  let bytes = 0
  for await (const chunk of body) {
    yield chunk
    bytes += chunk.byteLength
    onProgress({ bytes, ...(total === undefined ? {} : { total }) })
  }
}

async function statFile(file: string): Promise<Stats> {
  try {
    const stats = await fs.stat(file)
    if (stats.isFile()) return stats
  } catch (error) {
    throw diskError(error, `Cannot read ${file}`) ?? error
  }
  throw new StowageError('INVALID_ARGUMENT', `Cannot read ${file}: it is not a file.`)
}

async function makeDirectory(directory: string): Promise<void> {
  try {
    await fs.mkdir(directory, { recursive: true })
  } catch (error) {
    throw diskError(error, `Cannot make the directory ${directory}`) ?? error
  }
}

/** The content of a local file. It is opened when somebody wants it, so a body that nobody reads leaves nothing open. */
async function* fileBody(file: string): AsyncGenerator<Uint8Array> {
  try {
    yield* createReadStream(file, { highWaterMark: 256 * 1024 })
  } catch (error) {
    throw diskError(error, `Cannot read ${file}`) ?? error
  }
}

function checkRange(range: ReadOptions['range']) {
  if (!range) return
  const { start, end = Infinity } = range
  if (!Number.isSafeInteger(start) || start < 0 || !(end > start))
    throw new StowageError('INVALID_ARGUMENT', `The range from ${start} to ${end} is not one.`, {
      hint: 'Give start >= 0 and end > start; end is excluded.',
    })
}
