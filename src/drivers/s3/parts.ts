/** Cuts a body into parts, in buffers that are used again: memory does not depend on how long the body is. */

import { StowageError } from '../../core/errors.ts'
import type { FileBody } from '../../core/file-body.ts'
import { throwIfAborted } from '../../store/driving.ts'

/** Bodies up to this size are one request; longer ones go in parts of at least it. */
export const partBytes = 16 << 20
/** What S3 takes. */
const maxParts = 10_000
const mebibyte = 1 << 20
/** What a body of unknown length begins in, doubled while it is below a mebibyte. */
const firstBytes = 64 * 1024
const idleBuffers = 8

/** Buffers of one size, handed out again after their part was sent. */
export class PartPool {
  readonly #free: Buffer[] = []
  /** Parts on their way, of all bodies. */
  sending = 0

  take(size: number): Buffer {
    return (size === partBytes ? this.#free.pop() : undefined) ?? Buffer.allocUnsafeSlow(size)
  }

  give(buffer: Buffer): void {
    if (buffer.byteLength === partBytes && this.#free.length < idleBuffers) this.#free.push(buffer)
  }
}

/** A part of a body: `bytes` is a view of `buffer`, which goes back to the pool when the part is done. */
export interface Part {
  bytes: Buffer
  buffer: Buffer
  isLast: boolean
}

/**
 * The size of part n (1, 2, …), so that 10,000 parts hold any body S3 takes (5 TiB). Where the length is not known, parts
 * stay small for the first 15 GiB and then grow.
 */
export function partSize(number: number, announced: number | undefined): number {
  if (announced !== undefined) return Math.max(partBytes, Math.ceil(announced / maxParts / mebibyte) * mebibyte)
  const thousands = Math.floor((number - 1) / 1000)
  return partBytes * Math.max(1, Math.floor(1.2 * thousands ** 2))
}

/** Parts of the sizes given by {@link partSize}, the last one shorter; an empty body has one empty part. */
export async function* cut(
  body: AsyncIterable<Uint8Array>,
  announced: number | undefined,
  pool: PartPool,
): AsyncGenerator<Part> {
  let number = 1
  let size = partSize(number, announced)
  // Most bodies are short: the first buffer is only as large as it must be.
  let buffer: Buffer = Buffer.allocUnsafeSlow(Math.min(size, announced ?? firstBytes))
  let filled = 0
  for await (const chunk of body)
    for (let at = 0; at < chunk.byteLength; ) {
      // A full part is only given away when it is known not to be the last.
      if (filled === size) {
        yield { bytes: buffer.subarray(0, size), buffer, isLast: false }
        size = partSize(++number, announced)
        buffer = pool.take(size)
        filled = 0
      }
      const length = Math.min(chunk.byteLength - at, size - filled)
      if (filled + length > buffer.byteLength) {
        const larger = 2 * (filled + length)
        const next = larger > mebibyte ? pool.take(size) : Buffer.allocUnsafeSlow(larger)
        buffer.copy(next, 0, 0, filled)
        buffer = next
      }
      buffer.set(chunk.subarray(at, at + length), filled)
      filled += length
      at += length
    }
  yield { bytes: buffer.subarray(0, filled), buffer, isLast: true }
}

/** The same for a file of announced length, read straight into the buffers. A file of another length is CORRUPT. */
export async function* cutFile(
  body: FileBody,
  announced: number,
  pool: PartPool,
  signal: AbortSignal,
): AsyncGenerator<Part> {
  const size = partSize(1, announced)
  try {
    for (let left = announced; ; ) {
      throwIfAborted(signal)
      const buffer = pool.take(size)
      const wanted = Math.min(size, left)
      const length = await body.readInto(buffer.subarray(0, wanted))
      left -= length
      // The byte that must not be there tells the body that it has ended, and us that it has not grown.
      const isLonger = left === 0 && (await body.readInto(Buffer.alloc(1))) > 0
      if (length < wanted || isLonger)
        throw new StowageError(
          'CORRUPT',
          `A file announced with ${announced} bytes has ${isLonger ? 'more' : 'fewer'}.`,
        )
      yield { bytes: buffer.subarray(0, length), buffer, isLast: left === 0 }
      if (left === 0) return
    }
  } finally {
    await body.close()
  }
}
