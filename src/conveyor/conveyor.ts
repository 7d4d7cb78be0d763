/** The conveyor: sources are watched, their files go through rules and chains, and arrive at their destinations. */
import { createHash } from 'node:crypto'
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Database, Transaction } from '../state/database.ts'
import { Queue, type Job } from '../state/queue.ts'
import { Worker, type WorkerOptions } from '../state/worker.ts'
import type { Store } from '../store/store.ts'
import { sweepWorkbenches } from '../store/workbench.ts'
import { fingerprintOf } from './chain.ts'
import { workOnDelivery, workOnFile, type FileJobContext, type FileOutcome } from './file-job.ts'
import { Intake, type FilePayload, type Source } from './intake.ts'
import { sendInvalidations, type Invalidate } from './invalidation.ts'
import { KeyLock } from '../core/key-lock.ts'
import { Lane } from '../core/lane.ts'
import { hasReferences, wakeReferrers } from './references.ts'
import { sharedPool } from './processors/pool.ts'
import { deleteKey, deleteSource } from './removal.ts'
import { laneOf, type Rule } from './rules.ts'
import { SourceFeed } from './source-feed.ts'
import { findUrl } from './urls.ts'
import { verifyDeliveries, type DeliveryFault, type VerifyOptions } from './verify.ts'

/** What a conveyor is made of. */
export interface ConveyorOptions {
  sources: readonly Source[]
  rules: readonly Rule[]
  stores: ReadonlyMap<string, Store>
  database: Database
  clock: Clock
  log: Log
  /** Where workbenches are made. */
  workDirectory: string
  /** Tells a network of caches what to forget. Without it nothing is noted. */
  invalidate?: Invalidate
  /** The queues of the database. Default: its own view of them. */
  queue?: Queue
}

/** What has been done since the conveyor was made. */
export interface Counters {
  scanned: number
  delivered: number
  deleted: number
  unchanged: number
  bytes: number
}

/** One delivery, as it is announced. */
export interface DeliveryEvent {
  source: string
  path: string
  rule: string
  store: string
  key: string
  size: number
}

/** A store as the conveyor sees it. */
export interface StoreHealth {
  name: string
  location: string
  /** Until when it is left alone after a failure, in milliseconds since the epoch. */
  pausedUntil?: number
  reason?: string
}

const filesAtOnce = 320
/** So many are in hand for a processor that has a limit: some at work, some on their way to it, some being delivered. */
const filesInLane = 64
/** After so many failures in a row a store counts as down, and nobody waits for it to finish a sync. */
const downAfter = 5
const fileQueues = ['file', 'delivery', 'delete-key', 'invalidate'] as const
/** Others that share the database wait for others than us. */
const idleQueues: readonly string[] = [...fileQueues, 'delete-source', 'repair']

/** A conveyor over an open database. */
export class Conveyor {
  readonly queue: Queue
  readonly counters: Counters = { scanned: 0, delivered: 0, deleted: 0, unchanged: 0, bytes: 0 }
  readonly feeds: readonly SourceFeed[]
  readonly #options: ConveyorOptions
  readonly #context: FileJobContext
  readonly #intakes: ReadonlyMap<string, Intake>
  readonly #lanes = new Map<string, Lane>()
  readonly #workers: Worker[] = []
  readonly #atFiles: Worker[] = []
  readonly #listeners = new Set<(event: DeliveryEvent) => void>()
  readonly #ledgerListeners = new Set<() => void>()

  constructor(options: ConveyorOptions) {
    const { sources, rules, database, clock, log, workDirectory } = options
    this.#options = options
    this.queue = options.queue ?? new Queue(database, { clock })
    this.#context = {
      sources: new Map(sources.map((source) => [source.name, source])),
      rules,
      database,
      queue: this.queue,
      locks: new KeyLock(),
      clock,
      workDirectory,
      isFollowing: rules.some(isShowingOthers),
      isInvalidating: options.invalidate !== undefined,
      warn: (message) => log.warn(message),
      store: (name) => this.#store(name),
      lane: (name) => this.#lane(name),
    }
    const intakes = sources.map((source) => {
      const lane = (path: string) => laneOf(rules, source.name, path) ?? ''
      return new Intake(source, { queue: this.queue, clock, log, laneOf: lane })
    })
    this.#intakes = new Map(sources.map((source, index) => [source.name, intakes[index] as Intake]))
    const onScanned = (files: number) => {
      this.counters.scanned += files
    }
    this.feeds = sources.map(
      (source) =>
        new SourceFeed(source, { database, intake: this.#intakes.get(source.name) as Intake, clock, log, onScanned }),
    )
  }

  /** Calls the listener after each delivery is recorded. Returns how to stop that. */
  onDelivered(listener: (event: DeliveryEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** Calls the listener after each job that may have changed what is delivered where. Returns how to stop that. */
  onLedger(listener: () => void): () => void {
    this.#ledgerListeners.add(listener)
    return () => this.#ledgerListeners.delete(listener)
  }

  /** Begins to work: takes up what a crash left, applies rules that have changed, and runs what is queued. */
  async start(): Promise<void> {
    await sweepWorkbenches(this.#options.workDirectory)
    await this.queue.recover()
    this.#context.isFollowing ||= await hasReferences(this.#options.database)
    await this.#reconsider()
    const { clock, log } = this.#options
    const own = { clock, log }
    const pausedGroups = () => this.#pausedStores()
    const onFailed: WorkerOptions['onFailed'] = (job, _error, outcome) => {
      if (outcome === 'set aside') this.#giveUp(job).catch((error: unknown) => log.error((error as Error).message))
    }
    this.#atFiles.push(...this.#fileWorkers({ onFailed, ...own }))
    this.#workers.push(
      ...this.#atFiles,
      new Worker(this.queue, {
        queue: 'delivery',
        concurrency: filesAtOnce,
        handle: this.#handleFile(workOnDelivery),
        onFailed,
        pausedGroups,
        ...own,
      }),
      new Worker(this.queue, {
        queue: 'delete-key',
        concurrency: 16,
        handle: async (job, signal) => {
          if (await deleteKey(job, this.#context, signal)) this.counters.deleted++
        },
        pausedGroups,
        ...own,
      }),
      new Worker(this.queue, {
        queue: 'invalidate',
        concurrency: 4,
        handle: async (job, signal) => sendInvalidations(job, { ...this.#options, queue: this.queue }, signal),
        ...own,
      }),
      new Worker(this.queue, {
        queue: 'delete-source',
        concurrency: 4,
        handle: async (job, signal) => {
          if (await deleteSource(job, this.#context, signal))
            log.info(`Deleted the original ${job.key}: its copies were read back and are whole.`)
        },
        ...own,
      }),
    )
    for (const worker of this.#workers) worker.start()
  }

  /** Watches every source, after one scan of each. */
  async watch(): Promise<void> {
    await Promise.all(this.feeds.map(async (feed) => feed.start()))
  }

  /** Scans every source once. One that cannot be read rejects, after the others are done. */
  async scan(): Promise<void> {
    const results = await Promise.allSettled(this.feeds.map(async (feed) => feed.scan()))
    const failure = results.find((result) => result.status === 'rejected')
    if (failure) throw failure.reason
  }

  /**
   * Resolves when nothing is in hand and nothing is due within `patienceMs` (default 10 s): a store that stays down,
   * and deletes that are to happen later, do not keep us.
   */
  async idle(options: { patienceMs?: number; signal?: AbortSignal } = {}): Promise<void> {
    const { patienceMs = 10_000, signal } = options
    const { clock } = this.#options
    while (!signal?.aborted) {
      const down = [...this.#lanes].filter(([, lane]) => lane.failures >= downAfter).map(([name]) => name)
      const counts = await this.queue.counts({ excludeGroups: down })
      const horizon = clock.now() + patienceMs
      const busy = counts.filter(({ queue, running, waiting, oldestMs = 0 }) => {
        if (!idleQueues.includes(queue)) return false
        const isWork = (fileQueues as readonly string[]).includes(queue)
        return running > 0 || (waiting > 0 && (isWork ? oldestMs <= horizon : oldestMs <= clock.now()))
      })
      // A job that is finished is still in hand until its workbench is gone and it has been counted.
      if (busy.length === 0 && this.#atFiles.every(({ running }) => running === 0)) return
      const { promise, resolve } = Promise.withResolvers<void>()
      const stop = this.queue.onAdded(resolve)
      const timer = new AbortController()
      await Promise.race([promise, clock.sleep(100, timer.signal).catch(() => undefined)])
      timer.abort()
      stop()
    }
  }

  /** Looks whether everything in the ledger is where it was delivered. What is to be delivered again needs {@link start}. */
  verify(options: VerifyOptions = {}): AsyncGenerator<DeliveryFault> {
    const deliverAgain = async (source: string, path: string, tx: Transaction) =>
      this.#intakes.get(source)?.again(path, tx)
    return verifyDeliveries({ ...this.#context, deliverAgain }, options)
  }

  /** The stores that rules deliver to, and how they are. */
  stores(): StoreHealth[] {
    return [...this.#lanes.entries()].map(([name, lane]) => ({
      name,
      location: this.#store(name).location,
      ...(lane.pausedUntil === undefined ? {} : { pausedUntil: lane.pausedUntil }),
      ...(lane.reason === undefined ? {} : { reason: lane.reason }),
    }))
  }

  /** Stops taking jobs, waits `graceMs` (default 10 s) for those in hand, and lets go of everything but the database. */
  async close(graceMs = 10_000): Promise<void> {
    await Promise.all(this.feeds.map(async (feed) => feed.close()))
    await Promise.all(this.#workers.map(async (worker) => worker.stop(graceMs)))
    await sharedPool.close()
  }

  /** Files that must wait for their turn with a processor have a worker for each such processor, so that no others wait with them. */
  #fileWorkers(own: Pick<WorkerOptions, 'onFailed' | 'clock' | 'log'>): Worker[] {
    const limited = this.#options.rules.flatMap((rule) =>
      rule.processors.filter(({ concurrency }) => concurrency !== undefined),
    )
    const lanes = ['', ...new Set(limited.map(({ name }) => name))]
    return lanes.map((lane) => {
      const others = new Map(lanes.filter((other) => other !== lane).map((other) => [other, Number.POSITIVE_INFINITY]))
      const concurrency = lane === '' ? filesAtOnce : filesInLane
      const handle = this.#handleFile(workOnFile)
      return new Worker(this.queue, { queue: 'file', concurrency, handle, pausedGroups: () => others, ...own })
    })
  }

  #handleFile(work: (job: Job, context: FileJobContext, signal: AbortSignal) => Promise<FileOutcome>) {
    return async (job: Job, signal: AbortSignal) => {
      // A job that fails may have recorded a part of its deliveries.
      const outcome = await work(job, this.#context, signal).catch((error: unknown) => {
        this.#announceLedger()
        throw error
      })
      if (outcome.delivered.length > 0 || outcome.superseded > 0) this.#announceLedger()
      this.counters.unchanged += outcome.unchanged
      const { source, path } = job.payload as { source: string; path: string }
      for (const { rule, destination, key, size } of outcome.delivered) {
        this.counters.delivered++
        this.counters.bytes += size
        for (const listener of this.#listeners) listener({ source, path, rule, store: destination, key, size })
      }
    }
  }

  /** Nobody waits any longer for a file that was set aside. */
  async #giveUp({ payload }: Job) {
    if (!this.#context.isFollowing) return
    await this.#options.database.transaction(async (tx) =>
      wakeReferrers(tx, payload as FilePayload, undefined, this.#context),
    )
  }

  #announceLedger() {
    for (const listener of this.#ledgerListeners) listener()
  }

  /** A source whose rules are not what they were has all its files looked at again. */
  async #reconsider() {
    for (const [name, intake] of this.#intakes) {
      const rules = this.#options.rules.filter((rule) => rule.source === name)
      const digest = createHash('sha256')
        .update(rules.map((rule) => this.#describe(rule)).join('\n'))
        .digest('hex')
      const setting = `rules of ${name}`
      await this.#options.database.transaction(async (tx) => {
        const [row] = await tx.all('SELECT value FROM settings WHERE name = ?', setting)
        if (row?.['value'] === digest) return
        if (row) await intake.reconsider(tx)
        await tx.run(
          'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value',
          setting,
          digest,
        )
      })
    }
  }

  /** Everything about a rule that decides what is delivered where, and what that shows of others. */
  #describe(rule: Rule): string {
    if (!isShowingOthers(rule)) return describeRule(rule)
    const { documentRoot, basePath } = this.#context.sources.get(rule.source) ?? {}
    const bases = rule.destinations.map((to) => findUrl(this.#store(to.store), 'key', to.url))
    return `${describeRule(rule)} ${JSON.stringify([documentRoot, basePath, bases])}`
  }

  #store(name: string): Store {
    const store = this.#options.stores.get(name)
    if (!store) throw new StowageError('INVALID_CONFIG', `There is no store ${JSON.stringify(name)} any more.`)
    return store
  }

  /** The smallest limit that any rule gives a store holds for all of them. */
  #lane(name: string): Lane {
    let lane = this.#lanes.get(name)
    if (!lane) {
      const limits = this.#options.rules
        .flatMap((rule) => rule.destinations)
        .filter((to) => to.store === name && to.maxConnections !== undefined)
        .map((to) => to.maxConnections as number)
      lane = new Lane(this.#options.clock, limits.length > 0 ? Math.min(...limits) : undefined)
      this.#lanes.set(name, lane)
    }
    return lane
  }

  #pausedStores(): ReadonlyMap<string, number> {
    const paused = new Map<string, number>()
    for (const [name, { pausedUntil }] of this.#lanes) if (pausedUntil !== undefined) paused.set(name, pausedUntil)
    return paused
  }
}

function isShowingOthers({ processors }: Rule): boolean {
  return processors.some(({ differsPerDestination }) => differsPerDestination)
}

function describeRule(rule: Rule): string {
  const { label, filter, destinations, deleteSourceAfterMs } = rule
  const where = destinations.map((to) => [to.store, to.path, ...(fingerprintOf([], to) ? [fingerprintOf([], to)] : [])])
  const pattern = filter.pattern ? String(filter.pattern) : undefined
  return JSON.stringify([label, { ...filter, pattern }, where, deleteSourceAfterMs, fingerprintOf(rule.processors)])
}
