/** Files as users of a filestore see them: local ones at once, others through the cache. Registry and disk are kept level. */
import { randomBytes } from 'node:crypto'
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import type { Transaction } from '../state/database.ts'
import type {
  Body,
  CallOptions,
  Entry,
  FileInfo,
  ListOptions,
  OpenFile,
  ReadOptions,
  WriteOptions,
} from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { purgeKey, queueName, queuePurge, queueRemoval, type Context } from './context.ts'
import type { Fetcher } from './fetcher.ts'
import { Fingerprint, fingerprinted, type Digests } from './fingerprint.ts'
import { infoOf, type FileRow } from './registry.ts'
import type { Plan } from './routes.ts'

/** A file that changes hands while it is opened is looked at again; so often at most. */
const looksAtMost = 10

/** The files of a filestore. */
export class Files {
  readonly #context: Context
  readonly #fetcher: Fetcher

  constructor(context: Context, fetcher: Fetcher) {
    this.#context = context
    this.#fetcher = fetcher
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
    return lock.run(key, async () => this.#level(key))
  }

  async stat(key: string, options: CallOptions): Promise<FileInfo> {
    throwIfAborted(options.signal)
    const row = await this.look(key)
    if (!row) throw this.#absent(key)
    return infoOf(row)
  }

  async open(key: string, options: ReadOptions): Promise<OpenFile> {
    throwIfAborted(options.signal)
    for (let looks = 1; ; looks++) {
      const row = await this.look(key)
      if (!row) throw this.#absent(key)
      try {
        return row.local === undefined ? await this.#fetcher.open(row, options) : await this.#openLocal(row, options)
      } catch (error) {
        // It was handed over, called back or replaced in that moment; or else it is just so.
        const now = await this.#context.registry.find(key)
        const isSame = now?.version === row.version && now.local === row.local
        if (looks >= looksAtMost || (isSame && !isPassing(error))) throw error
      }
    }
  }

  async write(key: string, body: Body, options: WriteOptions): Promise<FileInfo> {
    const print = new Fingerprint()
    let held: Disposable | undefined
    // The bytes may take their time; nobody has to wait for them but us.
    const locked = async function* (this: Files): AsyncGenerator<Uint8Array> {
      yield* fingerprinted(body, print)
      held = await this.#context.lock.acquire(key)
      await this.#allow(key, options)
    }
    try {
      const info = await this.#context.local.write(key, locked.call(this), localOptions(options))
      return await this.#stored(info, print.end(), options)
    } finally {
      held?.[Symbol.dispose]()
    }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions): Promise<FileInfo> {
    throwIfAborted(options.signal)
    const print = new Fingerprint()
    print.update(bytes)
    return this.#context.lock.run(key, async () => {
      await this.#allow(key, options)
      const info = await this.#context.local.writeBytes(key, bytes, localOptions(options))
      return this.#stored(info, print.end(), options)
    })
  }

  async *list(below: string, options: ListOptions): AsyncGenerator<Entry> {
    const { registry } = this.#context
    const prefix = below === '' ? '' : `${below}/`
    // "0" follows "/": what comes before it is all that is in a directory.
    const end = below === '' ? {} : { before: `${below}0` }
    const isDeep = options.recursive !== false
    let position: { from: string } | { after: string } = { from: prefix }
    if (options.after !== undefined && compareKeys(options.after, prefix) >= 0)
      position = beyond(options.after, isDeep ? undefined : prefix)
    for (let limit = isDeep ? 1000 : 100; ; ) {
      throwIfAborted(options.signal)
      const page = await registry.page({ ...position, ...end, limit })
      let directory: string | undefined
      let listed = 0
      for (const row of page) {
        if (directory !== undefined && row.key.startsWith(`${directory}/`)) continue
        const slash = isDeep ? -1 : row.key.indexOf('/', prefix.length)
        directory = slash < 0 ? undefined : row.key.slice(0, slash)
        listed++
        yield directory === undefined ? { kind: 'file', ...infoOf(row) } : { kind: 'directory', key: directory }
      }
      const last = page.at(-1)
      if (!last) return
      position = directory === undefined ? { after: last.key } : { from: `${directory}0` }
      // Of what is in a directory only one file is needed.
      limit = Math.min(1000, 2 * listed)
    }
  }

  /** Deletes a file in such a way that it can be restored until `deleteAfter` has passed. */
  async delete(key: string, options: CallOptions): Promise<void> {
    throwIfAborted(options.signal)
    const { registry, queue, clock, lock, settings, events } = this.#context
    await lock.run(key, async () => {
      await this.#level(key)
      // As it is recorded: the directory may be away, with the file in it.
      const row = await registry.find(key)
      if (!row || row.deletedMs !== undefined) return
      const { deleteAfterMs: delayMs } = settings
      // What is in the cloud can be restored from there; other bytes wait here.
      const local = row.cloud ? undefined : row.local
      const deleted: FileRow = { ...row, deletedMs: clock.now(), former: row.local, local }
      await registry.transaction(async (tx) => {
        const replicas = await registry.replicas(key, tx)
        await registry.put(deleted, tx)
        await queue.cancel(queueName(this.#context, 'offload'), { key }, tx)
        for (const replica of replicas) await queueRemoval(this.#context, replica, { delayMs }, tx)
        if (local !== undefined || replicas.length === 0) await queuePurge(this.#context, key, delayMs, tx)
      })
      await this.#tidyDeleted(deleted)
      events.emit('deleted', { key, isFinal: false })
    })
  }

  /** Moves the local bytes of a deleted file out of the way, should they still be in it. Needs the lock. */
  async #tidyDeleted({ key, version, local: kept, former }: FileRow): Promise<void> {
    const { local, cache, name } = this.#context
    if (former !== undefined && kept === undefined) await local.remove(key, former)
    else if (former !== undefined) local.discard(key, former, version)
    await cache?.drop(name, key)
  }

  /** Brings a deleted file back. Rejects with NOT_FOUND when it was not deleted, or is gone, and with EXISTS when the key is taken. */
  async restore(key: string): Promise<FileInfo> {
    const { registry, queue, local, lock } = this.#context
    return lock.run(key, async () => {
      if (await this.#level(key)) throw new StowageError('EXISTS', `There is a file ${key}; it is not deleted.`)
      const row = await registry.find(key)
      if (row?.deletedMs === undefined) throw this.#absent(key)
      await this.#allow(key, {})
      const isBack = row.local !== undefined && (await this.#undiscard(row))
      const copies = (await registry.replicas(key)).filter(
        ({ state, version }) => state === 'present' && version === row.version,
      )
      if (!isBack && copies.length === 0)
        throw new StowageError('NOT_FOUND', `${key} can no longer be restored: its last copy is being removed.`)
      const restored: FileRow = {
        ...row,
        deletedMs: undefined,
        local: isBack ? local.stateOf(key) : undefined,
        former: undefined,
        cloud: copies.length > 0,
      }
      const plan = await this.#planFor(restored)
      await registry.transaction(async (tx) => {
        await registry.put(restored, tx)
        const removals = queueName(this.#context, 'remove')
        for (const { remote, remoteKey } of copies) await queue.cancel(removals, { key: `${remote}:${remoteKey}` }, tx)
        await queue.cancel(removals, { key: purgeKey(key) }, tx)
        await this.enqueue(restored, plan, tx)
      })
      return infoOf(restored)
    })
  }

  /** Gives a file another key. Its replicas keep their names: nothing is sent anywhere. */
  async move(from: string, to: string, options: CallOptions & { ifAbsent?: boolean }): Promise<FileInfo> {
    throwIfAborted(options.signal)
    if (from === to) return this.stat(from, options)
    const { lock } = this.#context
    const [first = from, second = to] = [from, to].sort()
    return lock.run(first, async () => lock.run(second, async () => this.#move(from, to, options)))
  }

  /** Ends a move that was begun before a crash: as done when the file has its new name, as not begun otherwise. */
  async finishMoves(): Promise<void> {
    const { registry, local } = this.#context
    if (!local.isThere) return
    for (const { name, value } of await registry.settings(movePrefix)) {
      const note = value as MoveNote
      if (await this.#isMoved(note)) await this.#renamed(note.from, note.to)
      else await registry.transaction(async (tx) => registry.set(name, undefined, tx))
    }
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

  /** Does the disk say that a move has been made? */
  async #isMoved({ from, to, state, replaced }: MoveNote): Promise<boolean> {
    const { registry, local } = this.#context
    const now = local.stateOf(to)
    if (state === undefined) return now !== replaced && (await registry.find(to))?.local === replaced
    // Under both names, for a moment, where nothing may be replaced.
    if (now === state) await local.remove(from, state)
    return now === state
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
        if (isLeft(now)) await this.#tidyDeleted(now)
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
  async #planFor(row: FileRow): Promise<Plan | undefined> {
    try {
      return await this.#context.routes.plan(infoOf(row))
    } catch (error) {
      this.#context.log.warn(`The route of ${row.key} cannot be told: ${(error as Error).message}`)
      return { remote: '', delayMs: 0 }
    }
  }

  /** Throws when a file may not be written under a key. Needs the lock. */
  async #allow(key: string, { ifAbsent, ifMatch }: Pick<WriteOptions, 'ifAbsent' | 'ifMatch'>) {
    await this.settleDirectory()
    const row = await this.#level(key)
    const where = `in ${this.#context.name}`
    if (ifAbsent && row) throw new StowageError('EXISTS', `The file ${key} is already ${where}.`)
    if (ifMatch !== undefined && row?.version !== ifMatch)
      throw new StowageError('CONFLICT', `The file ${key} ${where} is not the version that was expected.`)
    const blocking = row ? undefined : await this.#context.registry.blocking(key)
    if (blocking !== undefined)
      throw new StowageError('CONFLICT', `Cannot write ${key} ${where}: there is a file ${blocking}.`)
  }

  /** Records what was written locally, and queues its upload, in one transaction. Needs the lock. */
  async #stored(info: FileInfo, digests: Digests, options: WriteOptions): Promise<FileInfo> {
    const { contentType, metadata, modified } = options
    const { key } = info
    const row = {
      key,
      ...this.#newVersion(info.size, (modified ?? info.modified ?? new Date()).getTime()),
      contentType,
      metadata,
      local: info.etag,
      ...digests,
    }
    return this.#record(row, { isForeign: false })
  }

  async #record(row: FileRow, { isForeign }: { isForeign: boolean }): Promise<FileInfo> {
    const { registry, queue, cache, name, local, events } = this.#context
    const { key } = row
    const former = await registry.find(key)
    const plan = await this.#planFor(row)
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

  #newVersion(
    size: number,
    modifiedMs: number,
  ): Pick<FileRow, 'version' | 'size' | 'modifiedMs' | 'changedMs' | 'cloud'> {
    const version = randomBytes(12).toString('base64url')
    return { version, size, modifiedMs, changedMs: this.#context.clock.now(), cloud: false }
  }

  /** As {@link look}; needs the lock. */
  async #level(key: string): Promise<FileRow | undefined> {
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
    const fresh = { key, ...this.#newVersion(seen.size, seen.modifiedMs), changedMs, local: seen.state }
    await this.#record(fresh, { isForeign: true })
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
    const plan = await this.#planFor(back)
    await registry.transaction(async (tx) => {
      await registry.setLocal(row.key, row.version, state, tx)
      await this.enqueue(back, plan, tx)
    })
    return back
  }

  async #openLocal(row: FileRow, options: ReadOptions): Promise<OpenFile> {
    const { info, body } = await this.#context.local.read(row.key, options)
    if (info.etag === row.local) return { info: infoOf(row), body }
    body.destroy()
    throw new StowageError('CONFLICT', `${row.key} changed while it was opened.`, { retryable: true })
  }

  /** The bytes of a deleted file are in the trash, or still in their place if that is when we were killed. */
  async #undiscard({ key, version, local: state }: FileRow): Promise<boolean> {
    const { local } = this.#context
    return (await local.restore(version, key)) || local.stateOf(key) === state
  }

  async #move(from: string, to: string, options: CallOptions & { ifAbsent?: boolean }): Promise<FileInfo> {
    const { registry, local } = this.#context
    const row = await this.#level(from)
    if (!row) throw this.#absent(from)
    await this.#allow(to, { ...(options.ifAbsent && { ifAbsent: true }) })
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
    if (!row) throw this.#absent(from)
    const moved = { ...row, key: to }
    const plan = await this.#planFor(moved)
    await registry.transaction(async (tx) => {
      for (const replica of await registry.replicas(to, tx)) await queueRemoval(this.#context, replica, {}, tx)
      await registry.remove(to, tx)
      await registry.rename(from, to, tx)
      await queue.cancel(queueName(this.#context, 'offload'), { key: from }, tx)
      await this.enqueue(moved, plan, tx)
      await registry.set(movePrefix + from, undefined, tx)
    })
    if (replaced?.deletedMs !== undefined) await local.purge(replaced.version)
    for (const key of [from, to]) await cache?.drop(name, key)
    return infoOf(moved)
  }

  #absent(key: string): StowageError {
    return new StowageError('NOT_FOUND', `There is no file ${key} in ${this.#context.name}.`)
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

/** Where a listing goes on. Where only one level is listed, below a prefix, a directory counts as a whole. */
function beyond(after: string, prefix: string | undefined): { from: string } | { after: string } {
  const slash = prefix !== undefined && after.startsWith(prefix) ? after.indexOf('/', prefix.length) : -1
  return slash < 0 ? { after } : { from: `${after.slice(0, slash)}0` }
}

/** Of the options of a write only these concern the local file: conditions are decided by the registry. */
function localOptions({ size, modified, signal }: WriteOptions): WriteOptions {
  return { ...(size === undefined ? {} : { size }), ...(modified && { modified }), ...(signal && { signal }) }
}

function isPassing(error: unknown): boolean {
  return codeOf(error) === 'CONFLICT' || isNotFound(error)
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
