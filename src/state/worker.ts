/** Runs the jobs of one queue, some at a time, each when it is due. */
import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Job, Queue } from './queue.ts'

/** Settings of a worker. */
export interface WorkerOptions {
  queue: string
  /** Jobs in hand at once. */
  concurrency: number
  /** Of a group that has so many in hand no more are taken, so that one that hangs is in nobody's way. Default: no limit. */
  perGroup?: number
  /** Does one job. The handler finishes the job itself, with its results, in one transaction; when it rejects the job has failed. */
  handle: (job: Job, signal: AbortSignal) => Promise<void>
  /** Groups that must wait now, such as those of a store that is down, and until when (milliseconds since the epoch). */
  pausedGroups?: () => ReadonlyMap<string, number> | Promise<ReadonlyMap<string, number>>
  /** Hears of every job that failed, and whether it will be tried again. */
  onFailed?: (job: Job, error: unknown, outcome: 'retry' | 'set aside') => void
  clock: Clock
  log: Log
}

const errorPauseMs = 2000

/** Takes jobs as long as it runs. It looks at the queue when something was added and when the next job is due. */
export class Worker {
  readonly #queue: Queue
  readonly #options: WorkerOptions
  readonly #abort = new AbortController()
  readonly #stop = new AbortController()
  readonly #running = new Map<Promise<void>, string>()
  #wake: AbortController | undefined
  #hasNews = true
  #loop: Promise<void> | undefined

  constructor(queue: Queue, options: WorkerOptions) {
    this.#queue = queue
    this.#options = options
  }

  /** How many jobs are in hand. */
  get running(): number {
    return this.#running.size
  }

  start(): void {
    this.#loop ??= this.#run()
  }

  /** Takes no more jobs, waits `graceMs` for those in hand, then cancels them; what is cut short runs again at the next start. */
  async stop(graceMs = 10_000): Promise<void> {
    this.#stop.abort()
    this.#wake?.abort('stop')
    await this.#loop
    const patience = new AbortController()
    const timer = this.#options.clock.sleep(graceMs, patience.signal).then(
      () => this.#abort.abort(),
      () => undefined,
    )
    await Promise.all(this.#running.keys())
    patience.abort()
    await timer
  }

  async #run() {
    const stopListening = this.#queue.onAdded(() => this.#nudge())
    while (!this.#stop.signal.aborted)
      try {
        await this.#step()
      } catch (error) {
        this.#options.log.error(`The queue ${this.#options.queue} cannot be read: ${(error as Error).message}`)
        // Whatever is in the way, such as a full disk, is not gone sooner for being asked about all the time.
        await this.#options.clock.sleep(errorPauseMs, this.#stop.signal).catch(() => undefined)
      }
    stopListening()
  }

  async #step() {
    const { queue, concurrency, perGroup = concurrency, clock } = this.#options
    const paused = (await this.#options.pausedGroups?.()) ?? new Map<string, number>()
    const excludeGroups = [...paused.keys(), ...this.#fullGroups(perGroup)]
    const free = concurrency - this.#running.size
    this.#hasNews = false
    const jobs = free > 0 ? await this.#queue.take(queue, free, { excludeGroups, perGroup }) : []
    for (const job of jobs) this.#begin(job)
    if (jobs.length > 0) return
    if (free === 0) return this.#rest(60_000)
    const due = [await this.#queue.nextDueMs(queue, { excludeGroups }), ...paused.values()].filter(
      (ms) => ms !== undefined,
    )
    await this.#rest(Math.min(60_000, ...due.map((ms) => ms - clock.now())))
  }

  #begin(job: Job) {
    const work = this.#options
      .handle(job, this.#abort.signal)
      .catch((error: unknown) => this.#failed(job, error))
      .finally(() => {
        this.#running.delete(work)
        this.#nudge()
      })
    this.#running.set(work, job.group)
  }

  #fullGroups(perGroup: number): string[] {
    const inHand = Map.groupBy(this.#running.values(), (group) => group)
    return [...inHand].filter(([, jobs]) => jobs.length >= perGroup).map(([group]) => group)
  }

  async #failed(job: Job, error: unknown) {
    const { log } = this.#options
    if (this.#abort.signal.aborted) return // it runs again at the next start
    try {
      const outcome = await this.#queue.fail(job, error)
      this.#options.onFailed?.(job, error, outcome)
      const message = `${job.key}: ${error instanceof Error ? error.message : String(error)}`
      if (outcome === 'set aside') log.error(`Set aside: ${message}`, { queue: job.queue, attempts: job.attempt })
      else log.warn(`Will be tried again: ${message}`, { queue: job.queue, attempt: job.attempt })
    } catch (failure) {
      log.error(`The failure of ${job.key} could not be recorded: ${(failure as Error).message}`)
    }
  }

  #nudge() {
    this.#hasNews = true
    if (!this.#wake) return
    const wake = this.#wake
    this.#wake = undefined
    // Jobs that end together are looked at together.
    setImmediate(() => wake.abort('news'))
  }

  async #rest(ms: number) {
    if (this.#hasNews || this.#stop.signal.aborted || ms <= 0) return
    this.#wake = new AbortController()
    await this.#options.clock.sleep(ms, this.#wake.signal).catch(() => undefined)
    this.#wake = undefined
  }
}
