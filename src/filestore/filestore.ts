/**
 * The filestore: keeps an application's files in a local directory first, offloads them to remotes when they have rested,
 * and brings them back through a cache when they are wanted. All it knows is in a registry beside its jobs, so that a crash
 * at any moment loses nothing.
 */
import { randomUUID } from 'node:crypto'
import type { Cache, CacheStatistics } from '../cache/cache.ts'
import { systemClock, type Clock } from '../core/clock.ts'
import { KeyLock } from '../core/key-lock.ts'
import { silentLog, type Log } from '../core/log.ts'
import { Rate } from '../core/rate.ts'
import type { Database } from '../state/database.ts'
import type { Job, Queue } from '../state/queue.ts'
import { Worker } from '../state/worker.ts'
import type { CallOptions, Driver, FileInfo } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { queueName, type Context, type QueueKind } from './context.ts'
import { filestoreDriver } from './driver.ts'
import { Events, type FilestoreEvents } from './events.ts'
import { Fetcher } from './fetcher.ts'
import { Files } from './files.ts'
import { allRemotes, Lanes } from './lanes.ts'
import { Levelling } from './levelling.ts'
import { LocalDirectory } from './local.ts'
import { Mover, type MoveOrder, type MoveProgress } from './mover.ts'
import { Noticing } from './noticing.ts'
import { Orphans, type CollectOptions, type Orphan } from './orphans.ts'
import { Registry, type Count, type Counts } from './registry.ts'
import { Remover } from './remover.ts'
import { Renaming } from './renaming.ts'
import { Routes, type RemoteName, type Remotes, type Route } from './routes.ts'
import { Uploader } from './uploader.ts'
import { Verifier, type Fault, type VerifyOptions } from './verifier.ts'

/** What a filestore is opened with. Durations in milliseconds. */
export interface FilestoreOptions {
  /** Tells it apart in the registry; a registry that is opened again must be opened under the same name. */
  name: string
  /** Where files are first. Files that are there already are taken in. */
  directory: string
  /** Where files go, by name. They are not closed with the filestore. */
  remotes: Remotes
  /** Which remote for which file. Default: the only remote. */
  remote?: Route
  /** How keys become names there. Default: they are the same. */
  remoteNames?: RemoteName
  database: Database
  queue: Queue
  /** What is brought back goes through it; several filestores may share one. Without one, every read is fetched. */
  cache?: Cache
  /** So long a file must have rested before it is uploaded. Default 10 min. */
  coolDownMs?: number
  /** Keep files local when they are in the cloud: it is a copy then. Default false. */
  keepLocal?: boolean
  /** So long a deleted file can be restored. 0: not at all, Infinity: for ever. Default 5 weeks. */
  deleteAfterMs?: number
  /**
   * How often the directory is compared with the registry, besides at the start; 0 is never. Default 10 min. Where the system
   * has events, what others write is noticed at once.
   */
  scanEveryMs?: number
  /** Listen for the system's events in the directory. Default true. */
  watch?: boolean
  clock?: Clock
  log?: Log
}

/** How a filestore is doing. */
export interface FilestoreStatus extends Counts {
  name: string
  /** Files that are known, but are neither here nor in the cloud. */
  lost: Count
  queues: {
    queue: QueueKind
    waiting: number
    running: number
    setAside: number
    /** When the oldest that waits was or is due, in milliseconds since the epoch. */
    oldestMs?: number
  }[]
  /** Remotes nothing is sent to now: because somebody said so (`*` are all), or because they are in trouble. */
  paused: string[]
  troubles: { remote: string; reason: string; untilMs: number }[]
  /** The move that was begun last. */
  move?: MoveProgress
  cache?: CacheStatistics
}

/** Jobs in hand at once: of one remote, and of all together. */
const perRemote: Record<QueueKind, number> = { offload: 64, move: 64, remove: 1000 }
const inHandAtMost = 4000
const defaultScanMs = 600_000
/** By so much a clock may be behind: it is set now and then. */
const clockToleranceMs = 60_000
const fiveWeeksMs = 5 * 7 * 86_400_000

/** A filestore in the hands of this process. */
export class Filestore {
  /** Its files, as those of any other place. */
  readonly driver: Driver
  readonly #context: Context
  readonly #files: Files
  readonly #levelling: Levelling
  readonly #renaming: Renaming
  readonly #mover: Mover
  readonly #lanes: Lanes
  readonly #verifier: Verifier
  readonly #orphans: Orphans
  readonly #workers: Record<QueueKind, Worker>
  readonly #noticing: Noticing
  #stopListening = () => undefined as unknown
  #owned = new AsyncDisposableStack()
  #started: Promise<void> | undefined

  /** Opens a filestore. Its files can be used at once; nothing is moved anywhere before {@link start}. */
  static async open(options: FilestoreOptions): Promise<Filestore> {
    const registry = new Registry(options.database, options.name)
    const paused = (await registry.setting('paused')) as string[] | undefined
    const filestore = new Filestore(options, registry, paused ?? [])
    await filestore.#recognise()
    await filestore.#levelling.settleAsides()
    await filestore.#renaming.finish()
    return filestore
  }

  private constructor(options: FilestoreOptions, registry: Registry, paused: readonly string[]) {
    const { name, directory, remotes, remote: route, remoteNames: names, queue, cache } = options
    const { clock = systemClock, log = silentLog } = options
    const context: Context = {
      name,
      registry,
      local: new LocalDirectory(directory),
      routes: new Routes({ ...(route && { route }), remotes, ...(names && { names }), now: () => clock.now() }),
      queue,
      cache,
      lock: new KeyLock(),
      sending: new KeyLock(),
      events: new Events(log),
      clock,
      log,
      settings: {
        coolDownMs: options.coolDownMs ?? 600_000,
        keepLocal: options.keepLocal ?? false,
        deleteAfterMs: options.deleteAfterMs ?? fiveWeeksMs,
      },
    }
    const fetcher = new Fetcher(context)
    const levelling = new Levelling(context)
    const renaming = new Renaming(context, levelling)
    const files = new Files(context, { levelling, renaming, fetcher })
    const lanes = new Lanes(clock, paused)
    const rate = new Rate(clock)
    const uploader = new Uploader(context, { levelling, lanes, rate })
    const mover = new Mover(context, { levelling, fetcher, uploader, lanes, rate })
    const remover = new Remover(context, lanes)
    this.#context = context
    this.#files = files
    this.#levelling = levelling
    this.#renaming = renaming
    this.#lanes = lanes
    this.#verifier = new Verifier(context, { levelling, fetcher, mover })
    this.#orphans = new Orphans(context, remover)
    this.#mover = mover
    const { scanEveryMs = defaultScanMs, watch = true } = options
    const onScanned = async () => this.#noteTime()
    this.#noticing = new Noticing(context, levelling, { directory, scanEveryMs, watch, onScanned })
    this.driver = filestoreDriver(files, `filestore:${name}`)
    this.#workers = {
      offload: this.#worker('offload', async (job, signal) =>
        uploader.offload(job.key, signal, async (tx) => void (await queue.finish(job, tx)), { mustRest: true }),
      ),
      move: this.#worker('move', async (job, signal) => mover.handle(job, signal)),
      remove: this.#worker('remove', async (job) => remover.handle(job)),
    }
  }

  /** Hands over what is let go of after {@link close}. */
  owns(stack: AsyncDisposableStack): void {
    this.#owned = stack
  }

  /** Calls the listener whenever something happens. Returns how to stop that. */
  on<Name extends keyof FilestoreEvents>(name: Name, listener: (event: FilestoreEvents[Name]) => void): () => void {
    return this.#context.events.on(name, listener)
  }

  /** Compares the directory with the registry, then uploads, moves and removes until {@link close}. */
  async start(): Promise<void> {
    this.#started ??= this.#start()
    return this.#started
  }

  /** Takes in what others have written into the directory, and notices what they have removed. */
  async scan(options: CallOptions = {}): Promise<{ files: number; changed: number }> {
    return this.#levelling.scan(options)
  }

  /** Resolves when nothing waits to be uploaded or moved, short of what is paused or set aside. */
  async idle({ signal }: CallOptions = {}): Promise<void> {
    const { queue } = this.#context
    for (;;) {
      throwIfAborted(signal)
      const news = Promise.withResolvers<void>()
      const stopListening = queue.onAdded(() => news.resolve())
      const leave = () => news.resolve()
      signal?.addEventListener('abort', leave, { once: true })
      try {
        const queues = [this.#queue('offload'), this.#queue('move')]
        const groups = (await Promise.all(queues.map(async (each) => queue.groups(each)))).flat()
        const resting = this.#lanes.resting(groups)
        const excludeGroups = groups.filter((group) => resting.get(group) === Infinity)
        const counts = await queue.counts({ excludeGroups })
        const open = counts.filter((each) => queues.includes(each.queue))
        const isMoving = excludeGroups.length === 0 && (await this.#mover.progress())?.state === 'running'
        if (!isMoving && open.every(({ waiting, running }) => waiting + running === 0)) return
        await news.promise
      } finally {
        stopListening()
        signal?.removeEventListener('abort', leave)
      }
    }
  }

  /** How it is doing, from counters. */
  async status(): Promise<FilestoreStatus> {
    const { registry, queue, name, cache } = this.#context
    const counts = await registry.counts()
    const { media, local, cloud, both } = counts
    const lost = (kind: keyof Count) => media[kind] - local[kind] - cloud[kind] + both[kind]
    const all = await queue.counts()
    const move = await this.#mover.progress()
    return {
      name,
      ...counts,
      lost: { files: lost('files'), bytes: lost('bytes') },
      queues: (['offload', 'move', 'remove'] as const).map((kind) => {
        const {
          waiting = 0,
          running = 0,
          setAside = 0,
          oldestMs,
        } = all.find(({ queue: each }) => each === this.#queue(kind)) ?? {}
        return { queue: kind, waiting, running, setAside, ...(oldestMs === undefined ? {} : { oldestMs }) }
      }),
      paused: [...this.#lanes.paused],
      troubles: this.#lanes.troubles(),
      ...(move && { move }),
      ...(cache && { cache: cache.statistics }),
    }
  }

  /** How many files and bytes a move would be about; nothing is moved. */
  async measure(order: MoveOrder): Promise<Count> {
    return this.#mover.measure(order)
  }

  /** Begins to move files; another move that is under way stops. It goes on after a restart. */
  async move(order: MoveOrder): Promise<MoveProgress> {
    return this.#mover.begin(order)
  }

  /** How far the move is that was begun last. */
  async moving(): Promise<MoveProgress | undefined> {
    return this.#mover.progress()
  }

  /** Ends a move where it is. False when none is under way. */
  async stopMoving(): Promise<boolean> {
    return this.#mover.stop()
  }

  /** Sends nothing more to a remote, or to any; what is on its way arrives. It stays so after a restart. */
  async pause(remote: string = allRemotes): Promise<void> {
    if (remote !== allRemotes) await this.#context.routes.open(remote)
    this.#lanes.paused.add(remote)
    await this.#savePaused()
  }

  /** Sends again what was held back by {@link pause}; without a remote, to all of them. */
  async resume(remote: string = allRemotes): Promise<void> {
    if (remote === allRemotes) this.#lanes.paused.clear()
    else this.#lanes.paused.delete(remote)
    await this.#savePaused()
  }

  /** Brings back a deleted file. Rejects with NOT_FOUND when it is gone for good, and with EXISTS when the key is taken. */
  async restore(key: string): Promise<FileInfo> {
    return this.#files.restore(key)
  }

  /** Deleted files that can be restored, in key order. */
  async *deleted(prefix = ''): AsyncGenerator<{ key: string; size: number; deletedMs: number }> {
    for await (const { key, size, deletedMs = 0 } of this.#context.registry.walk(prefix, { which: 'deleted' }))
      yield { key, size, deletedMs }
  }

  /** What is not where the registry says, or not as it was stored; with `repair`, what can be done is done. */
  verify(options: VerifyOptions = {}): AsyncGenerator<Fault> {
    return this.#verifier.verify(options)
  }

  /** What nobody needs any more, here and at the remotes. Nothing is removed unless that is asked for. */
  gc(options: CollectOptions = {}): AsyncGenerator<Orphan> {
    return this.#orphans.collect(options)
  }

  /**
   * Tries again at once what is remembered to have failed, and jobs that were set aside: all, or those of keys with this
   * beginning. Returns how many that were.
   */
  async retry(prefix = ''): Promise<number> {
    const { registry, queue } = this.#context
    let count = await registry.resetFailures(prefix)
    for (const kind of ['offload', 'move'] as const) count += await queue.retry({ queue: this.#queue(kind), prefix })
    // Removals have keys of another kind.
    return prefix === '' ? count + (await queue.retry({ queue: this.#queue('remove') })) : count
  }

  /** Finishes what is in hand (10 s at most), then lets go of everything but what it was given. */
  async close(): Promise<void> {
    await this.driver.close()
    await this.#noticing.close()
    await this.#started?.catch(() => undefined)
    await this.#mover.close()
    await Promise.all(Object.values(this.#workers).map(async (worker) => worker.stop()))
    if (this.#started) await this.#noteTime().catch(() => undefined)
    this.#stopListening()
    await this.#context.local.close()
    await this.#owned.disposeAsync()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Looks whether the directory is the one that is in the registry; a new registry takes any. */
  async #recognise() {
    const { registry, local, log } = this.#context
    const known = (await registry.setting('directory')) as string | undefined
    const mark = known ?? local.mark ?? randomUUID()
    local.expect(mark)
    if (known === undefined) await registry.transaction(async (tx) => registry.set('directory', mark, tx))
    await this.#levelling.settleDirectory().catch((error: unknown) => log.error((error as Error).message))
  }

  async #start() {
    const { queue, cache, name, events } = this.#context
    await queue.recover()
    await this.#compareClock()
    const stopListening = cache?.onEvicted((store, key, bytes) => {
      if (store === name) events.emit('evicted', { key, bytes })
    })
    if (stopListening) this.#stopListening = stopListening
    for (const worker of Object.values(this.#workers)) worker.start()
    await this.#mover.resume()
    await this.#noticing.start()
  }

  /** When the clock is behind what it was the last time, what was recorded meanwhile must not wait until it is there again. */
  async #compareClock() {
    const { registry, clock, settings, log } = this.#context
    const seenMs = Number((await registry.setting('clock')) ?? 0)
    if (seenMs > clock.now() + clockToleranceMs) {
      log.warn('The clock of this machine was set back. What is recorded with a later time counts as of now.')
      await registry.transaction(async (tx) => {
        await registry.forgetFuture(clock.now(), tx)
        const longest = { offload: settings.coolDownMs, move: 0, remove: settings.deleteAfterMs }
        for (const kind of ['offload', 'move', 'remove'] as const)
          await this.#context.queue.hasten(this.#queue(kind), longest[kind], tx)
      })
    }
    await this.#noteTime()
  }

  async #noteTime() {
    const { registry, clock } = this.#context
    await registry.transaction(async (tx) => registry.set('clock', clock.now(), tx))
  }

  #queue(kind: QueueKind): string {
    return queueName(this.#context, kind)
  }

  #worker(kind: QueueKind, handle: (job: Job, signal: AbortSignal) => Promise<void>): Worker {
    const { queue, clock, log } = this.#context
    return new Worker(queue, {
      queue: this.#queue(kind),
      concurrency: inHandAtMost,
      perGroup: perRemote[kind],
      handle,
      // Jobs of no group, such as recalls, send nothing.
      pausedGroups: async () => {
        const groups = await queue.groups(this.#queue(kind))
        return this.#lanes.resting(groups.filter((group) => group !== ''))
      },
      onFailed: (job, error, outcome) => this.#failed(kind, job, error, outcome),
      clock,
      log,
    })
  }

  #failed(kind: QueueKind, job: Job, error: unknown, outcome: 'retry' | 'set aside') {
    const operations = { offload: 'upload', move: 'migrate', remove: 'delete' } as const
    const { kind: ordered } = (job.payload as { order?: MoveOrder } | null)?.order ?? {}
    const operation = ordered === 'recall' ? 'recall' : ordered === 'offload' ? 'upload' : operations[kind]
    this.#context.events.emit('failed', { key: job.key, operation, error })
    if (kind === 'move' && outcome === 'set aside') void this.#mover.failed(job).catch(() => undefined)
  }

  async #savePaused() {
    const { registry, queue } = this.#context
    const paused = [...this.#lanes.paused]
    await registry.transaction(async (tx) => registry.set('paused', paused.length > 0 ? paused : undefined, tx))
    queue.announce()
  }
}
