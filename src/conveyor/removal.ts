/** What is removed: keys nobody delivers any more, and originals that are safe elsewhere. */
import { unlinkSync } from 'node:fs'
import { StowageError } from '../core/errors.ts'
import type { Database, Transaction } from '../state/database.ts'
import type { Job, NewJob, Queue } from '../state/queue.ts'
import type { Store } from '../store/store.ts'
import { digestAt } from './delivery.ts'
import type { KeyLock } from '../core/key-lock.ts'
import type { Lane } from '../core/lane.ts'
import { forget, ownersOf, rowsOf, type LedgerRow } from './ledger.ts'
import { isSame, lookAt } from './original.ts'
import { isReferredTo } from './references.ts'

/** What both kinds of removal need. */
export interface RemovalContext {
  database: Database
  queue: Queue
  locks: KeyLock
  store: (name: string) => Store
  lane: (name: string) => Lane
}

/** What a delete-source job is about: the state of the original that was delivered. */
export interface SourcePayload {
  source: string
  directory: string
  path: string
  size: number
  mtimeNs: string
  inode: string
  rule: string
}

/** Takes a row out of the ledger and adds the job that deletes its key, in the caller's transaction. */
export async function supersede(row: LedgerRow, delayMs: number, queue: Queue, tx: Transaction): Promise<void> {
  await forget(tx, row)
  const job: NewJob = {
    queue: 'delete-key',
    key: `${row.destination}/${row.key}`,
    group: row.destination,
    payload: { destination: row.destination, key: row.key, delayMs },
    delayMs,
  }
  await queue.add(job, tx)
}

/** How often a key that is still referred to is asked for again. Usually the last who lets go of it brings its job back. */
const referredMs = 300_000

/** Deletes a key that was ours, unless somebody delivers to it again. One that something delivered refers to waits for that to be replaced. */
export async function deleteKey(job: Job, context: RemovalContext, signal: AbortSignal): Promise<boolean> {
  const { destination, key } = job.payload as { destination: string; key: string }
  // Under the lock of the key: a delivery that begins now waits until the delete is over.
  const outcome = await context.locks.run(`${destination}/${key}`, async () => {
    const held = await context.database.transaction(async (tx) => {
      if ((await ownersOf(tx, destination, key)).length > 0) return 'delivered again'
      return (await isReferredTo(tx, destination, key)) ? 'referred to' : undefined
    })
    if (held) return held
    await context.lane(destination).run(async () => context.store(destination).delete(key, { signal }), signal)
    return 'deleted'
  })
  if (outcome === 'referred to') await context.queue.postpone(job, referredMs)
  else await context.queue.finish(job)
  return outcome === 'deleted'
}

/**
 * Deletes an original after its delay: only when it is still what was delivered, every row of its rule is delivered,
 * and each copy, read back, has the size and digest the ledger has. Otherwise it stays, and the next delivery decides anew.
 */
export async function deleteSource(job: Job, context: RemovalContext, signal: AbortSignal): Promise<boolean> {
  const payload = job.payload as SourcePayload
  const delivered = { size: payload.size, mtimeNs: BigInt(payload.mtimeNs), inode: BigInt(payload.inode) }
  const isUnchanged = () => {
    const now = lookAt(payload.directory, payload.path)
    return now !== undefined && isSame(now, delivered) ? now : undefined
  }
  const rows = await context.database.transaction(async (tx) => rowsOf(tx, payload.source, payload.path))
  const isComplete = rows.length > 0 && rows.every((row) => row.delivery?.sourceMtimeNs === delivered.mtimeNs)
  // A job of the file itself, waiting or set aside, means that something is still to be delivered; it asks again when done.
  const isPending = (await context.queue.find('file', job.key)) !== undefined
  if (!isComplete || isPending || !isUnchanged()) {
    await context.queue.finish(job)
    return false
  }
  const linked = rows.find(({ delivery }) => delivery?.link === 'symlink')
  if (linked)
    throw new StowageError(
      'CONFLICT',
      `${linked.key} in ${linked.destination} is a link to ${payload.path}, which stays.`,
      {
        hint: 'Deliver it without link: symlink if the original is to be deleted.',
      },
    )
  for (const row of rows) await checkCopy(row, context, signal)
  const original = isUnchanged()
  if (original) {
    // The ledger keeps what was delivered; without its original the file counts as kept there.
    await context.database.transaction(async (tx) => {
      const slash = payload.path.lastIndexOf('/')
      await tx.run(
        'DELETE FROM seen WHERE source = ? AND directory = ? AND name = ?',
        payload.source,
        slash < 0 ? '' : payload.path.slice(0, slash),
        payload.path.slice(slash + 1),
      )
    })
    unlinkSync(original.file)
  }
  await context.queue.finish(job)
  return original !== undefined
}

async function checkCopy(row: LedgerRow, context: RemovalContext, signal: AbortSignal) {
  const store = context.store(row.destination)
  const copy = await context.lane(row.destination).run(async () => digestAt(store, row.key, signal), signal)
  if (copy.size !== row.delivery?.size || copy.digest !== row.delivery.digest)
    throw new StowageError('CORRUPT', `${row.key} in ${store.location} is not what was delivered; ${row.path} stays.`, {
      hint: 'Find out who changed it; touching the original delivers it again.',
    })
}
