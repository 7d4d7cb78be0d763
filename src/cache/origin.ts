/** Where the cache gets files from, and how long it waits for them. */
import type { Readable } from 'node:stream'
import { StowageError } from '../core/errors.ts'
import { Pull } from '../core/pull.ts'
import type { ByteRange, OpenFile } from '../store/driver.ts'

/** Where the cache gets a file from. */
export interface Origin {
  /** Which store: the cache may be shared by several. */
  store: string
  /** Can it begin in the middle of a file? */
  range: boolean
  read: (key: string, options: { range?: ByteRange; signal?: AbortSignal }) => Promise<OpenFile>
}

/** One read of an origin, which is not waited for without end and belongs to none of those who want its bytes. */
export class Source {
  /** Rejects with what the origin says, or with what the source was aborted with. */
  readonly opened: Promise<OpenFile>
  readonly #key: string
  readonly #timeoutMs: number
  readonly #stop = new AbortController()
  readonly #reject: (error: unknown) => void
  #timer: NodeJS.Timeout | undefined
  #body: Readable | undefined
  #pull: Pull<Buffer> | undefined

  /** Begins to read. It ends with TIMEOUT when nothing is heard for so long, see `expect`. */
  constructor(origin: Origin, key: string, range: ByteRange | undefined, timeoutMs: number) {
    this.#key = key
    this.#timeoutMs = timeoutMs
    const { promise, resolve, reject } = Promise.withResolvers<OpenFile>()
    this.opened = promise
    this.#reject = reject
    this.expect()
    const read = async () => origin.read(key, { ...(range && { range }), signal: this.#stop.signal })
    read().then((opened) => {
      this.#body = opened.body.on('error', () => undefined) // heard by whoever reads it
      this.#pull = new Pull<Buffer>(opened.body)
      if (this.#stop.signal.aborted) opened.body.destroy()
      resolve(opened)
    }, reject)
    promise.catch((error: unknown) => this.end(error))
  }

  /** The next bytes of the body, once it is open; undefined at its end. */
  async next(): Promise<Buffer | undefined> {
    return this.#pull?.next()
  }

  /** What was waited for has come, and more is: the time begins anew. */
  expect(): void {
    clearTimeout(this.#timer)
    if (!this.#stop.signal.aborted)
      this.#timer = setTimeout(() => this.end(tooSlow(this.#key, this.#timeoutMs)), this.#timeoutMs)
  }

  /** Nothing is waited for now. */
  rest(): void {
    clearTimeout(this.#timer)
  }

  /** Ends it: whoever still waits for it gets the error. */
  end(error: unknown = unwanted): void {
    clearTimeout(this.#timer)
    this.#reject(error)
    // A body may be in the middle of something that never ends: it is left, whether or not it notices.
    this.#pull?.leave(error)
    this.#body?.destroy()
    if (!this.#stop.signal.aborted) this.#stop.abort(error)
  }
}

const unwanted = new StowageError('ABORTED', 'Nobody wants it any more.')

function tooSlow(key: string, timeoutMs: number): StowageError {
  return new StowageError('TIMEOUT', `${key} does not arrive: nothing to go on with came for ${timeoutMs / 1000} s.`)
}

/** For a reader or a fill that found another file than it had begun with. */
export function changed(key: string): StowageError {
  return new StowageError('CONFLICT', `${key} changed while it was read.`, { retryable: true })
}

/** For a body that is not as long as it was to be. */
export function endedEarly(key: string): StowageError {
  return new StowageError('UNREACHABLE', `${key} ended before its end.`)
}
