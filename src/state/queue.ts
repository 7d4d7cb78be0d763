/**
 * Durable work. A job is a row, keyed by what it is about: adding the same key while it waits replaces it and restarts
 * its clock; while it runs, it runs once more afterwards. A job that keeps failing is set aside with its reason.
 */
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import { backoffMs } from '../core/retry.ts'
import type { Database, Row, Transaction, Value } from './database.ts'

/** A job in somebody's hands. */
export interface Job {
  queue: string
  key: string
  /** Jobs of one group share their fate, such as a store that is down. */
  group: string
  /** What was given at `add`: anything JSON can say. */
  payload: unknown
  /** 1 at the first try. */
  attempt: number
  /** The fence: a job taken over by somebody else carries another. */
  token: number
}

/** What `add` takes. */
export interface NewJob {
  queue: string
  key: string
  payload?: unknown
  group?: string
  /** Not before so many milliseconds have passed; default 0. */
  delayMs?: number
  /** Joins a waiting, never tried job's payload with the new one; undefined removes the job. Default: the new one. */
  merge?: (waiting: unknown, added: unknown) => unknown
  /** Leave a job that is already there as it is. Default: it is replaced, and its clock restarts. */
  unlessQueued?: boolean
  /** A job that is there already stays what it is: it is due now if it was tried before, and runs once more if it runs. */
  isReminder?: boolean
}

/** A job that is set aside until somebody asks for it again. */
export interface SetAside {
  queue: string
  key: string
  payload: unknown
  attempts: number
  reason: string
  atMs: number
}

/** How many jobs of a queue are in which state. */
export interface QueueCounts {
  queue: string
  waiting: number
  running: number
  setAside: number
  /** When the oldest waiting job was or is due, in milliseconds since the epoch. */
  oldestMs: number | undefined
}

/** Settings of a queue. */
export interface QueueOptions {
  clock: Clock
  random?: () => number
  /** First and longest wait between attempts. Default 1 s and 5 min. */
  backoff?: { baseMs: number; maxMs: number }
  /** A job that fails for a reason that may lie in itself is set aside after so many attempts. Default 10. */
  maxAttempts?: number
}

/** The queues of one database. */
export class Queue {
  readonly #database: Database
  readonly #clock: Clock
  readonly #random: () => number
  readonly #backoff: { baseMs: number; maxMs: number }
  readonly #maxAttempts: number
  readonly #listeners = new Set<() => void>()
  #token = Date.now() * 1000
  #recovered: Promise<number> | undefined

  constructor(database: Database, options: QueueOptions) {
    this.#database = database
    this.#clock = options.clock
    this.#random = options.random ?? Math.random
    this.#backoff = options.backoff ?? { baseMs: 1000, maxMs: 300_000 }
    this.#maxAttempts = options.maxAttempts ?? 10
  }

  /** Calls the listener whenever jobs may have become due. Returns how to stop that. */
  onAdded(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Adds a job, within the caller's transaction if one is given. */
  async add(job: NewJob, tx?: Transaction): Promise<void> {
    return this.#within(tx, async (inside) => this.#add(job, inside))
  }

  /** Adds many in one transaction. */
  async addMany(jobs: Iterable<NewJob>, tx?: Transaction): Promise<void> {
    return this.#within(tx, async (inside) => {
      for (const job of jobs) await this.#add(job, inside)
    })
  }

  /** Takes up to `limit` jobs that are due, oldest first, `perGroup` of a group, leaving out groups that had better wait. */
  async take(
    queue: string,
    limit: number,
    options: { excludeGroups?: readonly string[]; perGroup?: number } = {},
  ): Promise<Job[]> {
    const { perGroup = limit } = options
    const [exclude, groups] = excluding(options.excludeGroups)
    const token = this.#token++
    return this.#database.transaction(async (tx) => {
      // Each group for itself: those that wait, however many they are, are not even looked at.
      const waiting = await tx.all(
        `SELECT grp FROM job_counts WHERE queue = ? AND state = 'waiting' AND jobs > 0 ${exclude}`,
        queue,
        ...groups,
      )
      const due: Row[] = []
      for (const { grp = '' } of waiting)
        due.push(
          ...(await tx.all(
            `SELECT key, due_ms FROM jobs WHERE state = 'waiting' AND queue = ? AND grp = ? AND due_ms <= ?
             ORDER BY due_ms LIMIT ?`,
            queue,
            grp,
            this.#clock.now(),
            Math.min(limit, perGroup),
          )),
        )
      const byDue = (a: Row, b: Row) => Number(a['due_ms']) - Number(b['due_ms'])
      const keys = due
        .sort(byDue)
        .slice(0, limit)
        .map(({ key }) => key)
      const rows = await tx.all(
        `UPDATE jobs SET state = 'running', attempt = attempt + 1, token = ?
         WHERE queue = ? AND key IN (SELECT value FROM json_each(?)) RETURNING key, grp, payload, attempt, due_ms`,
        token,
        queue,
        JSON.stringify(keys),
      )
      return rows.sort(byDue).map((row) => ({ ...jobOf(queue, row), token }))
    })
  }

  /**
   * The job is done: it goes, or waits again if its key was added meanwhile. False when it was taken over by somebody
   * else; within a transaction the caller must then reject, so that nothing of its work is kept.
   */
  async finish(job: Job, tx?: Transaction): Promise<boolean> {
    return this.#within(tx, async (inside) => {
      if (await inside.run(`DELETE FROM jobs WHERE ${mine} AND again IS NULL`, ...fence(job))) return true
      return this.#runAgain(job, inside)
    })
  }

  /** The job failed: it waits for its next attempt, or is set aside if that is pointless or has been tried enough. */
  async fail(job: Job, error: unknown, tx?: Transaction): Promise<'retry' | 'set aside'> {
    return this.#within(tx, async (inside) => {
      if (await this.#runAgain(job, inside)) return 'retry'
      const reason = (error instanceof Error ? error.message : String(error)).slice(0, 2000)
      if (isHopeless(error) || (!isPassing(error) && job.attempt >= this.#maxAttempts)) {
        const set = `state = 'aside', reason = ?, due_ms = ?`
        await inside.run(`UPDATE jobs SET ${set} WHERE ${mine}`, reason, this.#clock.now(), ...fence(job))
        return 'set aside'
      }
      const asked = error instanceof StowageError ? (error.retryAfterMs ?? 0) : 0
      const due = this.#clock.now() + Math.max(asked, this.#nextTryMs(job.attempt))
      const set = `state = 'waiting', reason = ?, due_ms = ?`
      await inside.run(`UPDATE jobs SET ${set} WHERE ${mine}`, reason, due, ...fence(job))
      return 'retry'
    })
  }

  /** Gives the job back for later; this try does not count. */
  async postpone(job: Job, delayMs: number): Promise<void> {
    await this.#database.transaction(async (tx) => {
      if (await this.#runAgain(job, tx)) return
      const set = `state = 'waiting', attempt = attempt - 1, due_ms = ?`
      await tx.run(`UPDATE jobs SET ${set} WHERE ${mine}`, this.#clock.now() + delayMs, ...fence(job))
    })
    this.announce()
  }

  /** Waiting jobs of a queue that would be due later than so many milliseconds from now are due then. */
  async hasten(queue: string, withinMs: number, tx: Transaction): Promise<void> {
    if (!Number.isFinite(withinMs)) return
    const due = this.#clock.now() + withinMs
    await tx.run(`UPDATE jobs SET due_ms = ? WHERE queue = ? AND state = 'waiting' AND due_ms > ?`, due, queue, due)
  }

  /**
   * Jobs set aside wait again, from their first attempt; all of them, or those of a queue, of a key, or of keys with a
   * beginning. Returns how many.
   */
  async retry(filter: { queue?: string; key?: string; prefix?: string } = {}): Promise<number> {
    const [where, values] = conditions(filter)
    const changed = await this.#database.transaction(async (tx) =>
      tx.run(
        // Not knowing that they are few, SQLite would search among all.
        `UPDATE jobs INDEXED BY jobs_due SET state = 'waiting', attempt = 0, due_ms = ? WHERE state = 'aside'${where}`,
        this.#clock.now(),
        ...values,
      ),
    )
    this.announce()
    return changed
  }

  /** At start: whatever was running waits again. Returns how many. Only the first call does anything. */
  async recover(): Promise<number> {
    this.#recovered ??= this.#recover()
    return this.#recovered
  }

  async #recover(): Promise<number> {
    return this.#database.transaction(async (tx) => {
      // What was added while it ran is the newer word.
      await tx.run(`UPDATE jobs SET ${again} WHERE state = 'running' AND again IS NOT NULL`)
      return tx.run(`UPDATE jobs SET state = 'waiting' WHERE state = 'running'`)
    })
  }

  /** One line for each queue that has jobs. */
  async counts(options: { excludeGroups?: readonly string[] } = {}): Promise<QueueCounts[]> {
    const [exclude, groups] = excluding(options.excludeGroups)
    const rows = await this.#database.query(
      `SELECT queue, SUM(CASE WHEN state = 'waiting' THEN jobs ELSE 0 END) AS waiting,
         SUM(CASE WHEN state = 'running' THEN jobs ELSE 0 END) AS running,
         SUM(CASE WHEN state = 'aside' THEN jobs ELSE 0 END) AS aside
       FROM job_counts WHERE jobs > 0 ${exclude} GROUP BY queue ORDER BY queue`,
      ...groups,
    )
    const counts = rows.map(async (row) => ({
      queue: String(row['queue']),
      waiting: Number(row['waiting']),
      running: Number(row['running']),
      setAside: Number(row['aside']),
      oldestMs: await this.nextDueMs(String(row['queue']), options),
    }))
    return Promise.all(counts)
  }

  /** The groups that have jobs in a queue. */
  async groups(queue: string): Promise<string[]> {
    const rows = await this.#database.query('SELECT DISTINCT grp FROM job_counts WHERE queue = ? AND jobs > 0', queue)
    return rows.map(({ grp }) => String(grp))
  }

  /** The jobs that were set aside, latest first, `limit` at most (default 100). */
  async setAside(limit = 100): Promise<SetAside[]> {
    const rows = await this.#database.transaction(async (tx) =>
      tx.all(`SELECT * FROM jobs WHERE state = 'aside' ORDER BY due_ms DESC LIMIT ?`, limit),
    )
    return rows.map((row) => ({
      queue: String(row['queue']),
      key: String(row['key']),
      payload: JSON.parse(String(row['payload'])),
      attempts: Number(row['attempt']),
      reason: String(row['reason']),
      atMs: Number(row['due_ms']),
    }))
  }

  /** What is known about one job: its payload, its state, the attempts made, when it is due, why it failed last. */
  async find(queue: string, key: string, tx?: Transaction) {
    const sql = 'SELECT payload, state, attempt, due_ms, reason FROM jobs WHERE queue = ? AND key = ?'
    const look = async (inside: Transaction) => inside.all(sql, queue, key)
    const [row] = await (tx ? look(tx) : this.#database.transaction(look))
    if (!row) return undefined
    const { payload, state, attempt, due_ms: due, reason } = row
    return {
      payload: JSON.parse(String(payload)) as unknown,
      state: String(state),
      attempt: Number(attempt),
      dueMs: Number(due),
      reason: reason as string | null,
    }
  }

  /** When the next waiting job of a queue is due; undefined when none waits. */
  async nextDueMs(queue: string, options: { excludeGroups?: readonly string[] } = {}): Promise<number | undefined> {
    const [exclude, groups] = excluding(options.excludeGroups)
    const [row] = await this.#database.query(
      `SELECT MIN((SELECT MIN(due_ms) FROM jobs WHERE state = 'waiting' AND queue = c.queue AND grp = c.grp)) AS due
       FROM job_counts c WHERE queue = ? AND state = 'waiting' AND jobs > 0 ${exclude}`,
      queue,
      ...groups,
    )
    const due = row?.['due']
    return due === null || due === undefined ? undefined : Number(due)
  }

  /** Waiting jobs that are given up: the one of a key, or those of all keys that begin with a prefix. Returns how many. */
  async cancel(queue: string, which: { key: string } | { prefix: string }, tx?: Transaction): Promise<number> {
    const [where, ...values] =
      'key' in which
        ? ['key = ?', which.key]
        : which.prefix === ''
          ? ['1 = 1']
          : ['key >= ? AND key < ?', which.prefix, which.prefix + lastCharacter]
    return this.#within(tx, async (inside) =>
      inside.run(`DELETE FROM jobs WHERE queue = ? AND state <> 'running' AND ${where}`, queue, ...values),
    )
  }

  async #add(job: NewJob, tx: Transaction) {
    const payload = JSON.stringify(job.payload ?? null)
    const due = this.#clock.now() + (job.delayMs ?? 0)
    const inserted = await tx.run(
      `INSERT INTO jobs (queue, key, grp, payload, state, due_ms, attempt, token)
       VALUES (?, ?, ?, ?, 'waiting', ?, 0, 0) ON CONFLICT (queue, key) DO NOTHING`,
      job.queue,
      job.key,
      job.group ?? '',
      payload,
      due,
    )
    if (inserted > 0 || job.unlessQueued) return
    await (job.isReminder ? this.#remind(job, tx) : this.#addAgain(job, payload, due, tx))
  }

  async #addAgain(job: NewJob, payload: string, due: number, tx: Transaction) {
    const [old] = await tx.all(
      'SELECT state, payload, attempt, again FROM jobs WHERE queue = ? AND key = ?',
      job.queue,
      job.key,
    )
    if (old?.['state'] === 'running') {
      const set = 'again = ?, again_due_ms = ?'
      await tx.run(`UPDATE jobs SET ${set} WHERE queue = ? AND key = ?`, payload, due, job.queue, job.key)
      return
    }
    const isFresh = old?.['state'] === 'waiting' && old['attempt'] === 0
    const merged = isFresh && job.merge ? job.merge(JSON.parse(String(old['payload'])), job.payload) : job.payload
    if (merged === undefined && isFresh && job.merge) {
      await tx.run('DELETE FROM jobs WHERE queue = ? AND key = ?', job.queue, job.key)
      return
    }
    const set = `state = 'waiting', grp = ?, payload = ?, due_ms = ?, attempt = ?, reason = NULL`
    await tx.run(
      `UPDATE jobs SET ${set} WHERE queue = ? AND key = ?`,
      job.group ?? '',
      JSON.stringify(merged ?? null),
      due,
      // A waiting job that has been tried keeps that on record: what it left behind must still be cleaned up.
      isFresh ? 0 : 1,
      job.queue,
      job.key,
    )
  }

  async #remind({ queue, key }: NewJob, tx: Transaction) {
    const which = 'WHERE queue = ? AND key = ?'
    const now = this.#clock.now()
    const once = 'again = payload, again_due_ms = ?'
    await tx.run(`UPDATE jobs SET ${once} ${which} AND state = 'running' AND again IS NULL`, now, queue, key)
    const soon = 'due_ms = ?, attempt = 1'
    await tx.run(`UPDATE jobs SET ${soon} ${which} AND state = 'waiting' AND attempt > 0`, now, queue, key)
  }

  /** If the key was added while the job ran, it waits again with what was added. */
  async #runAgain(job: Job, tx: Transaction): Promise<boolean> {
    const changed = await tx.run(`UPDATE jobs SET ${again} WHERE ${mine} AND again IS NOT NULL`, ...fence(job))
    if (changed > 0) this.announce()
    return changed > 0
  }

  #nextTryMs(attempt: number): number {
    return backoffMs(attempt, { ...this.#backoff, random: this.#random })
  }

  async #within<T>(tx: Transaction | undefined, work: (tx: Transaction) => Promise<T>): Promise<T> {
    const result = await (tx ? work(tx) : this.#database.transaction(work))
    this.announce()
    return result
  }

  /** Has everybody look at the queues again, as when what was held back may go on. */
  announce(): void {
    for (const listener of this.#listeners) listener()
  }
}

/** A place that is down or full will be up again: such a job waits for as long as it takes. */
function isPassing(error: unknown): boolean {
  return error instanceof StowageError && (error.retryable || error.code === 'NO_SPACE')
}

/** Another try would end the same way until somebody changes something. */
function isHopeless(error: unknown): boolean {
  return error instanceof StowageError && !isPassing(error) && error.code !== 'UNKNOWN'
}

/** The job counts as tried once: what it left behind must still be seen to, so it may not merge into nothing. */
const again = `state = 'waiting', payload = again, due_ms = again_due_ms, attempt = 1, again = NULL, again_due_ms = NULL`

const mine = `queue = ? AND key = ? AND token = ? AND state = 'running'`

function fence(job: Job): [string, string, number] {
  return [job.queue, job.key, job.token]
}

function jobOf(queue: string, row: Row): Omit<Job, 'token'> {
  return {
    queue,
    key: String(row['key']),
    group: String(row['grp']),
    payload: JSON.parse(String(row['payload'])),
    attempt: Number(row['attempt']),
  }
}

/** No key has anything after it: the largest code point. */
const lastCharacter = '\u{10ffff}'

function excluding(groups: readonly string[] = []): [string, readonly string[]] {
  return [groups.length > 0 ? `AND grp NOT IN (${groups.map(() => '?').join(', ')})` : '', groups]
}

function conditions({ prefix, ...filter }: { queue?: string; key?: string; prefix?: string }): [string, Value[]] {
  const given = Object.entries(filter).filter(([, value]) => value !== undefined)
  const below = prefix ? ' AND key >= ? AND key < ?' : ''
  const values = given.map(([, value]) => value ?? '')
  return [
    given.map(([name]) => ` AND ${name} = ?`).join('') + below,
    prefix ? [...values, prefix, prefix + lastCharacter] : values,
  ]
}
