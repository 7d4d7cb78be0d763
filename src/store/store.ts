/** What everybody holds: one API over every kind of place. Checks keys and ranges once and fills in what a driver lacks. */
import { createWriteStream, createReadStream } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { collect, toBody, type Content } from '../core/bytes.ts'
import { isNotFound, StowageError } from '../core/errors.ts'
import { cleanDirectory, cleanKey } from '../core/keys.ts'
import type {
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  ListOptions,
  OpenFile,
  ReadOptions,
  WriteOptions,
} from './driver.ts'

/** A key as callers may give it. */
export type Key = string | readonly string[]

/** Settings of a store. */
export interface StoreOptions {
  /** Public address below which the files are served; keys are appended to it, percent-encoded. */
  publicUrl?: string
}

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
    const clean = cleanKey(key)
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

  /** Copies a file within the store. */
  async copy(from: Key, to: Key, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const [source, target] = [cleanKey(from), cleanKey(to)]
    if (this.driver.copy) return this.driver.copy(source, target, options)
    const { info, body } = await this.driver.read(source, options)
    const { contentType, metadata, size } = info
    return this.driver.write(target, body, { ...options, contentType, metadata, size })
  }

  /** Renames a file within the store: in one step where the place can, otherwise the original goes after its copy is stored. */
  async move(from: Key, to: Key, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const [source, target] = [cleanKey(from), cleanKey(to)]
    if (source === target) return this.stat(source, options)
    if (this.driver.move) return this.driver.move(source, target, options)
    const info = await this.copy(source, target, options)
    await this.driver.delete(source, options)
    return info
  }

  /** Streams a file to the local disk: to a temporary name beside the target, synced, then renamed. Makes directories. */
  async download(key: Key, file: string, options: CallOptions = {}): Promise<FileInfo> {
    const { info, body } = await this.open(key, options)
    const part = `${file}.${process.pid}.part`
    try {
      await fs.mkdir(path.dirname(file), { recursive: true })
      await pipeline(body, createWriteStream(part, { flush: true }), { signal: options.signal })
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
      await fs.rm(part, { force: true })
      throw error
    }
  }

  /** Streams a file of the local disk into the store. A file that changes its size meanwhile stores nothing. */
  async upload(file: string, key: Key, options: WriteOptions = {}): Promise<FileInfo> {
    const { size } = await fs.stat(file)
    return this.put(key, createReadStream(file, { highWaterMark: 256 * 1024 }), { ...options, size })
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
}

function checkRange(range: ReadOptions['range']) {
  if (!range) return
  const { start, end = Infinity } = range
  if (!Number.isSafeInteger(start) || start < 0 || !(end > start))
    throw new StowageError('INVALID_ARGUMENT', `The range from ${start} to ${end} is not one.`, {
      hint: 'Give start >= 0 and end > start; end is excluded.',
    })
}
