/**
 * What a network of caches in front of a store must forget. A path is noted in the transaction that records the delivery,
 * so that a crash forgets none; all that is noted for one network is sent together.
 */
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import type { Database, Transaction } from '../state/database.ts'
import type { Job, Queue } from '../state/queue.ts'

/** Tells a distribution to forget paths, as they stand in URLs. */
export type Invalidate = (distribution: string, paths: readonly string[], signal: AbortSignal) => Promise<void>

/** What sending them needs. */
interface InvalidationContext {
  database: Database
  queue: Queue
  clock: Clock
  invalidate?: Invalidate
}

/** How long paths are gathered before they are sent. */
const gatherMs = 1000

/** Notes paths that are to be forgotten, and adds the job that sees to it. */
export async function noteInvalidations(
  noted: Iterable<{ distribution: string; path: string }>,
  queue: Queue,
  tx: Transaction,
): Promise<void> {
  for (const { distribution, path } of noted) {
    await tx.run(
      `INSERT INTO invalidations (distribution, path, times) VALUES (?, ?, 1)
       ON CONFLICT DO UPDATE SET times = invalidations.times + 1`,
      distribution,
      path,
    )
    await queue.add({ queue: 'invalidate', key: distribution }, tx)
  }
}

/** Does a job of the queue `invalidate`: sends what is noted for a distribution. What is noted meanwhile is sent next. */
export async function sendInvalidations(job: Job, context: InvalidationContext, signal: AbortSignal): Promise<void> {
  const { database, queue, clock, invalidate } = context
  const distribution = job.key
  await clock.sleep(gatherMs, signal)
  const rows = await database.transaction(async (tx) =>
    tx.all('SELECT path, times FROM invalidations WHERE distribution = ?', distribution),
  )
  const paths = rows.map((row) => String(row['path']))
  if (paths.length > 0) await invalidate?.(distribution, paths, signal)
  await database.transaction(async (tx) => {
    const mine = 'distribution = ? AND path = ? AND times = ?'
    for (const { path = '', times = 0 } of rows)
      await tx.run(`DELETE FROM invalidations WHERE ${mine}`, distribution, path, times)
    if (!(await queue.finish(job, tx)))
      throw new StowageError('CONFLICT', `The job of ${job.key} was taken over by another process.`, {
        retryable: true,
      })
  })
}
