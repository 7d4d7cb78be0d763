/** Cuts a body into parts of one size, in buffers that are used again: memory does not depend on how long the body is. */

/** Buffers of one size, handed out again after their part was sent. */
export class PartPool {
  readonly #free: Buffer[] = []
  readonly #size: number

  constructor(size: number) {
    this.#size = size
  }

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(this.#size)
  }

  give(buffer: Buffer): void {
    if (buffer.byteLength === this.#size) this.#free.push(buffer)
  }
}

/** A part of a body: `bytes` is a view of `buffer`, which goes back to the pool when the part is done. */
export interface Part {
  bytes: Buffer
  buffer: Buffer
  isLast: boolean
}

/** Parts of exactly the pool's size, the last one shorter; an empty body has one empty part. */
export async function* cut(body: AsyncIterable<Uint8Array>, size: number, pool: PartPool): AsyncGenerator<Part> {
  let buffer = pool.take()
  let filled = 0
  for await (const chunk of body)
    for (let at = 0; at < chunk.byteLength; ) {
      // A full part is only given away when it is known not to be the last.
      if (filled === size) {
        yield { bytes: buffer.subarray(0, size), buffer, isLast: false }
        buffer = pool.take()
        filled = 0
      }
      const length = Math.min(chunk.byteLength - at, size - filled)
      buffer.set(chunk.subarray(at, at + length), filled)
      filled += length
      at += length
    }
  yield { bytes: buffer.subarray(0, filled), buffer, isLast: true }
}
