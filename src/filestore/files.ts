/** Files as users of a filestore see them: local ones at once, others through the cache. */
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
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
import type { Levelling } from './levelling.ts'
import { listed } from './listing.ts'
import { infoOf, type FileRow } from './registry.ts'
import { absent, type Renaming } from './renaming.ts'

/** A file that changes hands while it is opened is looked at again; so often at most. */
const looksAtMost = 10

/** What files are made of, beside the context. */
interface Parts {
  levelling: Levelling
  renaming: Renaming
  fetcher: Fetcher
}

/** The files of a filestore. */
export class Files {
  readonly #context: Context
  readonly #levelling: Levelling
  readonly #renaming: Renaming
  readonly #fetcher: Fetcher

  constructor(context: Context, { levelling, renaming, fetcher }: Parts) {
    this.#context = context
    this.#levelling = levelling
    this.#renaming = renaming
    this.#fetcher = fetcher
  }

  async stat(key: string, options: CallOptions): Promise<FileInfo> {
    throwIfAborted(options.signal)
    const row = await this.#levelling.look(key)
    if (!row) throw absent(this.#context, key)
    return infoOf(row)
  }

  async open(key: string, options: ReadOptions): Promise<OpenFile> {
    throwIfAborted(options.signal)
    for (let looks = 1; ; looks++) {
      const row = await this.#levelling.look(key)
      if (!row) throw absent(this.#context, key)
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

  list(directory: string, options: ListOptions): AsyncGenerator<Entry> {
    return listed(this.#context.registry, directory, options)
  }

  /** Deletes a file in such a way that it can be restored until `deleteAfter` has passed. */
  async delete(key: string, options: CallOptions): Promise<void> {
    throwIfAborted(options.signal)
    const { registry, queue, clock, lock, settings, events } = this.#context
    await lock.run(key, async () => {
      await this.#levelling.level(key)
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
      await this.#levelling.tidyDeleted(deleted)
      events.emit('deleted', { key, isFinal: false })
    })
  }

  /** Brings a deleted file back. Rejects with NOT_FOUND when it was not deleted, or is gone, and with EXISTS when the key is taken. */
  async restore(key: string): Promise<FileInfo> {
    const { registry, queue, local, lock } = this.#context
    return lock.run(key, async () => {
      if (await this.#levelling.level(key))
        throw new StowageError('EXISTS', `There is a file ${key}; it is not deleted.`)
      const row = await registry.find(key)
      if (row?.deletedMs === undefined) throw absent(this.#context, key)
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
      const plan = await this.#levelling.planFor(restored)
      await registry.transaction(async (tx) => {
        await registry.put(restored, tx)
        const removals = queueName(this.#context, 'remove')
        for (const { remote, remoteKey } of copies) await queue.cancel(removals, { key: `${remote}:${remoteKey}` }, tx)
        await queue.cancel(removals, { key: purgeKey(key) }, tx)
        await this.#levelling.enqueue(restored, plan, tx)
      })
      return infoOf(restored)
    })
  }

  /** Gives a file another key. */
  async move(from: string, to: string, options: CallOptions & { ifAbsent?: boolean }): Promise<FileInfo> {
    throwIfAborted(options.signal)
    if (from === to) return this.stat(from, options)
    const { lock } = this.#context
    const [first = from, second = to] = [from, to].sort()
    return lock.run(first, async () =>
      lock.run(second, async () => {
        if (!(await this.#levelling.level(from))) throw absent(this.#context, from)
        await this.#allow(to, { ...(options.ifAbsent && { ifAbsent: true }) })
        return this.#renaming.rename(from, to, options)
      }),
    )
  }

  /** Throws when a file may not be written under a key. Needs the lock. */
  async #allow(key: string, { ifAbsent, ifMatch }: Pick<WriteOptions, 'ifAbsent' | 'ifMatch'>) {
    await this.#levelling.settleDirectory()
    const row = await this.#levelling.level(key)
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
      ...this.#levelling.newVersion(info.size, (modified ?? info.modified ?? new Date()).getTime()),
      contentType,
      metadata,
      local: info.etag,
      ...digests,
    }
    return this.#levelling.record(row, { isForeign: false })
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
}

/** Of the options of a write only these concern the local file: conditions are decided by the registry. */
function localOptions({ size, modified, signal }: WriteOptions): WriteOptions {
  return { ...(size === undefined ? {} : { size }), ...(modified && { modified }), ...(signal && { signal }) }
}

function isPassing(error: unknown): boolean {
  return codeOf(error) === 'CONFLICT' || isNotFound(error)
}
