/** Reading a body piece by piece, by somebody who may have to leave while it is silent. */
export class Pull<T> {
  readonly #iterator: AsyncIterator<T>
  #isWaiting = false
  #left: { reason: unknown } | undefined
  #leave: (reason: unknown) => void = () => undefined

  constructor(source: AsyncIterable<T>) {
    this.#iterator = source[Symbol.asyncIterator]()
  }

  /** Is a piece awaited? Then it is the source that is slow. */
  get isWaiting(): boolean {
    return this.#isWaiting
  }

  /** The next piece, or undefined at the end. Rejects with what the source throws, or with the reason of leaving. */
  async next(): Promise<T | undefined> {
    if (this.#left) throw this.#left.reason
    this.#isWaiting = true
    const next = await new Promise<IteratorResult<T>>((resolve, reject) => {
      this.#leave = reject
      this.#iterator.next().then(resolve, reject)
    })
    this.#isWaiting = false
    return next.done ? undefined : next.value
  }

  /** Wants no more: the piece that is awaited, and every later one, rejects with the reason. */
  leave(reason: unknown): void {
    this.#left ??= { reason }
    this.#leave(reason)
  }

  /** Lets the source end. One in the middle of its work would be waited for until it is through, so it is not. */
  async end(): Promise<void> {
    const ended = this.#iterator.return?.().then(undefined, () => undefined)
    if (!this.#isWaiting) await ended
  }
}
