/** Blocks in memory: those that have just arrived, which all who follow a fill want at the same time. */
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
    this.#blocks.set(`${id}/${block}`, bytes)
    this.#bytes += bytes.byteLength
    for (const [name, oldest] of this.#blocks) {
      if (this.#bytes <= this.#maxBytes) return
      this.#blocks.delete(name)
      this.#bytes -= oldest.byteLength
    }
  }
}
