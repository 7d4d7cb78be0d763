/** Brings files back from where they were offloaded to: through the cache, block by block, each checked against its checksum. */
import { Readable } from 'node:stream'
import { crc32 } from 'node:zlib'
import type { Origin } from '../cache/cache.ts'
import { codeOf, StowageError } from '../core/errors.ts'
import { backoffMs } from '../core/retry.ts'
import type { ByteRange, CallOptions, OpenFile, ReadOptions } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import type { Context } from './context.ts'
import { blockBytes, decodeChecksums } from './fingerprint.ts'
import { infoOf, type FileRow, type Replica } from './registry.ts'

/** So long a replica that is gone, refused or damaged is not asked again. */
const rememberedMs = 600_000
/** So often in a row something is asked that fails for a passing reason. */
const attemptsAtMost = 4
const backoff = { baseMs: 200, maxMs: 5000 }

interface FetchOptions extends CallOptions {
  range?: ByteRange
  /** Only this remote. */
  remote?: string
  /** Not this one. */
  not?: string
}

interface Part {
  start: number
  end: number
}

/** Reads replicas. */
export class Fetcher {
  readonly #context: Context

  constructor(context: Context) {
    this.#context = context
  }

  /** Opens a file that is not local. Rejects with CORRUPT when no replica has it as it was stored. */
  async open(row: FileRow, options: ReadOptions): Promise<OpenFile> {
    const { cache, name } = this.#context
    const info = infoOf(row)
    if (!cache || row.size === 0) return this.fetch(row, options)
    const origin: Origin = {
      store: name,
      range: await this.#hasRanges(row),
      read: async (_key, call) => this.fetch(row, call),
    }
    const opened = await cache.open(origin, row.key, { ...options, current: info })
    return { info, body: opened.body }
  }

  /** Opens a file at a replica, past the cache: of any remote, of one alone, or of any but one. */
  async fetch(row: FileRow, { range, signal, remote, not }: FetchOptions): Promise<OpenFile> {
    throwIfAborted(signal)
    const isWanted = (each: Replica) => each.remote === (remote ?? each.remote) && each.remote !== not
    const part = { start: Math.min(range?.start ?? 0, row.size), end: Math.min(range?.end ?? row.size, row.size) }
    if (part.start >= part.end) return { info: infoOf(row), body: Readable.from([], { objectMode: false }) }
    const stream = new Checked(this.#context, row, part, { signal, isWanted })
    await stream.begin()
    return { info: infoOf(row), body: stream.body() }
  }

  /** Opens all of a file: what the cache has as a whole, it gives; anything else does not have to go through it. */
  async openWhole(row: FileRow, { signal, not }: CallOptions & { not?: string }): Promise<OpenFile> {
    const { cache, name } = this.#context
    const call = signal ? { signal } : {}
    if (cache?.has(name, row.key, row.version)) return this.open(row, call)
    return this.fetch(row, { ...call, ...(not !== undefined && { not }) })
  }

  /** Only where every replica can begin in the middle may the cache ask for blocks out of order. */
  async #hasRanges({ key, version }: FileRow): Promise<boolean> {
    const { registry, routes } = this.#context
    const replicas = (await registry.replicas(key)).filter((each) => each.version === version)
    const drivers = await Promise.all(replicas.map(async ({ remote }) => routes.open(remote).catch(() => undefined)))
    return drivers.every((driver) => driver?.supports.range ?? true)
  }
}

/** A body on its way from a replica, and what it is cut into. */
interface Arriving {
  replica: Replica
  body: Readable
  blocks: AsyncGenerator<Buffer>
}

/** The bytes of a part of a file, of whichever replicas have them; nothing is passed on that is not what was stored. */
class Checked {
  readonly #context: Context
  readonly #row: FileRow
  readonly #part: Part
  readonly #call: CallOptions
  readonly #isWanted: (replica: Replica) => boolean
  readonly #checksums: Uint32Array
  /** Where the next block begins. */
  #at: number
  #failures = 0
  readonly #damaged = new Set<string>()
  #arriving: Arriving | undefined
  #isLeft = false

  constructor(
    context: Context,
    row: FileRow,
    part: Part,
    { signal, isWanted }: { signal: AbortSignal | undefined; isWanted: (replica: Replica) => boolean },
  ) {
    this.#context = context
    this.#row = row
    this.#part = part
    this.#call = signal ? { signal } : {}
    this.#isWanted = isWanted
    this.#checksums = decodeChecksums(row.checksums ?? '')
    this.#at = Math.floor(part.start / blockBytes) * blockBytes
  }

  /** Opens whichever replica answers. Rejects when none does. */
  async begin(): Promise<Arriving> {
    for (;;) {
      const replica = await this.#choose()
      try {
        const body = await this.#open(replica)
        this.#arriving = { replica, body, blocks: this.#blocks(body) }
        if (this.#isLeft) this.#release()
        return this.#arriving ?? this.#left()
      } catch (error) {
        await this.#failed(replica, error)
      }
    }
  }

  /** All of it as a body. Whoever leaves it, at whatever moment and for whatever reason, has nothing to do with the replicas. */
  body(): Readable {
    const bytes = this.#bytes()
    return new Readable({
      read() {
        bytes.next().then(
          ({ value, done }) => this.push(done ? null : value),
          (error: Error) => this.destroy(error),
        )
      },
      destroy: (error, done) => {
        this.#isLeft = true
        this.#release()
        done(error)
      },
    })
  }

  async *#bytes(): AsyncGenerator<Buffer, undefined> {
    let sent = 0
    while (this.#at < this.#end) {
      const { block, replica } = await this.#next()
      const { start, end } = this.#part
      const offset = this.#at - block.byteLength
      const wanted = block.subarray(Math.max(0, start - offset), Math.max(0, end - offset))
      sent += wanted.byteLength
      // Who has all that was wanted need not ask for the end.
      if (this.#at >= this.#end) await this.#succeeded(replica, sent)
      yield wanted
    }
  }

  async #next(): Promise<{ block: Buffer; replica: Replica }> {
    for (;;) {
      const { replica, blocks } = this.#arriving ?? (await this.begin())
      try {
        const { value, done } = await blocks.next()
        if (!done) return { block: value, replica }
        throw new StowageError('UNREACHABLE', `${this.#row.key} ended before its end.`)
      } catch (error) {
        this.#release()
        await this.#failed(replica, error)
      }
    }
  }

  async #succeeded(replica: Replica, bytes: number) {
    this.#release()
    if (replica.failedMs !== undefined) await this.#context.registry.setFailure(replica, undefined)
    this.#context.events.emit('fetched', { key: this.#row.key, remote: replica.remote, bytes })
  }

  #release() {
    this.#arriving?.body.destroy()
    this.#arriving = undefined
  }

  #left(): never {
    throw new StowageError('ABORTED', `Nobody wants ${this.#row.key} any more.`)
  }

  get #end(): number {
    return Math.min(this.#row.size, Math.ceil(this.#part.end / blockBytes) * blockBytes)
  }

  /** Cuts a body into the blocks of the file from `#at` on, each of which is right. */
  async *#blocks(body: Readable): AsyncGenerator<Buffer> {
    let pieces: Buffer[] = []
    let length = 0
    for await (const chunk of body as AsyncIterable<Buffer>) {
      for (let at = 0; at < chunk.byteLength && this.#at < this.#end; ) {
        const missing = Math.min(blockBytes, this.#row.size - this.#at) - length
        const piece = chunk.subarray(at, at + missing)
        at += piece.byteLength
        length += piece.byteLength
        pieces.push(piece)
        if (piece.byteLength < missing) continue
        const block = pieces.length === 1 ? piece : Buffer.concat(pieces)
        this.#check(block)
        ;[pieces, length] = [[], 0]
        this.#at += block.byteLength
        this.#failures = 0
        yield block
      }
      if (this.#at >= this.#end) return
    }
  }

  #check(block: Buffer) {
    const expected = this.#checksums[this.#at / blockBytes]
    if (expected !== undefined && crc32(block) !== expected) throw this.#corrupt('other bytes than were stored')
  }

  async #open({ remote, remoteKey }: Replica): Promise<Readable> {
    const driver = await this.#context.routes.open(remote)
    const range = { start: this.#at, end: this.#end }
    const isWhole = range.start === 0 && range.end === this.#row.size
    const call = driver.supports.range && !isWhole ? { ...this.#call, range } : this.#call
    const { info, body } = await driver.read(remoteKey, call)
    if (info.size !== this.#row.size) {
      body.destroy()
      throw this.#corrupt(`${info.size} bytes instead of ${this.#row.size}`)
    }
    return driver.supports.range ? body : skipped(body, this.#at)
  }

  /** The replica to ask: one that is not known to be of no use. */
  async #choose(): Promise<Replica> {
    const { registry, clock } = this.#context
    const { key, version } = this.#row
    const all = (await registry.replicas(key)).filter((each) => each.version === version && each.state === 'present')
    const named = all.filter(this.#isWanted)
    const isKnownBad = ({ failedMs = -Infinity }: Replica) => Math.abs(clock.now() - failedMs) < rememberedMs
    const useful = named.filter((each) => !isKnownBad(each))
    // Those that have not disappointed this call come first; after passing failures each has its turn.
    const chosen = useful[this.#failures % Math.max(1, useful.length)]
    if (chosen) return chosen
    const [bad] = named
    if (!bad) {
      const now = await registry.find(key)
      if (now?.version !== version || now.local !== undefined)
        throw new StowageError('CONFLICT', `${key} changed while it was read.`, { retryable: true })
    }
    throw new StowageError(
      'CORRUPT',
      `${key} cannot be had${bad ? `: ${bad.reason}` : ': no copy of it is recorded.'}`,
      {
        hint: 'It is asked for again after ten minutes, or at once after `stowage retry`.',
      },
    )
  }

  /** Waits for what may pass, remembers what will not; rejects when it makes no sense to go on. */
  async #failed(replica: Replica, error: unknown): Promise<void> {
    const { registry, clock, log, events } = this.#context
    throwIfAborted(this.#call.signal)
    if (this.#isLeft) this.#left()
    const code = codeOf(error)
    if (code === 'CLOSED' || code === 'ABORTED') throw error
    this.#failures++
    const { key } = this.#row
    if (error instanceof StowageError && error.retryable && code !== 'CORRUPT') {
      if (this.#failures < attemptsAtMost)
        return clock.sleep(Math.max(error.retryAfterMs ?? 0, backoffMs(this.#failures, backoff)), this.#call.signal)
      events.emit('failed', { key, operation: 'fetch', error })
      throw error
    }
    // Bytes may be damaged on the way; those that are wrong twice are so at their place.
    if (code === 'CORRUPT' && !this.#damaged.has(replica.remote)) {
      this.#damaged.add(replica.remote)
      return
    }
    const reason = code === 'NOT_FOUND' ? `it is no longer at ${replica.remote}.` : (error as Error).message
    log.error(`${key} cannot be read from ${replica.remote}: ${reason}`)
    events.emit('failed', { key, operation: 'fetch', error })
    await registry.setFailure(replica, { atMs: clock.now(), reason })
  }

  #corrupt(what: string): StowageError {
    return new StowageError('CORRUPT', `A copy of ${this.#row.key} has ${what}.`)
  }
}

/** A body without its beginning, from places that always send all. */
function skipped(body: Readable, bytes: number): Readable {
  if (bytes === 0) return body
  const rest = async function* () {
    let skip = bytes
    for await (const chunk of body as AsyncIterable<Buffer>) {
      const kept = chunk.subarray(Math.min(skip, chunk.byteLength))
      skip -= chunk.byteLength - kept.byteLength
      if (kept.byteLength > 0) yield kept
    }
  }
  return Readable.from(rest(), { objectMode: false }).once('close', () => body.destroy())
}
