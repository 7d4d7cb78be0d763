/** A filestore with all it needs, for applications that use it as a library. */
import { Cache, type CacheOptions } from '../cache/cache.ts'
import { systemClock } from '../core/clock.ts'
import { openDriver } from '../drivers/index.ts'
import { openDatabase } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import type { Driver } from '../store/driver.ts'
import { Filestore, type FilestoreOptions } from './filestore.ts'

/** What {@link openFilestore} takes: a {@link FilestoreOptions} whose parts are told rather than given. */
export interface OpenFilestoreOptions
  extends Omit<FilestoreOptions, 'database' | 'queue' | 'cache' | 'remotes' | 'name'> {
  /** Default `files`. */
  name?: string
  /** The file of the registry and its jobs. One process owns it. */
  state: string
  /** Remotes by name: storage URLs, or drivers, which stay the caller's. */
  remotes: Readonly<Record<string, string | Driver>>
  /** Without it, every read of what is not local is fetched. */
  cache?: CacheOptions
}

/**
 * Opens a filestore with its state, its remotes and its cache, and starts it. All of it is closed with the filestore.
 * Rejects with BUSY when another process has the state or the cache.
 */
export async function openFilestore(options: OpenFilestoreOptions): Promise<Filestore> {
  const { state, remotes: places, cache: cacheOptions, name = 'files', clock = systemClock, ...rest } = options
  await using rollback = new AsyncDisposableStack()
  const database = await openDatabase(state)
  rollback.defer(async () => database.close())
  const remotes = new Map<string, Driver>()
  for (const [remote, place] of Object.entries(places)) {
    const driver = typeof place === 'string' ? await openDriver(place) : place
    if (typeof place === 'string') rollback.defer(async () => driver.close())
    remotes.set(remote, driver)
  }
  const cache = cacheOptions && rollback.use(await Cache.open(cacheOptions))
  const queue = new Queue(database, { clock })
  const parts = { name, remotes, database, queue, clock, ...(cache && { cache }) }
  const filestore = await Filestore.open({ ...rest, ...parts })
  try {
    await filestore.start()
  } catch (error) {
    await filestore.close()
    throw error
  }
  filestore.owns(rollback.move())
  return filestore
}
