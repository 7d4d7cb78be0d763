/** One store at several places: near is the first, far the last, all are every one. */
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import { silentLog, type Log } from '../core/log.ts'
import { toBody } from '../core/bytes.ts'
import type { Driver, Entry, FileInfo, ListOptions, Supports, WriteOptions } from './driver.ts'
import { placeOf } from './driving.ts'

/** Which places of a store. */
export type Which = 'near' | 'far' | 'all'

/** What became of a change at one place. */
export interface Outcome {
  location: string
  error?: unknown
}

/** Drivers as one. Reads ask the nearest first; changes go to all. */
export interface Locations extends Driver {
  /** The driver of one place, or of all together. */
  at(which: Which): Driver
  /** The places, nearest first. */
  readonly places: readonly Driver[]
}

/** Rejected with by a change that some places took and some did not. `outcomes` has a line for each. */
export class PartialFailure extends StowageError {
  readonly outcomes: readonly Outcome[]

  constructor(what: string, outcomes: readonly Outcome[]) {
    const failed = outcomes.filter(({ error }) => error !== undefined)
    const reasons = failed.map(
      ({ location, error }) => `${location}: ${error instanceof Error ? error.message : String(error)}`,
    )
    const done = outcomes.filter(({ error }) => error === undefined).map(({ location }) => location)
    const first = failed[0]?.error
    super(
      codeOf(first),
      `${what} failed at ${reasons.join('; ')}${done.length > 0 ? ` (done at ${done.join(', ')})` : ''}.`,
      {
        cause: first,
        retryable: failed.every(({ error }) => error instanceof StowageError && error.retryable),
      },
    )
    this.outcomes = outcomes
  }
}

/**
 * Joins drivers, nearest first. A read is served by the first place that has the file; a place that cannot be asked is
 * passed over with a warning, but NOT_FOUND is only said when every place could be asked. A change is made at every
 * place that takes writes; when some fail it rejects with {@link PartialFailure}, and doing it again makes it whole.
 */
export function locations(places: readonly Driver[], options: { log?: Log } = {}): Locations {
  const { log = silentLog } = options
  const [near, far] = [places[0], places.at(-1)]
  if (!near || !far) throw new StowageError('INVALID_ARGUMENT', 'A store needs at least one location.')
  const writable = places.filter((place) => place.supports.write)
  const first = async <T>(key: string, ask: (place: Driver) => Promise<T>) => askInOrder(places, key, ask, log)
  const supports = common(places, writable)
  /** What several places cannot decide together is refused rather than decided differently. */
  const check = (call: WriteOptions | undefined) => {
    if ((call?.ifMatch !== undefined && !supports.ifMatch) || (call?.ifAbsent && !supports.ifAbsent))
      throw new StowageError('UNSUPPORTED', 'Several locations cannot decide a conditional write together.', {
        hint: "Use the store's near or far location.",
      })
  }
  const everywhere = async <T>(what: string, work: (place: Driver) => Promise<T>) => changeAll(writable, what, work)
  const joined: Locations = {
    location: places.map(({ location }) => location).join(' … '),
    supports,
    places,
    at: (which) => ({ near, far, all: joined })[which],
    read: async (key, call) => first(key, async (place) => place.read(key, call)),
    stat: async (key, call) => first(key, async (place) => place.stat(key, call)),
    write: async (key, body, call) => {
      check(call)
      return writeAll(writable, key, body, call)
    },
    writeBytes: async (key, bytes, call) => {
      check(call)
      return everywhere(
        `Storing ${key}`,
        async (place) => place.writeBytes?.(key, bytes, call) ?? place.write(key, toBody(bytes), call),
      )
    },
    delete: async (key, call) => {
      await everywhere(`Deleting ${key}`, async (place) => place.delete(key, call))
    },
    list: (directory, call) => mergedListing(places, directory, call),
    close: async () => {
      await Promise.all(places.map(async (place) => place.close()))
    },
  }
  return joined
}

/** Is this driver one of several locations? */
export function isLocations(driver: Driver): driver is Locations {
  return 'places' in driver && 'at' in driver
}

async function askInOrder<T>(
  places: readonly Driver[],
  key: string,
  ask: (place: Driver) => Promise<T>,
  log: Log,
): Promise<T> {
  let unasked: unknown
  let absent: unknown
  for (const place of places)
    try {
      return await ask(place)
    } catch (error) {
      if (codeOf(error) === 'ABORTED') throw error
      if (isNotFound(error)) absent = error
      else {
        unasked ??= error
        log.warn(`${place.location} could not be asked for ${key}: ${(error as Error).message}`)
      }
    }
  throw unasked ?? absent
}

async function changeAll<T>(places: readonly Driver[], what: string, work: (place: Driver) => Promise<T>): Promise<T> {
  if (places.length === 0) throw new StowageError('READ_ONLY', `${what} failed: no location takes writes.`)
  const results = await Promise.allSettled(places.map(work))
  return settle(places, what, results)
}

function settle<T>(places: readonly Driver[], what: string, results: readonly PromiseSettledResult<T>[]): T {
  const failures = results.filter((result) => result.status === 'rejected')
  const [first] = results
  if (failures.length === 0 && first?.status === 'fulfilled') return first.value
  // One place, or the caller's own doing: there is nothing partial about it.
  const own = failures.find(({ reason }) => !(reason instanceof StowageError) || codeOf(reason) === 'ABORTED')
  if (own || results.length === 1) throw (own ?? failures[0])?.reason
  const outcomes = results.map((result, index) => ({
    location: places[index]?.location ?? '',
    ...(result.status === 'rejected' ? { error: result.reason as unknown } : {}),
  }))
  throw new PartialFailure(what, outcomes)
}

/** Feeds one body to several writers, at the pace of the slowest. A writer that fails is left out; the others go on. */
async function writeAll(
  places: readonly Driver[],
  key: string,
  body: AsyncIterable<Uint8Array>,
  call?: WriteOptions,
): Promise<FileInfo> {
  const what = `Storing ${key}`
  const [only] = places
  if (!only) throw new StowageError('READ_ONLY', `${what} failed: no location takes writes.`)
  if (places.length === 1) return only.write(key, body, call)
  const branches = places.map(() => new Branch())
  const writes = places.map(async (place, index) => {
    try {
      return await place.write(key, branches[index] as Branch, call)
    } finally {
      branches[index]?.leave()
    }
  })
  const settled = Promise.allSettled(writes)
  try {
    for await (const chunk of body) {
      await Promise.all(branches.map(async (branch) => branch.give({ chunk })))
      if (branches.every((branch) => branch.hasLeft)) break
    }
    await Promise.all(branches.map(async (branch) => branch.give({ end: true })))
  } catch (error) {
    await Promise.all(branches.map(async (branch) => branch.give({ error })))
  }
  return settle(places, what, await settled)
}

type Handed = { chunk: Uint8Array } | { end: true } | { error: unknown }

/** One reader of a shared body: takes what it is given, one piece at a time. */
class Branch implements AsyncIterable<Uint8Array> {
  hasLeft = false
  #handed = Promise.withResolvers<Handed>()
  #taken = Promise.withResolvers<void>()

  /** Hands over a piece; resolves when the reader wants the next, or has left. */
  async give(piece: Handed): Promise<void> {
    if (this.hasLeft) return
    this.#handed.resolve(piece)
    await this.#taken.promise
  }

  leave(): void {
    this.hasLeft = true
    this.#taken.resolve()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (;;) {
      const piece = await this.#handed.promise
      if ('error' in piece) throw piece.error
      if ('end' in piece) return
      yield piece.chunk
      const taken = this.#taken
      this.#handed = Promise.withResolvers()
      this.#taken = Promise.withResolvers()
      taken.resolve()
    }
  }
}

/** The union of listings that are each in key order, in key order; of a key at several places, the nearest one's entry. */
async function* mergedListing(places: readonly Driver[], directory: string, call?: ListOptions): AsyncGenerator<Entry> {
  const iterators = places.map((place) => place.list(directory, call)[Symbol.asyncIterator]())
  const heads = await Promise.all(iterators.map(async (iterator) => iterator.next()))
  try {
    for (;;) {
      const open = heads.flatMap((head) => (head.done ? [] : [head.value]))
      const [first] = open
      if (!first) return
      const least = open.reduce((a, b) => (compareKeys(placeOf(b), placeOf(a)) < 0 ? b : a), first)
      yield least
      for (const [index, head] of heads.entries())
        if (!head.done && placeOf(head.value) === placeOf(least))
          heads[index] = await (iterators[index] as AsyncIterator<Entry>).next()
    }
  } finally {
    await Promise.all(iterators.map(async (iterator) => iterator.return?.()))
  }
}

/** What all places can do together. `ifAbsent` would have to be decided by several at once, so nobody can promise it. */
function common(places: readonly Driver[], writable: readonly Driver[]): Supports {
  const all = (name: 'list' | 'range') => places.every(({ supports }) => supports[name])
  const each = (name: 'atomicWrite' | 'contentType' | 'metadata' | 'keyUnderFile') =>
    places.every(({ supports }) => supports[name])
  const isSingle = writable.length === 1
  return {
    write: writable.length > 0,
    list: all('list'),
    range: all('range'),
    atomicWrite: each('atomicWrite'),
    ifAbsent: isSingle && writable.every(({ supports }) => supports.ifAbsent),
    ifMatch: isSingle && places.length === 1 && writable.every(({ supports }) => supports.ifMatch),
    contentType: each('contentType'),
    metadata: each('metadata'),
    keyUnderFile: each('keyUnderFile'),
    maxKeyBytes: Math.min(...places.map(({ supports }) => supports.maxKeyBytes)),
    maxPartBytes: Math.min(...places.map(({ supports }) => supports.maxPartBytes)),
    refuses: places.flatMap(({ supports }) => supports.refuses ?? []),
  }
}
