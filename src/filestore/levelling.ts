/** Keeps registry and disk level: what they disagree about is put right, in favour of whoever wrote last, and nothing is lost. */
import { randomBytes } from 'node:crypto'
import { StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import type { Transaction } from '../state/database.ts'
import type { CallOptions, FileInfo } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { queueName, queueRemoval, type Context } from './context.ts'
import { infoOf, type FileRow } from './registry.ts'
import type { Plan } from './routes.ts'

/** Looks at files, and records what there is to be recorded of them. */
export class Levelling {
  readonly #context: Context

  constructor(context: Context) {
    this.#context = context
  }

  /**
   * What is known of a file; undefined where there is none. What registry and disk disagree about is put right: a file that
   * somebody has written is taken in, one that has vanished is served from where else it is.
   */
  async look(key: string): Promise<FileRow | undefined> {
    const { registry, local, lock } = this.#context
    const row = await registry.find(key)
    const state = local.stateOf(key)
    if (isLevel(row, state)) return present(row)
    if (row && row.deletedMs === undefined && state === undefined && !local.isThere) return this.#elsewhere(row)
    return lock.run(key, async () => this.level(key))
  }

  /** As {@link look}; needs the lock. */
  async level(key: string): Promise<FileRow | undefined> {
    const { registry, local, log } = this.#context
    const row = await registry.find(key)
    const found = local.look(key)
    const seen = found && (row?.local === found.state || local.isInside(key)) ? found : undefined
    if (isLevel(row, seen?.state)) return present(row)
    if (!seen) return this.#vanished(row as FileRow)
    if (row && (await this.#isSame(row, seen))) return this.#backAgain(row, seen.state)
    log.info(`${key} was written into the directory of ${this.#context.name}; it is taken in.`)
    // What has rested for long need not rest again.
    const changedMs = Math.min(this.#context.clock.now(), seen.modifiedMs)
    const fresh = { key, ...this.newVersion(seen.size, seen.modifiedMs), changedMs, local: seen.state }
    await this.record(fresh, { isForeign: true })
    return fresh
  }

  /** A file as it can be had while the directory is not there. Throws UNREACHABLE when it is nowhere else. */
  #elsewhere(row: FileRow): FileRow | undefined {
    if (row.local !== undefined && !row.cloud) throw this.#away()
    return present({ ...row, local: undefined })
  }

  #away(): StowageError {
    const { local, name } = this.#context
    return new StowageError(
      'UNREACHABLE',
      `${local.location} is not the directory of ${name}, which has files that are nowhere else.`,
      {
        hint: 'Mount its disk. If its files are gone for good, run `stowage filestore verify --repair`.',
      },
    )
  }

  /**
   * Is the directory the one it was? Makes it so where that loses sight of nothing: every file is in the cloud too, or
   * `isGivenUp`. Rejects with UNREACHABLE otherwise: what is written now would be in the wrong place.
   */
  async settleDirectory({ isGivenUp = false } = {}): Promise<void> {
    const { registry, local } = this.#context
    if (local.isThere) return
    const { local: here, both } = await registry.counts()
    if (here.files > both.files && !isGivenUp) throw this.#away()
    await local.makeOurs()
  }

  /** Somebody has removed the local file. */
  async #vanished(row: FileRow): Promise<FileRow | undefined> {
    const { registry, local, log, name } = this.#context
    if (!local.isThere) return this.#elsewhere(row)
    await registry.transaction(async (tx) => registry.setLocal(row.key, row.version, undefined, tx))
    if (!row.cloud)
      log.error(`${row.key} has vanished from the directory of ${name}, and there was no other copy of it.`)
    return present({ ...row, local: undefined, former: row.local })
  }

  /** Is it the file that was handed over or had vanished, or another with the very same bytes? */
  async #isSame(row: FileRow, { state, size }: { state: string; size: number }): Promise<boolean> {
    if (row.deletedMs !== undefined) return false
    if (row.former === state) return true
    if (row.sha256 === undefined || row.size !== size) return false
    return row.sha256 === (await this.#context.local.digestOf(row.key, state))
  }

  /** The file as it is recorded is there, in this state. */
  async #backAgain(row: FileRow, state: string): Promise<FileRow> {
    const { registry } = this.#context
    const back = { ...row, local: state, former: undefined }
    const plan = await this.planFor(back)
    await registry.transaction(async (tx) => {
      await registry.setLocal(row.key, row.version, state, tx)
      await this.enqueue(back, plan, tx)
    })
    return back
  }

  /** Takes in every file of the directory that is not as the registry knows it, and notices those that have vanished. */
  async scan(options: CallOptions): Promise<{ files: number; changed: number }> {
    let files = 0
    let changed = 0
    for await (const batch of batched(this.#differences(options, () => files++))) {
      const results = await Promise.all(batch.map(async ({ key, state }) => this.#compare(key, state)))
      changed += results.filter(Boolean).length
    }
    return { files, changed }
  }

  /** Goes through disk and registry side by side, both in key order, and gives what may differ. */
  async *#differences(options: CallOptions, onFile: () => void): AsyncGenerator<{ key: string; state?: string }> {
    const { registry, local } = this.#context
    const known = registry.walk('', { which: 'local' })
    let next = await known.next()
    const isGone = (row: FileRow) => local.stateOf(row.key) !== row.local
    for await (const { key, etag: state = '' } of local.files(options)) {
      onFile()
      for (; !next.done && compareKeys(next.value.key, key) < 0; next = await known.next())
        if (isGone(next.value)) yield { key: next.value.key }
      const row = !next.done && next.value.key === key ? next.value : undefined
      if (row) next = await known.next()
      if (row?.local !== state) yield { key, state }
    }
    if (!local.isThere) return
    for (; !next.done; next = await known.next()) {
      throwIfAborted(options.signal)
      if (isGone(next.value)) yield { key: next.value.key }
    }
  }

  /** Puts right what registry and disk disagree about. False when there is nothing. */
  async #compare(key: string, state: string | undefined): Promise<boolean> {
    const { registry, lock } = this.#context
    const isLeft = (row: FileRow | undefined): row is FileRow =>
      row?.deletedMs !== undefined && state !== undefined && state === row.former
    const row = await registry.find(key)
    if (isLeft(row))
      await lock.run(key, async () => {
        const now = await registry.find(key)
        if (isLeft(now)) await this.tidyDeleted(now)
      })
    else if (!isLevel(row, state)) await this.look(key)
    else return false
    return true
  }

  /** Something happened under a name: to a file, or to a directory with all that was in it. */
  async notice(name: string): Promise<void> {
    const { registry, local } = this.#context
    await this.look(name)
    if (local.stateOf(name) !== undefined || !local.isThere) return
    for await (const { key } of registry.walk(`${name}/`, { which: 'local' })) await this.look(key)
  }

  /** Ends what a process was doing with local files when it was killed. */
  async settleAsides(): Promise<void> {
    const { registry, local, lock } = this.#context
    if (!local.isThere) return
    local.prepare()
    for (const { name, key, state, isExpected } of local.leftAside())
      await lock.run(key, async () => {
        const row = await registry.find(key)
        const isRestorable = row?.deletedMs !== undefined && row.local === state
        const end = isExpected ? (isRestorable ? { discardAs: row.version } : 'remove') : 'put back'
        await local.settleAside(name, key, end)
      })
  }

  /** Moves the local bytes of a deleted file out of the way, should they still be in it. Needs the lock. */
  async tidyDeleted({ key, version, local: kept, former }: FileRow): Promise<void> {
    const { local, cache, name } = this.#context
    if (former !== undefined && kept === undefined) await local.remove(key, former)
    else if (former !== undefined) local.discard(key, former, version)
    await cache?.drop(name, key)
  }

  /** Notes what must be uploaded, unless it is there already. When it is due, in milliseconds since the epoch. */
  async enqueue(row: FileRow, plan: Plan | undefined, tx: Transaction): Promise<number | undefined> {
    const { queue, clock, settings } = this.#context
    const mayHandOver = row.local !== undefined && !settings.keepLocal
    if (!plan || row.local === undefined || (row.cloud && !mayHandOver)) return undefined
    const delayMs = Math.max(plan.delayMs, row.changedMs + settings.coolDownMs - clock.now(), 0)
    await queue.add({ queue: queueName(this.#context, 'offload'), key: row.key, group: plan.remote, delayMs }, tx)
    return clock.now() + delayMs
  }

  /** Where a file should go. A route that cannot tell now is asked again when the upload is due. */
  async planFor(row: FileRow): Promise<Plan | undefined> {
    try {
      return await this.#context.routes.plan(infoOf(row))
    } catch (error) {
      this.#context.log.warn(`The route of ${row.key} cannot be told: ${(error as Error).message}`)
      return { remote: '', delayMs: 0 }
    }
  }

  /** Records a version of a file that is local, and queues its upload, in one transaction. Needs the lock. */
  async record(row: FileRow, { isForeign }: { isForeign: boolean }): Promise<FileInfo> {
    const { registry, queue, cache, name, local, events } = this.#context
    const { key } = row
    const former = await registry.find(key)
    const plan = await this.planFor(row)
    const dueMs = await registry.transaction(async (tx) => {
      await registry.put(row, tx)
      if (plan) return this.enqueue(row, plan, tx)
      // It stays here: nothing will take the place of the copies of what it was.
      await queue.cancel(queueName(this.#context, 'offload'), { key }, tx)
      for (const replica of await registry.replicas(key, tx)) await queueRemoval(this.#context, replica, {}, tx)
      return undefined
    })
    if (former?.deletedMs !== undefined) await local.purge(former.version)
    if (former) await cache?.drop(name, key)
    const info = infoOf(row)
    events.emit('stored', { key, info, isForeign })
    if (plan && dueMs !== undefined) events.emit('queued', { key, remote: plan.remote, dueMs })
    return info
  }

  /** What is known of a version from the moment it is seen. */
  newVersion(
    size: number,
    modifiedMs: number,
  ): Pick<FileRow, 'version' | 'size' | 'modifiedMs' | 'changedMs' | 'cloud'> {
    const version = randomBytes(12).toString('base64url')
    return { version, size, modifiedMs, changedMs: this.#context.clock.now(), cloud: false }
  }
}

/** So many files are compared at a time: their changes share one commit. */
const batchFiles = 256

async function* batched<T>(items: AsyncIterable<T>): AsyncGenerator<T[]> {
  let batch: T[] = []
  for await (const item of items) {
    batch.push(item)
    if (batch.length < batchFiles) continue
    yield batch
    batch = []
  }
  yield batch
}

/** Is a file there, as the registry tells? */
function present(row: FileRow | undefined): FileRow | undefined {
  const isThere = row && row.deletedMs === undefined && (row.local !== undefined || row.cloud)
  return isThere ? row : undefined
}

/** Do registry and disk tell the same? */
function isLevel(row: FileRow | undefined, state: string | undefined): boolean {
  if (!row) return state === undefined
  if (row.deletedMs !== undefined) return state === undefined || state === row.former
  return state === row.local
}
