/** A file that is being opened at its origin, for all who wait for it. */
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import type { FileInfo } from '../store/driver.ts'
import type { Entry } from './entry.ts'
import type { Source } from './origin.ts'

/** Whoever is cancelled leaves; it is given up when nobody is left. */
export class Opening {
  /** What the file is, as far as those who wait know. */
  readonly current: FileInfo | undefined
  readonly #source: Source
  readonly #entry: Promise<Entry>
  readonly #onOver: () => void
  #waiting = 0
  #isOver = false

  /** `onOver` is called once, when there is no more reason to wait for it. */
  constructor(source: Source, entry: Promise<Entry>, current: FileInfo | undefined, onOver: () => void) {
    this.#source = source
    this.#entry = entry
    this.current = current
    this.#onOver = onOver
    const over = () => this.#over()
    entry.then(over, over)
  }

  /** Rejects with what the origin says, or with ABORTED. */
  async wait(signal: AbortSignal | undefined): Promise<Entry> {
    this.#waiting++
    try {
      return await orAborted(this.#entry, signal)
    } finally {
      if (--this.#waiting === 0 && !this.#isOver) {
        this.#over()
        this.#source.end()
      }
    }
  }

  /** Ends it: all who wait get the error. */
  end(error: unknown): void {
    this.#source.end(error)
  }

  #over() {
    if (!this.#isOver) this.#onOver()
    this.#isOver = true
  }
}

/** Waits, but not for longer than the signal allows. */
async function orAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return promise
  return new Promise((resolve, reject) => {
    const stopListening = onAbort(signal, () =>
      reject(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })),
    )
    promise.then(resolve, reject).finally(stopListening)
  })
}
