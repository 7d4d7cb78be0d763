/**
 * A cache of files on disk. A file is kept in blocks, fetched when somebody wants them: once, however many want them, and
 * readers follow the bytes as they arrive. Every block is checked against its checksum when it is read, so that a disk
 * that lies, or a directory somebody has been in, costs time and never a wrong byte.
 */
import { randomUUID } from 'node:crypto'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { Readable } from 'node:stream'
import { diskError } from '../core/disk-error.ts'
import { StowageError } from '../core/errors.ts'
import { silentLog, type Log } from '../core/log.ts'
import { isOwnerAlive, owner } from '../core/owner.ts'
import type { ByteRange, FileInfo, OpenFile } from '../store/driver.ts'
import { Blocks } from './blocks.ts'
import { Catalogue, type Line } from './catalogue.ts'
import { Entry, type Filling } from './entry.ts'
import { Fill, NoRoom } from './fill.ts'
import { HotBlocks } from './hot-blocks.ts'

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
  /** Bytes of blocks that are also held in memory, because several will want them. Default 32 MiB. */
  hotBytes?: number
  log?: Log
  /** Milliseconds since the epoch. Default Date.now. */
  now?: () => number
}

/** How a cache is doing. Counts are since it was opened. */
export interface CacheStatistics {
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

/** What a caller of `adopt` may know already. */
export interface AdoptOptions {
  /** The CRC32 of each block. The file is not read then. */
  checksums?: Uint32Array
  /** Bytes of these blocks. The checksums are ignored when the cache's own are of another size. */
  blockBytes?: number
}

/** Where the cache gets a file from. */
export interface Origin {
  /** Which store: the cache may be shared by several. */
  store: string
  /** Can it begin in the middle of a file? */
  range: boolean
  read: (key: string, options: { range?: ByteRange; signal?: AbortSignal }) => Promise<OpenFile>
}

/** Whoever wants a block waits for a fill that is this far from it, and begins another where it is farther. */
const patienceBytes = 8 << 20
/** So far a fill goes on when nobody follows it any more, and ahead of whoever reads in sequence. */
const aheadBytes = 4 << 20
/** Of so many entries, picked at random, the one that was not read for the longest time goes. */
const sample = 16
const flushMs = 1000
/** What was read a moment ago need not be noted again: the order is for evictions, which do not care. */
const notedEveryMs = 3_600_000

/** A cache directory in the hands of this process. */
export class Cache {
  readonly #options: Required<Omit<CacheOptions, 'directory'>> & { directory: string }
  readonly #catalogue: Catalogue
  readonly #entries = new Map<string, Entry>()
  /** The same, so that one can be picked at random. */
  readonly #all: Entry[] = []
  readonly #opening = new Map<string, Promise<Entry>>()
  /** Their lines in the catalogue are not what they are now. */
  readonly #dirty = new Set<Entry>()
  readonly #hot: HotBlocks
  readonly #evictionListeners = new Set<EvictionListener>()
  readonly #counts = { hits: 0, misses: 0, fills: 0, evictions: 0, damaged: 0, passed: 0, readers: 0 }
  #bytes = 0
  #flushTimer: NodeJS.Timeout | undefined
  #isClosed = false

  private constructor(options: CacheOptions) {
    const defaults = { maxBytes: 10 * 2 ** 30, maxEntries: 1_000_000, blockBytes: 256 * 1024, hotBytes: 32 << 20 }
    this.#options = { ...defaults, log: silentLog, now: Date.now, ...options }
    this.#catalogue = new Catalogue(options.directory)
    this.#hot = new HotBlocks(this.#options.hotBytes)
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
    return { ...this.#counts, bytes: this.#bytes, maxBytes, entries: this.#entries.size }
  }

  /** What is known of a file that is in the cache, be it only in part. */
  find(store: string, key: string): FileInfo | undefined {
    return this.#entries.get(nameOf(store, key))?.info
  }

  /**
   * Opens a file. `current` is what it is known to be now: an entry of another version is replaced. Without it an entry is
   * taken for current. Rejects as the origin does.
   */
  async open(
    origin: Origin,
    key: string,
    options: { range?: ByteRange; signal?: AbortSignal; current?: FileInfo } = {},
  ): Promise<OpenFile> {
    this.#check()
    const { range, signal, current } = options
    const entry = await this.#enter(origin, key, { range, signal, current })
    const { size } = entry.info
    const part = { start: Math.min(range?.start ?? 0, size), end: Math.min(range?.end ?? size, size) }
    this.#began(entry)
    const body = Readable.from(this.#read(origin, entry, part, signal), { objectMode: false })
    return { info: entry.info, body: body.once('close', () => this.#ended(entry)) }
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
    const { checksums, blockBytes } = options
    const isKnown = checksums !== undefined && blockBytes === this.#options.blockBytes
    const entry = this.#newEntry(store, info, isKnown ? Blocks.whole(info.size, blockBytes, checksums) : undefined)
    try {
      await this.#makeRoom(info.size)
    } catch (error) {
      if (error instanceof NoRoom) return false
      throw error
    }
    try {
      await fs.link(file, entry.file).catch(async () => fs.copyFile(file, entry.file))
      const { size } = await fs.stat(entry.file)
      if (size !== info.size) throw notAsTold(info.key)
      if (!entry.blocks.isWhole) await readBlocks(entry)
    } catch (error) {
      await fs.rm(entry.file, { force: true })
      this.#bytes -= info.size
      throw diskError(error, `Cannot take ${info.key} into the cache`) ?? error
    }
    await this.#put(entry)
    return true
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
    const fills = this.#all.flatMap(({ fills: own }) => [...own])
    for (const fill of fills) fill.abort(this.#closed())
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

  /** The entry of a file, which is made if need be; its first blocks are on their way then. */
  async #enter(origin: Origin, key: string, { range, signal, current }: Wanted): Promise<Entry> {
    const name = nameOf(origin.store, key)
    const known = this.#entries.get(name)
    if (known && (!current || known.isVersion(current))) return known
    const opening = this.#opening.get(name)
    if (opening) {
      // If it fails for others, it need not for us: they may have given up.
      const entry = await opening.catch(() => undefined)
      if (entry && (!current || entry.isVersion(current))) return entry
      return this.#enter(origin, key, { range, signal, current })
    }
    const fresh = this.#fetch(origin, key, { range, signal, current })
    this.#opening.set(name, fresh)
    try {
      return await fresh
    } finally {
      this.#opening.delete(name)
    }
  }

  /** Opens a file at its origin and begins to take it in. */
  async #fetch(origin: Origin, key: string, { range, signal }: Wanted): Promise<Entry> {
    const { blockBytes } = this.#options
    const start = origin.range && range ? Math.floor(range.start / blockBytes) * blockBytes : 0
    const end = range?.end === undefined ? undefined : Math.ceil(range.end / blockBytes) * blockBytes
    const isPart = start > 0 || (end !== undefined && origin.range)
    const part = isPart ? { range: { start, ...(end === undefined ? {} : { end }) } } : {}
    const opened = await origin.read(key, { ...part, ...(signal ? { signal } : {}) })
    const entry = this.#newEntry(origin.store, opened.info)
    const { blocks } = entry
    const last = Math.min(blocks.count, end === undefined ? blocks.count : blocks.at(end - 1) + 1)
    await this.#put(entry)
    if (blocks.at(start) < last) this.#fill(entry, blocks.at(start), last, async () => opened)
    else opened.body.destroy()
    return entry
  }

  #newEntry(store: string, info: FileInfo, blocks = new Blocks(info.size, this.#options.blockBytes)): Entry {
    const id = randomUUID()
    return new Entry({ id, store, info, blocks, file: this.#fileOf(id) })
  }

  #fileOf(id: string): string {
    return path.join(this.#options.directory, 'blocks', id)
  }

  async #put(entry: Entry) {
    const name = nameOf(entry.store, entry.key)
    const old = this.#entries.get(name)
    if (old) await this.#remove(old)
    while (this.#all.length >= this.#options.maxEntries && (await this.#evict()));
    entry.usedMs = this.#options.now()
    this.#insert(entry)
    this.#changed(entry)
  }

  #insert(entry: Entry) {
    this.#entries.set(nameOf(entry.store, entry.key), entry)
    entry.index = this.#all.push(entry) - 1
  }

  #fill(entry: Entry, from: number, end: number, open: (signal: AbortSignal) => Promise<OpenFile>): Fill {
    this.#counts.fills++
    return new Fill(entry, from, end, open, { keep: async (...kept) => this.#keep(...kept) })
  }

  #began(entry: Entry) {
    entry.readers++
    this.#counts.readers++
    entry.usedMs = this.#options.now()
    if (entry.usedMs - entry.notedMs > notedEveryMs) this.#changed(entry)
  }

  #ended(entry: Entry) {
    entry.readers--
    this.#counts.readers--
    // Nobody wants the rest any more; but a little more may be wanted in a moment.
    if (entry.readers === 0) for (const fill of entry.fills) fill.shorten(fill.next + this.#ahead)
  }

  async *#read(origin: Origin, entry: Entry, { start, end }: Part, signal?: AbortSignal): AsyncGenerator<Buffer> {
    const { blocks } = entry
    const isSequential = start > 0 && start === entry.lastEnd
    const last = end > start ? blocks.at(end - 1) : -1
    const until = isSequential ? Math.min(blocks.count - 1, last + this.#ahead) : last
    let isHit = true
    for (let at = start; at < end; ) {
      const block = blocks.at(at)
      isHit &&= blocks.has(block)
      const bytes = await this.#block(origin, entry, block, { until, signal })
      if (!bytes) {
        this.#counts.passed++
        yield* this.#past(origin, entry, { start: at, end }, signal)
        break
      }
      const offset = at - blocks.startOf(block)
      const wanted = bytes.subarray(offset, Math.min(bytes.byteLength, end - blocks.startOf(block)))
      at += wanted.byteLength
      entry.lastEnd = at
      yield wanted
    }
    this.#counts[isHit ? 'hits' : 'misses']++
  }

  get #ahead(): number {
    return Math.ceil(aheadBytes / this.#options.blockBytes)
  }

  /** A block, from wherever it can be had soonest; undefined when there is no room for it. */
  async #block(
    origin: Origin,
    entry: Entry,
    block: number,
    { until, signal }: { until: number; signal: AbortSignal | undefined },
  ): Promise<Buffer | undefined> {
    for (;;) {
      this.#check()
      const hot = this.#hot.get(entry.id, block)
      if (hot) return hot
      if (entry.blocks.has(block)) {
        const bytes = await entry.read(block)
        if (bytes) return bytes
        this.#damaged(entry, block)
      }
      try {
        const fill = this.#bringing(origin, entry, block) ?? this.#fetchBlocks(origin, entry, block, until)
        await fill.arrival(block, signal)
      } catch (error) {
        if (error instanceof NoRoom) return undefined
        throw error
      }
    }
  }

  /** A fill that is about to bring the block, or the only one that can. */
  #bringing(origin: Origin, { fills, blocks }: Entry, block: number): Filling | undefined {
    const near = (fill: Filling) => !origin.range || (block - fill.next) * blocks.blockBytes <= patienceBytes
    return [...fills].find((fill) => fill.brings(block) && near(fill))
  }

  /** Fetches from a block on, up to what is here or on its way. */
  #fetchBlocks(origin: Origin, entry: Entry, block: number, until: number): Fill {
    const { blocks } = entry
    const from = origin.range ? block : 0
    const others = [...entry.fills].filter(({ next }) => next > from).map(({ next }) => next)
    const end = Math.max(block + 1, Math.min(until + 1, blocks.nextHere(block + 1), ...others))
    const range = { start: blocks.startOf(from), end: Math.min(blocks.size, blocks.startOf(end)) }
    return this.#fill(entry, from, end, async (signal) =>
      origin.read(entry.key, { ...(origin.range ? { range } : {}), signal }),
    )
  }

  #damaged(entry: Entry, block: number) {
    this.#counts.damaged++
    if (!entry.isGone) this.#bytes -= entry.blocks.bytesOf(block)
    this.#options.log.warn(`A block of ${entry.key} in the cache was not as it had been written; it is fetched again.`)
    this.#changed(entry)
  }

  /** What there is no room for comes straight from the origin, if it is still the same file. */
  async *#past(origin: Origin, entry: Entry, range: Part, signal?: AbortSignal): AsyncGenerator<Buffer> {
    const { info, body } = await origin.read(entry.key, {
      ...(origin.range ? { range } : {}),
      ...(signal ? { signal } : {}),
    })
    try {
      if (!entry.isVersion(info))
        throw new StowageError('CONFLICT', `${entry.key} changed while it was read.`, { retryable: true })
      let skip = origin.range ? 0 : range.start
      let left = range.end - range.start
      for await (const chunk of body as AsyncIterable<Buffer>) {
        const wanted = chunk.subarray(Math.min(skip, chunk.byteLength), Math.min(chunk.byteLength, skip + left))
        skip = Math.max(0, skip - chunk.byteLength)
        left -= wanted.byteLength
        if (wanted.byteLength > 0) yield wanted
        if (left === 0) return
      }
      throw new StowageError('UNREACHABLE', `${entry.key} ended before its end.`)
    } finally {
      body.destroy()
    }
  }

  async #keep(entry: Entry, block: number, bytes: Buffer) {
    if (entry.blocks.has(block)) return
    if (!entry.isGone) {
      await this.#makeRoom(bytes.byteLength)
      try {
        await entry.write(block, bytes)
      } catch (error) {
        this.#bytes -= bytes.byteLength
        this.#options.log.warn(`The cache cannot be written: ${(error as Error).message}`)
        throw new NoRoom()
      }
      if (entry.isGone) this.#bytes -= bytes.byteLength
    }
    this.#hot.put(entry.id, block, bytes)
    this.#changed(entry)
  }

  /** Takes possession of so many bytes, from others if need be. Rejects with {@link NoRoom}. */
  async #makeRoom(bytes: number) {
    this.#bytes += bytes
    while (this.#bytes > this.#options.maxBytes)
      if (!(await this.#evict())) {
        this.#bytes -= bytes
        throw new NoRoom()
      }
  }

  /** Removes an entry that nobody reads. False when there is none. */
  async #evict(): Promise<boolean> {
    let oldest: Entry | undefined
    for (let i = 0; i < sample; i++) {
      const entry = this.#all[Math.floor(Math.random() * this.#all.length)]
      if (entry && !entry.isHeld && !(oldest && oldest.usedMs <= entry.usedMs)) oldest = entry
    }
    oldest ??= this.#all.find((entry) => !entry.isHeld)
    if (!oldest) return false
    this.#counts.evictions++
    await this.#remove(oldest)
    for (const listener of this.#evictionListeners) listener(oldest.store, oldest.key, oldest.blocks.bytes)
    return true
  }

  async #remove(entry: Entry) {
    if (entry.isGone) return
    entry.isGone = true
    const name = nameOf(entry.store, entry.key)
    if (this.#entries.get(name) === entry) this.#entries.delete(name)
    const last = this.#all.pop()
    if (last && last !== entry) {
      this.#all[entry.index] = last
      last.index = entry.index
    }
    this.#bytes -= entry.blocks.bytes
    this.#dirty.delete(entry)
    this.#catalogue.remove(entry.id)
    this.#schedule()
    await fs.rm(entry.file, { force: true }).catch((error: unknown) => {
      this.#options.log.warn(`A file of the cache cannot be removed: ${(error as Error).message}`)
    })
  }

  /** Reads the catalogue, drops what is not as it says, and removes what it does not know. */
  async #load() {
    const { directory, now } = this.#options
    const strangers = new Set(await fs.readdir(path.join(directory, 'blocks')))
    for (const { id, store, info, blockBytes, blocks: text, usedMs } of await this.#catalogue.read()) {
      const blocks = Blocks.decode(text, info.size, blockBytes)
      if (!blocks || (blocks.bytes > 0 && !strangers.has(id))) continue
      strangers.delete(id)
      const entry = new Entry({ id, store, info, blocks, file: this.#fileOf(id) })
      entry.usedMs = Math.min(usedMs, now())
      if (this.#entries.has(nameOf(store, info.key))) strangers.add(id)
      else this.#insert(entry)
    }
    this.#bytes = this.#all.reduce((sum, { blocks }) => sum + blocks.bytes, 0)
    for (const stranger of strangers) await fs.rm(this.#fileOf(stranger), { recursive: true, force: true })
    await this.#makeRoom(0)
    await this.#catalogue.rewrite(this.#all.map(lineOf))
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
      await this.#catalogue.flush()
      if (this.#catalogue.isLong) await this.#catalogue.rewrite(this.#all.map(lineOf))
    } catch (error) {
      this.#options.log.warn(`The catalogue of the cache cannot be written: ${(error as Error).message}`)
    }
  }
}

interface Part {
  start: number
  end: number
}

interface Wanted {
  range: ByteRange | undefined
  signal: AbortSignal | undefined
  current: FileInfo | undefined
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

/** Learns the checksums of a file that is here. */
async function readBlocks({ file, info, blocks }: Entry) {
  const handle = await fs.open(file, 'r')
  try {
    for (let block = 0; block < blocks.count; block++) {
      const bytes = Buffer.allocUnsafe(blocks.bytesOf(block))
      const { bytesRead } = await handle.read(bytes, 0, bytes.byteLength, blocks.startOf(block))
      if (bytesRead !== bytes.byteLength) throw notAsTold(info.key)
      blocks.add(block, bytes)
    }
  } finally {
    await handle.close()
  }
}

function notAsTold(key: string): StowageError {
  return new StowageError('CORRUPT', `${key} is not as long as was said; it was not taken into the cache.`)
}
