/** The asset manifest, made of the ledger, and kept up to date beside the deliveries. */
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import type { Log } from '../core/log.ts'
import { cleanBase } from '../core/public-url.ts'
import type { Database } from '../state/database.ts'
import type { Store } from '../store/store.ts'
import type { AssetManifest } from './assets.ts'
import { deliveredOnce, ownersOf, type Delivered } from './ledger.ts'
import { destinationOf, type Rule } from './rules.ts'
import { urlAt } from './urls.ts'

/** Which files have asset URLs, and where. */
export interface AssetSettings {
  /** The store whose addresses are given. */
  store: string
  /** Path of the manifest. */
  manifest: string
  /** Key under which the manifest is also kept in the store. */
  key?: string
  domains: Readonly<Record<string, AssetDomain>>
}

/** Where the assets of a domain come from. */
interface AssetDomain {
  /** Base of what was not delivered. Default: the store's public URL. */
  url?: string
  /** The source whose deliveries count; without one, every address is a plain one. */
  source?: string
  /** The directory of the source that the domain shows. */
  path?: string
}

/** What the manifest is made of. */
export interface ManifestContext {
  settings: AssetSettings
  rules: readonly Rule[]
  store: Store
  database: Database
}

/**
 * The manifest as the ledger is now: each file with the address of what was delivered last. A file that several rules
 * deliver to the store has the address that the first of them gave it. Addresses follow the present configuration.
 */
export async function makeManifest({ settings, rules, store, database }: ManifestContext): Promise<AssetManifest> {
  const domains: AssetManifest['domains'] = {}
  for (const [name, { url, source, path: directory = '' }] of Object.entries(settings.domains)) {
    const prefix = directory === '' ? '' : `${directory}/`
    const assets = new Map<string, string>()
    const pages = source === undefined ? [] : deliveredOnce(database, source, settings.store)
    for await (const page of pages)
      for (const { row, base } of bestOf(page, rules))
        if (row.path.startsWith(prefix)) assets.set(row.path.slice(prefix.length), urlAt(store, row.key, base))
    const sorted = [...assets].sort(([a], [b]) => compareKeys(a, b))
    domains[name] = { url: cleanBase(url ?? store.url('-').slice(0, -1)), assets: Object.fromEntries(sorted) }
  }
  return { format: 1, domains }
}

interface Candidate {
  row: Delivered
  /** Its rule's place among the rules, then its destination's among the rule's. What is no longer configured comes last. */
  rank: number
  base: string | undefined
}

/** One delivery for each file. */
function bestOf(rows: readonly Delivered[], rules: readonly Rule[]): Iterable<Candidate> {
  const best = new Map<string, Candidate>()
  for (const row of rows) {
    const candidate = candidateOf(row, rules)
    const other = best.get(row.path)
    if (!other || isBetter(candidate, other)) best.set(row.path, candidate)
  }
  return best.values()
}

function candidateOf(row: Delivered, rules: readonly Rule[]): Candidate {
  const place = rules.findIndex(({ label }) => label === row.rule)
  const { to, index = 0 } = destinationOf(rules[place], row) ?? {}
  return { row, rank: place < 0 ? Number.POSITIVE_INFINITY : place * 1000 + index, base: to?.url }
}

/** Of one destination, the key that was delivered last is the one that stays. */
function isBetter(a: Candidate, b: Candidate): boolean {
  if (a.rank !== b.rank) return a.rank < b.rank
  return a.row.deliveredMs > b.row.deliveredMs
}

/** How long changes are gathered before they are written. */
const gatherMs = 250
/** Making a manifest takes this part of the time at most, however large it is and however much is delivered. */
const share = 20
const retryMs = 30_000

/** Keeps the manifest's file, and its key in the store, as the ledger is. */
export class ManifestKeeper {
  readonly #context: ManifestContext
  readonly #clock: Clock
  readonly #log: Log
  #isStale = false
  #isClosed = false
  #timer: AbortController | undefined
  #waitMs = gatherMs
  #work: Promise<void> = Promise.resolve()
  #published: string | undefined

  constructor(context: ManifestContext & { clock: Clock; log: Log }) {
    this.#context = context
    this.#clock = context.clock
    this.#log = context.log
  }

  /** Says that the ledger may have changed. Many changes are written once. */
  changed(): void {
    this.#isStale = true
    if (this.#timer || this.#isClosed) return
    this.#timer = new AbortController()
    const wait = this.#clock.sleep(this.#waitMs, this.#timer.signal)
    wait.then(
      async () => {
        this.#timer = undefined
        await this.flush()
      },
      () => undefined,
    )
  }

  /** Resolves when what has changed is written. A failure is logged, and tried again later. */
  async flush(): Promise<void> {
    this.#work = this.#work.then(async () => this.#write())
    return this.#work
  }

  /** Writes what is not written yet, and stops. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#timer?.abort()
    await this.flush()
  }

  async #write() {
    if (!this.#isStale) return
    this.#isStale = false
    const begun = this.#clock.now()
    try {
      const text = `${JSON.stringify(await makeManifest(this.#context), undefined, 1)}\n`
      await this.#writeFile(text)
      await this.#publish(text)
      this.#waitMs = Math.max(gatherMs, share * (this.#clock.now() - begun))
    } catch (error) {
      this.#log.warn(`The asset manifest is behind: ${(error as Error).message}`)
      this.#waitMs = retryMs
      this.changed()
    }
  }

  /** To a temporary name beside it, then renamed: whoever reads sees the old one or the new one. */
  async #writeFile(text: string) {
    const { manifest } = this.#context.settings
    const present = await fs.readFile(manifest, 'utf8').catch(() => undefined)
    if (present === text) return
    const temporary = `${manifest}.tmp`
    try {
      await fs.mkdir(path.dirname(manifest), { recursive: true })
      await fs.writeFile(temporary, text, { flush: true })
      await fs.rename(temporary, manifest)
    } catch (error) {
      await fs.rm(temporary, { force: true }).catch(() => undefined)
      const { code } = error as NodeJS.ErrnoException
      throw new StowageError('DENIED', `Cannot write ${manifest}: ${code}.`, { cause: error })
    }
  }

  async #publish(text: string) {
    const { settings, store, database } = this.#context
    const { key } = settings
    if (key === undefined || text === this.#published) return
    const [owner] = await database.transaction(async (tx) => ownersOf(tx, settings.store, key))
    if (owner)
      throw new StowageError('CONFLICT', `${key} in ${settings.store} is ${owner.path}, which a rule delivers there.`, {
        hint: 'Give assets another key.',
      })
    await store.put(key, text, { contentType: 'application/json', cacheControl: 'no-cache' })
    this.#published = text
  }
}
