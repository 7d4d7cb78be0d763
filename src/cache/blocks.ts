/** Which blocks of a file are in the cache, and the checksum of each. */
import { crc32 } from 'node:zlib'

/** The blocks of one version of a file. The last may be shorter than the others. */
export class Blocks {
  /** Bytes of the file. */
  readonly size: number
  /** Bytes of a block. */
  readonly blockBytes: number
  readonly #isHere: Uint8Array
  readonly #checksums: Uint32Array
  #bytes = 0

  constructor(size: number, blockBytes: number) {
    this.size = size
    this.blockBytes = blockBytes
    const count = Math.ceil(size / blockBytes)
    this.#isHere = new Uint8Array(count)
    this.#checksums = new Uint32Array(count)
  }

  /** All blocks of a file whose checksums are known; undefined when these are not as many as it has blocks. */
  static whole(size: number, blockBytes: number, checksums: Uint32Array): Blocks | undefined {
    const blocks = new Blocks(size, blockBytes)
    if (checksums.length !== blocks.count) return undefined
    blocks.#checksums.set(checksums)
    blocks.#isHere.fill(1)
    blocks.#bytes = size
    return blocks
  }

  /** How many the file has. */
  get count(): number {
    return this.#isHere.length
  }

  /** Bytes that are here. */
  get bytes(): number {
    return this.#bytes
  }

  /** Are all of them here? */
  get isWhole(): boolean {
    return !this.#isHere.includes(0)
  }

  /** The block a position is in. */
  at(position: number): number {
    return Math.floor(position / this.blockBytes)
  }

  /** Where a block begins. */
  startOf(block: number): number {
    return block * this.blockBytes
  }

  /** Bytes of one block. */
  bytesOf(block: number): number {
    return Math.min(this.blockBytes, this.size - this.startOf(block))
  }

  has(block: number): boolean {
    return this.#isHere[block] === 1
  }

  /** The first block from this one on that is here, or the end. */
  nextHere(block: number): number {
    const found = this.#isHere.indexOf(1, block)
    return found < 0 ? this.count : found
  }

  add(block: number, bytes: Uint8Array): void {
    if (!this.has(block)) this.#bytes += this.bytesOf(block)
    this.#isHere[block] = 1
    this.#checksums[block] = crc32(bytes)
  }

  drop(block: number): void {
    if (this.has(block)) this.#bytes -= this.bytesOf(block)
    this.#isHere[block] = 0
  }

  /** Are these the bytes that were added? */
  isIntact(block: number, bytes: Uint8Array): boolean {
    return bytes.byteLength === this.bytesOf(block) && crc32(bytes) === this.#checksums[block]
  }

  /** A text of it all: runs of blocks that are here, each with its checksums. */
  encode(): string {
    const runs: string[] = []
    for (let start = this.nextHere(0); start < this.count; ) {
      let end = start
      while (end < this.count && this.has(end)) end++
      const checksums = Buffer.from(this.#checksums.slice(start, end).buffer).toString('base64')
      runs.push(`${start}:${checksums}`)
      start = this.nextHere(end)
    }
    return runs.join(' ')
  }

  /** The blocks a text tells of; undefined when it is none, or is of another file. */
  static decode(text: string, size: number, blockBytes: number): Blocks | undefined {
    const blocks = new Blocks(size, blockBytes)
    for (const run of text === '' ? [] : text.split(' ')) {
      const [, start, checksums] = /^(\d{1,9}):([A-Za-z0-9+/=]*)$/.exec(run) ?? []
      if (start === undefined || checksums === undefined) return undefined
      const bytes = Buffer.from(checksums, 'base64')
      for (let at = 0; at < bytes.byteLength; at += 4) {
        const block = Number(start) + at / 4
        if (block >= blocks.count || at + 4 > bytes.byteLength) return undefined
        blocks.#isHere[block] = 1
        blocks.#checksums[block] = bytes.readUInt32LE(at)
        blocks.#bytes += blocks.bytesOf(block)
      }
    }
    return blocks
  }
}
