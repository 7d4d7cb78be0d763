/** The filestores of a configuration: opened with their cache and their remotes, and what may be asked of them. */
import { statfsSync } from 'node:fs'
import * as path from 'node:path'
import { Cache } from '../cache/cache.ts'
import type { Clock } from '../core/clock.ts'
import { codeOf, StowageError, type ErrorCode } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { formatBytes } from '../core/units.ts'
import { Filestore, type FilestoreStatus } from '../filestore/filestore.ts'
import type { CollectOptions } from '../filestore/orphans.ts'
import type { MoveOrder, MoveProgress } from '../filestore/mover.ts'
import { Registry, type Count } from '../filestore/registry.ts'
import type { VerifyOptions } from '../filestore/verifier.ts'
import { neededFor } from '../drivers/stores.ts'
import type { Database } from '../state/database.ts'
import type { Queue } from '../state/queue.ts'
import type { Driver } from '../store/driver.ts'
import { Store } from '../store/store.ts'
import { readOnly } from '../store/wrappers/read-only.ts'
import type { Config } from './config.ts'
import type { FilestoreSettings } from './config-filestores.ts'
import { explainStored } from './explain-filestore.ts'
import type { Tasks } from './tasks.ts'

/** What filestores are opened with. */
export interface FilestoresParts {
  config: Pick<Config, 'filestores' | 'cache' | 'stores' | 'rules' | 'assets'>
  /** What may be their remotes. */
  stores: ReadonlyMap<string, Store>
  database: Database
  queue: Queue
  clock: Clock
  log: Log
}

/** How a filestore is, with where it is. */
export interface FilestoreReport extends FilestoreStatus {
  directory: string
  remotes: string[]
  /** Files of it that were set aside, with why; the latest, a hundred at most. */
  setAside: { queue: string; key: string; reason: string }[]
}

/** A move that was asked for. */
export interface Begun {
  move: MoveProgress
  /** It was under way already. */
  isKnown: boolean
  /** The move that it has put an end to. */
  stopped?: MoveProgress
}

/** A deleted file. Times in milliseconds since the epoch; without `untilMs` it can be restored for ever. */
export interface Deleted {
  key: string
  size: number
  deletedMs: number
  untilMs?: number
}

/** A file that was to be restored. */
export interface Restored {
  key: string
  error?: { code: ErrorCode; message: string }
}

/** A question about one filestore. */
type About<T = unknown> = { name: string } & T

/** Is this a queue of a filestore, rather than of the conveyor? */
export function isFilestoreQueue(queue: string): boolean {
  return /^(?:offload|move|remove):/.test(queue)
}

/** Filestores by their names. */
export class Filestores {
  /** Each as a store. */
  readonly stores: ReadonlyMap<string, Store>
  readonly #filestores: ReadonlyMap<string, Filestore>
  readonly #parts: FilestoresParts
  readonly #owned: AsyncDisposableStack

  /**
   * Opens all that are configured, and a cache if there is one. Nothing is moved before {@link start}. Rejects with BUSY
   * when another process has the cache.
   */
  static async open(parts: FilestoresParts): Promise<Filestores> {
    await using rollback = new AsyncDisposableStack()
    const { config, log } = parts
    const settings = Object.entries(config.filestores)
    const cache = settings.length > 0 ? rollback.use(await Cache.open({ ...config.cache, log })) : undefined
    const filestores = new Map<string, Filestore>()
    rollback.defer(async () => void (await Promise.all([...filestores.values()].map(async (each) => each.close()))))
    for (const [name, each] of settings)
      filestores.set(name, await openOne(name, each, { ...parts, ...(cache && { cache }) }))
    return new Filestores(parts, filestores, rollback.move())
  }

  private constructor(parts: FilestoresParts, filestores: ReadonlyMap<string, Filestore>, owned: AsyncDisposableStack) {
    this.#parts = parts
    this.#filestores = filestores
    this.#owned = owned
    this.stores = new Map([...filestores].map(([name, { driver }]) => [name, storeOf(this.#settings(name), driver)]))
  }

  /** Names and filestores, in the order of the configuration. */
  [Symbol.iterator](): IterableIterator<[name: string, filestore: Filestore]> {
    return this.#filestores.entries()
  }

  /** The filestore of a name. Throws INVALID_ARGUMENT, naming those there are. */
  get(name: string): Filestore {
    const filestore = this.#filestores.get(name)
    if (filestore) return filestore
    const names = [...this.#filestores.keys()]
    throw new StowageError('INVALID_ARGUMENT', `There is no filestore ${JSON.stringify(name)}.`, {
      hint: names.length > 0 ? `There are: ${names.join(', ')}.` : 'The configuration has none.',
    })
  }

  /** Looks through the directories, then uploads, moves and removes until they are closed. */
  async start(): Promise<void> {
    await Promise.all([...this.#filestores.values()].map(async (each) => each.start()))
  }

  /** How they are. */
  async status(): Promise<FilestoreReport[]> {
    const setAside = this.#filestores.size > 0 ? await this.#parts.queue.setAside(100) : []
    return Promise.all(
      [...this.#filestores].map(async ([name, filestore]) => {
        const { directory, remotes } = this.#settings(name)
        const own = setAside.filter(({ queue }) => isFilestoreQueue(queue) && queue.endsWith(`:${name}`))
        const reasons = own.map(({ queue, key, reason }) => ({ queue, key, reason }))
        return { ...(await filestore.status()), directory, remotes, setAside: reasons }
      }),
    )
  }

  /** Tries again at once what is remembered to have failed: all of it, or what begins with a key. Returns how many. */
  async retry(key?: string): Promise<number> {
    const counts = await Promise.all([...this.#filestores.values()].map(async (each) => each.retry(key)))
    return counts.reduce((sum, count) => sum + count, 0)
  }

  /** How many files and bytes a move would be about. Rejects with INVALID_ARGUMENT when it names no remote. */
  async measure({ name, order }: About<{ order: MoveOrder }>): Promise<Count> {
    this.#checkOrder(name, order)
    return this.get(name).measure(order)
  }

  /**
   * Begins a move, which ends any other of this filestore; the same one that is under way just goes on. Rejects with
   * NO_SPACE when files are called back to a disk that cannot hold them.
   */
  async move({ name, order }: About<{ order: MoveOrder }>): Promise<Begun> {
    this.#checkOrder(name, order)
    const filestore = this.get(name)
    const former = await filestore.moving()
    const running = former?.state === 'running' ? former : undefined
    if (running && isSame(running.order, order)) return { move: running, isKnown: true }
    if (order.kind === 'recall') this.#checkRoom(name, await filestore.measure(order))
    return { move: await filestore.move(order), isKnown: false, ...(running && { stopped: running }) }
  }

  /** Brings deleted files back, by their keys or by the beginning of them. */
  async *restore({ name, keys, prefix }: About<{ keys?: string[]; prefix?: string }>): AsyncGenerator<Restored> {
    const filestore = this.get(name)
    const some = async function* () {
      for await (const { key } of filestore.deleted(prefix)) yield key
    }
    const restoreOne = async (key: string): Promise<Restored> => {
      try {
        await filestore.restore(key)
        return { key }
      } catch (error) {
        return { key, error: { code: codeOf(error), message: (error as Error).message } }
      }
    }
    let batch: string[] = []
    for await (const key of keys ?? some()) {
      batch.push(key)
      if (batch.length < restoredTogether) continue
      yield* await Promise.all(batch.map(restoreOne))
      batch = []
    }
    yield* await Promise.all(batch.map(restoreOne))
  }

  /** Files that can be restored, in the order of their keys. */
  async *deleted({ name, prefix }: About<{ prefix?: string }>): AsyncGenerator<Deleted> {
    const { deleteAfterMs = fiveWeeksMs } = this.#settings(name)
    for await (const each of this.get(name).deleted(prefix)) {
      const untilMs = each.deletedMs + deleteAfterMs
      yield { ...each, ...(Number.isFinite(untilMs) && { untilMs }) }
    }
  }

  /** What is known of the file at a path of the disk; undefined when that is in none of the directories. */
  async explain(file: string): Promise<string[] | undefined> {
    return explainStored(path.resolve(file), { ...this.#parts, filestores: this.#parts.config.filestores })
  }

  /** What may be asked over the control socket. What takes its time is a task. */
  methods(tasks: Tasks): Record<string, (parameters: never) => Promise<unknown>> {
    return {
      'filestore.status': async () => this.status(),
      'filestore.measure': async (about: About<{ order: MoveOrder }>) => this.measure(about),
      'filestore.move': async (about: About<{ order: MoveOrder }>) => this.move(about),
      'filestore.stop': async ({ name }: About) => this.get(name).stopMoving(),
      'filestore.pause': async ({ name, remote }: About<{ remote?: string }>) =>
        this.get(name).pause(this.#remote(name, remote)),
      'filestore.resume': async ({ name, remote }: About<{ remote?: string }>) =>
        this.get(name).resume(this.#remote(name, remote)),
      'filestore.restore': async (about: About<{ keys?: string[]; prefix?: string }>) =>
        tasks.begin(() => this.restore(about)),
      'filestore.deleted': async (about: About<{ prefix?: string }>) => tasks.begin(() => this.deleted(about)),
      'filestore.verify': async ({ name, ...options }: About<VerifyOptions>) =>
        tasks.begin((task) => this.get(name).verify({ ...options, ...task })),
      'filestore.gc': async ({ name, ...options }: About<CollectOptions>) => {
        if (options.delete && options.unknown) this.#checkAlone(name)
        return tasks.begin(({ signal }) => this.get(name).gc({ ...options, signal }))
      },
    }
  }

  /** Finishes what is in hand (10 s at most), then lets go of the filestores and their cache. */
  async close(): Promise<void> {
    await this.#owned.disposeAsync()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #settings(name: string): FilestoreSettings {
    this.get(name)
    return this.#parts.config.filestores[name] as FilestoreSettings
  }

  #remote(name: string, remote: string | undefined): string | undefined {
    const { remotes } = this.#settings(name)
    if (remote === undefined || remotes.includes(remote)) return remote
    throw new StowageError('INVALID_ARGUMENT', `The filestore ${name} has no remote ${JSON.stringify(remote)}.`, {
      hint: `It has: ${remotes.join(', ')}.`,
    })
  }

  #checkOrder(name: string, order: MoveOrder) {
    if (order.kind !== 'migrate') return
    for (const remote of [order.from, order.to]) this.#remote(name, remote)
    if (order.from === order.to) throw new StowageError('INVALID_ARGUMENT', 'A migration needs two remotes.')
  }

  #checkRoom(name: string, { bytes }: Count) {
    const { directory } = this.#settings(name)
    const free = freeBytes(directory)
    if (free === undefined || bytes <= free) return
    throw new StowageError(
      'NO_SPACE',
      `${formatBytes(bytes)} do not fit into ${directory}, where ${formatBytes(free)} are free.`,
      { hint: 'Make room, or call back a part of the files: give the beginning of their keys.' },
    )
  }

  /** What the registry does not know may be somebody else's. */
  #checkAlone(name: string) {
    const { config, stores } = this.#parts
    const named = [...config.rules.flatMap((rule) => rule.destinations.map(({ store }) => store)), config.assets?.store]
    const delivered = named.flatMap((store = '') => Object.keys(neededFor(store, config.stores)))
    const placeOf = (store: string) => stores.get(store)?.location ?? ''
    const isShared = (remote: string) =>
      delivered.some((store) => {
        const [one, other] = [placeOf(remote), placeOf(store)]
        return store === remote || (other !== '' && (one.startsWith(other) || other.startsWith(one)))
      })
    const shared = this.#settings(name).remotes.filter(isShared)
    if (shared.length === 0) return
    throw new StowageError('INVALID_ARGUMENT', `Rules deliver to ${shared.join(', ')} too: that would be removed.`, {
      hint: 'Give the filestore a remote of its own.',
    })
  }
}

/** So many files are restored at once: they share their commits. */
const restoredTogether = 32
const fiveWeeksMs = 5 * 7 * 86_400_000

/** Files may still be at stores that it was configured with before. */
async function openOne(
  name: string,
  settings: FilestoreSettings,
  parts: FilestoresParts & { cache?: Cache },
): Promise<Filestore> {
  const { stores, database } = parts
  const { remotes: names, publicUrl: _url, cleanName: _name, readOnly: _readOnly, ...options } = settings
  const recorded = await new Registry(database, name).remotes()
  const remotes = new Map<string, Driver>()
  for (const remote of new Set([...names, ...recorded])) {
    const store = stores.get(remote)
    if (store) remotes.set(remote, store.driver)
    else parts.log.warn(`Files of ${name} are at ${remote}, which the configuration does not have any more.`)
  }
  const { queue, clock, log, cache } = parts
  return Filestore.open({ ...options, name, remotes, database, queue, clock, log, ...(cache && { cache }) })
}

function storeOf({ publicUrl, cleanName, readOnly: isReadOnly }: FilestoreSettings, driver: Driver): Store {
  return new Store(isReadOnly ? readOnly(driver) : driver, {
    ...(publicUrl !== undefined && { publicUrl }),
    ...(cleanName !== undefined && { cleanName }),
  })
}

/** Do two orders come to the same? */
function isSame(one: MoveOrder, other: MoveOrder): boolean {
  const plain = ({ prefix = '', ...order }: MoveOrder) =>
    JSON.stringify(Object.entries({ prefix, ...order }).toSorted(([a], [b]) => (a < b ? -1 : 1)))
  return plain(one) === plain(other)
}

function freeBytes(directory: string): number | undefined {
  try {
    const { bavail, bsize } = statfsSync(directory)
    return bavail * bsize
  } catch {
    return undefined // it is made when the first file comes
  }
}
