/** Where stores are, as far as that is kept in the state: tried before it is saved, and encrypted. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { systemClock, type Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import { Limit } from '../core/limit.ts'
import { realPath } from '../core/real-path.ts'
import { neededFor, openNamed, openPlace, type StorePlace, type StoreSettings } from '../drivers/stores.ts'
import { openDatabase, type Database } from '../state/database.ts'
import { Vault } from '../state/vault.ts'
import { checkPlace, type Finding } from '../store/check.ts'
import type { CallOptions, Driver } from '../store/driver.ts'
import { isLocations } from '../store/locations.ts'
import type { Config } from './config.ts'
import { absoluteUrl } from './config-check.ts'
import { isWithin } from './config-draft.ts'
import { filestoreNames } from './config-filestores.ts'
import { askDaemon } from './control.ts'

/** What can be saved about a store. */
export interface PlaceSettings {
  /** Its storage URL. */
  url: string
}

/** One place of a store that was tried. */
export interface Trial {
  store: string
  /** Safe to print. */
  location: string
  findings: Finding[]
  /** Nothing fails. */
  ok: boolean
}

/** A store, and where it is from. Holds no secret. */
export interface ListedStore {
  name: string
  /** Safe to print. */
  location?: string
  /**
   * `configuration`: it cannot be changed here. `saved`, `default` (the URL of the configuration until another is saved)
   * and `none` (it has no place yet): it can. `nowhere`: it is not in the configuration.
   */
  from: 'configuration' | 'saved' | 'default' | 'none' | 'nowhere'
  /** When something was saved for it, ISO 8601; it is not used unless `from` says so. */
  savedAt?: string
  /** Why it cannot be opened. */
  problem?: string
}

/** What is kept of a saved store, by its name: the URL is encrypted. */
export type SavedRows = Record<string, { location: string; savedAt: string; url: string }>

/** What these need of the daemon they are in. */
export interface SavedStoresParts {
  config: Config
  database: Database
  /** Default: that of the state. */
  vault?: Vault
  clock?: Clock
  /** Puts a place that was opened into use. */
  onChange?: (name: string, place: StorePlace) => void
}

const prefix = 'store:'
/** So long each step of a trial may take. */
const stepLimitMs = 15_000
/** Without these nothing can be kept at a place. Listings and signed URLs are told of and not asked for. */
const required: ReadonlySet<Finding['ability']> = new Set(['write', 'read', 'delete'])

/** The stores whose place is kept in the state. One change at a time. */
export class SavedStores {
  readonly #config: Config
  readonly #database: Database
  readonly #vault: Vault
  readonly #clock: Clock
  readonly #onChange: SavedStoresParts['onChange']
  readonly #turns = new Limit(1)
  readonly #closing = new AbortController()

  constructor({ config, database, vault, clock, onChange }: SavedStoresParts) {
    this.#config = config
    this.#database = database
    this.#vault = vault ?? new Vault(config.state)
    this.#clock = clock ?? systemClock
    this.#onChange = onChange
  }

  /** What is saved, still encrypted. */
  async rows(): Promise<SavedRows> {
    return readRows(this.#database)
  }

  /** The stores of the configuration with what was saved for them. Rejects with INVALID_CONFIG without the right key. */
  async settings(): Promise<Record<string, StoreSettings>> {
    return withSaved(this.#config.stores, await this.rows(), this.#vault)
  }

  /**
   * Tries a place (writes a file, reads it back, compares, deletes it) and makes it that of a store, in the state and at
   * once in use. When one of these fails it rejects with the code and reason of that, and changes nothing. Rejects with
   * INVALID_ARGUMENT when the URL is malformed or the configuration fixes the place of that store.
   */
  async save(name: string, { url }: PlaceSettings, options: CallOptions = {}): Promise<Trial> {
    return this.#turns.run(async () => {
      this.#checkChangeable(name)
      const place = await openPlace(name, this.#checked(url))
      await using unused = new AsyncDisposableStack()
      unused.defer(async () => place.driver.close())
      const trial = await this.#try(name, place.driver, options)
      refuseFailed(trial)
      const sealed = this.#vault.seal(prefix + name, place.url ?? '')
      const savedAt = new Date(this.#clock.now()).toISOString()
      await this.#write(name, { location: trial.location, savedAt, url: sealed })
      if (this.#onChange) {
        unused.move()
        this.#onChange(name, place)
      }
      return trial
    }, options.signal)
  }

  /**
   * Forgets what was saved for a store, which is then where the configuration says, or nowhere. Nothing saved is false.
   * Rejects with INVALID_ARGUMENT when there is no such store.
   */
  async remove(name: string): Promise<boolean> {
    return this.#turns.run(async () => {
      if (!Object.hasOwn(await this.rows(), name)) {
        this.#settingsOf(name)
        return false
      }
      const settings = Object.hasOwn(this.#config.stores, name) ? this.#config.stores[name] : undefined
      const place = settings?.saved && this.#onChange && (await openPlace(name, [settings.url ?? []].flat()[0]))
      await this.#database.transaction(async (tx) => tx.run('DELETE FROM settings WHERE name = ?', prefix + name))
      if (place) this.#onChange?.(name, place)
      return true
    })
  }

  /** All stores of the configuration, and what is saved besides, in the order of the configuration. */
  async list(): Promise<ListedStore[]> {
    const rows = await this.rows()
    const { stores, filestores } = this.#config
    const known = [...Object.keys(stores), ...Object.keys(filestores)]
    const names = [...known, ...Object.keys(rows).filter((name) => !Object.hasOwn(stores, name))]
    return Promise.all(names.map(async (name) => this.#listed(name, rows)))
  }

  /** Tries each place of a store as it is configured or saved now. Rejects with INVALID_ARGUMENT when there is none. */
  async test(name: string, options: CallOptions = {}): Promise<Trial[]> {
    this.#settingsOf(name)
    await using store = await this.#open(name, await this.rows())
    const trials: Trial[] = []
    for (const driver of isLocations(store.driver) ? store.driver.places : [store.driver])
      trials.push(await this.#try(name, driver, options))
    return trials
  }

  /** Cancels what is being tried, and waits until nothing is in hand. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#turns.run(async () => undefined)
  }

  async #open(name: string, rows: SavedRows) {
    return openNamed(name, withSaved(neededFor(name, this.#config.stores), rows, this.#vault))
  }

  async #listed(name: string, rows: SavedRows): Promise<ListedStore> {
    const row = Object.hasOwn(rows, name) ? rows[name] : undefined
    // These need what a daemon has, so they are only named.
    if (filestoreNames(this.#config).has(name)) return { name, from: 'configuration', location: `filestore:${name}` }
    const settings = Object.hasOwn(this.#config.stores, name) ? this.#config.stores[name] : undefined
    const from = originOf(settings, row !== undefined)
    const listed: ListedStore = { name, from, ...(row && { location: row.location, savedAt: row.savedAt }) }
    if (from === 'none' || from === 'nowhere') return listed
    try {
      await using store = await this.#open(name, rows)
      return { ...listed, location: store.location }
    } catch (error) {
      return { ...listed, problem: (error as Error).message }
    }
  }

  #settingsOf(name: string): StoreSettings {
    const { stores, filestores } = this.#config
    const settings = Object.hasOwn(stores, name) ? stores[name] : undefined
    if (settings && !filestoreNames(this.#config).has(name)) return settings
    if (settings || Object.hasOwn(filestores, name))
      throw new StowageError('INVALID_ARGUMENT', `${name} is or holds a filestore, which is where its directory is.`, {
        hint: 'Name the stores that its files go to.',
      })
    throw new StowageError('INVALID_ARGUMENT', `The configuration has no store ${JSON.stringify(name)}.`, {
      hint: `It has: ${Object.keys(stores).join(', ')}.`,
    })
  }

  #checkChangeable(name: string) {
    if (this.#settingsOf(name).saved) return
    throw new StowageError('INVALID_ARGUMENT', `The place of the store ${name} is fixed by the configuration.`, {
      hint: 'Write saved: true there to have it changed here.',
    })
  }

  /** The URL as the configuration would have it. What is checked of it there is checked here. */
  #checked(text: string): string {
    const given = text.trim()
    if (!/^file:/i.test(given)) return given
    const { url, directory } = resolveDirectory(given, this.#config.directory)
    for (const [source, { directory: watched }] of Object.entries(this.#config.sources))
      if (isWithin(directory, watched))
        throw new StowageError(
          'INVALID_ARGUMENT',
          `${directory} lies within the source ${source}, which would see what is stored there.`,
          { hint: 'Put it elsewhere.' },
        )
    this.#checkOwn(directory)
    return url
  }

  /** What is offloaded must not arrive where it is removed in the end. */
  #checkOwn(directory: string) {
    const { filestores, cache } = this.#config
    const taken = Object.entries(filestores).find(
      ([, { directory: own }]) => isWithin(directory, own) || isWithin(own, directory),
    )
    const isCache = Object.keys(filestores).length > 0 && isWithin(directory, cache.directory)
    if (!taken && !isCache) return
    const what = taken ? `the directory of the filestore ${taken[0]}` : 'the cache'
    throw new StowageError('INVALID_ARGUMENT', `${directory} and ${what} overlap.`, { hint: 'Put it elsewhere.' })
  }

  async #try(store: string, driver: Driver, { signal }: CallOptions): Promise<Trial> {
    const signals = [this.#closing.signal, ...(signal ? [signal] : [])]
    const options = { signal: AbortSignal.any(signals), timeoutMs: stepLimitMs }
    const findings = await Array.fromAsync(checkPlace(driver, options))
    return { store, location: driver.location, findings, ok: !findings.some(({ state }) => state === 'fails') }
  }

  async #write(name: string, row: SavedRows[string]) {
    await this.#database.transaction(async (tx) =>
      tx.run(
        'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
        prefix + name,
        JSON.stringify(row),
      ),
    )
  }
}

/**
 * What is saved in the state of a configuration, still encrypted: from the daemon that runs, or from the state itself.
 * A state that is not there has nothing saved, and is not made.
 */
export async function savedRows(config: Config): Promise<SavedRows> {
  const answer = await askDaemon(`${config.state}.sock`, 'store.rows')
  if (answer !== undefined) return answer as SavedRows
  if (!existsSync(config.state)) return {}
  const database = await openDatabase(config.state)
  try {
    return await readRows(database)
  } finally {
    await database.close()
  }
}

/** Stores with the places that were saved for those that are `saved`; only these are decrypted. */
export function withSaved(
  stores: Readonly<Record<string, StoreSettings>>,
  rows: SavedRows,
  vault: Vault,
): Record<string, StoreSettings> {
  const result: Record<string, StoreSettings> = {}
  for (const [name, settings] of Object.entries(stores)) {
    const row = settings.saved && Object.hasOwn(rows, name) ? rows[name] : undefined
    result[name] = row ? { ...settings, url: vault.open(prefix + name, row.url) } : settings
  }
  return result
}

/** The URL of a directory, with nothing relative in it, and that directory. */
function resolveDirectory(given: string, base: string): { url: string; directory: string } {
  try {
    const url = absoluteUrl(given, base)
    return { url, directory: realPath(fileURLToPath(url.split('?')[0] ?? '')) }
  } catch (error) {
    throw new StowageError('INVALID_ARGUMENT', 'The URL of the directory is malformed.', {
      cause: error,
      hint: 'Write one such as file:///srv/media.',
    })
  }
}

async function readRows(database: Database): Promise<SavedRows> {
  const rows = await database.transaction(async (tx) =>
    tx.all('SELECT name, value FROM settings WHERE name >= ? AND name < ? ORDER BY name', prefix, 'store;'),
  )
  return Object.fromEntries(
    rows.map(({ name, value }) => [String(name).slice(prefix.length), JSON.parse(String(value)) as SavedRows[string]]),
  )
}

function originOf(settings: StoreSettings | undefined, hasRow: boolean): ListedStore['from'] {
  if (!settings) return 'nowhere'
  if (!settings.saved) return 'configuration'
  if (hasRow) return 'saved'
  return settings.url === undefined ? 'none' : 'default'
}

/** Throws what the first step that is needed failed with. */
function refuseFailed({ store, location, findings }: Trial) {
  const failed = findings.find(
    ({ ability, state }) => (required.has(ability) && state !== 'works') || (ability === 'range' && state === 'fails'),
  )
  if (!failed) return
  const { ability, code = 'UNKNOWN', why = 'It was not tried.' } = failed
  throw new StowageError(
    code === 'UNSUPPORTED' ? 'INVALID_CONFIG' : code,
    `The store ${store} was left as it is: ${ability} fails at ${location}. ${why}`,
  )
}
