/**
 * The work on one file: match the rules, run their chains, deliver, record. It does not follow the event but compares
 * what is with what the rules say, so that doing it again after a crash, or once too often, changes nothing.
 *
 * Order of things, for a kill at any instant: the key is noted in the ledger, the file is stored under it, the delivery
 * is recorded, and in that same transaction superseded keys become delete jobs and the file's job ends.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import type { Database, Transaction } from '../state/database.ts'
import type { Job, NewJob, Queue } from '../state/queue.ts'
import type { Store } from '../store/store.ts'
import { createWorkbench } from '../store/workbench.ts'
import { Addresses } from './addresses.ts'
import { fingerprintOf, lazyBench, runChain, type ChainOptions, type Processed } from './chain.ts'
import { link, send, type Sent } from './delivery.ts'
import { deliveryJobKey, joined, type FilePayload, type Source } from './intake.ts'
import { noteInvalidations } from './invalidation.ts'
import type { KeyLock } from '../core/key-lock.ts'
import type { Lane } from '../core/lane.ts'
import { intend, isCurrent, ownersOf, record, rowsOf, type Delivery, type LedgerKey, type LedgerRow } from './ledger.ts'
import { changedMeanwhile, isSame, lookAt, type Original } from './original.ts'
import {
  followJob,
  isWaitingFor,
  keepReferences,
  noteReferences,
  wakeReferrers,
  type FileName,
  type Reference,
  type Referrer,
} from './references.ts'
import { supersede, type SourcePayload } from './removal.ts'
import { cachingOf, linkFor, mismatch, type Destination, type Rule } from './rules.ts'
import { findUrl } from './urls.ts'

/** What the work needs. */
export interface FileJobContext {
  sources: ReadonlyMap<string, Source>
  rules: readonly Rule[]
  database: Database
  queue: Queue
  locks: KeyLock
  clock: Clock
  /** Directory for workbenches. */
  workDirectory: string
  /** Is there somebody who tells networks of caches what to forget? */
  isInvalidating: boolean
  /** May files refer to others? */
  isFollowing: boolean
  /** Tells the operator what processors find odd. */
  warn: (message: string) => void
  store: (name: string) => Store
  lane: (name: string) => Lane
}

/** What a job came to, for the counters. */
export interface FileOutcome {
  delivered: { rule: string; destination: string; key: string; size: number }[]
  unchanged: number
  /** Deliveries that were handed to jobs of their own, because their store failed. */
  deferred: number
  /** Keys whose removal was ordered. */
  superseded: number
}

/** One delivery of one rule to one destination. */
interface Task extends LedgerKey {
  ruleOf: Rule
  to: Destination
  file: string
  /** The name changes whenever the content does. */
  isVersioned: boolean
  /** The suffix of another form of the file. */
  variant?: string
  fingerprint: string
  /** What it shows of other files, and the SHA-256 of it all: it may change while the original does not. */
  addresses?: Addresses
  digest?: string
}

/** A delivery that waits for others. */
interface Wait {
  referrer: Referrer
  addresses: Addresses
}

/** The payload of a delivery job: one destination that had failed. */
interface DeliveryPayload extends FilePayload {
  rule: string
  store: string
  directory: string
}

/** Does a job of the queue `file`. Failing stores get jobs of their own; a failing chain fails this job, after the rest is done. */
export async function workOnFile(job: Job, context: FileJobContext, signal: AbortSignal): Promise<FileOutcome> {
  return work(job, job.payload as FilePayload, () => true, context, signal)
}

/** Does a job of the queue `delivery`. */
export async function workOnDelivery(job: Job, context: FileJobContext, signal: AbortSignal): Promise<FileOutcome> {
  const payload = job.payload as DeliveryPayload
  const isMeant = (rule: Rule, to: Destination) =>
    rule.label === payload.rule && to.store === payload.store && to.path === payload.directory
  return work(job, payload, isMeant, context, signal)
}

async function work(
  job: Job,
  payload: FilePayload,
  isMeant: (rule: Rule, to: Destination) => boolean,
  context: FileJobContext,
  signal: AbortSignal,
): Promise<FileOutcome> {
  const source = context.sources.get(payload.source)
  const original = source && lookAt(source.directory, payload.path)
  if (!source || !original) return followAbsence(job, payload, context)
  await using bench = lazyBench(async () => createWorkbench(context.workDirectory))
  const matching = context.rules.filter(
    (rule) => rule.source === source.name && mismatch(rule.filter, original.path, original.size) === undefined,
  )
  const plan = new Plan(original, source, matching)
  const chain = { workDirectory: bench.directory, warn: context.warn, signal }
  for (const rule of matching)
    if (rule.destinations.some((to) => isMeant(rule, to)))
      await plan.process(rule, { isMeant, chain, context, attempt: job.attempt })
  // What a chain made of a file that has changed since is of no use to anybody. An original is watched while it is sent.
  if (plan.tasks.some(({ file }) => file !== original.file)) {
    const now = lookAt(source.directory, payload.path)
    if (!now || !isSame(now, original)) throw changedMeanwhile(original)
  }
  const { rows, tasks, current } = await context.database.transaction(async (tx) => {
    const intended = await plan.intend(tx)
    await plan.refer(tx, payload, context)
    return intended
  })
  const results = await Promise.all(tasks.map(async (task) => deliver(task, original, context, signal)))
  // Awaited here: while the bench is taken away nobody else would hear of its failure, which then ends the process.
  return await conclude({ job, payload, plan, rows, results, current }, context)
}

/** A file that is not there: if that is the news, what was delivered of it goes. Otherwise the news is still to come. */
async function followAbsence(job: Job, payload: FilePayload, context: FileJobContext): Promise<FileOutcome> {
  const superseded = await context.database.transaction(async (tx) => {
    const isNews = payload.event === 'deleted'
    const rows = isNews ? await rowsOf(tx, payload.source, payload.path) : []
    for (const row of rows) await supersede(row, 0, context.queue, tx)
    if (isNews && context.isFollowing) {
      await keepReferences(tx, payload, context.queue, () => [])
      await wakeReferrers(tx, payload, undefined, context)
    }
    await finish(job, context.queue, tx)
    return rows.length
  })
  return { delivered: [], unchanged: 0, deferred: 0, superseded }
}

/** What chains are run for, and with. */
interface Run {
  isMeant: (rule: Rule, to: Destination) => boolean
  chain: Pick<ChainOptions, 'workDirectory' | 'warn' | 'signal'>
  context: FileJobContext
  attempt: number
}

/** What the rules want of one original. */
class Plan {
  readonly original: Original
  readonly source: Source
  readonly matching: readonly Rule[]
  readonly tasks: Task[] = []
  /** Failures of chains, and of keys that two files claim. */
  readonly failures: unknown[] = []
  readonly waits: Wait[] = []
  /** Rules whose keys are all known, so that their other keys are superseded. */
  readonly settled = new Set<string>()

  constructor(original: Original, source: Source, matching: readonly Rule[]) {
    this.original = original
    this.source = source
    this.matching = matching
  }

  /** Runs a rule's chain: once, or once per destination where a processor's output depends on it. */
  async process(rule: Rule, run: Run) {
    const isEach = rule.processors.some((processor) => processor.differsPerDestination)
    const meant = rule.destinations.filter((to) => run.isMeant(rule, to))
    const { timeLimitMs } = rule
    try {
      const shared = isEach ? undefined : await runChain(rule.processors, this.original, { ...run.chain, timeLimitMs })
      for (const to of meant)
        if (shared) await this.#add(rule, to, shared)
        else await this.#processFor(rule, to, run)
      const isWaiting = this.waits.some(({ referrer }) => referrer.rule === rule.label)
      if (meant.length === rule.destinations.length && !isWaiting) this.settled.add(rule.label)
    } catch (error) {
      this.failures.push(error)
    }
  }

  async #processFor(rule: Rule, to: Destination, { chain, context, attempt }: Run) {
    const { original, source } = this
    const addresses = new Addresses({ source, original, rule, to, attempt }, context)
    const destination = {
      store: to.store,
      path: to.path,
      addressOf: async (reference: string) => addresses.of(reference),
    }
    let processed: Processed | undefined
    try {
      processed = await runChain(rule.processors, original, { ...chain, timeLimitMs: rule.timeLimitMs, destination })
    } catch (error) {
      if (addresses.awaited.length === 0) throw error
    }
    if (!processed || addresses.awaited.length > 0) {
      const referrer = { ...this.#name, rule: rule.label, destination: to.store, directory: to.path }
      this.waits.push({ referrer, addresses })
    } else await this.#add(rule, to, processed, addresses.references.length > 0 ? addresses : undefined)
  }

  get #name(): FileName {
    return { source: this.source.name, path: this.original.path }
  }

  async #add(rule: Rule, to: Destination, processed: Processed, addresses?: Addresses) {
    const { file, name, isVersioned, variants } = processed
    const key = path.posix.join(to.path, path.posix.dirname(this.original.path), name)
    const fingerprint = fingerprintOf(rule.processors, to)
    const common = {
      ...this.#name,
      rule: rule.label,
      destination: to.store,
      ruleOf: rule,
      to,
      isVersioned,
      fingerprint,
    }
    // What shows others can change without its original.
    const digestOf = async (made: string) => (addresses ? { digest: await sha256Of(made) } : {})
    this.tasks.push({ ...common, key, file, ...(addresses ? { addresses } : {}), ...(await digestOf(file)) })
    for (const { file: made, suffix } of variants)
      this.tasks.push({ ...common, key: key + suffix, file: made, variant: suffix, ...(await digestOf(made)) })
  }

  /** Notes what is referred to, and has the file looked at once more when that has changed since, or waits for this very file. */
  async refer(tx: Transaction, payload: FilePayload, context: FileJobContext) {
    const shown = this.tasks.map((task) => ({ referrer: referrerOf(task), addresses: task.addresses }))
    let isOutdated = false
    for (const { referrer, addresses } of [...shown, ...this.waits]) {
      if (!addresses) continue
      await noteReferences(tx, referrer, addresses.references)
      isOutdated ||= await addresses.isOutdated(tx)
      for (const awaited of addresses.awaited)
        isOutdated ||= await isWaitingFor(tx, referrer.destination, awaited, this.#name)
    }
    if (isOutdated) await context.queue.add(followJob(payload, context.rules, payload.follows), tx)
  }

  /** Notes the keys that are about to be written, and tells which tasks really have something to do, and which have not. */
  async intend(tx: Transaction): Promise<{ rows: LedgerRow[]; tasks: Task[]; current: Task[] }> {
    const rows = await rowsOf(tx, this.source.name, this.original.path)
    const [tasks, current]: [Task[], Task[]] = [[], []]
    for (const task of this.tasks) {
      const row = rows.find((candidate) => isSameDelivery(candidate, task))
      const digest = row?.delivery?.digest
      // Of what another program delivered nobody knows the digest.
      const isSameContent = task.digest === undefined || digest === '' || task.digest === digest
      if (row && isSameContent && isCurrent(row, this.original, task.fingerprint)) {
        current.push(task)
        continue
      }
      const rival = (await ownersOf(tx, task.destination, task.key)).find(
        (owner) => !isSameDelivery(owner, task) && !this.#isOwnPast(owner),
      )
      if (rival) this.failures.push(this.#conflict(task, rival))
      else {
        await intend(tx, task)
        tasks.push(task)
      }
    }
    return { rows, tasks, current }
  }

  /** A rule that no longer applies to this file, such as one that was renamed, leaves its keys to those that do. */
  #isOwnPast(owner: LedgerRow): boolean {
    const isOwn = owner.source === this.source.name && owner.path === this.original.path
    return isOwn && !this.matching.some(({ label }) => label === owner.rule)
  }

  /** Two files under one key would overwrite each other for ever. A rival whose original is gone is about to give way. */
  #conflict(task: Task, rival: LedgerRow): StowageError {
    const isLeaving = rival.source === task.source && !lookAt(this.source.directory, rival.path)
    return new StowageError(
      'CONFLICT',
      `${task.path} cannot be delivered to ${task.destination} as ${task.key} (rule "${task.rule}"): ${rival.path} is (rule "${rival.rule}").`,
      { retryable: isLeaving, hint: 'Give one of the rules another path or a processor that makes names unique.' },
    )
  }
}

type Result = { task: Task; sent: Sent } | { task: Task; error: unknown }

async function deliver(task: Task, original: Original, context: FileJobContext, signal: AbortSignal): Promise<Result> {
  try {
    const store = context.store(task.destination)
    const sent = await context.locks.run(`${task.destination}/${task.key}`, async () =>
      context.lane(task.destination).run(async () => sendTask(store, task, original, signal), signal),
    )
    return { task, sent }
  } catch (error) {
    return { task, error }
  }
}

async function sendTask(store: Store, task: Task, original: Original, signal: AbortSignal): Promise<Sent> {
  const { to, key, file, isVersioned } = task
  const kind = linkFor(to, file === original.file, isVersioned)
  const linked = kind && (await link(store, key, original, kind, signal))
  const cacheControl = cachingOf(to, isVersioned)
  return linked ?? send(store, key, file, original, { signal, ...(cacheControl === undefined ? {} : { cacheControl }) })
}

interface Conclusion {
  job: Job
  payload: FilePayload
  plan: Plan
  rows: LedgerRow[]
  results: Result[]
  /** What was there already. */
  current: Task[]
}

/** Records what was delivered, orders the removal of what is superseded, hands failing stores jobs of their own, and ends the job. */
async function conclude(conclusion: Conclusion, context: FileJobContext): Promise<FileOutcome> {
  const { job, payload, plan, rows, results, current } = conclusion
  const failed = results.filter((result) => 'error' in result)
  const sent = results.filter((result) => 'sent' in result)
  // A change of the original is not its stores' fault; the file as a whole is taken again.
  const changed = failed.find(
    ({ error }) => error instanceof StowageError && error.code === 'CONFLICT' && error.retryable,
  )
  const failures = [...plan.failures, ...(changed ? [changed.error] : [])]
  const own = job.queue === 'delivery' ? failed.map(({ error }) => error) : failures
  const isWhole = own.length === 0
  const superseded = await context.database.transaction(async (tx) => {
    if (context.isInvalidating) await noteInvalidations(replacedBy(sent, rows, context), context.queue, tx)
    for (const { task, sent: what } of sent) await record(tx, task, deliveryOf(task, what, plan.original, context))
    const old = rows.filter((row) => isSuperseded(row, plan, failed))
    for (const row of old) {
      const delayMs = plan.matching.find((rule) => rule.label === row.rule)?.supersededAfterMs ?? 0
      await supersede(row, row.delivery ? delayMs : 0, context.queue, tx)
    }
    if (context.isFollowing) {
      const done = [...current, ...sent.map(({ task }) => task)]
      await keepReferences(tx, payload, context.queue, (referrer) => referencesOf(referrer, plan, done))
      await wakeReferrers(tx, payload, settledStores(conclusion, failed), context)
    }
    if (!isWhole) return old.length
    if (plan.waits.length > 0) {
      await context.queue.fail(job, waitingFor(plan), tx)
      return old.length
    }
    if (job.queue === 'file')
      await context.queue.addMany(
        failed.map(({ task }) => deliveryJob(payload, task)),
        tx,
      )
    if (failed.length === 0) await context.queue.addMany(deleteJobs(plan), tx)
    await finish(job, context.queue, tx)
    return old.length
  })
  // The job fails with the first reason; what was delivered is recorded and will be found unchanged next time.
  if (!isWhole) throw own[0]
  return {
    delivered: sent.map(({ task, sent: { size } }) => ({
      rule: task.rule,
      destination: task.destination,
      key: task.key,
      size,
    })),
    unchanged: current.length,
    deferred: failed.length,
    superseded,
  }
}

/** What a delivery of the file shows, as far as this run knows better than the last. */
function referencesOf(referrer: Referrer, plan: Plan, done: readonly Task[]): readonly Reference[] | 'all' {
  const rule = plan.matching.find(({ label }) => label === referrer.rule)
  const isWanted = rule?.destinations.some((to) => to.store === referrer.destination && to.path === referrer.directory)
  if (!isWanted) return []
  const { rule: label, destination, directory } = referrer
  const task = done.find(
    ({ to, variant, ...each }) =>
      variant === undefined && each.rule === label && to.store === destination && to.path === directory,
  )
  return task ? (task.addresses?.references ?? []) : 'all'
}

function referrerOf({ source, path: file, rule, to }: Task): Referrer {
  return { source, path: file, rule, destination: to.store, directory: to.path }
}

/** The stores at which the file's work is done, so that others need not wait for it. */
function settledStores({ job, plan, rows }: Conclusion, failed: readonly { task: Task }[]): Set<string> {
  const storesOf = (rules: readonly Rule[]) => rules.flatMap(({ destinations }) => destinations.map((to) => to.store))
  const isOne = job.queue === 'delivery'
  const all = isOne ? plan.tasks : rows
  const stores = [...all.map(({ destination }) => destination), ...(isOne ? [] : storesOf(plan.matching))]
  const open = isOne ? [] : storesOf(plan.matching.filter(({ label }) => !plan.settled.has(label)))
  open.push(...failed.map(({ task }) => task.destination), ...plan.waits.map(({ referrer }) => referrer.destination))
  return new Set(stores).difference(new Set(open))
}

function waitingFor({ original, waits }: Plan): StowageError {
  const names = [...new Set(waits.flatMap(({ addresses }) => addresses.awaited.map((awaited) => awaited.path)))]
  const more = names.length > 1 ? ` and ${names.length - 1} more` : ''
  return new StowageError('BUSY', `${original.path} refers to ${names[0]}${more}, still to be delivered.`)
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  return hash.digest('hex')
}

/** Where caches may have what was replaced: under keys that were delivered to before, and keep their names. */
function* replacedBy(sent: readonly { task: Task }[], rows: readonly LedgerRow[], context: FileJobContext) {
  for (const { task } of sent) {
    const { invalidate: distribution, url: base } = task.to
    if (distribution === undefined || task.isVersioned || !rows.some((row) => isSameDelivery(row, task))) continue
    const url = findUrl(context.store(task.destination), task.key, base)
    if (url !== undefined) yield { distribution, path: new URL(url).pathname }
  }
}

/** A row is superseded when no rule wants it, or when its rule now delivers to other keys and has done so. */
function isSuperseded(row: LedgerRow, plan: Plan, failed: readonly { task: Task }[]): boolean {
  const rule = plan.matching.find(({ label }) => label === row.rule)
  if (!rule || !rule.destinations.some((to) => to.store === row.destination)) return true
  if (plan.tasks.some((task) => isSameDelivery(row, task))) return false
  const isFailing = failed.some(({ task }) => task.rule === row.rule && task.destination === row.destination)
  return plan.settled.has(row.rule) && !isFailing
}

function isSameDelivery(a: LedgerKey, b: LedgerKey): boolean {
  return (
    a.source === b.source &&
    a.path === b.path &&
    a.rule === b.rule &&
    a.destination === b.destination &&
    a.key === b.key
  )
}

function deliveryOf(
  task: Task,
  { size, digest, link: kind }: Sent,
  original: Original,
  context: FileJobContext,
): Delivery {
  const url = findUrl(context.store(task.destination), task.key, task.to.url)
  return {
    ...(url === undefined ? {} : { url }),
    size,
    digest,
    sourceSize: original.size,
    sourceMtimeNs: original.mtimeNs,
    sourceInode: original.inode,
    fingerprint: task.fingerprint,
    ...(kind ? { link: kind } : {}),
    deliveredMs: context.clock.now(),
  }
}

function deliveryJob(payload: FilePayload, task: Task): NewJob {
  const own: DeliveryPayload = { ...payload, rule: task.rule, store: task.destination, directory: task.to.path }
  return {
    queue: 'delivery',
    key: deliveryJobKey(payload, task.rule, task.to),
    group: task.destination,
    payload: own,
  }
}

/** The rules that matched, and no other, say whether the original goes; the longest delay counts. */
function deleteJobs({ matching, source, original }: Plan): NewJob[] {
  const delays = matching.map((rule) => rule.deleteSourceAfterMs).filter((ms) => ms !== undefined)
  if (delays.length === 0) return []
  const payload: SourcePayload = {
    source: source.name,
    directory: source.directory,
    path: original.path,
    size: original.size,
    mtimeNs: String(original.mtimeNs),
    inode: String(original.inode),
    rule: matching.map((rule) => rule.label).join(', '),
  }
  const key = joined(source.name, original.path)
  return [{ queue: 'delete-source', key, payload, delayMs: Math.max(...delays) }]
}

/** Ends a job, or undoes the transaction when somebody else has taken it over. */
async function finish(job: Job, queue: Queue, tx: Transaction) {
  if (!(await queue.finish(job, tx)))
    throw new StowageError('CONFLICT', `The job of ${job.key} was taken over by another process.`, { retryable: true })
}
