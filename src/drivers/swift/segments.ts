/** Cuts a body into segments, each whole in memory with its MD5: memory does not depend on how long the body is. */
import { createHash } from 'node:crypto'
import { onAbort } from '../../core/abort.ts'
import { StowageError } from '../../core/errors.ts'
import { Pull } from '../../core/pull.ts'
import type { Body } from '../../store/driver.ts'
import { checkSize, throwIfAborted } from '../../store/driving.ts'

/** A piece of a body. */
export interface Segment {
  bytes: Uint8Array
  /** Hex. */
  md5: string
  isLast: boolean
}

/** How a body is cut. */
export interface Cutting {
  key: string
  segmentSize: number
  /** Bytes that the body was said to have. */
  announced: number | undefined
  signal: AbortSignal
}

/**
 * Segments of the size, the last one shorter; an empty body has one empty segment. Rejects with CORRUPT as soon as the body
 * is longer than announced. One that says nothing any more is left when the signal fires.
 */
export async function* cut(body: Body, { key, segmentSize, announced, signal }: Cutting): AsyncGenerator<Segment> {
  const pull = new Pull(body)
  const stopListening = onAbort(signal, () =>
    pull.leave(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })),
  )
  let gathered = new Gathering(segmentSize)
  let size = 0
  try {
    for (let chunk = await pull.next(); chunk; chunk = await pull.next()) {
      throwIfAborted(signal)
      size += chunk.byteLength
      if (announced !== undefined && size > announced) checkSize(key, size, announced)
      // A full segment is only given away when it is known not to be the last.
      for (let rest = chunk; rest.byteLength > 0; ) {
        if (gathered.size === segmentSize) {
          yield gathered.segment(false)
          gathered = new Gathering(segmentSize)
        }
        const room = segmentSize - gathered.size
        gathered.add(rest.subarray(0, room))
        rest = rest.subarray(room)
      }
    }
    throwIfAborted(signal)
  } finally {
    stopListening()
    await pull.end()
  }
  yield gathered.segment(true)
}

/** Bytes of a segment as they come, in a buffer that grows: most bodies are short. */
class Gathering {
  readonly #digest = createHash('md5')
  readonly #most: number
  #buffer = Buffer.alloc(0)
  size = 0

  constructor(most: number) {
    this.#most = most
  }

  add(chunk: Uint8Array): void {
    const size = this.size + chunk.byteLength
    if (size > this.#buffer.byteLength) {
      const larger = Buffer.allocUnsafeSlow(Math.min(this.#most, Math.max(size, 2 * this.#buffer.byteLength)))
      this.#buffer.copy(larger, 0, 0, this.size)
      this.#buffer = larger
    }
    this.#buffer.set(chunk, this.size)
    this.#digest.update(chunk)
    this.size = size
  }

  segment(isLast: boolean): Segment {
    return { bytes: this.#buffer.subarray(0, this.size), md5: this.#digest.digest('hex'), isLast }
  }
}
