/** Which remote a file goes to, and under which name. */
import { createHash } from 'node:crypto'
import { lookup } from 'mrmime'
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import type { Driver, FileInfo } from '../store/driver.ts'

/** What a route may look at. */
export type Routed = Pick<FileInfo, 'key' | 'size' | 'modified' | 'contentType' | 'metadata'>

/** One rule: every condition that is given must hold. */
export interface Rule {
  /** The beginning of the key. */
  prefix?: string
  /** Bytes, both ends included. */
  minSize?: number
  maxSize?: number
  /** Milliseconds since the last change, at least. */
  minAgeMs?: number
  /** A type (`image/png`), or all of a kind (`image/*`). Of a file that was stored without one, its name tells the type. */
  contentType?: string
  /** The remote that the files go to. */
  remote: string
}

/**
 * The name of one remote for all; rules, of which the first that fits counts, and files that none fits stay local; or a
 * function, which may look up whatever it wants, and whose undefined also means local.
 */
export type Route = string | readonly Rule[] | ((file: Routed) => string | undefined | Promise<string | undefined>)

/** Remotes by name: the reverse of a {@link Route}. Undefined for what is not known, or not any more. */
export type Remotes = ReadonlyMap<string, Driver> | ((name: string) => Driver | undefined | Promise<Driver | undefined>)

/** How a key becomes a name at a remote. */
export type RemoteName = 'same' | 'shorten' | ((key: string) => string)

/** Where a file is to go, and in how many milliseconds the route allows that. */
export interface Plan {
  remote: string
  delayMs: number
}

/** Finds the remote of a file. */
export class Routes {
  readonly #route: Route | undefined
  readonly #remotes: Remotes
  readonly #name: RemoteName
  readonly #now: () => number

  constructor(options: { route?: Route; remotes: Remotes; names?: RemoteName; now: () => number }) {
    const { route, remotes } = options
    const only = remotes instanceof Map && remotes.size === 1 ? ([...remotes.keys()][0] as string) : undefined
    this.#route = route ?? only
    this.#remotes = remotes
    this.#name = options.names ?? 'same'
    this.#now = options.now
    if (!(remotes instanceof Map)) return
    const named =
      typeof this.#route === 'string' ? [this.#route] : Array.isArray(this.#route) ? remotesOf(this.#route) : []
    for (const remote of named) if (!remotes.has(remote)) throw unknownRemote(remote, [...remotes.keys()])
  }

  /**
   * Where a file should go; undefined when it is to stay local. Of rules that wait for an age, the one counts that allows it
   * first. Rejects as a route that is a function does.
   */
  async plan(file: Routed): Promise<Plan | undefined> {
    const route = this.#route
    const remote = typeof route === 'function' ? await inTime(route(file), file.key) : route
    if (remote === undefined) return undefined
    if (typeof remote === 'string') return { remote, delayMs: 0 }
    const age = this.#now() - (file.modified?.getTime() ?? 0)
    let soonest: Plan | undefined
    for (const rule of remote.filter((each) => fits(each, file))) {
      const delayMs = Math.max(0, (rule.minAgeMs ?? 0) - age)
      if (!soonest || delayMs < soonest.delayMs) soonest = { remote: rule.remote, delayMs }
    }
    return soonest
  }

  /** A remote by its name. Rejects with INVALID_CONFIG when it is not known. */
  async open(remote: string): Promise<Driver> {
    const remotes = this.#remotes
    const driver = typeof remotes === 'function' ? await remotes(remote) : remotes.get(remote)
    if (driver) return driver
    throw unknownRemote(remote, typeof remotes === 'function' ? [] : [...remotes.keys()])
  }

  /** The names of the remotes, as far as they can be told. */
  get names(): string[] {
    return typeof this.#remotes === 'function' ? [] : [...this.#remotes.keys()]
  }

  /** The name of a key at a remote. */
  nameOf(key: string): string {
    if (this.#name === 'same') return key
    return this.#name === 'shorten' ? shortened(key) : this.#name(key)
  }
}

/**
 * A key with a short and plain last part: what is not a letter, digit, ".", "_" or "-" becomes "-", and a part that was
 * changed by that, or is longer than 64 bytes, is cut to 32 and gets the SHA-1 of what it was, so that no two keys meet.
 * An extension of less than 10 bytes stays.
 */
export function shortened(key: string): string {
  const slash = key.lastIndexOf('/') + 1
  const base = key.slice(slash)
  const plain = base.replace(/[^A-Za-z0-9_.-]/gu, '-')
  if (plain === base && base.length <= 64) return key
  const dot = plain.lastIndexOf('.')
  const isShortExtension = dot > 0 && plain.length - dot < 10
  const [root, extension] = isShortExtension ? [plain.slice(0, dot), plain.slice(dot)] : [plain, '']
  return `${key.slice(0, slash)}${root.slice(0, 32)}-${createHash('sha1').update(base).digest('hex')}${extension}`
}

/** So long a route that is a function may take. */
const routeMs = 30_000

async function inTime<T>(answer: T | Promise<T>, key: string): Promise<T> {
  const limit = AbortSignal.timeout(routeMs)
  const late = Promise.withResolvers<never>()
  const stopListening = onAbort(limit, () =>
    late.reject(new StowageError('TIMEOUT', `The route of ${key} was not told within ${routeMs / 1000} s.`)),
  )
  return Promise.race([answer, late.promise]).finally(stopListening)
}

function fits({ prefix, minSize, maxSize, contentType }: Rule, file: Routed): boolean {
  return (
    (prefix === undefined || file.key.startsWith(prefix)) &&
    (minSize === undefined || file.size >= minSize) &&
    (maxSize === undefined || file.size <= maxSize) &&
    (contentType === undefined || isOfType(file.contentType ?? lookup(file.key), contentType))
  )
}

function isOfType(type: string | undefined, wanted: string): boolean {
  const plain = type?.split(';')[0]?.trim().toLowerCase()
  return wanted.endsWith('/*') ? (plain?.startsWith(wanted.slice(0, -1)) ?? false) : plain === wanted
}

function remotesOf(rules: readonly Rule[]): string[] {
  return rules.map(({ remote }) => remote)
}

function unknownRemote(remote: string, known: readonly string[]): StowageError {
  const details = known.length > 0 ? { hint: `There are: ${known.join(', ')}.` } : {}
  return new StowageError('INVALID_CONFIG', `There is no remote ${JSON.stringify(remote)}.`, details)
}
