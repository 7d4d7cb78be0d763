/** Rules: which files go through what, to which stores. */
import * as path from 'node:path'
import type { LinkKind } from '../store/driver.ts'
import type { Processor } from './processor.ts'

/** What a file must be like for a rule. Every condition that is given must hold. */
export interface Filter {
  /** Directories or files, relative to the source; `a/b` matches `a/b` and what is below, not `a/bc`. */
  paths?: readonly string[]
  /** Without the dot, in any case. */
  extensions?: readonly string[]
  /** Names of directories, at any depth, whose files do not match. */
  ignoredDirs?: readonly string[]
  /** Tried on the whole path relative to the source. */
  pattern?: RegExp
  /** In bytes, both inclusive. */
  size?: { minimum?: number; maximum?: number }
}

/** Where a rule delivers to. */
export interface Destination {
  /** The name of a store. */
  store: string
  /** A directory within it; `''` is its root. */
  path: string
  /** Deliveries at once; adapts by itself when absent. */
  maxConnections?: number
  /** Address below which the store's keys are served, where it is another than the store's own. */
  url?: string
  /** Cache-Control of every file, or of those whose name is versioned and of the others. See {@link cachingOf}. */
  cacheControl?: string | { versioned?: string; other?: string }
  /** Put a link to the original in the place of a copy, where content and name allow it. See {@link linkFor}. */
  link?: LinkKind
  /** Id of the CloudFront distribution that is to forget what a delivery replaces under a name that is not versioned. */
  invalidate?: string
}

/** Caches need not ask again for what never changes under its name (RFC 9111 and RFC 8246). */
const forever = 'public, max-age=31536000, immutable'

/** The Cache-Control header of a file; undefined for none. Versioned names are kept for a year unless something else is said. */
export function cachingOf({ cacheControl }: Destination, isVersioned: boolean): string | undefined {
  if (typeof cacheControl === 'string') return cacheControl || undefined
  return (isVersioned ? (cacheControl?.versioned ?? forever) : cacheControl?.other) || undefined
}

/**
 * The link that may stand in the place of a copy. Only the untouched original can be linked to, and only under a name that
 * does not promise to keep its content: what is linked changes with its original.
 */
export function linkFor({ link }: Destination, isOriginal: boolean, isVersioned: boolean): LinkKind | undefined {
  return isOriginal && !isVersioned ? link : undefined
}

/** One rule. All rules that match a file apply to it. */
export interface Rule {
  /** Unique, and its identity in the ledger. */
  label: string
  source: string
  filter: Filter
  processors: readonly Processor[]
  destinations: readonly Destination[]
  /** Delete the original so long after it was delivered everywhere. Absent: never. */
  deleteSourceAfterMs?: number
  /** Keep a superseded key so long, for pages that still refer to it. */
  supersededAfterMs: number
  /** How long one run of the processors may take. */
  timeLimitMs: number
}

/** Which of a rule's destinations a delivery went to, and its place among them; undefined when it is none of them any more. */
export function destinationOf(
  rule: Rule | undefined,
  delivery: { path: string; destination: string; key: string },
): { to: Destination; index: number } | undefined {
  const directory = path.posix.dirname(delivery.key)
  const index = rule?.destinations.findIndex(
    (to) =>
      to.store === delivery.destination && path.posix.join(to.path, path.posix.dirname(delivery.path)) === directory,
  )
  const to = index === undefined ? undefined : rule?.destinations[index]
  return index === undefined || to === undefined ? undefined : { to, index }
}

/** Why a filter does not match a file, in words for people; undefined when it matches. */
export function mismatch(filter: Filter, file: string, size: number): string | undefined {
  const { paths, extensions, ignoredDirs, pattern } = filter
  if (paths && !paths.some((start) => isWithin(file, start))) return `it is not below ${paths.join(' or ')}`
  const extension = path.posix.extname(file).slice(1).toLowerCase()
  if (extensions && !extensions.some((wanted) => wanted.toLowerCase() === extension))
    return `its extension is not ${extensions.join(' or ')}`
  const ignored = path.posix
    .dirname(file)
    .split('/')
    .find((part) => ignoredDirs?.includes(part))
  if (ignored !== undefined) return `it is in the ignored directory ${ignored}`
  if (pattern && !pattern.test(file)) return `its path does not match ${pattern}`
  const { minimum = 0, maximum = Infinity } = filter.size ?? {}
  if (size < minimum) return `its ${size} bytes are fewer than the minimum of ${minimum}`
  if (size > maximum) return `its ${size} bytes are more than the maximum of ${maximum}`
  return undefined
}

/** The first processor that a file of a source has to wait its turn for; undefined when there is none. */
export function laneOf(rules: readonly Rule[], source: string, file: string): string | undefined {
  const extension = path.posix.extname(file).slice(1).toLowerCase()
  for (const { filter, processors, ...rule } of rules) {
    if (rule.source !== source || mismatch({ ...filter, size: {} }, file, 0) !== undefined) continue
    const limited = processors.find(
      ({ concurrency, extensions }) => concurrency !== undefined && (extensions?.includes(extension) ?? true),
    )
    if (limited) return limited.name
  }
  return undefined
}

/** At component boundaries: `a/b` holds `a/b/c` and not `a/bc`. */
function isWithin(file: string, start: string): boolean {
  const clean = start.replace(/^\/+|\/+$/g, '')
  return clean === '' || file === clean || file.startsWith(`${clean}/`)
}
