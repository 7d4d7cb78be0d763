/** One version of one file in the cache: its blocks on disk, and those who fetch and read them. */
import * as fs from 'node:fs'
import * as path from 'node:path'
import type { FileInfo } from '../store/driver.ts'
import type { Blocks } from './blocks.ts'

/** Up to this size a block is read without leaving the thread: going to the pool and back costs more. */
const smallBytes = 64 * 1024

/** The file has another name, or may not be written: it is not ours to change. */
export class NotOurs extends Error {}

/** A stream on its way into an entry. */
export interface Filling {
  /** The first block that is not in the cache yet. */
  readonly next: number
  /** The first block that is not fetched. */
  readonly end: number
  /** While the block `next` has arrived and is being put into the cache. Rejects when it cannot be. */
  readonly keeping: Promise<void> | undefined
  /** Why it has ended early. */
  readonly failure: { error: unknown } | undefined
  /** Will it bring this block? */
  brings(block: number): boolean
  /** What has arrived from this position on of the block that is arriving, if it is in there. */
  piece(position: number): Buffer | undefined
  /** Calls back once, when something has arrived or it is over. Returns how to stop. */
  follow(follower: () => void): () => void
  /** Fetches no further than this block, but for the one that is arriving. */
  shorten(block: number): void
}

/** What an entry tells the cache. */
export interface EntryHooks {
  /** It is gone and nobody holds it any more: it takes no room on disk. */
  freed: (entry: Entry) => void
  /** A block was not as it had been written. */
  damaged: (entry: Entry) => void
}

/** What the cache keeps of a file. */
export class Entry {
  readonly id: string
  readonly store: string
  readonly key: string
  readonly info: FileInfo
  readonly blocks: Blocks
  readonly file: string
  /** Under way. */
  readonly fills = new Set<Filling>()
  /** Who reads it now. */
  readers = 0
  /** When it was read last, on the cache's own clock. */
  usedMs = 0
  /** When it had been read last as its line in the catalogue was written. */
  notedMs = 0
  /** It is no longer in the cache, and its file has no name; whoever holds it goes on with it. */
  isGone = false
  /** Where it stands among all entries. */
  index = -1
  /** Where the last read ended: one that begins there is sequential. */
  lastEnd = 0
  readonly #hooks: EntryHooks
  /** Blocks that are being read from disk, for all who want them. */
  readonly #reading = new Map<number, Promise<Buffer | undefined>>()
  #isUnlinked = false
  #holders = 0
  /** Open for as long as somebody holds it. */
  #descriptor: number | undefined
  #isReadOnly = false

  constructor(options: Pick<Entry, 'id' | 'store' | 'info' | 'blocks' | 'file'>, hooks: EntryHooks) {
    this.id = options.id
    this.store = options.store
    this.key = options.info.key
    this.info = options.info
    this.blocks = options.blocks
    this.file = options.file
    this.#hooks = hooks
  }

  /** Is it the file another info tells of? */
  isVersion(info: FileInfo): boolean {
    return isSameVersion(info, this.info)
  }

  /** Then it must not be evicted. */
  get isHeld(): boolean {
    return this.#holders > 0
  }

  hold(): void {
    this.#holders++
  }

  release(): void {
    if (--this.#holders > 0) return
    if (this.#descriptor !== undefined) fs.closeSync(this.#descriptor)
    this.#descriptor = undefined
    if (this.#isUnlinked) this.#hooks.freed(this)
  }

  /** Takes the name of its file away: it is gone. Its room is free when nobody holds it any more. */
  async unlink(): Promise<void> {
    this.isGone = true
    try {
      await fs.promises.rm(this.file, { force: true })
    } finally {
      this.#isUnlinked = true
      if (!this.isHeld) this.#hooks.freed(this)
    }
  }

  /**
   * A block that is here, for somebody who holds the entry. Undefined, and no longer here, when the disk has it no more, or
   * not as it was.
   */
  read(block: number): Buffer | undefined | Promise<Buffer | undefined> {
    if (this.blocks.bytesOf(block) > smallBytes) return this.#readLarge(block)
    const bytes = Buffer.allocUnsafe(this.blocks.bytesOf(block))
    return this.#checked(block, bytes, this.#readNow(bytes, this.blocks.startOf(block)))
  }

  /** Puts a block where it belongs, for somebody who holds the entry. Rejects with what the disk says, or with {@link NotOurs}. */
  async write(block: number, bytes: Uint8Array): Promise<void> {
    const descriptor = this.#open(true)
    if (this.#isReadOnly || fs.fstatSync(descriptor).nlink > 1) throw new NotOurs()
    const start = this.blocks.startOf(block)
    for (let written = 0; written < bytes.byteLength; )
      written += await new Promise<number>((resolve, reject) =>
        fs.write(descriptor, bytes, written, bytes.byteLength - written, start + written, (error, count) =>
          error ? reject(error) : resolve(count),
        ),
      )
    this.blocks.add(block, bytes)
  }

  async #readLarge(block: number): Promise<Buffer | undefined> {
    const known = this.#reading.get(block)
    if (known) return known
    const bytes = Buffer.allocUnsafeSlow(this.blocks.bytesOf(block))
    const reading = this.#readSlowly(bytes, this.blocks.startOf(block)).then((read) =>
      this.#checked(block, bytes, read),
    )
    this.#reading.set(block, reading)
    this.hold()
    try {
      return await reading
    } finally {
      this.#reading.delete(block)
      this.release()
    }
  }

  #checked(block: number, bytes: Buffer, read: number): Buffer | undefined {
    if (read === bytes.byteLength && this.blocks.isIntact(block, bytes)) return bytes
    this.blocks.drop(block)
    this.#hooks.damaged(this)
    return undefined
  }

  /** How many bytes there were; fewer than wanted, or none, when the file is not what it was. */
  #readNow(bytes: Buffer, position: number): number {
    try {
      return fs.readSync(this.#open(false), bytes, 0, bytes.byteLength, position)
    } catch {
      return 0
    }
  }

  async #readSlowly(bytes: Buffer, position: number): Promise<number> {
    return new Promise((resolve) => {
      try {
        fs.read(this.#open(false), bytes, 0, bytes.byteLength, position, (error, read) => resolve(error ? 0 : read))
      } catch {
        resolve(0)
      }
    })
  }

  #open(canCreate: boolean): number {
    return (this.#descriptor ??= canCreate ? this.#create() : this.#reopen())
  }

  #reopen(): number {
    try {
      this.#isReadOnly = false
      return fs.openSync(this.file, 'r+')
    } catch {
      this.#isReadOnly = true
      return fs.openSync(this.file, 'r')
    }
  }

  #create(): number {
    this.#isReadOnly = false
    const open = () => fs.openSync(this.file, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o600)
    try {
      return open()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      fs.mkdirSync(path.dirname(this.file), { recursive: true, mode: 0o700 }) // somebody has removed the directory
      return open()
    } finally {
      if (this.isGone) fs.rmSync(this.file, { force: true })
    }
  }
}

/** Is it the same version of a file? Places without versions are believed by size and time. */
export function isSameVersion(one: FileInfo, other: FileInfo): boolean {
  if (one.size !== other.size) return false
  if (one.etag !== undefined || other.etag !== undefined) return one.etag === other.etag
  return one.modified?.getTime() === other.modified?.getTime()
}
