/** Trying again: exponential back-off with full jitter, for failures that may pass. */
import { systemClock, type Clock } from './clock.ts'
import { StowageError } from './errors.ts'

/** How long and how often to try. */
export interface RetryOptions {
  /** In all. Default 5. */
  attempts?: number
  /** Longest wait after the first failure; it doubles with each. Default 200 ms. */
  baseMs?: number
  /** Default 20 s. */
  maxMs?: number
  /** After which failures. Default: those that are `retryable`; this is asked in addition. */
  isRepeatable?: (error: StowageError) => boolean
  signal?: AbortSignal
  clock?: Clock
  random?: () => number
}

/** How long to wait after attempt n (1, 2, …): between half and all of the doubled base, so that many do not come back at once. */
export function backoffMs(
  attempt: number,
  { baseMs, maxMs, random = Math.random }: { baseMs: number; maxMs: number; random?: () => number },
): number {
  const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(attempt - 1, 40))
  return Math.round(ceiling * (0.5 + random() / 2))
}

/** Runs the work until it succeeds, fails for good, or has failed too often. Waits at least as long as the place asks. */
export async function retry<T>(work: (attempt: number) => Promise<T>, options: RetryOptions = {}): Promise<T> {
  for (let attempt = 1; ; attempt++)
    try {
      return await work(attempt)
    } catch (error) {
      await waitToRetry(error, attempt, options)
    }
}

/**
 * Was the call refused? Whatever got no answer may have been done, so this is all that what must not be done twice may be
 * repeated after: a write under a condition would meet itself, and take that for somebody else's.
 */
export function isRefusal({ code }: StowageError): boolean {
  return code === 'THROTTLED' || code === 'BUSY'
}

/** Waits before another try after the failure of attempt n; throws the failure again when there is to be none. */
export async function waitToRetry(error: unknown, attempt: number, options: RetryOptions = {}): Promise<void> {
  const { attempts = 5, baseMs = 200, maxMs = 20_000, signal, clock = systemClock, random } = options
  if (!(error instanceof StowageError) || !error.retryable || attempt >= attempts || signal?.aborted) throw error
  if (options.isRepeatable?.(error) === false) throw error
  const wait = backoffMs(attempt, { baseMs, maxMs, ...(random ? { random } : {}) })
  await clock.sleep(Math.max(wait, error.retryAfterMs ?? 0), signal)
}
