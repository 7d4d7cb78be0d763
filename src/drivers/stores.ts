/** The named stores of an application, from their configuration. */
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Driver } from '../store/driver.ts'
import type { Partial } from '../store/locations.ts'
import { mounted } from '../store/mounts.ts'
import { nowhere } from '../store/nowhere.ts'
import { Store, type StoreOptions } from '../store/store.ts'
import { readOnly } from '../store/wrappers/read-only.ts'
import { replaceable, type Replaceable } from '../store/wrappers/replaceable.ts'
import { openDriver, openStore, publicUrlOf } from './index.ts'

/** Where a store is, and how it is used. */
export interface StoreSettings extends StoreOptions {
  /** Its storage URL, or several, nearest first. */
  url?: string | readonly string[]
  /** Instead of `url`: other stores by name, each below a prefix; the empty prefix takes what no other does. */
  mounts?: Readonly<Record<string, string>>
  /** Every change is refused. */
  readOnly?: boolean
  /**
   * Its place is kept in the state of a daemon, where it can be changed. `url` is then one place at most: the default
   * until another is saved.
   */
  saved?: boolean
}

/** A place that was opened to become that of a store. */
export interface StorePlace {
  driver: Driver
  /** Absent when the store has no place. */
  url?: string
}

/** What hears of the stores' troubles. */
export interface OpenStoresOptions {
  /** Hears of locations that could not be asked. */
  log?: Log
  /** Hears of changes that left the locations of a store different. */
  onPartial?: (store: string, partial: Partial) => void | Promise<void>
  /** Stores that are open already and may be mounted. They are not closed with the rest. */
  others?: ReadonlyMap<string, Store>
}

type Replace = (place: StorePlace) => Promise<void>

/** Stores by their names. Close all at once. */
export class Stores {
  readonly #stores: ReadonlyMap<string, Store>
  readonly #replace: ReadonlyMap<string, Replace>

  constructor(stores: ReadonlyMap<string, Store>, replace: ReadonlyMap<string, Replace> = new Map()) {
    this.#stores = stores
    this.#replace = replace
  }

  /** The store of a name. Throws INVALID_ARGUMENT, naming those there are. */
  get(name: string): Store {
    const store = this.#stores.get(name)
    if (store) return store
    throw new StowageError('INVALID_ARGUMENT', `There is no store ${JSON.stringify(name)}.`, {
      hint: `There are: ${[...this.#stores.keys()].join(', ')}.`,
    })
  }

  /**
   * Gives a store that is `saved` another place, which it closes in the end. Calls under way end at the former one, and
   * then it resolves. Rejects with INVALID_ARGUMENT when there is no such store, or its place is fixed.
   */
  async replace(name: string, place: StorePlace): Promise<void> {
    const replace = this.#replace.get(name)
    if (replace) return replace(place)
    await place.driver.close()
    throw new StowageError('INVALID_ARGUMENT', `The place of the store ${name} is fixed.`)
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
  const replace = new Map<string, Replace>()
  await using rollback = new AsyncDisposableStack()
  for (const [name, { url, mounts, saved, ...rest }] of Object.entries(settings)) {
    if (mounts) continue
    const hearing = { log, onPartial: onPartial && (async (partial: Partial) => onPartial(name, partial)) }
    const opened = saved
      ? await openChangeable(name, url, rest)
      : { store: await openStore(url ?? [], { ...rest, ...hearing }) }
    rollback.use(opened.store)
    stores.set(name, opened.store)
    if ('replace' in opened) replace.set(name, opened.replace)
  }
  const all = new Map([...(options.others ?? []), ...stores])
  for (const name of Object.keys(settings)) stores.set(name, mount(name, settings, all, []))
  rollback.move()
  return new Stores(stores, replace)
}

/** Opens what is to be the place of a store; nothing is contacted yet. Without a URL it has none. */
export async function openPlace(name: string, url: string | undefined): Promise<StorePlace> {
  return url === undefined ? { driver: nowhere(name) } : { driver: await openDriver(url), url }
}

/** Opens a store whose place can be replaced. What its URL says of its public address changes with it. */
async function openChangeable(name: string, url: StoreSettings['url'], settings: Omit<StoreSettings, 'url'>) {
  const [only, another] = [url ?? []].flat()
  if (another !== undefined) throw invalid(`The store ${name} is saved, so it can have one URL only.`)
  const dressed = (driver: Driver) => (settings.readOnly ? readOnly(driver) : driver)
  let place = await openPlace(name, only)
  const driver: Replaceable = replaceable(dressed(place.driver))
  const store = new Store(driver, {
    ...settings,
    get publicUrl() {
      return settings.publicUrl ?? publicUrlOf([place.url ?? []].flat())
    },
  })
  const replace: Replace = async (next) => {
    const replaced = driver.replace(dressed(next.driver))
    place = next
    await replaced
  }
  return { store, replace }
}

/** Opens one store of those that are configured, and no others than it is made of. Rejects as {@link openStores} does. */
export async function openNamed(
  name: string,
  settings: Readonly<Record<string, StoreSettings>>,
  options: OpenStoresOptions = {},
): Promise<Store> {
  return (await openStores(neededFor(name, settings), options)).get(name)
}

/** What a store is made of: its own settings, and of a store of mounts those of what is mounted. */
export function neededFor(
  name: string,
  settings: Readonly<Record<string, StoreSettings>>,
): Record<string, StoreSettings> {
  const needed: Record<string, StoreSettings> = {}
  const need = (each: string) => {
    const found = settings[each]
    if (!found || needed[each]) return
    needed[each] = found
    Object.values(found.mounts ?? {}).forEach(need)
  }
  need(name)
  return needed
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
