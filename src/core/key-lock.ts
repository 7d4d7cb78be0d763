/** Lets one piece of work at a time touch a name. */

/** Work on the same name runs one after another, in the order it came; work on different names does not wait. */
export class KeyLock {
  readonly #tails = new Map<string, Promise<void>>()

  async run<T>(name: string, work: () => Promise<T>): Promise<T> {
    using _held = await this.acquire(name)
    return await work()
  }

  /** Waits for the name, and holds it until what is returned is disposed of. */
  async acquire(name: string): Promise<Disposable> {
    const before = this.#tails.get(name)
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#tails.set(name, promise)
    await before
    return {
      [Symbol.dispose]: () => {
        resolve()
        if (this.#tails.get(name) === promise) this.#tails.delete(name)
      },
    }
  }
}
