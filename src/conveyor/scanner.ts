/** Looks at a whole tree without keeping anybody waiting: the walk runs in a thread, its results come in batches. */
import { Worker } from 'node:worker_threads'
import { StowageError } from '../core/errors.ts'
import type { ScanMessage, ScannedDirectory, ScanRequest } from './scan-worker.ts'

export type { ScannedDirectory }

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
 * Every directory below the root with its regular files, parents before children, in batches. The consumer sets the
 * pace. Symbolic links are not followed. Rejects with UNREACHABLE when the root cannot be read, before or during the
 * scan: an absent root is not an empty one.
 */
export async function* scan(root: string, options: ScanOptions = {}): AsyncGenerator<ScannedDirectory[]> {
  const flow = new Int32Array(new SharedArrayBuffer(8))
  const request: ScanRequest = { root, ignore: options.ignore ?? [], below: options.below ?? '', flow }
  // Compiled and source files lie side by side in the same way; only their endings differ.
  const worker = new Worker(new URL(`./scan-worker${import.meta.url.slice(-3)}`, import.meta.url), {
    workerData: request,
  })
  const inbox: ScanMessage[] = []
  let wake = () => {}
  let failure: Error | undefined
  worker.on('message', (message: ScanMessage) => {
    inbox.push(message)
    wake()
  })
  worker.on('error', (error) => {
    failure = error
    wake()
  })
  const abort = () => {
    failure = new StowageError('ABORTED', 'The scan was cancelled.')
    wake()
  }
  options.signal?.addEventListener('abort', abort, { once: true })
  if (options.signal?.aborted) abort()
  try {
    for (;;) {
      const message = inbox.shift()
      if (failure) throw failure
      if (!message)
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      else if (message.kind === 'end') return
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
    options.signal?.removeEventListener('abort', abort)
    Atomics.store(flow, 1, 1)
    Atomics.notify(flow, 0)
    await worker.terminate()
  }
}
