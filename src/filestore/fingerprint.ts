/**
 * What a file's bytes come to: SHA-256 of all, and CRC32 of each block, so that a part of it that comes back from far away
 * can be checked without the rest.
 */
import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'

/** Bytes of a block; the last of a file may be shorter. The same as the cache's, so that a block is checked once. */
export const blockBytes = 256 * 1024

/** Digests of a file. */
export interface Digests {
  size: number
  /** Lower-case hex. */
  sha256: string
  /** CRC32 of each block, see {@link encodeChecksums}. */
  checksums: string
}

/** Takes the bytes of a file in order, in pieces of any size. */
export class Fingerprint {
  readonly #hash = createHash('sha256')
  readonly #checksums: number[] = []
  #size = 0
  #crc = 0

  update(bytes: Uint8Array): void {
    this.#hash.update(bytes)
    for (let at = 0; at < bytes.byteLength; ) {
      const room = blockBytes - (this.#size % blockBytes)
      const piece = bytes.subarray(at, at + room)
      this.#crc = crc32(piece, this.#crc)
      this.#size += piece.byteLength
      at += piece.byteLength
      if (piece.byteLength === room) this.#endBlock()
    }
  }

  /** To be called once, after all bytes. */
  end(): Digests {
    if (this.#size % blockBytes > 0) this.#endBlock()
    return {
      size: this.#size,
      sha256: this.#hash.digest('hex'),
      checksums: encodeChecksums(Uint32Array.from(this.#checksums)),
    }
  }

  #endBlock() {
    this.#checksums.push(this.#crc)
    this.#crc = 0
  }
}

/** Passes a body on, and takes its fingerprint. */
export async function* fingerprinted(body: AsyncIterable<Uint8Array>, of: Fingerprint): AsyncGenerator<Uint8Array> {
  for await (const bytes of body) {
    of.update(bytes)
    yield bytes
  }
}

/** Checksums as text: base64 of little-endian 32-bit numbers. */
function encodeChecksums(checksums: Uint32Array): string {
  const bytes = Buffer.alloc(checksums.length * 4)
  for (const [index, checksum] of checksums.entries()) bytes.writeUInt32LE(checksum, index * 4)
  return bytes.toString('base64')
}

/** The reverse of {@link encodeChecksums}. */
export function decodeChecksums(text: string): Uint32Array {
  const bytes = Buffer.from(text, 'base64')
  return Uint32Array.from({ length: bytes.byteLength / 4 }, (_, index) => bytes.readUInt32LE(index * 4))
}
