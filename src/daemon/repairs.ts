/** Making the locations of stores level again after changes that only some of them took. */
import type { Clock } from '../core/clock.ts'
import { isNotFound } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Job, Queue } from '../state/queue.ts'
import { Worker } from '../state/worker.ts'
import { isLocations, type Partial } from '../store/locations.ts'
import { repairKey } from '../store/repair.ts'
import type { Store } from '../store/store.ts'

const queueName = 'repair'
/** Whoever made the change will often make it again at once; that needs no repair. */
const delayMs = 1000

interface Payload {
  store: string
  key: string
  operation: Partial['operation']
  /** A location that took the change. */
  done: string | undefined
  /** Those that did not. */
  failed: string[]
}

/** Queues a repair for every such change, and does it. */
export class Repairs {
  readonly #queue: Queue
  readonly #stores: ReadonlyMap<string, Store>
  readonly #log: Log
  readonly #worker: Worker

  constructor(queue: Queue, stores: ReadonlyMap<string, Store>, { clock, log }: { clock: Clock; log: Log }) {
    this.#queue = queue
    this.#stores = stores
    this.#log = log
    const handle = async (job: Job, signal: AbortSignal) => this.#handle(job, signal)
    this.#worker = new Worker(queue, { queue: queueName, concurrency: 4, handle, clock, log })
  }

  /** Notes a change that only some locations took; resolves when that is durable. */
  async add(store: string, { operation, key, outcomes }: Partial): Promise<void> {
    const failed = outcomes.filter(({ error }) => error !== undefined).map(({ location }) => location)
    const done = outcomes.find(({ error }) => error === undefined)?.location
    const payload: Payload = { store, key, operation, done, failed }
    await this.#queue.add({ queue: queueName, key: `${store}:${key}`, group: store, payload, delayMs })
  }

  start(): void {
    this.#worker.start()
  }

  async close(graceMs?: number): Promise<void> {
    await this.#worker.stop(graceMs)
  }

  async #handle(job: Job, signal: AbortSignal): Promise<void> {
    const { store: name, key, operation, done, failed } = job.payload as Payload
    const store = this.#stores.get(name) // it may have left the configuration
    if (store && operation === 'delete') await finishDelete(store, key, { done, failed }, signal)
    else if (store) {
      const from = done === undefined ? {} : { from: done }
      for (const { location, error } of await repairKey(store.driver, key, { signal, ...from })) {
        if (error !== undefined) throw error
        this.#log.info(`Repaired ${key} at ${location}.`)
      }
    }
    await this.#queue.finish(job)
  }
}

/** Deletes where that failed, unless the file has been stored anew since. */
async function finishDelete(
  { driver }: Store,
  key: string,
  { done, failed }: Pick<Payload, 'done' | 'failed'>,
  signal: AbortSignal,
): Promise<void> {
  if (!isLocations(driver)) return
  const witness = driver.places.find(({ location }) => location === done)
  const isBack = await witness?.stat(key, { signal }).then(
    () => true,
    (error: unknown) => {
      if (isNotFound(error)) return false
      throw error
    },
  )
  if (isBack) return
  for (const place of driver.places) if (failed.includes(place.location)) await place.delete(key, { signal })
}
