/**
 * Asset URLs: the public address of a file, looked up by the name it has in its source. It is for the application's own
 * process, so it knows no database: it reads the asset manifest, which the daemon writes. Loads nothing heavy.
 */
import { readFileSync, statSync } from 'node:fs'
import * as path from 'node:path'
import { systemClock, type Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import { cleanKey } from '../core/keys.ts'
import { silentLog, type Log } from '../core/log.ts'
import { cleanBase, urlBelow } from '../core/public-url.ts'

/** What the daemon writes for applications. Files of another `format` are refused. */
export interface AssetManifest {
  format: 1
  domains: Record<string, { url: string; assets: Record<string, string> }>
}

/** Where asset URLs come from. */
export interface AssetUrlsOptions {
  /** Path of the manifest. Until there is such a file every address is a plain one. */
  manifest?: string
  /** Base URLs by domain; they win over those of the manifest. What is asked without a domain is of `default`. */
  domains?: Readonly<Record<string, string>>
  /** Hears of a manifest that can no longer be read. Default: nobody. */
  log?: Log
  clock?: Clock
}

/** Looks up the public address of an asset. Throws INVALID_ARGUMENT for a domain that is not known. */
export type AssetUrl = (name: string, options?: { domain?: string }) => string

/** How often the file is looked at, at most: an answer is never older than that. */
const lookMs = 1000
/** A larger manifest is not one. */
const longestManifest = 256 * 2 ** 20

interface Domain {
  base: string
  /** The path of the base, as a server sees it. */
  root: string
  assets: ReadonlyMap<string, string>
}

/** The asset URLs of an application. */
export class AssetUrls {
  readonly #file: string | undefined
  readonly #given: Readonly<Record<string, string>>
  readonly #log: Log
  readonly #clock: Clock
  #domains: ReadonlyMap<string, Domain> = new Map()
  /** Which state of the file was read last. */
  #state = ''
  #lookedMs = Number.NEGATIVE_INFINITY
  #isClosed = false

  private constructor(options: AssetUrlsOptions) {
    this.#file = options.manifest === undefined ? undefined : path.resolve(options.manifest)
    this.#given = options.domains ?? {}
    this.#log = options.log ?? silentLog
    this.#clock = options.clock ?? systemClock
    this.#domains = domainsOf({ format: 1, domains: {} }, this.#given)
  }

  /** Reads the manifest. Rejects with CORRUPT when it is none, and with UNSUPPORTED when it is of a newer version. */
  static async open(options: AssetUrlsOptions = {}): Promise<AssetUrls> {
    const urls = new AssetUrls(options)
    urls.#look()
    return urls
  }

  /**
   * The address of an asset: where the conveyor delivered it, else the domain's base URL with the percent-encoded name.
   * Slashes before the name do not count. Free to be passed on without its object.
   *
   * It answers from memory. At most once a second a call looks whether the manifest has changed and reads it anew, so an
   * answer is at most one second behind the file.
   */
  readonly assetUrl: AssetUrl = (name, { domain = 'default' } = {}) => {
    this.#refresh()
    const found = this.#domains.get(domain)
    if (!found) throw this.#unknown(domain)
    const clean = name.replace(/^\/+/, '')
    return found.assets.get(clean) ?? urlBelow(found.base, cleanKey(clean))
  }

  /** The address at which an asset was delivered, for the path of its plain address, decoded; undefined where there is none. */
  delivered(pathname: string): string | undefined {
    this.#refresh()
    const [nearest] = [...this.#domains.values()]
      .filter(({ root, assets }) => pathname.startsWith(root) && assets.has(pathname.slice(root.length)))
      .sort((a, b) => b.root.length - a.root.length)
    return nearest?.assets.get(pathname.slice(nearest.root.length))
  }

  /** Lets go of the manifest. Calls after it throw CLOSED. */
  async close(): Promise<void> {
    this.#isClosed = true
    this.#domains = new Map()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #refresh() {
    if (this.#isClosed) throw new StowageError('CLOSED', 'The asset URLs were closed.')
    if (this.#file === undefined || Math.abs(this.#clock.now() - this.#lookedMs) < lookMs) return
    try {
      this.#look()
    } catch (error) {
      // What was known before is still right for what was delivered before.
      this.#log.warn(`The asset manifest is not read anew: ${(error as Error).message}`)
    }
  }

  #look() {
    this.#lookedMs = this.#clock.now()
    const stats = this.#file === undefined ? undefined : statOf(this.#file)
    // Without the file, what was read before still holds.
    if (this.#file === undefined || !stats) return
    const state = [stats.mtimeNs, stats.ino, stats.size].join(' ')
    if (state === this.#state) return
    this.#state = state
    if (!stats.isFile() || stats.size > longestManifest) throw damaged(this.#file, 'it is not a file of a sane size')
    this.#domains = domainsOf(readManifest(this.#file), this.#given)
  }

  #unknown(domain: string): StowageError {
    const known = [...this.#domains.keys()]
    const hint =
      known.length > 0
        ? `There ${known.length === 1 ? 'is' : 'are'}: ${known.join(', ')}.`
        : `Give domains to AssetUrls.open${this.#file === undefined ? '' : `, or let the daemon write ${this.#file}`}.`
    return new StowageError('INVALID_ARGUMENT', `There is no domain ${JSON.stringify(domain)} of assets.`, { hint })
  }
}

function statOf(file: string) {
  try {
    return statSync(file, { bigint: true, throwIfNoEntry: false })
  } catch (error) {
    throw unreadable(file, error)
  }
}

function readManifest(file: string): AssetManifest {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw unreadable(file, error)
  }
  try {
    return checkManifest(JSON.parse(text), file)
  } catch (error) {
    if (error instanceof StowageError) throw error
    throw damaged(file, 'it is not JSON', error)
  }
}

function checkManifest(value: unknown, file: string): AssetManifest {
  const { format, domains } = asRecord(value)
  if (typeof format === 'number' && format > 1)
    throw new StowageError('UNSUPPORTED', `The asset manifest ${file} was written by a newer version of Stowage.`, {
      hint: 'Update this installation.',
    })
  const isWhole = Object.values(asRecord(domains)).every((domain) => {
    const { url, assets } = asRecord(domain)
    return typeof url === 'string' && Object.values(asRecord(assets)).every((each) => typeof each === 'string')
  })
  if (format !== 1 || !isWhole) throw damaged(file, 'its content is something else')
  return value as AssetManifest
}

function domainsOf(manifest: AssetManifest, given: Readonly<Record<string, string>>): ReadonlyMap<string, Domain> {
  const domains = new Map<string, Domain>()
  const names = new Set([...Object.keys(given), ...Object.keys(manifest.domains)])
  for (const name of names) {
    const written = Object.hasOwn(manifest.domains, name) ? manifest.domains[name] : undefined
    const base = cleanBase((Object.hasOwn(given, name) ? given[name] : undefined) ?? written?.url ?? '')
    domains.set(name, { base, root: rootOf(base, name), assets: new Map(Object.entries(written?.assets ?? {})) })
  }
  return domains
}

function rootOf(base: string, domain: string): string {
  try {
    return decodeURIComponent(new URL(base, 'http://localhost').pathname)
  } catch {
    throw new StowageError('INVALID_ARGUMENT', `The base URL of the domain ${JSON.stringify(domain)} is malformed.`)
  }
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {}
}

function unreadable(file: string, cause: unknown): StowageError {
  const { code } = cause as NodeJS.ErrnoException
  return new StowageError('DENIED', `The asset manifest ${file} cannot be read: ${code}.`, { cause })
}

function damaged(file: string, reason: string, cause?: unknown): StowageError {
  return new StowageError('CORRUPT', `${file} is not an asset manifest: ${reason}.`, {
    cause,
    hint: 'The daemon writes it; see `stowage assets`.',
  })
}
