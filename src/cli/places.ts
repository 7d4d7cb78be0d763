/** What WHERE means on the command line: a storage URL, a store of the configuration, or a local path. */
import { existsSync } from 'node:fs'
import * as path from 'node:path'
import { codeOf, StowageError } from '../core/errors.ts'
import { cleanDirectory, cleanKey } from '../core/keys.ts'
import { realPath } from '../core/real-path.ts'
import type { AllStores } from '../daemon/all-stores.ts'
import type { Config } from '../daemon/config.ts'
import { openStore } from '../drivers/index.ts'
import { neededFor, openNamed } from '../drivers/stores.ts'
import { fileDriver } from '../drivers/file.ts'
import { Store } from '../store/store.ts'

/** A store and a key in it; the empty key is its root. */
export interface Place {
  store: Store
  key: string
}

type Where =
  | { kind: 'url'; url: string }
  | { kind: 'store'; name: string; key: string }
  | { kind: 'local'; path: string }

/** Opens what arguments name, each store once, and closes all of it at the end. */
export class Places {
  readonly #configFile: string | undefined
  readonly #allowLocal: boolean
  readonly #stores = new Map<string, Promise<Store>>()
  #config: Promise<Config> | undefined
  #atRest: Promise<AllStores> | undefined

  /** `local` says whether paths of this machine are taken too. */
  constructor(configFile: string | undefined, options: { local?: boolean } = {}) {
    this.#configFile = configFile
    this.#allowLocal = options.local ?? false
  }

  /** The names of all stores of the configuration that are places by themselves, each as a WHERE. */
  async names(): Promise<string[]> {
    const config = await this.#loaded()
    const filestores = await filestoresOf(config)
    const names = Object.keys(config.stores).filter((name) => !filestores.has(name))
    return names.map((name) => `${name}:`)
  }

  /** The file that WHERE names. With `name`, a WHERE that is a directory or ends in "/" gets that name appended. */
  async file(where: string, name?: string): Promise<Place> {
    const found = await this.#understand(where)
    const place = found.kind === 'local' ? this.#localFile(found.path, name) : await this.#storedFile(found, name)
    return { store: place.store, key: cleanKey(place.key) }
  }

  /** The directory that WHERE names. */
  async directory(where: string): Promise<Place> {
    const found = await this.#understand(where)
    if (found.kind === 'store') {
      const store = await this.#namedStore(found.name)
      if ((await filestoresOf(await this.#loaded())).has(found.name)) await this.#scan()
      return { store, key: cleanDirectory(found.key.replace(/\/+$/, '')) }
    }
    if (found.kind === 'url') return { store: await this.#open(found.url, async () => openStore(found.url)), key: '' }
    return { store: localStore(realPath(found.path)), key: '' }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const stores = await Promise.allSettled(this.#stores.values())
    await Promise.allSettled(stores.map(async (result) => result.status === 'fulfilled' && result.value.close()))
    const atRest = await this.#atRest?.catch(() => undefined)
    await atRest?.[Symbol.asyncDispose]()
  }

  #localFile(file: string, name: string | undefined): Place {
    const isDirectory = name !== undefined && (file.endsWith('/') || existsSync(path.join(file, '.')))
    const target = isDirectory ? path.join(file, name) : file
    const real = realPath(target)
    return { store: localStore(path.dirname(real)), key: path.basename(real) }
  }

  async #storedFile(found: Exclude<Where, { kind: 'local' }>, name: string | undefined): Promise<Place> {
    const [base, key] = found.kind === 'url' ? splitUrl(found.url) : ['', found.key]
    const store =
      found.kind === 'url' ? await this.#open(base, async () => openStore(base)) : await this.#namedStore(found.name)
    const isDirectory = key === '' || key.endsWith('/')
    if (isDirectory && name === undefined)
      throw invalid(`${store.location} with the key ${JSON.stringify(key)} is a directory, not a file.`, 'Add a name.')
    return { store, key: isDirectory ? key + name : key }
  }

  async #understand(where: string): Promise<Where> {
    if (where === '') throw invalid('WHERE is empty.')
    if (/^[a-z][a-z0-9+.-]*:\/\//i.test(where) || /^(?:memory|file):/i.test(where)) return { kind: 'url', url: where }
    const named = /^([a-z][a-z0-9_-]*)(?::(.*))?$/is.exec(where)
    const isDrive = process.platform === 'win32' && /^[a-z]:/i.test(where)
    if (named?.[1] !== undefined && !isDrive && (await this.#isStore(named[1], named[2] !== undefined)))
      return { kind: 'store', name: named[1], key: named[2] ?? '' }
    if (this.#allowLocal) return { kind: 'local', path: where }
    throw invalid(
      `${JSON.stringify(where.slice(0, 100))} is neither a storage URL nor a store of the configuration.`,
      'A directory of this machine is written file:///path or file:path.',
    )
  }

  /** A word without a colon may also be a local path, so it need not be a store. */
  async #isStore(name: string, isCertain: boolean): Promise<boolean> {
    const { configNames } = await import('../daemon/config.ts')
    const hasConfig = this.#configFile !== undefined || configNames.some((file) => existsSync(file))
    if (!hasConfig && !isCertain) return false
    const { stores, filestores } = await this.#loaded()
    const names = [...Object.keys(stores), ...Object.keys(filestores)]
    if (names.includes(name)) return true
    if (!isCertain) return false
    throw invalid(`The configuration has no store ${JSON.stringify(name)}.`, `It has: ${names.join(', ')}.`)
  }

  async #loaded(): Promise<Config> {
    this.#config ??= import('../daemon/config.ts').then(async ({ loadConfig }) =>
      loadConfig(this.#configFile, undefined, { secrets: false }),
    )
    return this.#config
  }

  async #namedStore(name: string): Promise<Store> {
    return this.#open(`${name}:`, async () => {
      const config = await this.#loaded()
      if ((await filestoresOf(config)).has(name)) return this.#storeAtRest(config, name)
      const needed = neededFor(name, config.stores)
      if (!Object.values(needed).some(({ saved }) => saved)) return openNamed(name, needed)
      const [{ savedRows, withSaved }, { Vault }] = await Promise.all([
        import('../daemon/saved-stores.ts'),
        import('../state/vault.ts'),
      ])
      return openNamed(name, withSaved(needed, await savedRows(config), new Vault(config.state)))
    })
  }

  /** A filestore needs its state and its cache, which belong to the daemon while one runs. */
  async #storeAtRest(config: Config, name: string): Promise<Store> {
    this.#atRest ??= import('../daemon/all-stores.ts').then(async ({ openAtRest }) => openAtRest(config))
    try {
      return (await this.#atRest).stores.get(name) as Store
    } catch (error) {
      if (codeOf(error) !== 'BUSY') throw error
      throw new StowageError('BUSY', `${name} is in the hands of a daemon, which runs now.`, {
        cause: error,
        hint: 'Reach its files through that, or stop it first. `stowage filestore` works as well while it runs.',
      })
    }
  }

  /** What others have put into the directories of filestores is noticed before it is listed. */
  async #scan(): Promise<void> {
    for (const [, filestore] of (await this.#atRest)?.filestores ?? []) await filestore.scan()
  }

  async #open(name: string, open: () => Promise<Store>): Promise<Store> {
    let store = this.#stores.get(name)
    if (!store) {
      store = open()
      this.#stores.set(name, store)
    }
    return store
  }
}

async function filestoresOf(config: Config): Promise<ReadonlySet<string>> {
  if (Object.keys(config.filestores).length === 0) return new Set()
  return (await import('../daemon/config-filestores.ts')).filestoreNames(config)
}

/** A storage URL taken apart into the URL of the directory and the last part of its path, which is the key. */
export function splitUrl(url: string): [base: string, key: string] {
  const match = /^([a-z][a-z0-9+.-]*:(?:\/\/[^/?#]*)?)([^?#]*)(.*)$/is.exec(url)
  const [, head = '', place = '', tail = ''] = match ?? []
  const at = place.lastIndexOf('/') + 1
  try {
    return [head + place.slice(0, at) + tail, decodeURIComponent(place.slice(at))]
  } catch {
    throw invalid('The path of the URL is not properly percent-encoded.', 'A "%" itself is written %25.')
  }
}

function localStore(directory: string): Store {
  return new Store(fileDriver({ directory }))
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, hint === undefined ? {} : { hint })
}
