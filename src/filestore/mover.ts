/**
 * Moves many files because somebody said so: to the cloud, back home, or from one remote to another, while all of them are
 * in use. What is left to do is in the state, so that a move goes on where it was when the process ended.
 */
import { randomUUID } from 'node:crypto'
import { lookup } from 'mrmime'
import { codeOf, StowageError } from '../core/errors.ts'
import type { Rate } from '../core/rate.ts'
import type { Transaction } from '../state/database.ts'
import type { Job } from '../state/queue.ts'
import { queueName, queueRemoval, type Context } from './context.ts'
import type { Fetcher } from './fetcher.ts'
import type { Levelling } from './levelling.ts'
import { Fingerprint, fingerprinted } from './fingerprint.ts'
import type { Lanes } from './lanes.ts'
import { infoOf, type Count, type FileRow, type Replica, type Which } from './registry.ts'
import { Changed, claimed, confirm, send } from './sender.ts'
import type { Uploader } from './uploader.ts'

/** What is moved, and how. */
export type MoveOrder = {
  /** The beginning of the keys; default: everything. */
  prefix?: string
  /** Bytes a second, all files together; default: no limit. */
  bytesPerSecond?: number
} & (
  | { kind: 'offload' }
  /** `drop` removes the copies in the cloud, after `deleteAfter`. Default false. */
  | { kind: 'recall'; drop?: boolean }
  /** `drop` removes the copies at `from`, each when the one at `to` is verified. Default true. */
  | { kind: 'migrate'; from: string; to: string; drop?: boolean }
)

/** How far a move is. */
export interface MoveProgress {
  id: string
  order: MoveOrder
  /** `stopped` by somebody, or by another move. */
  state: 'running' | 'done' | 'stopped'
  /** As it was at the start; files that come or go meanwhile may make it more or less. */
  total: Count
  done: Count
  /** Files that could not be moved; they are set aside. */
  failed: number
  startedMs: number
  endedMs?: number
}

interface Note extends MoveProgress {
  /** The last key that was queued. */
  cursor?: string
  queued: number
  /** Everything has been queued. */
  isListed: boolean
}

/** So many files are queued at a time, and again when half of them are done. */
const pageFiles = 500

/** The parts a mover uses beside the context. */
interface Parts {
  levelling: Levelling
  fetcher: Fetcher
  uploader: Uploader
  lanes: Lanes
  rate: Rate
}

/** Moves files. One move at a time: another one stops it. */
export class Mover {
  readonly #context: Context
  readonly #parts: Parts
  readonly #stop = new AbortController()
  #feeding: Promise<void> | undefined

  constructor(context: Context, parts: Parts) {
    this.#context = context
    this.#parts = parts
  }

  /** How many files, and bytes, an order is about. */
  async measure(order: MoveOrder): Promise<Count> {
    return this.#context.registry.measure(order.prefix ?? '', this.#which(order))
  }

  /** Begins a move; one that is under way stops. Resolves when it is recorded. */
  async begin(order: MoveOrder): Promise<MoveProgress> {
    const { registry, queue, routes, clock } = this.#context
    if (order.kind === 'migrate') {
      if (order.from === order.to) throw new StowageError('INVALID_ARGUMENT', 'A migration needs two remotes.')
      for (const remote of [order.from, order.to]) await routes.open(remote)
    }
    const note: Note = {
      id: randomUUID(),
      order,
      state: 'running',
      total: await this.measure(order),
      done: { files: 0, bytes: 0 },
      failed: 0,
      startedMs: clock.now(),
      queued: 0,
      isListed: false,
    }
    await registry.transaction(async (tx) => {
      await queue.cancel(queueName(this.#context, 'move'), { prefix: '' }, tx)
      // What is called home must not leave again because of an upload that was still to come.
      const { prefix = '' } = order
      if (order.kind === 'recall') await queue.cancel(queueName(this.#context, 'offload'), { prefix }, tx)
      await registry.set(noteName, note, tx)
    })
    if (order.kind === 'recall') this.#parts.uploader.keepHere(order.prefix ?? '')
    await this.resume()
    return progressOf(note)
  }

  /** How far the last move is; undefined when there was none. */
  async progress(): Promise<MoveProgress | undefined> {
    const note = await this.#note()
    return note && progressOf(note)
  }

  /** Ends a move where it is. What is in hand is finished. False when none is under way. */
  async stop(): Promise<boolean> {
    const { registry, queue, clock } = this.#context
    const note = await this.#note()
    if (note?.state !== 'running') return false
    await registry.transaction(async (tx) => {
      await queue.cancel(queueName(this.#context, 'move'), { prefix: '' }, tx)
      await registry.set(noteName, { ...note, state: 'stopped', endedMs: clock.now() } satisfies Note, tx)
    })
    this.#parts.rate.bytesPerSecond = Infinity
    return true
  }

  /** Goes on with a move that is not done, as after a start. */
  async resume(): Promise<void> {
    const note = await this.#note()
    this.#parts.rate.bytesPerSecond = note?.state === 'running' ? (note.order.bytesPerSecond ?? Infinity) : Infinity
    if (note?.state !== 'running') return
    const before = this.#feeding
    this.#feeding = (async () => {
      await before
      await this.#feed(note.id)
    })().catch((error: unknown) => {
      if (!this.#stop.signal.aborted) this.#context.log.error(`A move came to a halt: ${(error as Error).message}`)
    })
  }

  /** Does one job of the queue `move`. */
  async handle(job: Job, signal: AbortSignal): Promise<void> {
    const { id, order } = job.payload as { id: string; order: MoveOrder }
    if (job.group !== '' && this.#parts.lanes.isPaused(job.group)) return this.#context.queue.postpone(job, 0)
    // It was in hand when its move was stopped, and failed.
    const now = await this.#note()
    if (now?.id !== id || now.state !== 'running') return void (await this.#context.queue.finish(job))
    const row = await this.#parts.levelling.look(job.key)
    const atEnd = async (tx: Transaction) => {
      await this.#count(id, { files: 1, bytes: row?.size ?? 0 }, 0, tx)
      await this.#context.queue.finish(job, tx)
    }
    if (order.kind === 'offload') await this.#parts.uploader.offload(job.key, signal, atEnd)
    else if (!row) await this.#context.registry.transaction(atEnd)
    else if (order.kind === 'recall') await this.#recall(row, { isDropped: order.drop ?? false, signal }, atEnd)
    else await this.#migrate(row, order, signal, atEnd)
  }

  /** To be told of a job that was set aside. */
  async failed(job: Job): Promise<void> {
    const { id } = job.payload as { id: string }
    await this.#context.registry.transaction(async (tx) => this.#count(id, { files: 0, bytes: 0 }, 1, tx))
  }

  async close(): Promise<void> {
    this.#stop.abort()
    await this.#feeding
  }

  async #note(tx?: Transaction): Promise<Note | undefined> {
    return (await this.#context.registry.setting(noteName, tx)) as Note | undefined
  }

  #which(order: MoveOrder): Which {
    if (order.kind === 'migrate') return { at: order.from }
    if (order.kind === 'recall') return 'away'
    return this.#context.settings.keepLocal ? 'local only' : 'local'
  }

  /** Queues the files of a move page by page, so that the queue stays short however many they are. */
  async #feed(id: string): Promise<void> {
    const { registry, queue } = this.#context
    for (;;) {
      await this.#room()
      const note = await this.#note()
      if (note?.id !== id || note.state !== 'running' || note.isListed) return
      const { order, cursor } = note
      const prefix = order.prefix ?? ''
      const page = await registry.page({
        ...(cursor === undefined ? { from: prefix } : { after: cursor }),
        before: `${prefix}\u{10ffff}`,
        limit: pageFiles,
        which: this.#which(order),
      })
      const groups = await Promise.all(page.map(async (row) => this.#groupOf(order, row)))
      await registry.transaction(async (tx) => {
        const now = await this.#note(tx)
        if (now?.id !== id || now.state !== 'running') return
        const jobs = page.map(({ key }, index) => ({
          queue: queueName(this.#context, 'move'),
          key,
          group: groups[index] ?? '',
          payload: { id, order },
        }))
        await queue.addMany(jobs, tx)
        const last = page.at(-1)?.key ?? cursor
        const queued = now.queued + page.length
        await this.#save(
          { ...now, ...(last !== undefined && { cursor: last }), queued, isListed: page.length === 0 },
          tx,
        )
      })
    }
  }

  async #groupOf(order: MoveOrder, row: FileRow): Promise<string> {
    if (order.kind === 'migrate') return order.to
    if (order.kind === 'recall') return ''
    const plan = await this.#context.routes.plan(infoOf(row)).catch(() => undefined)
    return plan?.remote ?? ''
  }

  /** Waits until the queue is short, not counting what waits for remotes that get nothing now. */
  async #room(): Promise<void> {
    const { queue } = this.#context
    const { lanes } = this.#parts
    const name = queueName(this.#context, 'move')
    for (;;) {
      this.#stop.signal.throwIfAborted()
      const change = Promise.withResolvers<void>()
      const look = () => change.resolve()
      const stopListening = queue.onAdded(look)
      this.#stop.signal.addEventListener('abort', look, { once: true })
      try {
        const resting = lanes.resting((await queue.groups(name)).filter((group) => group !== ''))
        const counts = (await queue.counts({ excludeGroups: [...resting.keys()] })).find((each) => each.queue === name)
        if (!counts || counts.waiting < pageFiles / 2) return
        await change.promise
      } finally {
        stopListening()
        this.#stop.signal.removeEventListener('abort', look)
      }
    }
  }

  async #count(id: string, done: Count, failed: number, tx: Transaction): Promise<void> {
    const note = await this.#note(tx)
    if (note?.id !== id || note.state !== 'running') return
    const sum = { files: note.done.files + done.files, bytes: note.done.bytes + done.bytes }
    await this.#save({ ...note, done: sum, failed: note.failed + failed }, tx)
  }

  async #save(note: Note, tx: Transaction): Promise<void> {
    const isDone = note.isListed && note.done.files + note.failed >= note.queued
    const ended: Note = isDone ? { ...note, state: 'done', endedMs: this.#context.clock.now() } : note
    await this.#context.registry.set(noteName, ended, tx)
    if (isDone) this.#parts.rate.bytesPerSecond = Infinity
  }

  /** Brings a file back to the local directory. */
  async #recall(
    row: FileRow,
    { isDropped, signal }: { isDropped: boolean; signal: AbortSignal },
    atEnd: (tx: Transaction) => Promise<void>,
  ): Promise<void> {
    const { registry, settings } = this.#context
    const state = row.local ?? (await this.bringHome(row, { signal }))
    await registry.transaction(async (tx) => {
      if (isDropped && state !== undefined)
        for (const replica of await registry.replicas(row.key, tx))
          await queueRemoval(this.#context, replica, { delayMs: settings.deleteAfterMs, isDropped }, tx)
      await atEnd(tx)
    })
  }

  /**
   * Writes a file into the local directory, from the cache or from any replica but the one at `not`. Its state then;
   * undefined when the file has become another meanwhile. `instead` is the state of a local file that it replaces.
   */
  async bringHome(
    row: FileRow,
    { signal, not, instead }: { signal: AbortSignal | undefined; not?: string; instead?: string },
  ): Promise<string | undefined> {
    const { registry, local, lock } = this.#context
    const { key, version } = row
    const { fetcher, rate } = this.#parts
    const print = new Fingerprint()
    const { body } = await fetcher.openWhole(row, { signal, ...(not !== undefined && { not }) })
    let held: Disposable | undefined
    const locked = async function* () {
      yield* fingerprinted(rate.paced(body as AsyncIterable<Buffer>, signal), print)
      held = await lock.acquire(key)
      const now = await registry.find(key)
      const { sha256 } = print.end()
      if (now?.version !== version || now.deletedMs !== undefined || now.local !== instead) throw new Overtaken()
      if (instead !== undefined && local.stateOf(key) !== instead) throw new Overtaken()
      if (row.sha256 !== undefined && sha256 !== row.sha256)
        throw new StowageError('CORRUPT', `${key} came back as something else than what was stored.`)
    }
    try {
      const options = { size: row.size, modified: new Date(row.modifiedMs), signal }
      // What somebody has written a moment ago, and nobody has noticed yet, is newer.
      const info = await local.write(key, locked(), { ...options, ifAbsent: instead === undefined })
      await registry.transaction(async (tx) => registry.setLocal(key, version, info.etag, tx))
      return info.etag
    } catch (error) {
      if (error instanceof Overtaken || codeOf(error) === 'EXISTS') return undefined
      throw error
    } finally {
      held?.[Symbol.dispose]()
      body.destroy()
    }
  }

  /** Copies a file from one remote to another; readers use either. */
  async #migrate(
    row: FileRow,
    { from, to, drop: isDropped = true }: MoveOrder & { kind: 'migrate' },
    signal: AbortSignal,
    atEnd: (tx: Transaction) => Promise<void>,
  ): Promise<void> {
    const { registry, routes } = this.#context
    const isAt = (remote: string) => (each: { remote: string; version: string; state: string }) =>
      each.remote === remote && each.version === row.version && each.state === 'present'
    const replicas = await registry.replicas(row.key)
    const source = replicas.find(isAt(from))
    const target = replicas.find(isAt(to))
    const driver = await routes.open(to)
    let copied: Replica | undefined
    try {
      if (source && !target) copied = await this.#copy(row, from, { to, driver }, signal)
    } catch (error) {
      if (!(error instanceof Changed)) throw error
      // It is local now, or has another name; there is nothing to move here.
      return registry.transaction(atEnd)
    }
    await registry.transaction(async (tx) => {
      if (copied) await confirm(this.#context, copied, tx)
      if (copied && (await registry.find(row.key, tx)) === undefined) await queueRemoval(this.#context, copied, {}, tx)
      if (source && isDropped) await queueRemoval(this.#context, source, { isDropped }, tx)
      await atEnd(tx)
    })
    if (copied) this.#context.events.emit('uploaded', { key: row.key, remote: to, bytes: row.size })
  }

  async #copy(
    row: FileRow,
    from: string,
    { to, driver }: { to: string; driver: Awaited<ReturnType<Context['routes']['open']>> },
    signal: AbortSignal,
  ) {
    const { fetcher, lanes, rate } = this.#parts
    const sending = async (replica: Replica) => {
      const print = new Fingerprint()
      const { body } = await fetcher.fetch(row, { remote: from, signal })
      const paced = rate.paced(body as AsyncIterable<Buffer>, signal)
      const contentType = row.contentType ?? lookup(row.key)
      const digests = () => print.end()
      const info = await send({
        row,
        replica,
        driver,
        body: fingerprinted(paced, print),
        digests,
        contentType,
        signal,
      }).finally(() => body.destroy())
      return { ...replica, etag: info.etag }
    }
    return claimed(this.#context, row, { remote: to, driver }, async (replica) =>
      lanes.of(to).run(async () => sending(replica), signal),
    )
  }
}

const noteName = 'move'

function progressOf({ cursor: _cursor, queued: _queued, isListed: _isListed, ...progress }: Note): MoveProgress {
  return progress
}

/** The file is no longer the one that was to be brought home. */
class Overtaken extends Error {}
