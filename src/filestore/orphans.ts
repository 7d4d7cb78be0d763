/** Finds what nobody needs any more, here and at the remotes, and removes it when told to. */
import { compareKeys } from '../core/keys.ts'
import type { CallOptions, Driver, Entry } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { purgeKey, queueName, type Context, type QueueKind } from './context.ts'
import type { FileRow, Replica } from './registry.ts'
import type { Remover } from './remover.ts'

/** Something that is left over. */
export interface Orphan {
  /** `local`, or the name of a remote. */
  where: string
  /** Its name there. */
  name: string
  /** In bytes, where it is known. */
  size?: number
  /**
   * `discarded`: bytes of a deleted file that can no longer be restored; `obsolete`: a replica of what is no longer;
   * `unknown`: a file at a remote that the registry knows nothing of. It need not be ours.
   */
  kind: 'discarded' | 'obsolete' | 'unknown'
  isRemoved: boolean
}

/** What is to be removed of what is found. Default: nothing. */
export interface CollectOptions extends CallOptions {
  /** What is certain to be ours. */
  delete?: boolean
  /** Also what the registry does not know. Only for remotes that nobody else uses. */
  unknown?: boolean
}

/** What is younger may just be being written. */
const leastAgeMs = 3_600_000

/** Looks for orphans. */
export class Orphans {
  readonly #context: Context
  readonly #remover: Remover

  constructor(context: Context, remover: Remover) {
    this.#context = context
    this.#remover = remover
  }

  /** One after another; each is removed before it is told of, if it is to be. */
  async *collect(options: CollectOptions): AsyncGenerator<Orphan> {
    const { registry, routes } = this.#context
    yield* this.#here(options)
    for (const remote of new Set([...routes.names, ...(await registry.remotes())])) yield* this.#at(remote, options)
  }

  /** Of what was discarded, what belongs to no deleted file. */
  async *#here({ delete: mayDelete = false, signal }: CollectOptions): AsyncGenerator<Orphan> {
    const { registry, local } = this.#context
    // First what is there, then what is known: what is deleted meanwhile is in neither.
    const names = new Set(await Array.fromAsync(local.discarded()))
    for await (const row of registry.walk('', { which: 'deleted' })) {
      names.delete(row.version)
      if (mayDelete) await this.#remind(row)
    }
    for (const name of names) {
      throwIfAborted(signal)
      if (mayDelete) await local.purge(name)
      yield { where: 'local', name, kind: 'discarded', isRemoved: mayDelete }
    }
  }

  /** A deleted file whose time has passed goes, also when `deleteAfter` was longer when it was deleted. */
  async #remind({ key, deletedMs = 0 }: FileRow) {
    const { registry, queue, clock, settings } = this.#context
    if (clock.now() - deletedMs < settings.deleteAfterMs) return
    const name = queueName(this.#context, 'remove')
    const replicas = await registry.replicas(key)
    const jobs = replicas.map(({ remote, remoteKey }) => ({
      queue: name,
      key: `${remote}:${remoteKey}`,
      group: remote,
      payload: { remote, remoteKey },
      unlessQueued: true,
    }))
    await queue.addMany([...jobs, { queue: name, key: purgeKey(key), payload: { key }, unlessQueued: true }])
  }

  /** Compares a remote with what is recorded there; both are in the order of names. */
  async *#at(remote: string, options: CollectOptions): AsyncGenerator<Orphan> {
    const { registry, routes, clock } = this.#context
    const driver = await routes.open(remote)
    const recorded = registry.recordedAt(remote)
    let next = (await recorded.next()).value as (Replica & { store: string }) | undefined
    const advance = async function* (this: Orphans, until: string | undefined): AsyncGenerator<Orphan> {
      for (; next && (until === undefined || compareKeys(next.remoteKey, until) <= 0); ) {
        if (next.store === this.#context.name) yield* this.#ifObsolete(next, options)
        next = (await recorded.next()).value as typeof next
      }
    }
    for await (const entry of driver.supports.list ? driver.list('', callOf(options)) : []) {
      const isRecorded = (await registry.replicaAt(remote, entry.key)) !== undefined
      yield* advance.call(this, entry.key)
      const isYoung = entry.kind === 'file' && clock.now() - (entry.modified?.getTime() ?? 0) < leastAgeMs
      if (!isRecorded && !isYoung) yield* this.#unknown(remote, driver, entry, options)
    }
    yield* advance.call(this, undefined)
  }

  async *#ifObsolete(replica: Replica, { delete: mayDelete = false }: CollectOptions): AsyncGenerator<Orphan> {
    const { queue } = this.#context
    const { remote, remoteKey: name, key, state } = replica
    const isQueued = async (kind: QueueKind, job: string) =>
      (await queue.find(queueName(this.#context, kind), job)) !== undefined
    // Whatever waits for its removal has its time; what is on its way will arrive.
    if (await isQueued('remove', `${remote}:${name}`)) return
    if (state === 'pending' && ((await isQueued('offload', key)) || (await isQueued('move', key)))) return
    if (!(await this.#remover.isObsolete(replica))) return
    if (mayDelete) await this.#remover.removeNow(replica)
    yield { where: remote, name, kind: 'obsolete', isRemoved: mayDelete }
  }

  async *#unknown(
    remote: string,
    driver: Driver,
    entry: Entry,
    { delete: mayDelete = false, unknown: mayDeleteUnknown = false, signal }: CollectOptions,
  ): AsyncGenerator<Orphan> {
    if (entry.kind !== 'file') return
    const isRemoved = mayDelete && mayDeleteUnknown
    if (isRemoved) await driver.delete(entry.key, signal ? { signal } : {})
    yield { where: remote, name: entry.key, size: entry.size, kind: 'unknown', isRemoved }
  }
}

function callOf({ signal }: CallOptions): CallOptions {
  return signal ? { signal } : {}
}
