/** Copies directories of files between places: many at once, small ones whole, large ones as streams. */
import { createHash, hash, type Hash } from 'node:crypto'
import { closeSync, constants, fstatSync, openSync, readSync, readdirSync, type Dirent } from 'node:fs'
import * as path from 'node:path'
import { lookup } from 'mrmime'
import { collect } from '../core/bytes.ts'
import { codeOf, StowageError } from '../core/errors.ts'
import { FileBody } from '../core/file-body.ts'
import { cleanKey } from '../core/keys.ts'
import { AdaptiveLimit, Limit } from '../core/limit.ts'
import type { FileInfo, WriteOptions } from '../store/driver.ts'
import type { Place } from './places.ts'

/** Files up to so many bytes are read whole and sent in one piece. */
const smallBytes = 256 * 1024

/** So many files wait for their turn at most; the rest is not even listed yet. */
const ahead = 256

/** After so many failures in a row the place is taken for broken. */
const patience = 20

/** How far a copy has come. */
export interface Copied {
  files: number
  bytes: number
  failed: number
}

/** Settings of a copy. */
export interface CopyOptions {
  signal: AbortSignal
  /** Files at once; adapts by itself when absent. */
  maxConnections?: number
  /** Read each copy back and compare. A copy that is not the same is a failure (CORRUPT), and stays. */
  verify?: boolean
  /** Called after each file. */
  onProgress: (copied: Copied) => void
  /** Called for each file that could not be copied. */
  onFailure: (key: string, error: unknown) => void
}

/** Does the copying of one file; returns its size. */
type CopyOne = () => Promise<number>

/**
 * Copies every file below one directory to below another. Resolves with what was done, failures counted and reported one
 * by one; rejects when the source cannot be listed, when nothing but failures comes for a while, and with ABORTED.
 */
export async function copyTree(from: Place, to: Place, options: CopyOptions): Promise<Copied> {
  refuseOverlap(from, to)
  const local = from.store.driver.localPath?.(from.key === '' ? '.' : from.key)
  const files = local === undefined ? storedFiles(from, to, options) : localFiles(local, to, options)
  const limit = options.maxConnections === undefined ? new AdaptiveLimit() : new Limit(options.maxConnections)
  return new Copying(limit, options).run(files)
}

/** Copies one file. Within one store the store does it, where it can. */
export async function copyFile(
  from: Place,
  to: Place,
  { signal, verify = false }: Pick<CopyOptions, 'signal' | 'verify'>,
): Promise<FileInfo> {
  const info = await copyOnce(from, to, { signal, verify })
  if (verify && !(isVerified(to) && from.store !== to.store)) await compare(await digestOf(from, signal), to, signal)
  return info
}

async function copyOnce(from: Place, to: Place, call: Pick<WriteOptions, 'signal' | 'verify'>): Promise<FileInfo> {
  const { signal } = call
  if (from.store === to.store) return from.store.copy(from.key, to.key, { signal })
  const { info, body } = await from.store.driver.read(from.key, { signal })
  return to.store.driver.write(to.key, body, { ...describe(info, to), ...call })
}

/** Does the place itself read back what it stores? */
function isVerified({ store }: Place): boolean {
  return store.driver.supports.verify ?? false
}

/** Reads a copy back. Rejects with CORRUPT when its digest is another than this. */
async function compare(digest: string, to: Place, signal: AbortSignal): Promise<void> {
  if ((await digestOf(to, signal)) === digest) return
  throw new StowageError('CORRUPT', `${to.key} in ${to.store.location} is not what was copied there.`)
}

async function digestOf({ store, key }: Place, signal: AbortSignal): Promise<string> {
  const { body } = await store.driver.read(key, { signal })
  const sum = createHash('sha256')
  for await (const chunk of body) sum.update(chunk as Uint8Array)
  return sum.digest('hex')
}

class Copying {
  readonly #limit: Limit
  readonly #options: CopyOptions
  readonly #copied: Copied = { files: 0, bytes: 0, failed: 0 }
  #open = 0
  #inARow = 0
  #broken: unknown
  #wake: (() => void) | undefined

  constructor(limit: Limit, options: CopyOptions) {
    this.#limit = limit
    this.#options = options
  }

  async run(files: Iterable<[string, CopyOne]> | AsyncIterable<[string, CopyOne]>): Promise<Copied> {
    const { signal } = this.#options
    for await (const [key, copy] of files) {
      if (this.#broken !== undefined || signal.aborted) break
      this.#start(key, copy)
      if (this.#limit.waiting >= ahead) await this.#until(() => this.#limit.waiting < ahead / 2)
    }
    await this.#until(() => this.#open === 0)
    if (signal.aborted) throw new StowageError('ABORTED', 'The copy was stopped.')
    if (this.#broken !== undefined) throw this.#broken
    return this.#copied
  }

  #start(key: string, copy: CopyOne) {
    this.#open++
    this.#limit
      .run(async () => (this.#broken === undefined && !this.#options.signal.aborted ? copy() : undefined))
      .then((size) => size !== undefined && this.#succeed(size))
      .catch((error: unknown) => this.#fail(key, error))
      .finally(() => {
        this.#open--
        this.#wake?.()
      })
  }

  #succeed(size: number) {
    this.#inARow = 0
    this.#copied.files++
    this.#copied.bytes += size
    this.#options.onProgress(this.#copied)
  }

  #fail(key: string, error: unknown) {
    if (this.#options.signal.aborted) return
    this.#copied.failed++
    this.#options.onFailure(key, error)
    const isPlaceBroken = ['UNREACHABLE', 'DENIED', 'TIMEOUT', 'READ_ONLY', 'NO_SPACE'].includes(codeOf(error))
    this.#inARow = isPlaceBroken ? this.#inARow + 1 : 0
    if (this.#inARow >= patience)
      this.#broken = new StowageError(codeOf(error), `Given up after ${patience} failures in a row.`, { cause: error })
  }

  async #until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      const { promise, resolve } = Promise.withResolvers<void>()
      this.#wake = resolve
      await promise
    }
  }
}

/** The files below a directory of this machine. This path is lean: it is what many small files cost. */
function* localFiles(root: string, to: Place, options: CopyOptions): Generator<[string, CopyOne]> {
  const prefix = to.key === '' ? '' : `${to.key}/`
  const directories = ['']
  for (let relative = directories.pop(); relative !== undefined; relative = directories.pop())
    for (const entry of entriesOf(root, relative)) {
      if (entry instanceof Error) {
        yield [`${relative}/`, async () => Promise.reject(entry)]
        break
      }
      const name = relative === '' ? entry.name : `${relative}/${entry.name}`
      // Where our own writes to such a directory begin; never content.
      if (name === '.stowage-tmp') continue
      if (entry.isDirectory()) directories.push(name)
      else if (entry.isFile())
        yield [
          name,
          async () => sendLocal(`${root}/${name}`, { store: to.store, key: cleanKey(prefix + name) }, options),
        ]
    }
}

/** What a directory holds. Below the root one that cannot be read is a failure among others. */
function entriesOf(root: string, relative: string): Dirent[] | [Error] {
  try {
    return readdirSync(path.join(root, relative), { withFileTypes: true })
  } catch (error) {
    if (relative === '') throw error
    return [error as Error]
  }
}

async function sendLocal(file: string, to: Place, { signal, verify }: CopyOptions): Promise<number> {
  const { driver } = to.store
  const options: WriteOptions = { signal, ...(verify && { verify }) }
  if (driver.supports.contentType) options.contentType = lookup(to.key)
  const bytes = openSmall(file, options)
  if (bytes !== undefined && driver.writeBytes) await driver.writeBytes(to.key, bytes, options)
  else await driver.write(to.key, new FileBody(file), options)
  if (!verify || isVerified(to)) return options.size ?? 0
  if (bytes) await compare(hash('sha256', bytes), to, signal)
  else {
    const sum = createHash('sha256')
    for await (const chunk of new FileBody(file)) sum.update(chunk)
    await compare(sum.digest('hex'), to, signal)
  }
  return options.size ?? 0
}

/** Reads a small file whole, notes size and time of any. The file may have shrunk meanwhile: then it is what it is. */
function openSmall(file: string, options: WriteOptions): Buffer | undefined {
  const fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const { size, mtimeMs } = fstatSync(fd)
    options.modified = new Date(mtimeMs)
    options.size = size
    if (size > smallBytes) return undefined
    const bytes = Buffer.allocUnsafe(size)
    let read = 0
    for (let count = -1; count !== 0 && read < size; read += count) count = readSync(fd, bytes, read, size - read, read)
    options.size = read
    return read === size ? bytes : bytes.subarray(0, read)
  } finally {
    closeSync(fd)
  }
}

async function* storedFiles(from: Place, to: Place, options: CopyOptions): AsyncGenerator<[string, CopyOne]> {
  const cut = from.key === '' ? 0 : from.key.length + 1
  const prefix = to.key === '' ? '' : `${to.key}/`
  for await (const entry of from.store.list(from.key, { signal: options.signal })) {
    if (entry.kind !== 'file') continue
    const relative = entry.key.slice(cut)
    const target = { store: to.store, key: cleanKey(prefix + relative) }
    yield [relative, async () => sendStored({ store: from.store, key: entry.key }, target, options)]
  }
}

async function sendStored(from: Place, to: Place, { signal, verify }: CopyOptions): Promise<number> {
  const { driver } = to.store
  if (from.store === to.store && driver.copy) return (await driver.copy(from.key, to.key, { signal })).size
  const { info, body } = await from.store.driver.read(from.key, { signal })
  const sum = createHash('sha256')
  const mustCompare = verify && !isVerified(to)
  const watched = mustCompare ? hashed(body as AsyncIterable<Uint8Array>, sum) : body
  const options = { ...describe(info, to), signal, ...(verify && { verify }) }
  if (info.size <= smallBytes && driver.writeBytes) await driver.writeBytes(to.key, await collect(watched), options)
  else await driver.write(to.key, watched, options)
  if (mustCompare) await compare(sum.digest('hex'), to, signal)
  return info.size
}

async function* hashed(body: AsyncIterable<Uint8Array>, sum: Hash): AsyncGenerator<Uint8Array> {
  for await (const chunk of body) {
    sum.update(chunk)
    yield chunk
  }
}

/** What of a file's description goes with it. */
function describe(info: FileInfo, to: Place): WriteOptions {
  const { size, contentType, metadata, modified } = info
  const { supports } = to.store.driver
  return {
    size,
    ...(supports.contentType ? { contentType: contentType ?? lookup(to.key) } : {}),
    ...(supports.metadata && metadata ? { metadata } : {}),
    ...(modified ? { modified } : {}),
  }
}

function refuseOverlap(from: Place, to: Place) {
  const [source, target] = [from, to].map(({ store, key }) => store.driver.localPath?.(key === '' ? '.' : key))
  const isWithin = (inner: string, outer: string) => outer === '' || inner === outer || inner.startsWith(`${outer}/`)
  const isSame =
    source !== undefined && target !== undefined
      ? isWithin(target, source)
      : from.store === to.store && isWithin(to.key, from.key)
  if (isSame) throw new StowageError('INVALID_ARGUMENT', 'A directory cannot be copied into itself.')
}
