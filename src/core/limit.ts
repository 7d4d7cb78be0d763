/** How many at once: a fixed limit, and one that finds its own. */
import { onAbort } from './abort.ts'
import { codeOf, StowageError } from './errors.ts'

/** Runs at most `max` pieces of work at once; the others wait their turn, first come first served. */
export class Limit {
  #max: number
  #running = 0
  readonly #waiting: { start: () => void }[] = []
  #head = 0

  constructor(max: number) {
    if (!(max >= 1)) throw new StowageError('INVALID_ARGUMENT', `A limit of ${max} would let nothing run.`)
    this.#max = Math.floor(max)
  }

  get max(): number {
    return this.#max
  }

  get running(): number {
    return this.#running
  }

  /** How many wait for their turn. */
  get waiting(): number {
    return this.#waiting.length - this.#head
  }

  /** Runs the work when its turn comes. Rejects with ABORTED when the signal fires before that. */
  async run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (signal?.aborted) throw cancelled(signal)
    if (this.#running < this.#max) this.#running++
    else await this.#turn(signal)
    try {
      return await work()
    } finally {
      this.#running--
      this.#next()
    }
  }

  /** Changes the limit; what runs goes on. */
  protected resize(max: number): void {
    this.#max = max
    this.#next()
  }

  async #turn(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const entry = { start: resolve }
    this.#waiting.push(entry)
    if (!signal) return promise
    const abort = () => {
      entry.start = () => this.#next(true)
      reject(cancelled(signal))
    }
    const stopListening = onAbort(signal, abort)
    try {
      await promise
    } finally {
      stopListening()
    }
  }

  /** Starts who waits, as many as fit. A place given to somebody who has left is passed on. */
  #next(passedOn = false) {
    if (passedOn) this.#running--
    while (this.#running < this.#max && this.#head < this.#waiting.length) {
      const entry = this.#waiting[this.#head++]
      this.#running++
      entry?.start()
    }
    if (this.#head > 1024 && this.#head * 2 > this.#waiting.length) {
      this.#waiting.splice(0, this.#head)
      this.#head = 0
    }
  }
}

/** Where an adaptive limit starts and how far it goes. */
export interface AdaptiveLimitOptions {
  /** Default 16. */
  start?: number
  /** Default 1. */
  min?: number
  /** Default 256. */
  max?: number
  /** Milliseconds of a steady clock. Default performance.now. */
  now?: () => number
}

/**
 * A limit that climbs as long as that brings throughput. It looks at windows of completions: when a window that kept
 * all places busy finished more per second than the best smaller limit did, it grows by half; when a larger limit brought
 * nothing, it goes back. THROTTLED halves it. No timers, constant work per call.
 */
export class AdaptiveLimit extends Limit {
  readonly #min: number
  readonly #ceiling: number
  readonly #now: () => number
  #completed = 0
  #since: number | undefined
  #wasBusy = true
  #best = { rate: 0, limit: 0 }
  #windowsHere = 0

  constructor(options: AdaptiveLimitOptions = {}) {
    super(options.start ?? 16)
    this.#min = options.min ?? 1
    this.#ceiling = options.max ?? 256
    this.#now = options.now ?? (() => performance.now())
  }

  override async run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return super.run(async () => {
      this.#since ??= this.#now()
      try {
        return await work()
      } catch (error) {
        if (codeOf(error) === 'THROTTLED') this.#shrink()
        throw error
      } finally {
        this.#count()
      }
    }, signal)
  }

  #count() {
    this.#completed++
    if (this.waiting === 0) this.#wasBusy = false
    if (this.#completed < Math.max(32, this.max * 2)) return
    const seconds = Math.max(1e-6, (this.#now() - (this.#since ?? 0)) / 1000)
    if (this.#wasBusy) this.#judge(this.#completed / seconds)
    this.#startWindow()
  }

  #judge(rate: number) {
    this.#windowsHere++
    const { best, max } = { best: this.#best, max: this.max }
    if (max > best.limit && rate > best.rate * 1.1) {
      this.#best = { rate, limit: max }
      this.#go(Math.min(this.#ceiling, Math.ceil(max * 1.5)))
    } else if (max > best.limit && rate < best.rate * 0.9) this.#go(best.limit)
    else if (this.#windowsHere >= 20) {
      // Times change: forget what was best, and climb again from here.
      this.#best = { rate: 0, limit: 0 }
      this.#windowsHere = 0
    }
  }

  #shrink() {
    this.#best = { rate: 0, limit: 0 }
    this.#go(Math.max(this.#min, Math.floor(this.max / 2)))
    this.#startWindow()
  }

  #go(limit: number) {
    if (limit === this.max) return
    this.#windowsHere = 0
    this.resize(limit)
  }

  #startWindow() {
    this.#completed = 0
    this.#since = this.#now()
    this.#wasBusy = true
  }
}

function cancelled(signal: AbortSignal): StowageError {
  return new StowageError('ABORTED', 'The call was cancelled before its turn.', { cause: signal.reason })
}
