/** One reader of an entry, as a stream: bytes from memory, the disk, a fill that is bringing them, or past the cache. */
import { Readable } from 'node:stream'
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import type { ByteRange } from '../store/driver.ts'
import type { Entry, Filling } from './entry.ts'
import { NoRoom } from './fill.ts'
import type { HotBlocks } from './hot-blocks.ts'
import { changed, endedEarly, type Origin, type Source } from './origin.ts'

/** What readers need of the cache. */
export interface ReadingHost {
  readonly hot: HotBlocks
  /** The fill to wait for: one that is about to bring the block, or a new one that goes on to the block `until`. */
  fillFor: (origin: Origin, entry: Entry, block: number, until: number) => Filling
  /** Reads a part past the cache. */
  past: (origin: Origin, entry: Entry, range: ByteRange) => Source
  began: (reading: Reading) => void
  ended: (reading: Reading) => void
}

/** What is wanted of an entry. */
export interface Part {
  start: number
  end: number
  /** The last block worth fetching on the way. */
  until: number
  signal: AbortSignal | undefined
}

/**
 * Bytes of an entry in order. It begins to look for them when it is read, holds the entry until it is closed, and never waits
 * for other readers.
 */
export class Reading extends Readable {
  readonly entry: Entry
  /** Has it needed nothing from the origin? */
  isHit: boolean
  readonly #host: ReadingHost
  readonly #origin: Origin
  readonly #end: number
  readonly #until: number
  #stopListening: () => void = () => undefined
  #at: number
  /** Something is under way that will call again. */
  #isBusy = false
  /** The last it has followed, and how to stop. */
  #fill: Filling | undefined
  #unfollow: () => void = () => undefined
  /** Once there was no room. */
  #source: Source | undefined
  #goOn: (() => void) | undefined

  constructor(host: ReadingHost, origin: Origin, entry: Entry, part: Part, isHit: boolean) {
    // Pieces are handed on one by one: a stream that had several in its buffer would copy them into one.
    super({ highWaterMark: 1 })
    this.entry = entry
    this.isHit = isHit
    this.#host = host
    this.#origin = origin
    this.#at = part.start
    this.#end = part.end
    this.#until = part.until
    entry.hold()
    host.began(this)
    // Whoever reads later finds the error then; until that nobody listens, which would end the process.
    this.on('error', () => undefined)
    this.#stopListening = onAbort(part.signal, () =>
      this.destroy(new StowageError('ABORTED', 'The call was cancelled.', { cause: part.signal?.reason })),
    )
  }

  override _read(): void {
    this.#goOn?.()
    if (this.#isBusy) return
    if (this.readableLength === 0) this.#go()
    else this.#after(Promise.resolve(), () => this.#go())
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#stopListening()
    this.#unfollow()
    this.#source?.end()
    this.#goOn?.()
    this.#host.ended(this)
    this.entry.release()
    done(error)
  }

  /** Hands on what there is, until it is enough for now, or something has to be waited for. */
  #go(): void {
    try {
      while (this.#at < this.#end && !this.destroyed) {
        const block = this.entry.blocks.at(this.#at)
        const whole = this.#host.hot.get(this.entry.id, block) ?? this.#fromDisk(block)
        if (whole instanceof Promise) return this.#after(whole, (bytes) => this.#hasRead(block, bytes))
        const bytes = whole?.subarray(this.#at - this.entry.blocks.startOf(block)) ?? this.#arriving()
        if (!bytes) return this.#follow(block)
        this.#give(bytes)
        if (this.readableLength > 0) return
      }
      this.#finish()
    } catch (error) {
      this.destroy(error as Error)
    }
  }

  /** What was read is in the cache when the reading has ended, if there is room for it. */
  #finish() {
    const keeping = [...this.entry.fills].flatMap((fill) => fill.keeping ?? [])
    if (keeping.length === 0) this.push(null)
    else this.#after(Promise.allSettled(keeping), () => this.push(null))
  }

  #fromDisk(block: number): Buffer | undefined | Promise<Buffer | undefined> {
    if (!this.entry.blocks.has(block)) return undefined
    const bytes = this.entry.read(block)
    if (bytes && !(bytes instanceof Promise)) this.#host.hot.put(this.entry.id, block, bytes)
    return bytes
  }

  #hasRead(block: number, bytes: Buffer | undefined) {
    if (bytes) {
      this.#host.hot.put(this.entry.id, block, bytes)
      this.#give(bytes.subarray(this.#at - this.entry.blocks.startOf(block)))
    }
    if (this.readableLength === 0) this.#go()
  }

  #arriving(): Buffer | undefined {
    for (const fill of this.entry.fills) {
      const bytes = fill.piece(this.#at)
      if (bytes) return bytes
    }
    return undefined
  }

  #give(bytes: Buffer) {
    const left = this.#end - this.#at
    const wanted = bytes.byteLength > left ? bytes.subarray(0, left) : bytes
    this.#at += wanted.byteLength
    this.entry.lastEnd = this.#at
    this.push(wanted)
  }

  #follow(block: number) {
    this.isHit = false
    // If there was no room for the block before, there is none for this one.
    if (this.#fill?.failure?.error instanceof NoRoom) return void this.#pass()
    const fill = (this.#fill = this.#host.fillFor(this.#origin, this.entry, block, this.#until))
    this.#isBusy = true
    this.#unfollow = fill.follow(() => {
      this.#isBusy = false
      const error = block < fill.next ? undefined : fill.failure?.error
      if (error && !(error instanceof NoRoom)) this.destroy(error as Error)
      else this.#go()
    })
  }

  #after<T>(promise: Promise<T>, next: (value: T) => void) {
    this.#isBusy = true
    promise
      .then((value) => {
        this.#isBusy = false
        if (!this.destroyed) next(value)
      })
      .catch((error: unknown) => this.destroy(error as Error))
  }

  /** The rest comes straight from the origin, if it is still the same file, at the pace of whoever reads it. */
  async #pass() {
    this.#isBusy = true
    const from = this.#origin.range ? this.#at : 0
    const source = (this.#source = this.#host.past(this.#origin, this.entry, { start: from, end: this.#end }))
    try {
      const { info } = await source.opened
      if (!this.entry.isVersion(info)) throw changed(this.entry.key)
      let position = from
      for (let chunk = await source.next(); chunk; chunk = await source.next()) {
        const bytes = chunk.subarray(Math.max(0, this.#at - position))
        position += chunk.byteLength
        if (bytes.byteLength > 0) this.#give(bytes)
        if (this.destroyed) return
        if (this.#at === this.#end) break
        source.rest()
        if (this.readableLength > 0) await new Promise<void>((resolve) => (this.#goOn = resolve))
        source.expect()
      }
      if (this.#at < this.#end) throw endedEarly(this.entry.key)
      this.push(null)
    } catch (error) {
      this.destroy(error as Error)
    } finally {
      source.end()
    }
  }
}
