/** Looks at a whole tree without keeping anybody waiting: the walk runs in a thread, its results come in batches. */
import { Worker } from 'node:worker_threads'
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import type { ScanMessage, ScannedDirectory, ScanRequest } from './scan-worker.ts'

export type { ScannedDirectory }

/** Two halve the time where there are two processors; more gain little, as the kernel's own locks are in the way. */
const threads = 2

/** What and how to scan. */
export interface ScanOptions {
  /** Patterns, see `ignoreMatcher`. */
  ignore?: readonly string[]
  /** Only what is below this directory, relative to the root. */
  below?: string
  signal?: AbortSignal
  /** Directories that cannot be read, names that are not UTF-8. */
  onWarning?: (message: string) => void
}

/**
 * Every directory below the root with its regular files, in batches and no particular order. The consumer sets the
 * pace. Symbolic links are not followed. Rejects with UNREACHABLE when the root cannot be read, before or during the
 * scan: an absent root is not an empty one.
 */
export async function* scan(root: string, options: ScanOptions = {}): AsyncGenerator<ScannedDirectory[]> {
  const flow = new Int32Array(new SharedArrayBuffer(8))
  const inbox = new Inbox(options.signal)
  const { ignore = [], below = '' } = options
  const workers = Array.from({ length: threads }, (_, index) =>
    startWorker({ root, ignore, below, share: { index, of: threads }, flow }, inbox),
  )
  try {
    for (let running = threads; running > 0; ) {
      const message = await inbox.next()
      if (message.kind === 'end') running--
      else if (message.kind === 'warning') options.onWarning?.(message.message)
      else if (message.kind === 'gone')
        throw new StowageError('UNREACHABLE', `The directory ${root} cannot be read: ${message.reason}.`)
      else {
        yield message.directories
        Atomics.sub(flow, 0, 1)
        Atomics.notify(flow, 0)
      }
    }
  } finally {
    inbox.close()
    Atomics.store(flow, 1, 1)
    Atomics.notify(flow, 0)
    await Promise.all(workers.map(async (worker) => worker.terminate()))
  }
}

function startWorker(workerData: ScanRequest, inbox: Inbox): Worker {
  // Compiled and source files lie side by side in the same way; only their endings differ.
  const worker = new Worker(new URL(`./scan-worker${import.meta.url.slice(-3)}`, import.meta.url), { workerData })
  worker.on('message', (message: ScanMessage) => inbox.put(message))
  worker.on('error', (error) => inbox.fail(error))
  return worker
}

/** What the threads have sent and nobody has taken yet. */
class Inbox {
  readonly #messages: ScanMessage[] = []
  readonly #stopListening: () => void
  #failure: Error | undefined
  #wake: () => void = () => undefined

  constructor(signal: AbortSignal | undefined) {
    this.#stopListening = onAbort(signal, () => this.fail(new StowageError('ABORTED', 'The scan was cancelled.')))
  }

  put(message: ScanMessage): void {
    this.#messages.push(message)
    this.#wake()
  }

  fail(error: Error): void {
    this.#failure = error
    this.#wake()
  }

  async next(): Promise<ScanMessage> {
    for (;;) {
      if (this.#failure) throw this.#failure
      const message = this.#messages.shift()
      if (message) return message
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }

  close(): void {
    this.#stopListening()
  }
}
