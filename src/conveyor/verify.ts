/** Is everything that was delivered really where the ledger says, as it was delivered? And what can be done where it is not. */
import type { Clock } from '../core/clock.ts'
import { codeOf, StowageError } from '../core/errors.ts'
import { Lane } from '../core/lane.ts'
import type { Database, Transaction } from '../state/database.ts'
import type { CallOptions } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import type { Store } from '../store/store.ts'
import { digestAt } from './delivery.ts'
import type { Source } from './intake.ts'
import { intend, ownersOf, walkLedger, type Delivery, type LedgerKey, type LedgerRow } from './ledger.ts'
import { isSame, lookAt } from './original.ts'
import { destinationOf, type Rule } from './rules.ts'
import { checkServed } from './served.ts'
import { findUrl } from './urls.ts'

/** A delivery that is not as it should be, or of which that is not known. */
export interface DeliveryFault extends LedgerKey {
  /**
   * `missing`: not there; `damaged`: not what was delivered; `unserved`: in its place, but its public address does not give
   * it; `unchecked`: the place could not be asked. No faults: `pending`: it is still to be delivered; `unaddressed`: in its
   * place, without a public address to ask.
   */
  problem: 'missing' | 'damaged' | 'unserved' | 'unchecked' | 'pending' | 'unaddressed'
  why?: string
  /** What was done about it; absent when nothing could be, or was to be. */
  repaired?: 'queued for delivery'
}

/** What is looked at, and how closely. */
export interface VerifyOptions extends CallOptions {
  /** The name of a source. Default: all of them. */
  source?: string
  /** Read everything and compare its bytes. Default: only what can be told without reading. */
  content?: boolean
  /** Ask the public addresses too. Default false. */
  url?: boolean
  /** Have delivered again what is missing or damaged. Default false. */
  repair?: boolean
  /** Called with the number of deliveries that were looked at. */
  onProgress?: (deliveries: number) => void
}

/** What the work needs. */
export interface VerifyContext {
  sources: ReadonlyMap<string, Source>
  rules: readonly Rule[]
  database: Database
  clock: Clock
  store: (name: string) => Store
  lane: (name: string) => Lane
  /** Adds the job that delivers a file. */
  deliverAgain: (source: string, path: string, tx: Transaction) => Promise<void>
}

/** So many deliveries at once. */
const together = 16
/** A place that is in trouble has so many chances, and so long for each, before it counts as one that cannot be asked. */
const patience = { tries: 3, waitMs: 10_000 }

/**
 * What is not as it should be, in the order of sources and paths; of what is all right nothing is told. What changes
 * meanwhile is no fault. Rejects with INVALID_ARGUMENT when there is no such source.
 */
export async function* verifyDeliveries(
  context: VerifyContext,
  options: VerifyOptions,
): AsyncGenerator<DeliveryFault, void> {
  const { signal, onProgress } = options
  const verifier = new Verifier(context, options)
  const ahead: Promise<DeliveryFault | undefined>[] = []
  let deliveries = 0
  const first = async () => {
    const fault = await ahead.shift()
    onProgress?.(++deliveries)
    return fault ? [fault] : []
  }
  try {
    for (const source of sourcesOf(context, options))
      for await (const row of walkLedger(context.database, source)) {
        throwIfAborted(signal)
        if (ahead.length === together) yield* await first()
        const checked = verifier.check(row)
        // It is heard of when its turn comes.
        checked.catch(() => undefined)
        ahead.push(checked)
      }
    while (ahead.length > 0) yield* await first()
  } finally {
    await Promise.allSettled(ahead)
  }
}

function sourcesOf({ sources }: VerifyContext, { source }: VerifyOptions): Iterable<string> {
  if (source === undefined) return sources.keys()
  if (sources.has(source)) return [source]
  throw new StowageError('INVALID_ARGUMENT', `There is no source ${JSON.stringify(source)}.`, {
    hint: sources.size > 0 ? `There are: ${[...sources.keys()].join(', ')}.` : 'The configuration has none.',
  })
}

type Fault = Pick<DeliveryFault, 'problem' | 'why'>

class Verifier {
  readonly #context: VerifyContext
  readonly #options: VerifyOptions
  readonly #call: CallOptions
  /** The ways to the servers behind public addresses. */
  readonly #servers = new Map<string, Lane>()

  constructor(context: VerifyContext, options: VerifyOptions) {
    this.#context = context
    this.#options = options
    this.#call = options.signal ? { signal: options.signal } : {}
  }

  /** What is wrong with a delivery, if anything. Rejects with ABORTED when the signal fires. */
  async check(row: LedgerRow): Promise<DeliveryFault | undefined> {
    const { delivery, ...key } = row
    if (!delivery) return { ...key, problem: 'pending' }
    const fault = (await this.#look(row, delivery)) ?? (await this.#lookAtAddress(row, delivery))
    if (!fault) return undefined
    if (fault.problem === 'unchecked' || fault.problem === 'unaddressed') return { ...key, ...fault }
    return this.#context.database.transaction(async (tx) => this.#confirm(key, delivery, fault, tx))
  }

  async #look(row: LedgerRow, delivery: Delivery): Promise<Fault | undefined> {
    const { store, lane } = this.#context
    try {
      const place = store(row.destination)
      await this.#patiently(lane(row.destination), async () => this.#compare(place, row, delivery))
      return undefined
    } catch (error) {
      throwIfAborted(this.#options.signal)
      const known = { NOT_FOUND: 'missing', CORRUPT: 'damaged' } as const
      const problem = known[codeOf(error) as keyof typeof known] ?? 'unchecked'
      return { problem, why: (error as Error).message }
    }
  }

  /** Rejects with NOT_FOUND or CORRUPT when a delivery is not what it should be. */
  async #compare(store: Store, row: LedgerKey, delivery: Delivery): Promise<void> {
    const { key } = row
    const info = await store.stat(key, this.#call)
    // A link shows its original as it is; that this has changed is news for the next delivery.
    if (delivery.link && !this.#isUnchanged(row, delivery)) return
    const { size, digest } = delivery
    const check = (is: { size: number; digest?: string | undefined }) => {
      if (is.size !== size) throw new StowageError('CORRUPT', `It has ${is.size} bytes instead of ${size}.`)
      if (digest !== '' && is.digest !== undefined && is.digest !== digest)
        throw new StowageError('CORRUPT', 'It has other bytes than were delivered.')
    }
    check({ size: info.size, digest: info.digests?.sha256 })
    if (this.#options.content && digest !== '') check(await digestAt(store, key, this.#options.signal))
  }

  #isUnchanged({ source, path }: LedgerKey, delivery: Delivery): boolean {
    const original = lookAt(this.#context.sources.get(source)?.directory ?? '', path)
    const { sourceSize: size, sourceMtimeNs: mtimeNs, sourceInode: inode } = delivery
    return original !== undefined && isSame(original, { size, mtimeNs, inode })
  }

  async #lookAtAddress(row: LedgerRow, delivery: Delivery): Promise<Fault | undefined> {
    if (!this.#options.url) return undefined
    const rule = this.#context.rules.find(({ label }) => label === row.rule)
    const url = findUrl(this.#context.store(row.destination), row.key, destinationOf(rule, row)?.to.url) ?? delivery.url
    const { protocol, origin } = (url === undefined ? null : URL.parse(url)) ?? {}
    if (url === undefined || origin === undefined || !/^https?:$/.test(protocol ?? ''))
      return { problem: 'unaddressed' }
    if (delivery.link && !this.#isUnchanged(row, delivery)) return undefined
    const { content = false } = this.#options
    try {
      await this.#patiently(this.#server(origin), async () => checkServed(url, delivery, { content, ...this.#call }))
      return undefined
    } catch (error) {
      throwIfAborted(this.#options.signal)
      const isTrouble = !(error instanceof StowageError) || error.retryable
      return { problem: isTrouble ? 'unchecked' : 'unserved', why: (error as Error).message }
    }
  }

  #server(origin: string): Lane {
    const lane = this.#servers.get(origin) ?? new Lane(this.#context.clock, together)
    this.#servers.set(origin, lane)
    return lane
  }

  /** Runs work that needs a place, again when the place was in trouble for a moment. */
  async #patiently<T>(lane: Lane, work: () => Promise<T>): Promise<T> {
    const { clock } = this.#context
    const { signal } = this.#options
    for (let tries = 1; ; tries++) {
      const waitMs = (lane.pausedUntil ?? 0) - clock.now()
      if (waitMs > 0 && waitMs <= patience.waitMs && lane.failures < patience.tries) await clock.sleep(waitMs, signal)
      try {
        return await lane.run(work, signal)
      } catch (error) {
        const isTrouble = error instanceof StowageError && error.retryable
        if (!isTrouble || tries === patience.tries || lane.failures >= patience.tries) throw error
      }
    }
  }

  /** Is it still what the ledger says? Then it is a fault, and what can be done is done in the same transaction. */
  async #confirm(
    row: LedgerKey,
    delivery: Delivery,
    fault: Fault,
    tx: Transaction,
  ): Promise<DeliveryFault | undefined> {
    const owners = await ownersOf(tx, row.destination, row.key)
    const own = owners.find(({ source, path, rule }) => source === row.source && path === row.path && rule === row.rule)
    if (!own) return undefined
    if (owners.some((owner) => !owner.delivery)) return { ...row, problem: 'pending' }
    const newest = Math.max(...owners.map((owner) => owner.delivery?.deliveredMs ?? 0))
    if (own.delivery?.deliveredMs !== delivery.deliveredMs || newest > delivery.deliveredMs) return undefined
    const isMendable = fault.problem === 'missing' || fault.problem === 'damaged'
    const repaired = isMendable && this.#options.repair ? await this.#repair(row, fault, tx) : fault
    return { ...row, ...repaired }
  }

  /** What is to be delivered again needs its original. */
  async #repair(row: LedgerKey, fault: Fault, tx: Transaction): Promise<Fault & Pick<DeliveryFault, 'repaired'>> {
    const { sources, deliverAgain } = this.#context
    try {
      const original = lookAt(sources.get(row.source)?.directory ?? '', row.path)
      if (!original) return { ...fault, why: `${fault.why} Its original is not there either.` }
    } catch (error) {
      return { ...fault, why: `${fault.why} ${(error as Error).message}` }
    }
    await intend(tx, row)
    await deliverAgain(row.source, row.path, tx)
    return { ...fault, repaired: 'queued for delivery' }
  }
}
