/** One store at several places: near is the first, far the last, all are every one. */
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
import { silentLog, type Log } from '../core/log.ts'
import { toBody } from '../core/bytes.ts'
import { onAbort } from '../core/abort.ts'
import { Pull } from '../core/pull.ts'
import type { CallOptions, Driver, FileInfo, Supports, WriteOptions } from './driver.ts'
import { commonSupports, merged } from './driving.ts'

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

/** What one place knows of a file. */
export interface Found {
  location: string
  /** Absent where the place does not have the file, or could not be asked. */
  info?: FileInfo
  /** Why the place could not be asked; absent when it answered. */
  error?: unknown
}

/** A change that some places took and some did not. */
export interface Partial {
  operation: 'write' | 'delete'
  key: string
  /** A line for each place. */
  outcomes: readonly Outcome[]
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

/** Settings of {@link locations}. */
export interface LocationsOptions {
  /** Hears of places that could not be asked. */
  log?: Log
  /** Hears of every change that left the places different, before its caller does; `repairKey` makes them level again. */
  onPartial?: (partial: Partial) => void | Promise<void>
  /** Milliseconds of a steady clock. Default performance.now. */
  now?: () => number
}

/** So long a place that could not be reached is asked last, so that not every read waits for it. */
const restMs = 5000

/**
 * Joins drivers, nearest first. A read is served by the first place that has the file; a place that cannot be asked is
 * passed over with a warning, but NOT_FOUND is only said when every place could be asked. A change is made at every
 * place that takes writes; when some fail it rejects with {@link PartialFailure}, and doing it again makes it whole.
 */
export function locations(places: readonly Driver[], options: LocationsOptions = {}): Locations {
  const [near, far] = [places[0], places.at(-1)]
  if (!near || !far) throw new StowageError('INVALID_ARGUMENT', 'A store needs at least one location.')
  const writable = places.filter((place) => place.supports.write)
  const readers = new Readers(places, options)
  const signers = places.filter((place) => 'signedUrl' in place)
  const supports = supportsOf(places, writable)
  /** What several places cannot decide together is refused rather than decided differently. */
  const check = (call: WriteOptions | undefined) => {
    if ((call?.ifMatch !== undefined && !supports.ifMatch) || (call?.ifAbsent && !supports.ifAbsent))
      throw new StowageError('UNSUPPORTED', 'Several locations cannot decide a conditional write together.', {
        hint: "Use the store's near or far location.",
      })
  }
  const change = async <T>(operation: Partial['operation'], key: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (error) {
      if (error instanceof PartialFailure && error.outcomes.some((each) => each.error === undefined))
        await options.onPartial?.({ operation, key, outcomes: error.outcomes })
      throw error
    }
  }
  const joined: Locations = {
    location: places.map(({ location }) => location).join(' … '),
    supports,
    places,
    at: (which) => chosen(which, { near, far, all: joined }),
    read: async (key, call) => readers.first(key, async (place) => place.read(key, call)),
    stat: async (key, call) => readers.first(key, async (place) => place.stat(key, call)),
    write: async (key, body, call) => {
      check(call)
      return change('write', key, async () => writeAll(writable, key, body, call))
    },
    writeBytes: async (key, bytes, call) => {
      check(call)
      const store = async (place: Driver) =>
        place.writeBytes?.(key, bytes, call) ?? place.write(key, toBody(bytes), call)
      return change('write', key, async () => changeAll(writable, `Storing ${key}`, store))
    },
    delete: async (key, call) => {
      const remove = async (place: Driver) => place.delete(key, call)
      await change('delete', key, async () => changeAll(writable, `Deleting ${key}`, remove))
    },
    list: (directory, call) => merged(places.map((place) => place.list(directory, call))),
    close: async () => {
      await Promise.all(places.map(async (place) => place.close()))
    },
    ...(signers.length > 0 && { signedUrl: signing(new Readers(signers, options)) }),
  }
  return joined
}

/** Is this driver one of several locations? */
export function isLocations(driver: Driver): driver is Locations {
  return 'places' in driver && 'at' in driver
}

/** What each place of a driver, or the driver as the only one, knows of a file. */
export async function locate(driver: Driver, key: string, options: CallOptions = {}): Promise<Found[]> {
  const places = isLocations(driver) ? driver.places : [driver]
  return Promise.all(
    places.map(async (place): Promise<Found> => {
      const { location } = place
      try {
        return { location, info: await place.stat(key, options) }
      } catch (error) {
        if (codeOf(error) === 'ABORTED') throw error
        return isNotFound(error) ? { location } : { location, error }
      }
    }),
  )
}

/** Signs at the first place that has the file. One URL cannot store at several. */
function signing(signers: Readers): NonNullable<Driver['signedUrl']> {
  return async (key, how) => {
    if (how.method === 'PUT')
      throw new StowageError('UNSUPPORTED', 'One URL cannot store at several locations.', {
        hint: "Use the store's near or far location.",
      })
    return signers.first(key, async (place) => {
      await place.stat(key)
      return place.signedUrl?.(key, how) as Promise<string>
    })
  }
}

function chosen(which: Which, places: Record<Which, Driver>): Driver {
  if (Object.hasOwn(places, which)) return places[which]
  throw new StowageError('INVALID_ARGUMENT', `${JSON.stringify(which)} is no location.`, {
    hint: 'A location is near, far or all.',
  })
}

/** Asks places in their order, those that could not be reached a moment ago last. */
class Readers {
  readonly #places: readonly Driver[]
  readonly #log: Log
  readonly #now: () => number
  readonly #restsUntil = new Map<Driver, number>()

  constructor(places: readonly Driver[], { log = silentLog, now = () => performance.now() }: LocationsOptions) {
    this.#places = places
    this.#log = log
    this.#now = now
  }

  /** The answer of the first place that has one. NOT_FOUND is only said when every place could be asked. */
  async first<T>(key: string, ask: (place: Driver) => Promise<T>): Promise<T> {
    let unasked: unknown
    let absent: unknown
    for (const place of this.#inOrder())
      try {
        const answer = await ask(place)
        this.#restsUntil.delete(place)
        return answer
      } catch (error) {
        if (codeOf(error) === 'ABORTED' || codeOf(error) === 'CLOSED') throw error
        if (isNotFound(error)) absent = error
        else {
          unasked ??= error
          this.#log.warn(`${place.location} could not be asked for ${key}: ${(error as Error).message}`)
          if (['UNREACHABLE', 'TIMEOUT'].includes(codeOf(error))) this.#restsUntil.set(place, this.#now() + restMs)
        }
      }
    throw unasked ?? absent
  }

  #inOrder(): readonly Driver[] {
    if (this.#restsUntil.size === 0) return this.#places
    const isResting = (place: Driver) => (this.#restsUntil.get(place) ?? 0) > this.#now()
    return [...this.#places.filter((place) => !isResting(place)), ...this.#places.filter(isResting)]
  }
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
  // One place, or the caller's own doing everywhere: there is nothing partial about it.
  const own = failures.find(({ reason }) => !(reason instanceof StowageError) || codeOf(reason) === 'ABORTED')
  if ((own && failures.length === results.length) || results.length === 1) throw (own ?? failures[0])?.reason
  const outcomes = results.map((result, index) => ({
    location: places[index]?.location ?? '',
    ...(result.status === 'rejected' ? { error: result.reason as unknown } : {}),
  }))
  throw new PartialFailure(what, outcomes)
}

/**
 * Feeds one body to several writers, at the pace of the slowest. A writer that fails is left out; the others go on. A body
 * that is silent is left when the call is cancelled, or no writer is there any more.
 */
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
  const pull = new Pull(body)
  const give = async (piece: Handed) => Promise.all(branches.map(async (branch) => branch.give(piece)))
  const stopListening = onAbort(call?.signal, () =>
    pull.leave(new StowageError('ABORTED', 'The call was cancelled.', { cause: call?.signal?.reason })),
  )
  void settled.then(() => pull.leave(undefined))
  try {
    for (let chunk = await pull.next(); chunk; chunk = await pull.next()) await give({ chunk })
    await give({ end: true })
  } catch (error) {
    await give({ error })
  } finally {
    stopListening()
    await pull.end()
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

/** What the places can do together. `ifAbsent` would have to be decided by several at once, so nobody can promise it. */
function supportsOf(places: readonly Driver[], writable: readonly Driver[]): Supports {
  const isSingle = writable.length === 1
  return {
    ...commonSupports(places.map(({ supports }) => supports)),
    write: writable.length > 0,
    ifAbsent: isSingle && writable.every(({ supports }) => supports.ifAbsent),
    ifMatch: isSingle && places.length === 1 && writable.every(({ supports }) => supports.ifMatch),
  }
}
