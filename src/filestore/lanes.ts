/** The ways to the remotes: each with its own limit, its own back-off, and its own brake. */
import type { Clock } from '../core/clock.ts'
import { Lane } from '../core/lane.ts'

/** Among the paused: every remote. */
export const allRemotes = '*'

/** Lanes by the names of remotes. */
export class Lanes {
  readonly #clock: Clock
  readonly #lanes = new Map<string, Lane>()
  /** Remotes nothing is sent to until somebody says so. */
  readonly paused: Set<string>

  constructor(clock: Clock, paused: Iterable<string>) {
    this.#clock = clock
    this.paused = new Set(paused)
  }

  /** The way to a remote. */
  of(remote: string): Lane {
    let lane = this.#lanes.get(remote)
    if (!lane) {
      lane = new Lane(this.#clock)
      this.#lanes.set(remote, lane)
    }
    return lane
  }

  /** Has somebody said that nothing is to be sent to it? */
  isPaused(remote: string): boolean {
    return this.paused.has(remote) || this.paused.has(allRemotes)
  }

  /** Which of these remotes are left alone now, and until when, in milliseconds since the epoch. */
  resting(remotes: readonly string[]): Map<string, number> {
    const untilOf = (remote: string) => (this.isPaused(remote) ? Infinity : this.#lanes.get(remote)?.pausedUntil)
    return new Map(
      remotes.flatMap((remote) => {
        const until = untilOf(remote)
        return until === undefined ? [] : [[remote, until] as const]
      }),
    )
  }

  /** Those in trouble, with why. */
  troubles(): { remote: string; reason: string; untilMs: number }[] {
    return [...this.#lanes].flatMap(([remote, { pausedUntil, reason = '' }]) =>
      pausedUntil === undefined ? [] : [{ remote, reason, untilMs: pausedUntil }],
    )
  }
}
