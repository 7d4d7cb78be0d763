/** One stream from the origin into an entry, followed by all who wait for its blocks. */
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import type { OpenFile } from '../store/driver.ts'
import type { Entry, Filling } from './entry.ts'

/** There is no room for a block: whoever wants it has to get it past the cache. */
export class NoRoom extends Error {}

/** What a fill needs of the cache. */
export interface FillHost {
  /** Keeps a block that has arrived: makes room, writes it, and has it at hand for those who wait. Rejects with {@link NoRoom}. */
  keep: (entry: Entry, block: number, bytes: Buffer) => Promise<void>
}

/** Fetches the blocks from `next` up to `end` in order. It ends early when nobody follows it any more. */
export class Fill implements Filling {
  readonly entry: Entry
  readonly #host: FillHost
  /** The first block that has not arrived. */
  next: number
  /** The first block that is not fetched. */
  end: number
  #followers = 0
  readonly #stop = new AbortController()
  #progress = Promise.withResolvers<void>()
  #failure: { error: unknown } | undefined
  readonly done: Promise<void>

  constructor(
    entry: Entry,
    from: number,
    end: number,
    open: (signal: AbortSignal) => Promise<OpenFile>,
    host: FillHost,
  ) {
    this.entry = entry
    this.next = from
    this.end = end
    this.#host = host
    this.#progress.promise.catch(() => undefined) // heard by whoever waits
    entry.fills.add(this)
    this.done = this.#run(open)
  }

  brings(block: number): boolean {
    return block >= this.next && block < this.end
  }

  async arrival(block: number, signal: AbortSignal | undefined): Promise<void> {
    this.#followers++
    try {
      while (this.brings(block)) await orAborted(this.#progress.promise, signal)
      if (this.#failure && block >= this.next) throw this.#failure.error
    } finally {
      this.#followers--
    }
  }

  shorten(block: number): void {
    if (this.#followers === 0) this.end = Math.min(this.end, Math.max(this.next + 1, block))
  }

  abort(error: unknown): void {
    this.#failure ??= { error }
    this.#stop.abort(error)
  }

  async #run(open: (signal: AbortSignal) => Promise<OpenFile>) {
    try {
      const { info, body } = await open(this.#stop.signal)
      try {
        if (!this.entry.isVersion(info)) throw changed(this.entry.key)
        await this.#take(body as AsyncIterable<Buffer>)
      } finally {
        body.destroy()
      }
      if (this.next < this.end) throw shorter(this.entry.key)
    } catch (error) {
      this.#failure ??= { error }
    }
    // Whatever it has not brought, somebody else must.
    this.end = this.next
    this.entry.fills.delete(this)
    if (this.#failure) this.#progress.reject(this.#failure.error)
    else this.#progress.resolve()
  }

  /** Cuts the stream into blocks. */
  async #take(body: AsyncIterable<Buffer>) {
    const { blocks } = this.entry
    let block = Buffer.allocUnsafe(this.next < this.end ? blocks.bytesOf(this.next) : 0)
    let filled = 0
    for await (const chunk of body)
      for (let at = 0; at < chunk.byteLength; ) {
        const taken = chunk.copy(block, filled, at)
        at += taken
        filled += taken
        if (filled < block.byteLength) continue
        await this.#host.keep(this.entry, this.next, block)
        this.next++
        this.#advance()
        if (this.next >= this.end) return
        block = Buffer.allocUnsafe(blocks.bytesOf(this.next))
        filled = 0
      }
  }

  #advance() {
    const { resolve } = this.#progress
    this.#progress = Promise.withResolvers()
    this.#progress.promise.catch(() => undefined)
    resolve()
  }
}

/** Waits, but not for longer than the signal allows; the fill goes on for the others. */
async function orAborted(promise: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const stopListening = onAbort(signal, () =>
      reject(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })),
    )
    promise.then(resolve, reject).finally(stopListening)
  })
}

function changed(key: string): StowageError {
  return new StowageError('CONFLICT', `${key} changed while it was read.`, { retryable: true })
}

function shorter(key: string): StowageError {
  return new StowageError('UNREACHABLE', `${key} ended before its end.`)
}
