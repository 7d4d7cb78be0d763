/** The named stores of an application, from their configuration. */
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Driver } from '../store/driver.ts'
import type { Partial } from '../store/locations.ts'
import { mounted } from '../store/mounts.ts'
import { Store, type StoreOptions } from '../store/store.ts'
import { openStore } from './index.ts'

/** Where a store is, and how it is used. */
export interface StoreSettings extends StoreOptions {
  /** Its storage URL, or several, nearest first. */
  url?: string | readonly string[]
  /** Instead of `url`: other stores by name, each below a prefix; the empty prefix takes what no other does. */
  mounts?: Readonly<Record<string, string>>
  /** Every change is refused. */
  readOnly?: boolean
}

/** What hears of the stores' troubles. */
export interface OpenStoresOptions {
  /** Hears of locations that could not be asked. */
  log?: Log
  /** Hears of changes that left the locations of a store different. */
  onPartial?: (store: string, partial: Partial) => void | Promise<void>
}

/** Stores by their names. Close all at once. */
export class Stores {
  readonly #stores: ReadonlyMap<string, Store>

  constructor(stores: ReadonlyMap<string, Store>) {
    this.#stores = stores
  }

  /** The store of a name. Throws INVALID_ARGUMENT, naming those there are. */
  get(name: string): Store {
    const store = this.#stores.get(name)
    if (store) return store
    throw new StowageError('INVALID_ARGUMENT', `There is no store ${JSON.stringify(name)}.`, {
      hint: `There are: ${[...this.#stores.keys()].join(', ')}.`,
    })
  }

  /** Names and stores, in the order of the configuration. */
  [Symbol.iterator](): IterableIterator<[name: string, store: Store]> {
    return this.#stores.entries()
  }

  async close(): Promise<void> {
    await Promise.all([...this.#stores.values()].map(async (store) => store.close()))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/**
 * Opens stores by name; nothing is contacted yet. Rejects with INVALID_ARGUMENT or INVALID_CONFIG, and leaves nothing
 * open, when one cannot be opened.
 */
export async function openStores(
  settings: Readonly<Record<string, StoreSettings>>,
  options: OpenStoresOptions = {},
): Promise<Stores> {
  const { log, onPartial } = options
  const stores = new Map<string, Store>()
  await using rollback = new AsyncDisposableStack()
  for (const [name, { url, mounts, ...rest }] of Object.entries(settings)) {
    if (mounts) continue
    const store = await openStore(url ?? [], {
      ...rest,
      ...(log && { log }),
      ...(onPartial && { onPartial: async (partial) => onPartial(name, partial) }),
    })
    rollback.use(store)
    stores.set(name, store)
  }
  for (const name of Object.keys(settings)) mount(name, settings, stores, [])
  rollback.move()
  return new Stores(stores)
}

/** Opens one store of those that are configured, and no others than it is made of. Rejects as {@link openStores} does. */
export async function openNamed(
  name: string,
  settings: Readonly<Record<string, StoreSettings>>,
  options: OpenStoresOptions = {},
): Promise<Store> {
  const needed: Record<string, StoreSettings> = {}
  const need = (each: string) => {
    const found = settings[each]
    if (!found || needed[each]) return
    needed[each] = found
    Object.values(found.mounts ?? {}).forEach(need)
  }
  need(name)
  return (await openStores(needed, options)).get(name)
}

/** Makes a store of mounts, after those it is made of. */
function mount(
  name: string,
  settings: Readonly<Record<string, StoreSettings>>,
  stores: Map<string, Store>,
  within: readonly string[],
): Store {
  const known = stores.get(name)
  if (known) return known
  const { mounts, ...rest } = settings[name] ?? {}
  if (!mounts) throw invalid(`The store ${within.at(-1)} mounts ${JSON.stringify(name)}, which is not a store.`)
  if (within.includes(name))
    throw invalid(`The store ${name} is mounted within itself: ${[...within, name].join(' → ')}.`)
  const drivers: Record<string, Driver> = {}
  for (const [prefix, inner] of Object.entries(mounts))
    drivers[prefix] = mount(inner, settings, stores, [...within, name]).driver
  const store = new Store(mounted(drivers), rest)
  stores.set(name, store)
  return store
}

function invalid(message: string): StowageError {
  return new StowageError('INVALID_CONFIG', message)
}
