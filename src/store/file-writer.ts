/** Writing a stored file as node writes files: a stream. */
import { PassThrough, Writable } from 'node:stream'
import { StowageError } from '../core/errors.ts'
import type { Body, FileInfo } from './driver.ts'

/**
 * Stores what is written to it when it is ended: `finish` comes when the place has it. Destroying it, or a place that
 * fails, stores nothing.
 */
export class FileWriter extends Writable {
  /** What was stored. Rejects when nothing was. */
  readonly stored: Promise<FileInfo>
  readonly #body = new PassThrough({ highWaterMark: 256 * 1024 })

  constructor(store: (body: Body) => Promise<FileInfo>) {
    super({ decodeStrings: true })
    this.#body.on('error', () => undefined) // whoever reads it hears of it, and nobody need be reading
    this.stored = store(this.#body)
    this.stored.catch((error: unknown) => this.destroy(error as Error))
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: () => void): void {
    if (this.#body.write(chunk)) done()
    else this.#body.once('drain', done)
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#body.end()
    this.stored.then(() => done(), done)
  }

  /** Waits until the place has taken back what it had begun. */
  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.writableFinished)
      this.#body.destroy(
        error ?? new StowageError('ABORTED', 'The file was given up before its end; nothing was stored.'),
      )
    this.stored.then(
      () => done(error),
      () => done(error),
    )
  }
}
