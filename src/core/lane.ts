/** The way to one store: how many deliveries at once, and a pause while the store is down, so that it slows only its own jobs. */
import type { Clock } from './clock.ts'
import { codeOf, StowageError } from './errors.ts'
import { AdaptiveLimit, Limit } from './limit.ts'
import { backoffMs } from './retry.ts'

/** A store that answers like this is in trouble itself; the file has nothing to do with it. */
const troubles = new Set(['UNREACHABLE', 'TIMEOUT', 'THROTTLED', 'BUSY', 'NO_SPACE'])

/** One lane. */
export class Lane {
  readonly #clock: Clock
  readonly #limit: Limit | AdaptiveLimit
  #failures = 0
  #pausedUntil = 0
  #reason: string | undefined

  /** `maxConnections` fixes the number of deliveries at once; without it the number adapts itself. */
  constructor(clock: Clock, maxConnections?: number) {
    this.#clock = clock
    this.#limit = maxConnections === undefined ? new AdaptiveLimit() : new Limit(maxConnections)
  }

  /** Until when the store is left alone, in milliseconds since the epoch; undefined when it is well. */
  get pausedUntil(): number | undefined {
    return this.#pausedUntil > this.#clock.now() ? this.#pausedUntil : undefined
  }

  /** How often in a row the store was tried and found in trouble. */
  get failures(): number {
    return this.#failures
  }

  /** What the store's trouble is. */
  get reason(): string | undefined {
    return this.#failures > 0 ? this.#reason : undefined
  }

  /** Runs work that needs the store. Rejects at once while it is paused. */
  async run<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.#limit.run(async () => {
      if (this.pausedUntil !== undefined) throw new StowageError('UNREACHABLE', this.#reason ?? 'The store is down.')
      try {
        const result = await work()
        this.#failures = 0
        return result
      } catch (error) {
        if (troubles.has(codeOf(error))) this.#pause(error as StowageError)
        throw error
      }
    }, signal)
  }

  #pause(error: StowageError) {
    // Many deliveries in flight fail together: that is one failure of the store, not many.
    if (this.pausedUntil === undefined) this.#failures++
    const wait = Math.max(error.retryAfterMs ?? 0, backoffMs(this.#failures, { baseMs: 500, maxMs: 60_000 }))
    this.#pausedUntil = Math.max(this.#pausedUntil, this.#clock.now() + wait)
    this.#reason = error.message
  }
}
