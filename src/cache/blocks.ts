/** Which blocks of a file are in the cache, and the checksum of each. */
import { crc32 } from 'node:zlib'

/** What is known of a block. One that is spoilt is not here, but may take room on disk all the same. */
const here = 1
const spoilt = 2

const page = 4096

/** The blocks of one version of a file. The last may be shorter than the others. */
export class Blocks {
  /** Bytes of the file. */
  readonly size: number
  /** Bytes of a block. */
  readonly blockBytes: number
  readonly #states: Uint8Array
  readonly #checksums: Uint32Array
  #bytes = 0

  constructor(size: number, blockBytes: number) {
    this.size = size
    this.blockBytes = blockBytes
    const count = Math.ceil(size / blockBytes)
    this.#states = new Uint8Array(count)
    this.#checksums = new Uint32Array(count)
  }

  /** All blocks of a file whose checksums are known; undefined when these are not as many as it has blocks. */
  static whole(size: number, blockBytes: number, checksums: Uint32Array): Blocks | undefined {
    const blocks = new Blocks(size, blockBytes)
    if (checksums.length !== blocks.count) return undefined
    blocks.#checksums.set(checksums)
    blocks.#states.fill(here)
    blocks.#bytes = size
    return blocks
  }

  /** How many the file has. */
  get count(): number {
    return this.#states.length
  }

  /** Bytes that may be on disk. */
  get bytes(): number {
    return this.#bytes
  }

  /** The most that the blocks that are here take on a disk that gives out pages. */
  get bytesOnDisk(): number {
    const edges = this.blockBytes % page === 0 ? 0 : 2
    let pages = 1 // the last block may end within one
    for (let block = this.nextHere(0); block < this.count; block = this.nextHere(block + 1))
      pages += Math.floor(this.bytesOf(block) / page) + edges
    return pages * page
  }

  /** Are all of them here? */
  get isWhole(): boolean {
    return !this.#states.includes(0) && !this.#states.includes(spoilt)
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
    return this.#states[block] === here
  }

  /** The first block from this one on that is here, or the end. */
  nextHere(block: number): number {
    const found = this.#states.indexOf(here, block)
    return found < 0 ? this.count : found
  }

  /** Does it take room on disk, or has it been given some? */
  takesRoom(block: number): boolean {
    return this.#states[block] !== 0
  }

  /** Gives it room on disk, of which it takes none so far. */
  claim(block: number): void {
    this.#states[block] = spoilt
    this.#bytes += this.bytesOf(block)
  }

  /** It is on disk, in the room it was given. */
  add(block: number, bytes: Uint8Array): void {
    this.#states[block] = here
    this.#checksums[block] = crc32(bytes)
  }

  /** It is not on disk as it was. */
  drop(block: number): void {
    this.#states[block] = spoilt
  }

  /** Nothing of the file is on disk any more. */
  clear(): void {
    this.#states.fill(0)
    this.#bytes = 0
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
        blocks.#states[block] = here
        blocks.#checksums[block] = bytes.readUInt32LE(at)
        blocks.#bytes += blocks.bytesOf(block)
      }
    }
    return blocks
  }
}
