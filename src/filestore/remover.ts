/** Removes what is not wanted any more: replicas at remotes, many at a time, and what deleted files had here. */
import { StowageError } from '../core/errors.ts'
import type { Transaction } from '../state/database.ts'
import type { Job } from '../state/queue.ts'
import type { Context } from './context.ts'
import type { Lanes } from './lanes.ts'
import type { FileRow, Replica } from './registry.ts'

/** What a job of the queue `remove` says. `dropped` is the version that need not be there although it is the present one. */
type Removal = { remote: string; remoteKey: string; dropped?: string } | { key: string }

interface Waiting {
  replica: Replica
  resolve: () => void
  reject: (error: unknown) => void
}

/** Does the removals of the queue. */
export class Remover {
  readonly #context: Context
  readonly #lanes: Lanes
  readonly #waiting = new Map<string, Waiting[]>()

  constructor(context: Context, lanes: Lanes) {
    this.#context = context
    this.#lanes = lanes
  }

  /** Does one job; those that come at the same time share their requests. */
  async handle(job: Job): Promise<void> {
    const removal = job.payload as Removal
    if ('key' in removal) return this.#purge(job, removal.key)
    if (this.#lanes.isPaused(removal.remote)) return this.#context.queue.postpone(job, 0)
    // What is on its way would arrive after it was removed.
    return this.#context.sending.run(`${removal.remote}:${removal.remoteKey}`, async () => {
      const decision = await this.#decide(removal)
      if (decision.verdict === 'later') return this.#context.queue.postpone(job, decision.inMs)
      if (decision.verdict !== 'keep') await this.#tidy(decision.replica.key)
      if (decision.verdict === 'remove') await this.#remove(decision.replica)
      await this.#context.registry.transaction(async (tx) => {
        if (decision.verdict !== 'keep') await this.#context.registry.dropReplica(decision.replica, tx)
        await this.#context.queue.finish(job, tx)
      })
      if (decision.verdict !== 'keep') await this.#told(decision.replica.key)
    })
  }

  /** Does nobody need a replica any more, although nothing was said about it? */
  async isObsolete(replica: Replica): Promise<boolean> {
    return (await this.#neededForMs(replica, replica.state === 'pending')) === 0
  }

  /** Removes a replica, if it may go. */
  async removeNow({ remote, remoteKey, version, state }: Replica): Promise<void> {
    await this.#context.sending.run(`${remote}:${remoteKey}`, async () => {
      // A copy that was never finished is not needed, whatever it is of.
      const unfinished = state === 'pending' ? { dropped: version } : {}
      const decision = await this.#decide({ remote, remoteKey, ...unfinished })
      if (decision.verdict !== 'remove' && decision.verdict !== 'forget') return
      if (decision.verdict === 'remove') await this.#remove(decision.replica)
      await this.#context.registry.transaction(async (tx) => this.#context.registry.dropReplica(decision.replica, tx))
    })
  }

  /**
   * May this replica go? Only when its file was deleted and can no longer be restored, or another copy of what the file is
   * now is recorded. From `remove` on nobody reads or writes it.
   */
  async #decide({ remote, remoteKey, dropped }: Exclude<Removal, { key: string }>) {
    const { registry, routes, name, log, lock } = this.#context
    const driver = await routes.open(remote)
    const known = await registry.replicaAt(remote, remoteKey)
    if (!known || known.store !== name) return { verdict: 'keep' } as const
    return lock.run(known.key, async () =>
      registry.transaction(async (tx) => {
        const replica = await registry.replicaAt(remote, remoteKey, tx)
        if (!replica) return { verdict: 'keep' } as const
        const inMs = await this.#neededForMs(replica, dropped === replica.version, tx)
        if (inMs === Infinity) return { verdict: 'keep' } as const
        if (inMs > 0) return { verdict: 'later', inMs } as const
        if (replica.location !== driver.location) {
          log.warn(`${remoteKey} was recorded at ${replica.location}; at ${driver.location} nothing is deleted.`)
          return { verdict: 'forget', replica } as const
        }
        await registry.putReplica({ ...replica, state: 'deleting' }, tx)
        return { verdict: 'remove', replica } as const
      }),
    )
  }

  /** For how long a replica is needed: 0 when it may go, Infinity when nobody can tell. */
  async #neededForMs(replica: Replica, isDropped: boolean, tx?: Transaction): Promise<number> {
    const { registry } = this.#context
    // What was begun is ended: it may be gone already, and nobody counts on it.
    if (replica.state === 'deleting') return 0
    const row = await registry.find(replica.key, tx)
    if (!row) return 0
    if (row.deletedMs !== undefined) return Math.max(0, this.#restorableForMs(row))
    const isOther = (each: Replica) => each.remoteKey !== replica.remoteKey || each.remote !== replica.remote
    const others = (await registry.replicas(replica.key, tx)).filter(isOther)
    return this.#isSpare(row, replica, others, isDropped) ? 0 : Infinity
  }

  /** Is there a good copy without this one? */
  #isSpare(row: FileRow, replica: Replica, others: readonly Replica[], isDropped: boolean): boolean {
    const isCurrent = replica.version === row.version
    const isLocal = row.local !== undefined && this.#context.local.stateOf(row.key) === row.local
    const hasOther = others.some((each) => each.version === row.version && each.state === 'present')
    return isCurrent ? isDropped && (hasOther || isLocal) : hasOther || isLocal
  }

  #restorableForMs({ deletedMs }: FileRow): number {
    const { clock, settings } = this.#context
    if (deletedMs === undefined) return 0
    // A clock that was set back must not keep files for years.
    return Math.min(deletedMs + settings.deleteAfterMs - clock.now(), settings.deleteAfterMs)
  }

  /** Joins those that wait for the same remote; together they go in one request. */
  async #remove(replica: Replica): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const waiting = this.#waiting.get(replica.remote) ?? []
    if (waiting.length === 0) {
      this.#waiting.set(replica.remote, waiting)
      setImmediate(() => void this.#removeBatch(replica.remote))
    }
    waiting.push({ replica, resolve, reject })
    return promise
  }

  async #removeBatch(remote: string): Promise<void> {
    const batch = this.#waiting.get(remote) ?? []
    this.#waiting.delete(remote)
    try {
      const driver = await this.#context.routes.open(remote)
      if (driver.deleteMany && batch.length > 1) {
        const keys = batch.map(({ replica }) => replica.remoteKey)
        await this.#lanes.of(remote).run(async () => driver.deleteMany?.(keys))
        for (const { resolve } of batch) resolve()
        return
      }
    } catch {
      // One that cannot be deleted must not keep the others: each is tried for itself, and has its own error.
    }
    await Promise.all(batch.map(async (each) => this.#removeOne(each)))
  }

  async #removeOne({ replica: { remote, remoteKey }, resolve, reject }: Waiting): Promise<void> {
    try {
      const driver = await this.#context.routes.open(remote)
      await this.#lanes.of(remote).run(async () => driver.delete(remoteKey))
      resolve()
    } catch (error) {
      reject(error)
    }
  }

  /** Removes what a deleted file has here, when it can no longer be restored. */
  async #purge(job: Job, key: string): Promise<void> {
    const { registry, local, lock, queue } = this.#context
    const inMs = await lock.run(key, async () => {
      const row = await registry.find(key)
      if (row?.deletedMs === undefined) return 0
      const left = this.#restorableForMs(row)
      if (left > 0) return left
      await this.#removeLocal(row)
      await local.purge(row.version)
      await registry.transaction(async (tx) => {
        await registry.put({ ...row, local: undefined }, tx)
        if ((await registry.replicas(key, tx)).length === 0) await registry.remove(key, tx)
      })
      return 0
    })
    if (inMs > 0) return queue.postpone(job, inMs)
    await queue.finish(job)
    await this.#told(key)
  }

  /** Once nothing is known of a deleted file any more, what is left in its place would be taken for a new one. */
  async #tidy(key: string): Promise<void> {
    const { registry, lock } = this.#context
    await lock.run(key, async () => {
      const row = await registry.find(key)
      if (row?.deletedMs !== undefined) await this.#removeLocal(row)
    })
  }

  /** The process may have ended between a delete and its end. Needs the lock. */
  async #removeLocal({ key, former }: FileRow): Promise<void> {
    const { local } = this.#context
    if (former === undefined) return
    if (!local.isThere) throw new StowageError('UNREACHABLE', `${local.location} is away; ${key} may still be there.`)
    await local.remove(key, former)
  }

  async #told(key: string) {
    const { registry, events } = this.#context
    if (!(await registry.find(key))) events.emit('deleted', { key, isFinal: true })
  }
}
