/** One stream from the origin into an entry, followed by all who wait for its bytes. */
import type { Entry, Filling } from './entry.ts'
import { changed, endedEarly, type Source } from './origin.ts'

/** There is no room for a block: whoever wants it has to get it past the cache. */
export class NoRoom extends Error {}

/** Keeps a block that has arrived. Rejects with {@link NoRoom}. */
export type Keep = (entry: Entry, block: number, bytes: Buffer) => Promise<void>

/** Those who follow an origin that is fast are told of whole blocks: a hundred of them are too many to be told of each packet. */
const tellEveryMs = 10

const nothing = Buffer.alloc(0)

/** Fetches the blocks from `next` up to `end` in order. */
export class Fill implements Filling {
  next: number
  end: number
  keeping: Promise<void> | undefined
  failure: { error: unknown } | undefined
  /** Resolves when it is over, whether or not it went well. */
  readonly done: Promise<void>
  readonly #entry: Entry
  readonly #source: Source
  readonly #keep: Keep
  #followers = new Set<() => void>()
  /** What there is of the block that is arriving. */
  #block: Buffer = nothing
  #filled = 0
  /** What was last asked for of it: those who keep up with the fill all want the same. */
  #piece: Buffer = nothing
  #toldMs = -Infinity

  constructor(entry: Entry, from: number, end: number, source: Source, keep: Keep) {
    this.#entry = entry
    this.next = from
    this.end = end
    this.#source = source
    this.#keep = keep
    entry.fills.add(this)
    entry.hold()
    this.done = this.#run()
  }

  brings(block: number): boolean {
    return block >= this.next && block < this.end
  }

  piece(position: number): Buffer | undefined {
    const offset = position - this.#entry.blocks.startOf(this.next)
    if (offset < 0 || offset >= this.#filled) return undefined
    const { buffer, byteOffset } = this.#block
    const length = this.#filled - offset
    const known = this.#piece
    if (known.buffer === buffer && known.byteOffset === byteOffset + offset && known.byteLength === length) return known
    return (this.#piece = this.#block.subarray(offset, this.#filled))
  }

  follow(follower: () => void): () => void {
    const followers = this.#followers
    followers.add(follower)
    return () => followers.delete(follower)
  }

  shorten(block: number): void {
    this.end = Math.min(this.end, Math.max(this.next + 1, block))
  }

  /** Ends it; who follows it hears of the error. */
  abort(error: unknown): void {
    this.#source.end(error)
  }

  async #run() {
    try {
      const { info } = await this.#source.opened
      if (!this.#entry.isVersion(info)) throw changed(this.#entry.key)
      await this.#take()
      if (this.next < this.end) throw endedEarly(this.#entry.key)
    } catch (error) {
      this.failure = { error }
    }
    this.#source.end()
    // Whatever it has not brought, somebody else must.
    this.end = this.next
    this.#filled = 0
    this.#entry.fills.delete(this)
    this.#tell()
    this.#entry.release()
  }

  /** Cuts the stream into blocks. Those who follow get the bytes before they are on disk. */
  async #take() {
    for (let chunk = await this.#source.next(); chunk; chunk = await this.#source.next())
      for (let at = 0; at < chunk.byteLength; ) {
        at += this.#add(chunk, at)
        const isWhole = this.#filled === this.#block.byteLength
        if (isWhole || performance.now() - this.#toldMs > tellEveryMs) this.#tell()
        if (!isWhole) continue
        this.keeping = this.#keep(this.#entry, this.next, this.#block)
        await this.keeping
        this.keeping = undefined
        this.next++
        this.#filled = 0
        this.#source.expect()
        if (this.next >= this.end) return
      }
  }

  #add(chunk: Buffer, at: number): number {
    const bytes = this.#entry.blocks.bytesOf(this.next)
    // A block that comes in one piece is taken as it is.
    const isWhole = this.#filled === 0 && chunk.byteLength - at >= bytes
    if (isWhole) this.#block = chunk.subarray(at, at + bytes)
    else if (this.#filled === 0) this.#block = Buffer.allocUnsafe(bytes)
    const added = isWhole ? bytes : chunk.copy(this.#block, this.#filled, at)
    this.#filled += added
    return added
  }

  #tell() {
    this.#toldMs = performance.now()
    const followers = this.#followers
    this.#followers = new Set()
    for (const follower of followers) follower()
  }
}
