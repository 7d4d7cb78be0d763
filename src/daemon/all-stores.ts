/** Every store of a configuration: places, filestores whose files go to them, and mounts of both. */
import { systemClock, type Clock } from '../core/clock.ts'
import { silentLog, type Log } from '../core/log.ts'
import { openStores, type OpenStoresOptions, type StorePlace, type StoreSettings } from '../drivers/stores.ts'
import { openDatabase, type Database } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import type { Store } from '../store/store.ts'
import type { Config } from './config.ts'
import { filestoreNames } from './config-filestores.ts'
import { Filestores } from './filestores.ts'
import { SavedStores } from './saved-stores.ts'

/** What all stores are opened with. */
export interface AllStoresParts extends OpenStoresOptions {
  config: Config
  /** Those of the configuration that are no filestores, at the places that were saved for them. */
  settings: Readonly<Record<string, StoreSettings>>
  database: Database
  queue: Queue
  clock: Clock
  log: Log
}

/** Stores by their names. Close all at once. */
export interface AllStores extends AsyncDisposable {
  stores: ReadonlyMap<string, Store>
  filestores: Filestores
  /** Gives a store that is `saved` another place, see `Stores.replace`. */
  replace: (name: string, place: StorePlace) => Promise<void>
}

/** Opens all of them; remotes are not contacted yet. Rejects as `openStores` and {@link Filestores.open} do. */
export async function openAllStores({ settings, ...parts }: AllStoresParts): Promise<AllStores> {
  await using rollback = new AsyncDisposableStack()
  const { config } = parts
  const late = filestoreNames({ ...config, stores: settings })
  const isLate = ([name]: [string, unknown]) => late.has(name)
  const all = Object.entries(settings)
  const places = rollback.use(await openStores(Object.fromEntries(all.filter((each) => !isLate(each))), parts))
  const filestores = rollback.use(await Filestores.open({ ...parts, stores: new Map(places) }))
  const others = new Map([...places, ...filestores.stores])
  // Closing these would close what is mounted, which is still in use then.
  const mounts = await openStores(Object.fromEntries(all.filter(isLate)), { ...parts, others })
  const owned = rollback.move()
  return {
    stores: new Map([...others, ...mounts]),
    filestores,
    replace: async (name, place) => places.replace(name, place),
    [Symbol.asyncDispose]: async () => owned.disposeAsync(),
  }
}

/**
 * Opens all of them on a state that nobody has, for who uses them and leaves: nothing is offloaded. Rejects with BUSY when a
 * daemon runs.
 */
export async function openAtRest(config: Config): Promise<AllStores> {
  await using rollback = new AsyncDisposableStack()
  const database = await openDatabase(config.state)
  rollback.defer(async () => database.close())
  const settings = await new SavedStores({ config, database }).settings()
  const queue = new Queue(database, { clock: systemClock })
  const parts = { config, settings, database, queue, clock: systemClock, log: silentLog }
  const opened = rollback.use(await openAllStores(parts))
  const owned = rollback.move()
  return { ...opened, [Symbol.asyncDispose]: async () => owned.disposeAsync() }
}
