/** Time, passed in so that tests own it. */
import { setTimeout as delay } from 'node:timers/promises'
import { StowageError } from './errors.ts'

/** What code may know of time. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Resolves after `ms`; rejects with ABORTED when the signal fires first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

/** The machine's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  async sleep(ms, signal) {
    try {
      await delay(ms, undefined, { signal })
    } catch (cause) {
      throw new StowageError('ABORTED', 'Stopped while waiting.', { cause })
    }
  },
}
