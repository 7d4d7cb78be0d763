/** The assembly: everything a configuration names is opened here and joined, and nowhere else. */
import { systemClock, type Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { makeManifest, ManifestKeeper, type ManifestContext } from '../conveyor/asset-manifest.ts'
import type { AssetManifest } from '../conveyor/assets.ts'
import type { Invalidate } from '../conveyor/invalidation.ts'
import { Conveyor, type DeliveryEvent } from '../conveyor/conveyor.ts'
import { explain, type Explanation } from '../conveyor/explain.ts'
import type { Source } from '../conveyor/intake.ts'
import { loadProcessor } from '../conveyor/processors/index.ts'
import type { Rule } from '../conveyor/rules.ts'
import type { VerifyOptions } from '../conveyor/verify.ts'
import { takeOver, type FormerDelivery, type Takeover } from '../conveyor/takeover.ts'
import { openDatabase, type Database } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import type { Partial } from '../store/locations.ts'
import type { Store } from '../store/store.ts'
import { openAllStores } from './all-stores.ts'
import type { Config } from './config.ts'
import { serveControl } from './control.ts'
import { Distributions } from './distributions.ts'
import { isFilestoreQueue, type FilestoreReport, type Filestores } from './filestores.ts'
import { Repairs } from './repairs.ts'
import { SavedStores, type PlaceSettings } from './saved-stores.ts'
import { Tasks } from './tasks.ts'

/** What a daemon is started with. */
export interface DaemonOptions {
  /** As {@link loadConfig} or `checkConfig` gives it: paths absolute, durations in milliseconds. */
  config: Config
  log: Log
  clock?: Clock
}

/** How far a sync has come. */
export interface Progress {
  scanned: number
  /** Files that are known to need work. */
  total: number
  done: number
  delivered: number
  bytes: number
  failed: number
}

/** What a sync came to. */
export interface Summary {
  scanned: number
  delivered: number
  deleted: number
  unchanged: number
  /** Jobs that could not be done: they wait for their store, or were set aside. */
  failed: number
  setAside: { path: string; reason: string }[]
  bytes: number
  milliseconds: number
}

/** How a daemon is. */
export interface Status {
  pid: number
  /** ISO 8601. */
  since: string
  sources: { name: string; directory: string; watching: string; files: number }[]
  queues: { queue: string; waiting: number; running: number; setAside: number; oldestMs: number }[]
  stores: { name: string; location: string; state: 'ok' | 'backing off'; until?: string; reason?: string }[]
  setAside: { queue: string; key: string; reason: string; attempts: number; at: string }[]
  /** Files delivered since it started. */
  delivered: number
  filestores: FilestoreReport[]
}

/**
 * Opens what the configuration names and takes possession of its state. Rejects with BUSY when another process has it,
 * and with INVALID_CONFIG when a processor or store cannot be opened; nothing stays open then.
 */
export async function startDaemon({ config, log, clock = systemClock }: DaemonOptions): Promise<Daemon> {
  await using rollback = new AsyncDisposableStack()
  const rules = await Promise.all(config.rules.map(async (rule) => loadRule(rule, config.directory)))
  const database = await openDatabase(config.state)
  rollback.defer(async () => database.close())
  const saved = new SavedStores({
    config,
    database,
    clock,
    onChange: (name, place) => {
      settings[name] = { ...settings[name], url: place.url }
      log.info(`The store ${name} is at ${place.driver.location} from now on.`)
      opened.replace(name, place).catch((error: unknown) => log.warn((error as Error).message))
    },
  })
  const settings = await saved.settings()
  const queue = new Queue(database, { clock })
  const onPartial = async (name: string, partial: Partial) => repairs.add(name, partial)
  const opened = rollback.use(await openAllStores({ config, settings, database, queue, clock, log, onPartial }))
  const { stores, filestores } = opened
  const sources = Object.entries(config.sources).map(([name, source]): Source => ({ name, ...source }))
  const { workDirectory } = config
  const distributions = rollback.use(new Distributions({ ...config, stores: settings }))
  const invalidate: Invalidate = async (...call) => distributions.invalidate(...call)
  const conveyor = new Conveyor({ sources, rules, stores, database, queue, clock, log, workDirectory, invalidate })
  const repairs = new Repairs(queue, stores, { clock, log })
  const assets = config.assets && assetParts(config.assets, { stores, rules, database, clock, log })
  const tasks = new Tasks()
  const parts = { conveyor, filestores, repairs, tasks, saved, stores, sources, rules, database, clock, log }
  const daemon = new Daemon({ ...parts, ...(assets && { assets }) })
  rollback.defer(async () => saved.close())
  if (assets) rollback.defer(async () => assets.keeper.close())
  rollback.defer(async () => tasks.close())
  const control = await serveControl(`${config.state}.sock`, daemon.methods())
  rollback.defer(async () => control.close())
  rollback.defer(async () => repairs.close())
  rollback.defer(async () => conveyor.close())
  daemon.owns(rollback.move())
  return daemon
}

/** What keeps the asset manifest. */
function assetParts(
  settings: NonNullable<Config['assets']>,
  { stores, ...parts }: { stores: ReadonlyMap<string, Store> } & Omit<ManifestContext, 'settings' | 'store'> & Times,
) {
  const store = stores.get(settings.store)
  if (!store) throw new StowageError('INVALID_CONFIG', `There is no store ${JSON.stringify(settings.store)}.`)
  const context = { settings, store, ...parts }
  return { context, keeper: new ManifestKeeper(context) }
}

interface Times {
  clock: Clock
  log: Log
}

interface Parts extends Times {
  conveyor: Conveyor
  filestores: Filestores
  repairs: Repairs
  tasks: Tasks
  saved: SavedStores
  stores: ReadonlyMap<string, Store>
  sources: readonly Source[]
  rules: readonly Rule[]
  database: Database
  assets?: ReturnType<typeof assetParts>
}

/** A running Stowage: one process, one state, everything that is configured. */
export class Daemon {
  readonly #parts: Parts
  readonly #sinceMs: number
  #owned = new AsyncDisposableStack()
  #started: Promise<void> | undefined

  constructor(parts: Parts) {
    this.#parts = parts
    this.#sinceMs = parts.clock.now()
  }

  /** Hands over what {@link close} lets go of. */
  owns(stack: AsyncDisposableStack): void {
    this.#owned = stack
  }

  /** The stores whose place is kept in the state: to list, try and change them. */
  get savedStores(): SavedStores {
    return this.#parts.saved
  }

  /** The filestores: to watch them, and to ask them for all that `stowage filestore` does. */
  get filestores(): Filestores {
    return this.#parts.filestores
  }

  /** Calls the listener after each delivery. Returns how to stop that. */
  onDelivered(listener: (event: DeliveryEvent) => void): () => void {
    return this.#parts.conveyor.onDelivered(listener)
  }

  /** Watches and works until {@link close}; resolves when every source is watched, and it and each filestore were scanned. */
  async up(): Promise<void> {
    await this.#start()
    await Promise.all([this.#parts.filestores.start(), this.#parts.conveyor.watch()])
  }

  /** Resolves when everything that is queued and can be done is done. */
  async idle(options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#parts.conveyor.idle(options)
  }

  /** Scans, processes, delivers; resolves when nothing more can be done now. */
  async sync(options: { signal?: AbortSignal; onProgress?: (progress: Progress) => void } = {}): Promise<Summary> {
    const { conveyor, clock, log } = this.#parts
    const { onProgress } = options
    const begun = clock.now()
    await this.#start()
    const report = async () => onProgress?.(await this.#progress())
    const timer = onProgress && setInterval(() => void report().catch(() => undefined), 200)
    try {
      await conveyor.scan().catch((error: unknown) => log.error((error as Error).message))
      await conveyor.idle(options.signal ? { signal: options.signal } : {})
      await this.#parts.assets?.keeper.flush()
      await report()
    } finally {
      clearInterval(timer)
    }
    const all = await conveyor.queue.setAside(1000)
    const setAside = all
      .filter(({ queue }) => !isFilestoreQueue(queue))
      .map(({ key, reason }) => ({ path: key, reason }))
    return { ...conveyor.counters, failed: await this.#failed(), setAside, milliseconds: clock.now() - begun }
  }

  /** How it is: what is watched, what waits, which stores are in trouble, what was set aside and why. */
  async status(): Promise<Status> {
    const { conveyor, database, clock } = this.#parts
    const seen = await database.transaction(async (tx) =>
      tx.all('SELECT source, COUNT(*) AS files FROM seen GROUP BY source'),
    )
    const files = new Map(seen.map((row) => [String(row['source']), Number(row['files'])]))
    return {
      pid: process.pid,
      since: new Date(this.#sinceMs).toISOString(),
      sources: conveyor.feeds.map(({ source: { name, directory }, watching }) => ({
        name,
        directory,
        watching,
        files: files.get(name) ?? 0,
      })),
      queues: (await conveyor.queue.counts()).map(({ oldestMs, ...counts }) => ({
        ...counts,
        oldestMs: oldestMs === undefined ? 0 : Math.max(0, clock.now() - oldestMs),
      })),
      stores: conveyor.stores().map(({ pausedUntil, ...store }) => ({
        ...store,
        state: pausedUntil === undefined ? 'ok' : 'backing off',
        ...(pausedUntil === undefined ? {} : { until: new Date(pausedUntil).toISOString() }),
      })),
      setAside: (await conveyor.queue.setAside()).map(({ queue, key, reason, attempts, atMs }) => ({
        queue,
        key,
        reason,
        attempts,
        at: new Date(atMs).toISOString(),
      })),
      delivered: conveyor.counters.delivered,
      filestores: await this.#parts.filestores.status(),
    }
  }

  /**
   * Takes up again what was set aside, and what filestores remember to have failed: all of it, or that of one key. Returns
   * how many.
   */
  async retry(filter: { key?: string } = {}): Promise<number> {
    const { conveyor, filestores } = this.#parts
    const jobs = await conveyor.queue.retry(filter)
    return jobs + (await filestores.retry(filter.key))
  }

  /** Records what another program has delivered, where it is still right, so that it is not sent again. */
  async takeOver(former: Iterable<FormerDelivery>): Promise<Takeover> {
    return takeOver(former, this.#parts)
  }

  /** What is known about a file, and what happens next. */
  async explain(file: string): Promise<Explanation> {
    const { conveyor, filestores, ...parts } = this.#parts
    const stored = await filestores.explain(file)
    if (stored) return { path: file, lines: stored, rules: [], deliveries: [] }
    return explain(file, { ...parts, queue: conveyor.queue })
  }

  /** The asset manifest as it is now. Rejects with INVALID_CONFIG when the configuration has no `assets`. */
  async assets(): Promise<AssetManifest> {
    if (this.#parts.assets) return makeManifest(this.#parts.assets.context)
    throw new StowageError('INVALID_CONFIG', 'The configuration has no assets.', {
      hint: 'Add for example assets: { source: "site", store: "public" }.',
    })
  }

  /** Finishes what is in hand (10 s at most), then lets go of everything. */
  async close(): Promise<void> {
    await this.#owned.disposeAsync()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** What may be asked over the control socket. */
  methods(): Record<string, (parameters: never) => Promise<unknown>> {
    const { conveyor, saved, filestores, tasks } = this.#parts
    return {
      ...filestores.methods(tasks),
      'task.report': async ({ id }: { id: string }) => tasks.report(id),
      'task.cancel': async ({ id }: { id: string }) => tasks.cancel(id),
      'store.list': async () => saved.list(),
      'store.test': async ({ name }: { name: string }) => saved.test(name),
      'store.save': async ({ name, settings }: { name: string; settings: PlaceSettings }) => saved.save(name, settings),
      'store.remove': async ({ name }: { name: string }) => saved.remove(name),
      'store.rows': async () => saved.rows(),
      status: async () => this.status(),
      retry: async (filter: { key?: string }) => this.retry(filter),
      verify: async (options: VerifyOptions) => tasks.begin((task) => conveyor.verify({ ...options, ...task })),
      assets: async () => this.assets(),
      explain: async ({ path: file }: { path: string }) => this.explain(file),
    }
  }

  #start(): Promise<void> {
    this.#started ??= this.#begin()
    return this.#started
  }

  async #begin() {
    const { conveyor, repairs, assets } = this.#parts
    if (assets) conveyor.onLedger(() => assets.keeper.changed())
    await conveyor.start()
    repairs.start()
    // The configuration may have changed, and the last end may have been a sudden one.
    assets?.keeper.changed()
  }

  async #progress(): Promise<Progress> {
    const { conveyor } = this.#parts
    const { scanned, delivered, bytes, unchanged } = conveyor.counters
    const counts = (await conveyor.queue.counts()).filter(({ queue }) => !isFilestoreQueue(queue))
    const open = counts.reduce((sum, { waiting, running }) => sum + waiting + running, 0)
    const failed = counts.reduce((sum, { setAside }) => sum + setAside, 0)
    const done = delivered + unchanged
    return { scanned, total: done + open + failed, done, delivered, bytes, failed }
  }

  /** Jobs that had a go and are not done. Those that are to happen later have not failed. */
  async #failed(): Promise<number> {
    const counts = await this.#parts.conveyor.queue.counts()
    return counts
      .filter(({ queue }) => queue !== 'delete-source' && !isFilestoreQueue(queue))
      .reduce((sum, { waiting, setAside, queue }) => sum + setAside + (queue === 'delete-key' ? 0 : waiting), 0)
  }
}

async function loadRule(rule: Config['rules'][number], directory: string): Promise<Rule> {
  const { processors, ...rest } = rule
  return { ...rest, processors: await Promise.all(processors.map(async (spec) => loadProcessor(spec, directory))) }
}
