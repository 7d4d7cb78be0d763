/** The bytes of a local file as a body that can also fill memory of its reader's choice: that saves large files a copy. */
import { constants, type BigIntStats } from 'node:fs'
import * as fs from 'node:fs/promises'

/** What may be done on the way. Whatever rejects or throws fails the body. */
export interface FileBodyHooks {
  /** Called before the first byte. */
  onOpen?: (stats: BigIntStats) => void
  /** Called with each piece, in order. */
  onBytes?: (bytes: Uint8Array) => void
  /** Called after the last byte with the file as it is then. */
  onEnd?: (stats: BigIntStats) => void
}

const pieceBytes = 1 << 20

/** A body that is read from a file, once. Symbolic links are not followed. Errors are node's own. */
export class FileBody implements AsyncIterable<Uint8Array> {
  readonly #file: string
  readonly #hooks: FileBodyHooks
  #handle: fs.FileHandle | undefined
  #at = 0
  #isDone = false

  constructor(file: string, hooks: FileBodyHooks = {}) {
    this.#file = file
    this.#hooks = hooks
  }

  /** Has any of it been read? */
  get isUsed(): boolean {
    return this.#isDone || this.#handle !== undefined
  }

  /** Fills the target from its front; gives fewer bytes than it holds only at the end of the file. */
  async readInto(target: Uint8Array): Promise<number> {
    if (this.#isDone) return 0
    const handle = (this.#handle ??= await this.#open())
    let filled = 0
    while (filled < target.byteLength) {
      const { bytesRead } = await handle.read(target, filled, target.byteLength - filled, this.#at)
      if (bytesRead === 0) {
        await this.#end(handle)
        break
      }
      this.#hooks.onBytes?.(target.subarray(filled, filled + bytesRead))
      filled += bytesRead
      this.#at += bytesRead
    }
    return filled
  }

  /** Lets go of the file; to be called by whoever leaves before the end. */
  async close(): Promise<void> {
    this.#isDone = true
    await this.#handle?.close()
    this.#handle = undefined
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    try {
      for (;;) {
        const piece = Buffer.allocUnsafeSlow(pieceBytes)
        const length = await this.readInto(piece)
        if (length > 0) yield piece.subarray(0, length)
        if (length < pieceBytes) return
      }
    } finally {
      await this.close()
    }
  }

  async #open(): Promise<fs.FileHandle> {
    const handle = await fs.open(this.#file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    try {
      this.#hooks.onOpen?.(await handle.stat({ bigint: true }))
      return handle
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  async #end(handle: fs.FileHandle) {
    try {
      this.#hooks.onEnd?.(await handle.stat({ bigint: true }))
    } finally {
      await this.close()
    }
  }
}
