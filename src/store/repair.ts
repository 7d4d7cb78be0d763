/** Making the locations of a store level again: what one has and another lacks is copied. Nothing is ever deleted. */
import { createHash } from 'node:crypto'
import { isNotFound, StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import { Limit } from '../core/limit.ts'
import type { CallOptions, Driver, Entry, FileInfo } from './driver.ts'
import { throwIfAborted } from './driving.ts'
import { isLocations } from './locations.ts'

/** Settings of {@link repair}. */
export interface RepairOptions extends CallOptions {
  /** Only what is below this directory. Default: everything. */
  directory?: string
  /**
   * When two copies are taken for the same: `size` (default) when their sizes are, and their digests where both places
   * vouch for one; `content` reads both where there are no digests to compare.
   */
  compare?: 'size' | 'content'
  /** Only tell what would be done. */
  dryRun?: boolean
  /** How many files at once. Default 8. */
  concurrency?: number
  /** Called with every file that was not level, as it is dealt with. */
  onRepair?: (repaired: Repaired) => void
  /** Called now and then with how many files were looked at. */
  onProgress?: (checked: number) => void
}

/** What became of one copy that was missing or another than the newest. */
export interface Repaired {
  key: string
  /** The location that lacked it or had another version. */
  location: string
  why: 'missing' | 'different'
  /** Where the good copy is; absent when that cannot be told. */
  from?: string
  /** Why it is not level yet; absent when it is, or would be if this were no dry run. */
  error?: unknown
}

/** What a repair came to. */
export interface RepairSummary {
  /** Files looked at. */
  checked: number
  repaired: number
  failed: number
}

interface Copy {
  place: Driver
  info: FileInfo
}

/**
 * Compares what the locations of a store have and copies what is missing, or older, from the location with the newest
 * copy. Which of two different copies is newer is told by their times; where those are the same it is a CONFLICT, left
 * alone and told. A file deleted at one location only comes back. Locations that take no writes are only read. Rejects
 * when a location cannot be listed.
 */
export async function repair(driver: Driver, options: RepairOptions = {}): Promise<RepairSummary> {
  const places = isLocations(driver) ? driver.places : [driver]
  const limit = new Limit(options.concurrency ?? 8)
  const summary: RepairSummary = { checked: 0, repaired: 0, failed: 0 }
  const running = new Set<Promise<void>>()
  for await (const copies of side(places, options)) {
    throwIfAborted(options.signal)
    const work = limit.run(async () => {
      for (const repaired of await level(places, copies, options)) count(summary, repaired, options)
    })
    const tracked = work.finally(() => running.delete(tracked))
    tracked.catch(() => undefined) // it comes through below
    running.add(tracked)
    if (running.size >= limit.max * 2) await Promise.race(running)
    if (++summary.checked % 1000 === 0) options.onProgress?.(summary.checked)
  }
  await Promise.all(running)
  options.onProgress?.(summary.checked)
  return summary
}

/**
 * Makes the locations level for one file, see {@link repair}. Where no location has it, nothing is done. `from` names the
 * location that is known to have the right copy, as after a change that others refused: clocks then have no say.
 */
export async function repairKey(
  driver: Driver,
  key: string,
  options: RepairOptions & { from?: string } = {},
): Promise<Repaired[]> {
  const places = isLocations(driver) ? driver.places : [driver]
  const infos = await Promise.all(places.map(async (place) => statOrAbsent(place, key, options)))
  const copies = places.flatMap((place, index) => {
    const info = infos[index]
    return info ? [{ place, info }] : []
  })
  return level(places, copies, options)
}

function count(summary: RepairSummary, repaired: Repaired, { onRepair }: RepairOptions) {
  if (repaired.error === undefined) summary.repaired++
  else summary.failed++
  onRepair?.(repaired)
}

/** The copies of each file, side by side. Places that cannot list are asked about what others have. */
async function* side(places: readonly Driver[], options: RepairOptions): AsyncGenerator<Copy[]> {
  const { directory = '', signal } = options
  const call = signal ? { signal } : {}
  const listing = places.filter(({ supports }) => supports.list)
  const silent = places.filter(({ supports }) => !supports.list)
  if (listing.length === 0)
    throw new StowageError(
      'UNSUPPORTED',
      `No location of ${places.map(({ location }) => location).join(', ')} can list.`,
    )
  const iterators = listing.map((place) => place.list(directory, call)[Symbol.asyncIterator]())
  try {
    const heads = await Promise.all(iterators.map(nextFile))
    for (;;) {
      const least = heads.flatMap((head) => (head ? [head.key] : [])).sort(compareKeys)[0]
      if (least === undefined) return
      const copies: Copy[] = []
      for (const [index, place] of listing.entries()) {
        const head = heads[index]
        if (head?.key !== least) continue
        copies.push({ place, info: head })
        heads[index] = await nextFile(iterators[index] as AsyncIterator<Entry>)
      }
      for (const place of silent) {
        const info = await statOrAbsent(place, least, options)
        if (info) copies.push({ place, info })
      }
      yield copies
    }
  } finally {
    await Promise.all(iterators.map(async (iterator) => iterator.return?.()))
  }
}

async function nextFile(iterator: AsyncIterator<Entry>): Promise<FileInfo | undefined> {
  for (;;) {
    const { done, value } = await iterator.next()
    if (done) return undefined
    if (value.kind === 'file') return value
  }
}

/** Brings every place that takes writes to the newest of the copies. */
async function level(
  places: readonly Driver[],
  copies: readonly Copy[],
  options: RepairOptions & { from?: string },
): Promise<Repaired[]> {
  const [first] = copies
  if (!first) return []
  const { key } = first.info
  const isSame = await sameness(copies, options)
  const newest = copies.find(({ place }) => place.location === options.from) ?? newestOf(copies, isSame)
  const repaired: Repaired[] = []
  for (const place of places) {
    const own = copies.find((copy) => copy.place === place)
    if (own && (newest ? isSame(own, newest) : own === first)) continue
    if (!place.supports.write) continue
    const why = own ? 'different' : 'missing'
    const told: Repaired = { key, location: place.location, why, ...(newest && { from: newest.place.location }) }
    if (!newest) told.error = undecided(key, copies)
    else if (!options.dryRun) await replace(own, place, newest, options).catch((error: unknown) => (told.error = error))
    throwIfAborted(options.signal)
    repaired.push(told)
  }
  return repaired
}

/** The copy all others should be like; undefined when they differ and their times do not tell which is newer. */
function newestOf(copies: readonly Copy[], isSame: (a: Copy, b: Copy) => boolean): Copy | undefined {
  const timeOf = ({ info }: Copy) => info.modified?.getTime()
  const newest = copies.reduce((best, copy) => ((timeOf(copy) ?? 0) > (timeOf(best) ?? 0) ? copy : best))
  const rivals = copies.filter((copy) => !isSame(copy, newest))
  const isClear = rivals.every((rival) => timeOf(rival) !== undefined && timeOf(rival) !== timeOf(newest))
  return isClear ? newest : undefined
}

/** How copies are compared: by what is known of them, or by what is in them. */
async function sameness(copies: readonly Copy[], options: RepairOptions): Promise<(a: Copy, b: Copy) => boolean> {
  const digests = new Map<Copy, string>()
  const known = (a: Copy, b: Copy): boolean | undefined => {
    if (a === b) return true
    if (a.info.size !== b.info.size) return false
    for (const name of ['sha256', 'md5'] as const) {
      const [one, other] = [a.info.digests?.[name], b.info.digests?.[name]]
      if (one !== undefined && other !== undefined) return one === other
    }
    return undefined
  }
  const isOpen = copies.some((a) => copies.some((b) => known(a, b) === undefined))
  if (options.compare === 'content' && isOpen)
    for (const copy of copies) digests.set(copy, await digestOf(copy, options))
  return (a, b) => known(a, b) ?? digests.get(a) === digests.get(b)
}

async function digestOf({ place, info }: Copy, { signal }: CallOptions): Promise<string> {
  const { body } = await place.read(info.key, signal ? { signal } : {})
  const hash = createHash('sha256')
  for await (const chunk of body) hash.update(chunk as Uint8Array)
  return hash.digest('hex')
}

/** Copies the newest to a place, unless what is there has changed since it was looked at. */
async function replace(own: Copy | undefined, place: Driver, newest: Copy, { signal }: CallOptions): Promise<void> {
  const call = signal ? { signal } : {}
  const { key } = newest.info
  const { ifMatch, ifAbsent } = place.supports
  const { info, body } = await newest.place.read(key, call)
  const { size, contentType, metadata, modified } = info
  const etag = own?.info.etag
  if (!(own ? ifMatch : ifAbsent)) await checkUnchanged(own, place, key, call)
  const written = await place
    .write(key, body, {
      ...call,
      size,
      ...(contentType === undefined ? {} : { contentType }),
      ...(metadata ? { metadata } : {}),
      ...(modified ? { modified } : {}),
      ...(ifAbsent && !own ? { ifAbsent } : {}),
      ...(ifMatch && etag !== undefined ? { ifMatch: etag } : {}),
    })
    .finally(() => body.destroy())
  if (written.size !== size)
    throw new StowageError('CORRUPT', `${key} has ${written.size} bytes in ${place.location} instead of ${size}.`)
}

/** For places that cannot decide by themselves whether what they have is still what we saw. */
async function checkUnchanged(own: Copy | undefined, place: Driver, key: string, call: CallOptions): Promise<void> {
  const now = await statOrAbsent(place, key, call)
  if (now?.etag === own?.info.etag && now?.size === own?.info.size) return
  throw new StowageError('CONFLICT', `${key} was changed in ${place.location} in the meantime.`, { retryable: true })
}

function undecided(key: string, copies: readonly Copy[]): StowageError {
  const where = copies.map(({ place, info }) => `${place.location} (${info.size} bytes)`).join(', ')
  return new StowageError('CONFLICT', `${key} is different at ${where}, and their times do not tell which is newer.`, {
    hint: 'Copy the right one over the others.',
  })
}

async function statOrAbsent(place: Driver, key: string, { signal }: CallOptions): Promise<FileInfo | undefined> {
  return place.stat(key, signal ? { signal } : {}).catch((error: unknown) => {
    if (isNotFound(error)) return undefined
    throw error
  })
}
