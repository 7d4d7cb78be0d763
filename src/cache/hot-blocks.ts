/** Blocks in memory that were just read from disk: others often want them at the same time, or the rest of them soon. */
export class HotBlocks {
  readonly #maxBytes: number
  readonly #blocks = new Map<string, Buffer>()
  #bytes = 0

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes
  }

  get(id: string, block: number): Buffer | undefined {
    return this.#blocks.get(`${id}/${block}`)
  }

  /** The oldest go when there are too many. */
  put(id: string, block: number, bytes: Buffer): void {
    const name = `${id}/${block}`
    this.#bytes += bytes.byteLength - (this.#blocks.get(name)?.byteLength ?? 0)
    this.#blocks.set(name, bytes)
    for (const [oldest, { byteLength }] of this.#blocks) {
      if (this.#bytes <= this.#maxBytes) return
      this.#blocks.delete(oldest)
      this.#bytes -= byteLength
    }
  }
}
