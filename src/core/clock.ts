/** Time as a parameter, so that tests need not wait for it. */
import { StowageError } from './errors.ts'

/** What tells the time and waits. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number
  /** Waits; rejects with ABORTED when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

/** The longest wait a timer of node can do; longer ones are cut to it. */
const longestTimerMs = 2 ** 31 - 1

/**
 * The real time, as it was when the process began, and from then on as it has passed: whoever sets the clock of the machine
 * makes nothing be due early, or never.
 */
export const systemClock: Clock = {
  now: () => Math.floor(performance.timeOrigin + performance.now()),
  sleep: async (ms, signal) =>
    new Promise((resolve, reject) => {
      const stop = () => {
        clearTimeout(timer)
        reject(new StowageError('ABORTED', 'The wait was cancelled.', { cause: signal?.reason }))
      }
      const timer = setTimeout(
        () => {
          signal?.removeEventListener('abort', stop)
          resolve()
        },
        Math.min(ms, longestTimerMs),
      )
      if (signal?.aborted) stop()
      else signal?.addEventListener('abort', stop, { once: true })
    }),
}
