/** What the parts of a filestore share. */
import type { Cache } from '../cache/cache.ts'
import type { Clock } from '../core/clock.ts'
import type { KeyLock } from '../core/key-lock.ts'
import type { Log } from '../core/log.ts'
import type { Transaction } from '../state/database.ts'
import type { Queue } from '../state/queue.ts'
import type { Events } from './events.ts'
import type { LocalDirectory } from './local.ts'
import type { Registry, Replica } from './registry.ts'
import type { Routes } from './routes.ts'

/** The parts that all others use. */
export interface Context {
  readonly name: string
  readonly registry: Registry
  readonly local: LocalDirectory
  readonly routes: Routes
  readonly queue: Queue
  readonly cache: Cache | undefined
  /** Whoever changes what registry or disk say of a key holds its lock. */
  readonly lock: KeyLock
  /** Whoever writes under a name at a remote holds it: `remote:name`. */
  readonly sending: KeyLock
  readonly events: Events
  readonly clock: Clock
  readonly log: Log
  readonly settings: Settings
}

/** How a filestore behaves. Durations in milliseconds. */
interface Settings {
  /** So long a file must have rested before it is uploaded. */
  readonly coolDownMs: number
  /** Files stay local when they are in the cloud too. */
  readonly keepLocal: boolean
  /** So long a deleted file can be restored; Infinity is for ever. */
  readonly deleteAfterMs: number
}

/** The queues of a filestore: uploads that wait for their cool-down, what is moved because somebody said so, removals. */
export type QueueKind = 'offload' | 'move' | 'remove'

/** The name of one of them among all queues. */
export function queueName({ name }: Pick<Context, 'name'>, kind: QueueKind): string {
  return `${kind}:${name}`
}

/** Queues the removal of one replica; whether it may really go is looked at when its time has come. */
export async function queueRemoval(
  context: Context,
  replica: Replica,
  { delayMs = 0, isDropped = false }: { delayMs?: number; isDropped?: boolean },
  tx: Transaction,
): Promise<void> {
  const { remote, remoteKey, version, state } = replica
  // What is being removed already cannot be restored from, and is in the way of the next upload.
  const waitMs = state === 'deleting' ? 0 : delayMs
  if (!Number.isFinite(waitMs)) return
  await context.queue.add(
    {
      queue: queueName(context, 'remove'),
      key: `${remote}:${remoteKey}`,
      group: remote,
      payload: { remote, remoteKey, ...(isDropped && { dropped: version }) },
      delayMs: waitMs,
    },
    tx,
  )
}

/** Has a deleted file gone when its time has come. It must be in the registry as deleted already. */
export async function queuePurge(context: Context, key: string, delayMs: number, tx: Transaction): Promise<void> {
  if (!Number.isFinite(delayMs)) return
  await context.queue.add({ queue: queueName(context, 'remove'), key: purgeKey(key), payload: { key }, delayMs }, tx)
}

/** The name of that job. No remote has a name that begins with a colon. */
export function purgeKey(key: string): string {
  return `:${key}`
}
