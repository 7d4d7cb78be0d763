/** Time that passes when a test says so. */
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'

/** A clock that stands still until it is advanced. */
export interface FakeClock extends Clock {
  /** Lets time pass. Sleeps that end meanwhile end in the order of their times, each at its own time. */
  advance(ms: number): Promise<void>
  /** How many sleep now. */
  readonly sleeping: number
}

/** Makes a clock that shows `start` (default 0, in milliseconds since the epoch). */
export function fakeClock(start = 0): FakeClock {
  let now = start
  const sleepers = new Set<{ until: number; wake: () => void }>()
  const next = (limit: number) =>
    [...sleepers].filter(({ until }) => until <= limit).sort((a, b) => a.until - b.until)[0]
  return {
    now: () => now,
    get sleeping() {
      return sleepers.size
    },
    sleep: async (ms, signal) =>
      new Promise((resolve, reject) => {
        const cancel = () => {
          sleepers.delete(sleeper)
          reject(new StowageError('ABORTED', 'The wait was cancelled.', { cause: signal?.reason }))
        }
        const wake = () => {
          sleepers.delete(sleeper)
          signal?.removeEventListener('abort', cancel)
          resolve()
        }
        const sleeper = { until: now + Math.max(0, ms), wake }
        sleepers.add(sleeper)
        if (signal?.aborted) cancel()
        else signal?.addEventListener('abort', cancel, { once: true })
      }),
    async advance(ms) {
      const end = now + ms
      // Whoever is on the way to sleep gets there first.
      await settled()
      for (let sleeper = next(end); sleeper; sleeper = next(end)) {
        now = sleeper.until
        sleeper.wake()
        // Whoever woke may go to sleep again before the end.
        await settled()
      }
      now = end
      await settled()
    },
  }
}

/** What is ready to run has run. */
async function settled(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
}
