/** One version of one file in the cache: its blocks on disk, and those who fetch and read them. */
import * as sync from 'node:fs'
import * as fs from 'node:fs/promises'
import type { FileInfo } from '../store/driver.ts'
import type { Blocks } from './blocks.ts'

/** Up to this size a block is read without leaving the thread: going to the pool and back costs more. */
const smallBytes = 64 * 1024

/** A stream on its way into an entry. */
export interface Filling {
  /** The first block that has not arrived. */
  readonly next: number
  /** Will it bring this block? */
  brings(block: number): boolean
  /** Resolves when a block has arrived or the stream is over; rejects with what it failed of, or with ABORTED. */
  arrival(block: number, signal: AbortSignal | undefined): Promise<void>
  /** Fetches no further than `block` if nobody follows it: those who wanted more have left. */
  shorten(block: number): void
  /** Ends it; who waits for it hears of the error. */
  abort(error: unknown): void
  /** Resolves when it is over, whether or not it went well. */
  readonly done: Promise<void>
}

/** What the cache keeps of a file. */
export class Entry {
  readonly id: string
  readonly store: string
  readonly key: string
  readonly info: FileInfo
  readonly blocks: Blocks
  readonly file: string
  /** Under way; each is for other blocks than the others. */
  readonly fills = new Set<Filling>()
  /** Who reads it now: it must not be evicted. */
  readers = 0
  /** When it was read last, in milliseconds since the epoch. */
  usedMs = 0
  /** It is no longer in the cache: whoever still reads it goes on with what there is. */
  isGone = false
  /** When it had been read last as its line in the catalogue was written. */
  notedMs = 0
  /** Where it stands among all entries. */
  index = -1
  /** Where the last read ended: one that begins there is sequential. */
  lastEnd = 0

  constructor(options: { id: string; store: string; info: FileInfo; blocks: Blocks; file: string }) {
    this.id = options.id
    this.store = options.store
    this.key = options.info.key
    this.info = options.info
    this.blocks = options.blocks
    this.file = options.file
  }

  /** Is it the file another info tells of? Places without versions are believed by size and time. */
  isVersion({ size, etag, modified }: FileInfo): boolean {
    if (size !== this.info.size) return false
    if (etag !== undefined || this.info.etag !== undefined) return etag === this.info.etag
    return modified?.getTime() === this.info.modified?.getTime()
  }

  get isHeld(): boolean {
    return this.readers > 0 || this.fills.size > 0
  }

  /** A block that is here. Undefined, and no longer here, when the disk has it no more, or not as it was. */
  async read(block: number): Promise<Buffer | undefined> {
    const bytes = this.blocks.bytesOf(block)
    const buffer = Buffer.allocUnsafe(bytes)
    const position = this.blocks.startOf(block)
    const read =
      bytes <= smallBytes ? readSync(this.file, buffer, position) : await readAsync(this.file, buffer, position)
    if (read === bytes && this.blocks.isIntact(block, buffer)) return buffer
    this.blocks.drop(block)
    return undefined
  }

  /** Puts a block where it belongs. Rejects with what the disk says. */
  async write(block: number, bytes: Uint8Array): Promise<void> {
    const handle = await fs.open(this.file, sync.constants.O_WRONLY | sync.constants.O_CREAT, 0o600)
    try {
      await handle.write(bytes, 0, bytes.byteLength, this.blocks.startOf(block))
    } finally {
      await handle.close()
    }
    if (this.isGone) await fs.rm(this.file, { force: true }) // it was taken away while we wrote
    this.blocks.add(block, bytes)
  }
}

/** How many bytes there were; fewer than wanted, or none, when the file is not what it was. */
function readSync(file: string, buffer: Buffer, position: number): number {
  try {
    const descriptor = sync.openSync(file, 'r')
    try {
      return sync.readSync(descriptor, buffer, 0, buffer.byteLength, position)
    } finally {
      sync.closeSync(descriptor)
    }
  } catch {
    return 0
  }
}

async function readAsync(file: string, buffer: Buffer, position: number): Promise<number> {
  try {
    const handle = await fs.open(file, 'r')
    try {
      return (await handle.read(buffer, 0, buffer.byteLength, position)).bytesRead
    } finally {
      await handle.close()
    }
  } catch {
    return 0
  }
}
