/** Gives files other keys. A note in the state makes that whole or undone, whenever the process ends. */
import { StowageError } from '../core/errors.ts'
import type { CallOptions, FileInfo } from '../store/driver.ts'
import { queueName, queueRemoval, type Context } from './context.ts'
import type { Levelling } from './levelling.ts'
import { infoOf } from './registry.ts'

/** Renames files of a filestore. */
export class Renaming {
  readonly #context: Context
  readonly #levelling: Levelling

  constructor(context: Context, levelling: Levelling) {
    this.#context = context
    this.#levelling = levelling
  }

  /** Renames a file. Its replicas keep their names: nothing is sent anywhere. Needs the locks of both keys, and that `to` may be written. */
  async rename(from: string, to: string, options: CallOptions & { ifAbsent?: boolean }): Promise<FileInfo> {
    const { registry, local } = this.#context
    const row = await this.#levelling.level(from)
    if (!row) throw absent(this.#context, from)
    const replaced = local.stateOf(to)
    if (row.local !== undefined || replaced !== undefined) {
      const note: MoveNote = { from, to, state: row.local, replaced }
      await registry.transaction(async (tx) => registry.set(movePrefix + from, note, tx))
      try {
        if (row.local !== undefined) await local.rename(from, to, options)
        else if (replaced !== undefined) await local.remove(to, replaced)
      } catch (error) {
        await registry.transaction(async (tx) => registry.set(movePrefix + from, undefined, tx))
        throw error
      }
    }
    return this.#renamed(from, to)
  }

  /** Records that a file has another key now. */
  async #renamed(from: string, to: string): Promise<FileInfo> {
    const { registry, queue, cache, name, local } = this.#context
    const [row, replaced] = [await registry.find(from), await registry.find(to)]
    if (!row) throw absent(this.#context, from)
    const moved = { ...row, key: to }
    const plan = await this.#levelling.planFor(moved)
    await registry.transaction(async (tx) => {
      for (const replica of await registry.replicas(to, tx)) await queueRemoval(this.#context, replica, {}, tx)
      await registry.remove(to, tx)
      await registry.rename(from, to, tx)
      await queue.cancel(queueName(this.#context, 'offload'), { key: from }, tx)
      await this.#levelling.enqueue(moved, plan, tx)
      await registry.set(movePrefix + from, undefined, tx)
    })
    if (replaced?.deletedMs !== undefined) await local.purge(replaced.version)
    for (const key of [from, to]) await cache?.drop(name, key)
    return infoOf(moved)
  }

  /** Ends a move that was begun before a crash: as done when the file has its new name, as not begun otherwise. */
  async finish(): Promise<void> {
    const { registry, local } = this.#context
    if (!local.isThere) return
    for (const { name, value } of await registry.settings(movePrefix)) {
      const note = value as MoveNote
      if (await this.#isMoved(note)) await this.#renamed(note.from, note.to)
      else await registry.transaction(async (tx) => registry.set(name, undefined, tx))
    }
  }

  /** Does the disk say that a move has been made? */
  async #isMoved({ from, to, state, replaced }: MoveNote): Promise<boolean> {
    const { registry, local } = this.#context
    const now = local.stateOf(to)
    if (state === undefined) return now !== replaced && (await registry.find(to))?.local === replaced
    // Under both names, for a moment, where nothing may be replaced.
    if (now === state) await local.remove(from, state)
    return now === state
  }
}

/** Moves that are under way are noted under names with this beginning. */
const movePrefix = 'move:'

interface MoveNote {
  from: string
  to: string
  /** The local file that is moved; absent when there is none. */
  state?: string | undefined
  /** The local file it takes the place of. */
  replaced?: string | undefined
}

/** There is no such file. */
export function absent({ name }: Pick<Context, 'name'>, key: string): StowageError {
  return new StowageError('NOT_FOUND', `There is no file ${key} in ${name}.`)
}
