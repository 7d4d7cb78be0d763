/** So many bytes a second, and no more, over all that passes. */
import type { Clock } from './clock.ts'

/** A rate that several bodies share. What was not used is not saved up. */
export class Rate {
  readonly #clock: Clock
  #bytesPerSecond: number
  #freeAtMs = 0

  /** Infinity lets everything pass. */
  constructor(clock: Clock, bytesPerSecond = Infinity) {
    this.#clock = clock
    this.#bytesPerSecond = bytesPerSecond
  }

  get bytesPerSecond(): number {
    return this.#bytesPerSecond
  }

  /** Changes the rate; bodies under way keep to the new one. */
  set bytesPerSecond(value: number) {
    this.#bytesPerSecond = value
    this.#freeAtMs = 0
  }

  /** Passes a body on, each piece when its turn has come. */
  async *paced<T extends Uint8Array>(body: AsyncIterable<T>, signal?: AbortSignal): AsyncGenerator<T> {
    for await (const piece of body) {
      const now = this.#clock.now()
      const turn = Math.max(now, this.#freeAtMs)
      this.#freeAtMs = turn + (piece.byteLength / this.#bytesPerSecond) * 1000
      if (turn > now) await this.#clock.sleep(turn - now, signal)
      yield piece
    }
  }
}
