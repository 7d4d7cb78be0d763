/** What everybody holds: one API over every kind of place. Checks keys and ranges once and fills in what a driver lacks. */
import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream, type Stats } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { collect, toBody, type Content } from '../core/bytes.ts'
import { diskError } from '../core/disk-error.ts'
import { isNotFound, StowageError } from '../core/errors.ts'
import { cleanDirectory, cleanKey } from '../core/keys.ts'
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
import { isLocations, type Which } from './locations.ts'

/** A key as callers may give it. */
export type Key = string | readonly string[]

/** Settings of a store. */
export interface StoreOptions {
  /** Public address below which the files are served; keys are appended to it, percent-encoded. */
  publicUrl?: string
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

/** Settings of {@link Store.uploadMany}. */
export interface UploadManyOptions extends CallOptions {
  /** How many at once. Default 16. */
  concurrency?: number
  /** Called after each file. */
  onProgress?: (progress: UploadProgress) => void
}

/** Files up to this size are read whole before they are sent, so that a failed sending can be repeated. */
const smallBytes = 128 * 1024

/** How many calls at once where one call stands for many. */
const defaultConcurrency = 16

/** A named place to keep files. Every method takes a `signal`, and rejects with {@link StowageError} alone. */
export class Store {
  readonly driver: Driver
  readonly #publicUrl: string | undefined

  constructor(driver: Driver, options: StoreOptions = {}) {
    this.driver = driver
    this.#publicUrl = options.publicUrl?.replace(/\/*$/, '/')
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
    if (!isLocations(this.driver)) return this
    return new Store(this.driver.at(which), this.#publicUrl === undefined ? {} : { publicUrl: this.#publicUrl })
  }

  /** All bytes of a file. Rejects with NOT_FOUND. Stream large files with {@link open}. */
  async get(key: Key, options?: ReadOptions): Promise<Buffer> {
    return collect((await this.open(key, options)).body)
  }

  /** Opens a file for streaming; read the body to its end or destroy it. Rejects with NOT_FOUND. */
  async open(key: Key, options: ReadOptions = {}): Promise<OpenFile> {
    checkRange(options.range)
    return this.driver.read(cleanKey(key), options)
  }

  /** Stores content under a key, replacing what is there unless `ifAbsent` is given. */
  async put(key: Key, content: Content, options: WriteOptions = {}): Promise<FileInfo> {
    const clean = this.#target(key)
    const bytes = typeof content === 'string' ? Buffer.from(content) : content
    if (bytes instanceof Uint8Array) {
      const sized = { ...options, size: options.size ?? bytes.byteLength }
      return this.driver.writeBytes?.(clean, bytes, sized) ?? this.driver.write(clean, toBody(bytes), sized)
    }
    return this.driver.write(clean, toBody(bytes), options)
  }

  /** What is known about a file. Rejects with NOT_FOUND. */
  async stat(key: Key, options?: CallOptions): Promise<FileInfo> {
    return this.driver.stat(cleanKey(key), options)
  }

  /** What is known about a file, or undefined where there is none. Other failures reject. */
  async find(key: Key, options?: CallOptions): Promise<FileInfo | undefined> {
    try {
      return await this.stat(key, options)
    } catch (error) {
      if (isNotFound(error)) return undefined
      throw error
    }
  }

  /** Is there such a file? A place that cannot be asked rejects: it is not an absent file. */
  async exists(key: Key, options?: CallOptions): Promise<boolean> {
    return (await this.find(key, options)) !== undefined
  }

  /** Entries below a directory, the root by default, in key order. */
  list(directory: Key = '', options?: ListOptions): AsyncIterable<Entry> {
    return this.driver.list(cleanDirectory(directory), options)
  }

  /** Deletes a file; an absent one is success. */
  async delete(key: Key, options?: CallOptions): Promise<void> {
    return this.driver.delete(cleanKey(key), options)
  }

  /** Deletes many files; absent ones are success. Tries all, then rejects with the first failure. */
  async deleteMany(keys: readonly Key[], options: CallOptions = {}): Promise<void> {
    const clean = keys.map((key) => cleanKey(key))
    if (this.driver.deleteMany) return this.driver.deleteMany(clean, options)
    const limit = new Limit(defaultConcurrency)
    const results = await Promise.allSettled(
      clean.map(async (key) => limit.run(async () => this.driver.delete(key, options), options.signal)),
    )
    const failure = results.find((result) => result.status === 'rejected')
    if (failure) throw failure.reason
  }

  /** Copies a file within the store. */
  async copy(from: Key, to: Key, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const [source, target] = [cleanKey(from), this.#target(to)]
    if (this.driver.copy) return this.driver.copy(source, target, options)
    const { info, body } = await this.driver.read(source, options)
    const { contentType, metadata, size } = info
    try {
      return await this.driver.write(target, body, { ...options, contentType, metadata, size })
    } finally {
      body.destroy()
    }
  }

  /** Renames a file within the store: in one step where the place can, otherwise the original goes after its copy is stored. */
  async move(from: Key, to: Key, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const [source, target] = [cleanKey(from), this.#target(to)]
    if (source === target) return this.stat(source, options)
    if (this.driver.move) return this.driver.move(source, target, options)
    const info = await this.copy(source, target, options)
    await this.driver.delete(source, options)
    return info
  }

  /** Streams a file to the local disk: to a temporary name beside the target, synced, then renamed. Makes directories. */
  async download(key: Key, file: string, options: CallOptions = {}): Promise<FileInfo> {
    const { info, body } = await this.open(key, options)
    const part = `${file}.${randomUUID()}.part`
    try {
      await makeDirectory(path.dirname(file))
      await pipeline(body, createWriteStream(part, { flush: true, flags: 'wx' }), { signal: options.signal })
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
  async upload(file: string, key: Key, options: WriteOptions = {}): Promise<FileInfo> {
    const { size } = await statFile(file)
    const sized = { ...options, size }
    if (size > smallBytes) return this.put(key, fileBody(file), sized)
    return this.put(key, await collect(fileBody(file)), sized)
  }

  /**
   * Streams many files of the local disk into the store, several at once, and tells what became of each, in the order
   * given. A file that fails stops no other. Rejects with ABORTED, once what was running has ended, when the signal fires.
   */
  async uploadMany(
    pairs: Iterable<readonly [file: string, key: Key]>,
    options: UploadManyOptions = {},
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
  async signedUrl(key: Key, options: { method?: 'GET' | 'PUT'; expiresInSeconds: number }): Promise<string> {
    const { method = 'GET', expiresInSeconds } = options
    const clean = method === 'PUT' ? this.#target(key) : cleanKey(key)
    if (this.driver.signedUrl) return this.driver.signedUrl(clean, { method, expiresInSeconds })
    throw new StowageError('UNSUPPORTED', `${this.location} cannot sign URLs.`)
  }

  /** The public address of a file, whether or not there is one. Throws NO_PUBLIC_URL where the store has none. */
  url(key: Key): string {
    if (this.#publicUrl === undefined)
      throw new StowageError('NO_PUBLIC_URL', `The store ${this.location} has no public address.`, {
        hint: 'Set publicUrl in its configuration.',
      })
    return this.#publicUrl + cleanKey(key).split('/').map(encodeURIComponent).join('/')
  }

  /** Releases connections. */
  async close(): Promise<void> {
    return this.driver.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** A key to store under. Places differ in what names they take, and each would say so in its own way. */
  #target(key: Key): string {
    const clean = cleanKey(key)
    if (!this.driver.supports.write)
      throw new StowageError('READ_ONLY', `${clean} cannot be stored in ${this.location}: it takes no writes.`)
    const { maxKeyBytes, maxPartBytes, refuses = [] } = this.driver.supports
    const refused = refuses.find(({ pattern }) => pattern.test(clean))
    if (refused) throw this.#unfit(clean, refused.reason)
    if (clean.split('/').some((part) => Buffer.byteLength(part) > maxPartBytes))
      throw this.#unfit(clean, `A part of the name may have at most ${maxPartBytes} bytes there.`)
    if (Buffer.byteLength(clean) > maxKeyBytes)
      throw this.#unfit(clean, `A name may have at most ${maxKeyBytes} bytes there.`)
    return clean
  }

  #unfit(key: string, hint: string): StowageError {
    return new StowageError('INVALID_KEY', `${key} cannot be stored in ${this.location}.`, { hint })
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
