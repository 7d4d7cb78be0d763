/**
 * A cache of files on disk. A file is kept in blocks, fetched when somebody wants them: once, however many want them, and
 * readers follow the bytes as they arrive. Every block is checked against its checksum when it is read, so that a disk
 * that lies, or a directory somebody has been in, costs time and never a wrong byte.
 */
import { randomInt, randomUUID } from 'node:crypto'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { crc32 } from 'node:zlib'
import { diskError } from '../core/disk-error.ts'
import { codeOf, StowageError } from '../core/errors.ts'
import { silentLog, type Log } from '../core/log.ts'
import { isOwnerAlive, owner } from '../core/owner.ts'
import type { ByteRange, FileInfo, OpenFile } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { Blocks } from './blocks.ts'
import { Catalogue, type Line } from './catalogue.ts'
import { Entry, isSameVersion, NotOurs, type Filling } from './entry.ts'
import { Fill, NoRoom } from './fill.ts'
import { HotBlocks } from './hot-blocks.ts'
import { Opening } from './opening.ts'
import { Source, type Origin } from './origin.ts'
import { Reading, type ReadingHost } from './reading.ts'

export type { Origin } from './origin.ts'

/** Settings of a cache. */
export interface CacheOptions {
  /** Its own: everything else in it is taken for rubbish. Made when it is not there. */
  directory: string
  /** Bytes of blocks on disk, never more. Default 10 GiB. */
  maxBytes?: number
  /** Files, never more. Default 1,000,000. */
  maxEntries?: number
  /** Bytes of a block. Default 256 KiB. */
  blockBytes?: number
  /** Bytes of blocks that were read from disk a moment ago and are held in memory. Default 8 MiB. */
  hotBytes?: number
  /** Milliseconds an origin may take to open a file, and for each block; it is TIMEOUT then. Default 2 minutes. */
  timeoutMs?: number
  log?: Log
  /** Milliseconds of a steady clock. Default performance.now. */
  now?: () => number
}

/** How a cache is doing. Counts are since it was opened; a read is counted when it ends, as a hit or as a miss. */
export interface CacheStatistics {
  /** Of blocks on disk, or about to be written. */
  bytes: number
  maxBytes: number
  entries: number
  /** Who reads now. */
  readers: number
  /** Reads that needed nothing from the origin. */
  hits: number
  misses: number
  /** Streams from origins. */
  fills: number
  evictions: number
  /** Blocks that were not on disk as they had been written. */
  damaged: number
  /** Reads, or the rest of them, for which there was no room. */
  passed: number
}

/** Hears of a file that was evicted, and how many bytes of it were here. It must not throw. */
export type EvictionListener = (store: string, key: string, bytes: number) => void

/** What is wanted of a file. */
export interface OpenOptions {
  range?: ByteRange
  signal?: AbortSignal
  /** What the file is known to be now: an entry of another version is replaced. Without it an entry is taken for current. */
  current?: FileInfo
}

/** What a caller of `adopt` may know already. */
export interface AdoptOptions {
  /** The CRC32 of each block. The file is not read then. */
  checksums?: Uint32Array
  /** Bytes of these blocks. The checksums are ignored when the cache's own are of another size. */
  blockBytes?: number
}

/** Whoever wants a block waits for a fill that is this far from it, and begins another where it is farther. */
const patienceBytes = 8 << 20
/** So far a fill goes on when nobody follows it any more, and ahead of whoever reads in sequence. */
const aheadBytes = 4 << 20
/** Of so many entries, picked at random, the one that was not read for the longest time goes. */
const sample = 16
const flushMs = 1000
const defaults = {
  maxBytes: 10 * 2 ** 30,
  maxEntries: 1_000_000,
  blockBytes: 256 * 1024,
  hotBytes: 8 << 20,
  timeoutMs: 120_000,
  log: silentLog,
  now: () => performance.now(),
}
/** What was read a moment ago need not be noted again: the order is for evictions, which do not care. */
const notedEveryMs = 3_600_000

/** A cache directory in the hands of this process. */
export class Cache {
  readonly #options: Required<Omit<CacheOptions, 'directory'>> & { directory: string }
  readonly #catalogue: Catalogue
  readonly #entries = new Map<string, Entry>()
  /** The same, so that one can be picked at random. */
  readonly #all: Entry[] = []
  readonly #opening = new Map<string, Opening>()
  readonly #readings = new Set<Reading>()
  readonly #fills = new Set<Fill>()
  /** Their lines in the catalogue are not what they are now. */
  readonly #dirty = new Set<Entry>()
  readonly #evictionListeners = new Set<EvictionListener>()
  readonly #counts = { hits: 0, misses: 0, fills: 0, evictions: 0, damaged: 0, passed: 0 }
  /** Bytes of all entries, also of those that are gone but held. */
  #bytes = 0
  /** Where the clock of the last process ended: the order of reads goes on from there, whatever the time of day is. */
  #clockStart = 0
  /** What was noted in the catalogue may not be there. */
  #isNoteLost = false
  #isFailing = false
  readonly #host: ReadingHost
  #flushTimer: NodeJS.Timeout | undefined
  #isClosed = false

  private constructor(options: CacheOptions) {
    this.#options = { ...defaults, ...options }
    this.#catalogue = new Catalogue(options.directory)
    this.#host = {
      hot: new HotBlocks(this.#options.hotBytes),
      fillFor: (...wanted) => this.#fillFor(...wanted),
      past: (...wanted) => this.#past(...wanted),
      began: (reading) => this.#began(reading),
      ended: (reading) => this.#ended(reading),
    }
  }

  /**
   * Opens a cache directory and takes possession of it: rejects with BUSY while another process has it. What is damaged in
   * it is thrown away, all of it if need be.
   */
  static async open(options: CacheOptions): Promise<Cache> {
    const cache = new Cache(options)
    try {
      await fs.mkdir(path.join(options.directory, 'blocks'), { recursive: true, mode: 0o700 })
      await takePossession(options.directory)
      await cache.#load()
    } catch (error) {
      throw diskError(error, `Cannot open the cache ${options.directory}`) ?? error
    }
    return cache
  }

  /** How it is doing. */
  get statistics(): CacheStatistics {
    const { maxBytes } = this.#options
    return { ...this.#counts, readers: this.#readings.size, bytes: this.#bytes, maxBytes, entries: this.#entries.size }
  }

  /** What is known of a file that is in the cache, be it only in part. */
  find(store: string, key: string): FileInfo | undefined {
    return this.#entries.get(nameOf(store, key))?.info
  }

  /** Opens a file. Rejects as the origin does, or with TIMEOUT; so does the body. */
  async open(origin: Origin, key: string, options: OpenOptions = {}): Promise<OpenFile> {
    this.#check()
    throwIfAborted(options.signal)
    const known = this.#known(origin.store, key, options.current)
    const entry = known ?? (await this.#enter(origin, key, options))
    this.#check()
    const { blocks, info, lastEnd } = entry
    const start = Math.min(options.range?.start ?? 0, info.size)
    const end = Math.min(options.range?.end ?? info.size, info.size)
    const isSequential = start > 0 && start === lastEnd
    const until = end > start ? blocks.at(end - 1) + (isSequential ? this.#ahead : 0) : -1
    const part = { start, end, until: Math.min(until, blocks.count - 1), signal: options.signal }
    return { info, body: new Reading(this.#host, origin, entry, part, known !== undefined) }
  }

  /** Is the whole file here, and of that version when one is given? */
  has(store: string, key: string, etag?: string): boolean {
    const entry = this.#entries.get(nameOf(store, key))
    return entry !== undefined && entry.blocks.isWhole && (etag === undefined || etag === entry.info.etag)
  }

  /** Calls the listener with every file that is evicted to make room, not with what is dropped or replaced. Returns how to stop. */
  onEvicted(listener: EvictionListener): () => void {
    this.#evictionListeners.add(listener)
    return () => this.#evictionListeners.delete(listener)
  }

  /**
   * Takes a whole file of this machine into the cache, as what `info` tells of, by a hard link, or a copy where it is on
   * another file system. The file itself stays where it is, and must not be changed under its old name: that would be found
   * when it is read, and its blocks fetched again. False when there is no room for it. Rejects with CORRUPT when it is not
   * as long as was told.
   */
  async adopt(store: string, file: string, info: FileInfo, options: AdoptOptions = {}): Promise<boolean> {
    this.#check()
    const { maxBytes, blockBytes } = this.#options
    if (info.size > maxBytes) return false
    while (this.#bytes + info.size > maxBytes) if ((await this.#evict()) === undefined) return false
    this.#bytes += info.size
    const id = randomUUID()
    const copy = this.#fileOf(id)
    try {
      await fs.link(file, copy).catch(async () => copyInto(file, copy))
      if ((await fs.stat(copy)).size !== info.size) throw notAsTold(info.key)
      const known = options.blockBytes === blockBytes ? options.checksums : undefined
      const blocks =
        (known && Blocks.whole(info.size, blockBytes, known)) ??
        Blocks.whole(info.size, blockBytes, await checksumsOf(copy, info, blockBytes))
      const entry = this.#newEntry(store, info, { id, blocks })
      await this.#put(entry)
      return !entry.isGone
    } catch (error) {
      await fs.rm(copy, { force: true })
      this.#bytes -= info.size
      const failure = diskError(error, `Cannot take ${info.key} into the cache`) ?? error
      if (codeOf(failure) === 'NO_SPACE') return false
      throw failure
    }
  }

  /** Forgets a file. Whoever reads it now goes on. */
  async drop(store: string, key: string): Promise<void> {
    const entry = this.#entries.get(nameOf(store, key))
    if (entry) await this.#remove(entry)
  }

  /** Lets go of the directory. Reads that are under way fail with CLOSED. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    clearTimeout(this.#flushTimer)
    const closed = this.#closed()
    for (const opening of this.#opening.values()) opening.end(closed)
    for (const reading of this.#readings) reading.destroy(closed)
    const fills = [...this.#fills]
    for (const fill of fills) fill.abort(closed)
    await Promise.all(fills.map(async ({ done }) => done))
    await this.#flush()
    await fs.rm(path.join(this.#options.directory, 'owner'), { force: true })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #check() {
    if (this.#isClosed) throw this.#closed()
  }

  #closed(): StowageError {
    return new StowageError('CLOSED', `The cache ${this.#options.directory} was closed.`)
  }

  #known(store: string, key: string, current: FileInfo | undefined): Entry | undefined {
    const entry = this.#entries.get(nameOf(store, key))
    return entry && (!current || entry.isVersion(current)) ? entry : undefined
  }

  /** The entry of a file that is not here as it is now; its first blocks are on their way then. */
  async #enter(origin: Origin, key: string, wanted: OpenOptions): Promise<Entry> {
    const { current, signal } = wanted
    const other = this.#opening.get(nameOf(origin.store, key))
    if (!other) return this.#begin(origin, key, wanted).wait(signal)
    if (!current || (other.current && isSameVersion(other.current, current))) return other.wait(signal)
    await other.wait(signal).catch(() => undefined)
    throwIfAborted(signal)
    this.#check()
    return this.#known(origin.store, key, current) ?? this.#enter(origin, key, wanted)
  }

  /** Begins to open a file at its origin and to take it in. */
  #begin(origin: Origin, key: string, { range, current }: OpenOptions): Opening {
    const { blockBytes } = this.#options
    const start = origin.range && range ? Math.floor(range.start / blockBytes) * blockBytes : 0
    const end = origin.range && range?.end !== undefined ? Math.ceil(range.end / blockBytes) * blockBytes : undefined
    const isWhole = start === 0 && end === undefined
    const source = this.#source(origin, key, isWhole ? undefined : { start, ...(end !== undefined && { end }) })
    const take = async () => {
      const { info } = await source.opened
      const entry = this.#newEntry(origin.store, info)
      await this.#put(entry)
      const [first, last] = [start / blockBytes, Math.ceil(Math.min(end ?? info.size, info.size) / blockBytes)]
      if (first < last) this.#fill(entry, first, last, source)
      else source.end()
      return entry
    }
    const name = nameOf(origin.store, key)
    const opening = new Opening(source, take(), current, () => this.#opening.delete(name))
    this.#opening.set(name, opening)
    return opening
  }

  #source(origin: Origin, key: string, range: ByteRange | undefined): Source {
    return new Source(origin, key, range, this.#options.timeoutMs)
  }

  #newEntry(store: string, info: FileInfo, known: { id?: string; blocks?: Blocks } = {}): Entry {
    const { id = randomUUID(), blocks = new Blocks(info.size, this.#options.blockBytes) } = known
    return new Entry(
      { id, store, info, blocks, file: this.#fileOf(id) },
      { freed: (entry) => this.#freed(entry), damaged: (entry) => this.#damaged(entry) },
    )
  }

  #fileOf(id: string): string {
    return path.join(this.#options.directory, 'blocks', id)
  }

  /** Makes it the entry of its file. When there may be no more entries it is gone from the start: it serves who has asked. */
  async #put(entry: Entry) {
    while (this.#all.length >= this.#options.maxEntries) if ((await this.#evict()) === undefined) return entry.unlink()
    const old = this.#entries.get(nameOf(entry.store, entry.key))
    const removed = old && this.#remove(old)
    entry.usedMs = this.#clock
    this.#insert(entry)
    this.#changed(entry)
    await removed
  }

  #insert(entry: Entry) {
    this.#entries.set(nameOf(entry.store, entry.key), entry)
    entry.index = this.#all.push(entry) - 1
  }

  get #clock(): number {
    return this.#clockStart + this.#options.now()
  }

  #began(reading: Reading) {
    const { entry } = reading
    this.#readings.add(reading)
    entry.readers++
    entry.usedMs = this.#clock
    if (entry.usedMs - entry.notedMs > notedEveryMs) this.#changed(entry)
  }

  #ended(reading: Reading) {
    const { entry, isHit } = reading
    this.#readings.delete(reading)
    this.#counts[isHit ? 'hits' : 'misses']++
    // Nobody wants the rest any more; but a little more may be wanted in a moment.
    if (--entry.readers === 0) for (const fill of entry.fills) fill.shorten(fill.next + this.#ahead)
  }

  get #ahead(): number {
    return Math.ceil(aheadBytes / this.#options.blockBytes)
  }

  /** A fill that is about to bring the block, or the only one that can; or a new one, up to what is here or on its way. */
  #fillFor(origin: Origin, entry: Entry, block: number, until: number): Filling {
    this.#check()
    const { blocks } = entry
    const fills = [...entry.fills]
    const isNear = ({ next }: Filling) => !origin.range || (block - next) * blocks.blockBytes <= patienceBytes
    const known = fills.find((fill) => fill.brings(block) && isNear(fill))
    if (known) return known
    const from = origin.range ? block : 0
    const later = fills.filter(({ next }) => next > block).map(({ next }) => next)
    const end = Math.max(block + 1, Math.min(until + 1, blocks.nextHere(block + 1), ...later))
    // What this one brings, those behind it need not.
    for (const fill of fills) if (fill.next < from && fill.end <= end) fill.shorten(from)
    const range = { start: blocks.startOf(from), end: Math.min(blocks.size, blocks.startOf(end)) }
    return this.#fill(entry, from, end, this.#source(origin, entry.key, origin.range ? range : undefined))
  }

  #fill(entry: Entry, from: number, end: number, source: Source): Fill {
    this.#counts.fills++
    const fill = new Fill(entry, from, end, source, async (...kept) => this.#keep(...kept))
    this.#fills.add(fill)
    void fill.done.then(() => this.#fills.delete(fill))
    return fill
  }

  #past(origin: Origin, { key }: Entry, range: ByteRange): Source {
    this.#counts.passed++
    return this.#source(origin, key, origin.range ? range : undefined)
  }

  #damaged(entry: Entry) {
    this.#counts.damaged++
    this.#options.log.warn(`A block of ${entry.key} in the cache was not as it had been written; it is fetched again.`)
    this.#changed(entry)
  }

  async #keep(entry: Entry, block: number, bytes: Buffer) {
    const { blocks } = entry
    if (blocks.has(block)) return
    while (!blocks.takesRoom(block))
      if (this.#bytes + bytes.byteLength <= this.#options.maxBytes) {
        this.#bytes += bytes.byteLength
        blocks.claim(block)
      } else if ((await this.#evict()) === undefined) throw new NoRoom()
    try {
      await this.#write(entry, block, bytes)
    } catch (error) {
      this.#failed(error as Error)
      // What was written of the block takes room until the file is gone.
      if (blocks.nextHere(0) === blocks.count || error instanceof NotOurs) await this.#remove(entry)
      throw new NoRoom()
    }
    this.#failed(undefined)
    this.#changed(entry)
  }

  /** On a full disk others have to go, as far as that may help. */
  async #write(entry: Entry, block: number, bytes: Buffer) {
    for (let evicted = 0; ; )
      try {
        return await entry.write(block, bytes)
      } catch (error) {
        const isFull = ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '')
        const more = isFull && evicted <= bytes.byteLength ? await this.#evict() : undefined
        if (more === undefined) throw error
        evicted += more
      }
  }

  /** Tells when the directory cannot be written, and when it can again. */
  #failed(error: Error | undefined) {
    const { directory, log } = this.#options
    if (error && !this.#isFailing) log.warn(`The cache ${directory} cannot be written: ${error.message}`)
    if (!error && this.#isFailing) log.info(`The cache ${directory} can be written again.`)
    this.#isFailing = error !== undefined
  }

  /** Removes an entry that nobody holds. Gives its bytes; undefined when there is none. */
  async #evict(): Promise<number | undefined> {
    const all = this.#all
    const picked = all.length > sample ? Array.from({ length: sample }, () => all[randomInt(all.length)]) : all
    let oldest: Entry | undefined
    for (const entry of picked) if (entry && !entry.isHeld && !(oldest && oldest.usedMs <= entry.usedMs)) oldest = entry
    oldest ??= all.find((entry) => !entry.isHeld)
    if (!oldest) return undefined
    const { store, key, blocks } = oldest
    const { bytes } = blocks
    this.#counts.evictions++
    await this.#remove(oldest)
    for (const listener of this.#evictionListeners) listener(store, key, bytes)
    return bytes
  }

  async #remove(entry: Entry) {
    if (entry.isGone) return
    this.#entries.delete(nameOf(entry.store, entry.key))
    const last = this.#all.pop()
    if (last && last !== entry) {
      this.#all[entry.index] = last
      last.index = entry.index
    }
    this.#dirty.delete(entry)
    this.#catalogue.remove(entry.id)
    this.#schedule()
    await entry.unlink().catch((error: unknown) => {
      this.#options.log.warn(`A file of the cache cannot be removed: ${(error as Error).message}`)
    })
  }

  #freed({ blocks }: Entry) {
    this.#bytes -= blocks.bytes
    blocks.clear()
  }

  /** Reads the catalogue, drops what is not as it says, and removes what it does not know. */
  async #load() {
    const { directory } = this.#options
    const strangers = new Set(await fs.readdir(path.join(directory, 'blocks')))
    for (const { id, store, info, blockBytes, blocks: text, usedMs } of await this.#catalogue.read()) {
      const blocks = Blocks.decode(text, info.size, blockBytes)
      if (!blocks || this.#entries.has(nameOf(store, info.key))) continue
      if (blocks.bytes > 0 && (!strangers.has(id) || (await this.#hasMore(id, blocks)))) continue
      strangers.delete(id)
      const entry = this.#newEntry(store, info, { id, blocks })
      entry.usedMs = usedMs
      this.#clockStart = Math.max(this.#clockStart, usedMs)
      this.#insert(entry)
    }
    this.#bytes = this.#all.reduce((sum, { blocks }) => sum + blocks.bytes, 0)
    for (const stranger of strangers) await fs.rm(this.#fileOf(stranger), { recursive: true, force: true })
    while (this.#bytes > this.#options.maxBytes && (await this.#evict()) !== undefined);
    while (this.#all.length > this.#options.maxEntries && (await this.#evict()) !== undefined);
    await this.#catalogue.rewrite(this.#all.map(lineOf))
  }

  /** Has a file more blocks than the catalogue knew when a process was killed? How much room it takes is not known then. */
  async #hasMore(id: string, blocks: Blocks): Promise<boolean> {
    if (blocks.isWhole) return false
    const { blocks: sectors } = await fs.stat(this.#fileOf(id))
    return sectors * 512 > blocks.bytesOnDisk
  }

  #changed(entry: Entry) {
    if (entry.isGone) return
    this.#dirty.add(entry)
    this.#schedule()
  }

  #schedule() {
    if (this.#flushTimer || this.#isClosed) return
    this.#flushTimer = setTimeout(() => {
      this.#flushTimer = undefined
      void this.#flush()
    }, flushMs)
    this.#flushTimer.unref()
  }

  async #flush() {
    try {
      for (const entry of this.#dirty) this.#catalogue.add(lineOf(entry))
      this.#dirty.clear()
      if (!this.#isNoteLost) await this.#catalogue.flush()
      if (this.#isNoteLost || this.#catalogue.isLong) await this.#catalogue.rewrite(this.#all.map(lineOf))
      this.#isNoteLost = false
    } catch (error) {
      this.#isNoteLost = true
      this.#options.log.warn(`The catalogue of the cache cannot be written: ${(error as Error).message}`)
    }
  }
}

function nameOf(store: string, key: string): string {
  return `${store}\0${key}`
}

function lineOf(entry: Entry): Line {
  const { id, store, info, blocks, usedMs } = entry
  entry.notedMs = usedMs
  return { id, store, info, blockBytes: blocks.blockBytes, blocks: blocks.encode(), usedMs }
}

/** Two processes in one directory would throw away each other's files. */
async function takePossession(directory: string) {
  const file = path.join(directory, 'owner')
  const holder = await fs.readFile(file, 'utf8').catch(() => undefined)
  if (holder !== undefined && holder !== owner && isOwnerAlive(holder))
    throw new StowageError('BUSY', `The cache ${directory} is in use by the process ${holder.split('-')[0]}.`, {
      hint: 'Give each process a directory of its own.',
    })
  await fs.writeFile(file, owner)
}

/** A copy, also where somebody has removed the directory. */
async function copyInto(file: string, copy: string) {
  await fs.mkdir(path.dirname(copy), { recursive: true, mode: 0o700 })
  await fs.copyFile(file, copy)
}

async function checksumsOf(file: string, info: FileInfo, blockBytes: number): Promise<Uint32Array> {
  const checksums = new Uint32Array(Math.ceil(info.size / blockBytes))
  const handle = await fs.open(file, 'r')
  try {
    for (let start = 0; start < info.size; start += blockBytes) {
      const bytes = Buffer.allocUnsafe(Math.min(blockBytes, info.size - start))
      const { bytesRead } = await handle.read(bytes, 0, bytes.byteLength, start)
      if (bytesRead !== bytes.byteLength) throw notAsTold(info.key)
      checksums[start / blockBytes] = crc32(bytes)
    }
  } finally {
    await handle.close()
  }
  return checksums
}

function notAsTold(key: string): StowageError {
  return new StowageError('CORRUPT', `${key} is not as long as was said; it was not taken into the cache.`)
}
