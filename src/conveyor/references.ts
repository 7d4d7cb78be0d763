/**
 * What delivered files refer to. A file that asks for an address is noted as referring to it, in the transaction that
 * notes its own key: who refers to a file that gets another address follows by himself, who asks for one that is still
 * to come waits for it, and a key that somebody refers to is not deleted.
 */
import { fileJobKey, type FilePayload } from './intake.ts'
import { rowsOf } from './ledger.ts'
import { laneOf, type Rule } from './rules.ts'
import type { NewJob, Queue } from '../state/queue.ts'
import type { Database, Transaction } from '../state/database.ts'

/** A file of a source. */
export interface FileName {
  source: string
  path: string
}

/** One delivery that shows addresses of other files: a file, by a rule, to a directory of a store. */
export interface Referrer extends FileName {
  rule: string
  /** The name of a store. */
  destination: string
  directory: string
}

/** One reference and what it came to. */
export interface Reference extends FileName {
  /** Where the file is delivered; empty where it is not. */
  key: string
  /** Its delivery is still to come, and is waited for. */
  isPending: boolean
}

/** So many times in a row one address may change another: names made of contents could follow each other in a circle for ever. */
const longestChain = 20

const whose = 'source = ? AND path = ? AND rule = ? AND destination = ? AND directory = ?'

/** Notes references besides those that are known. What is delivered now may still show the known ones. */
export async function noteReferences(tx: Transaction, referrer: Referrer, references: Iterable<Reference>) {
  await tx.run(`UPDATE refers SET pending = 0 WHERE ${whose} AND pending = 1`, ...valuesOf(referrer))
  for (const { source, path, key, isPending } of references)
    await tx.run(
      `INSERT INTO refers (source, path, rule, destination, directory, to_source, to_path, key, pending)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET pending = excluded.pending`,
      ...valuesOf(referrer),
      source,
      path,
      key,
      isPending ? 1 : 0,
    )
}

/** Forgets what a file no longer refers to: of each delivery everything but what is given. Keys nobody refers to any more may go. */
export async function keepReferences(
  tx: Transaction,
  { source, path }: FileName,
  queue: Queue,
  kept: (referrer: Referrer) => readonly Reference[] | 'all',
): Promise<void> {
  const freed = new Map<string, string>()
  for (const row of await tx.all('SELECT * FROM refers WHERE source = ? AND path = ?', source, path)) {
    const text = (name: string) => String(row[name])
    const referrer = {
      source,
      path,
      rule: text('rule'),
      destination: text('destination'),
      directory: text('directory'),
    }
    const to = { source: text('to_source'), path: text('to_path'), key: text('key') }
    const mine = kept(referrer)
    if (
      mine === 'all' ||
      mine.some((each) => each.source === to.source && each.path === to.path && each.key === to.key)
    )
      continue
    const which = `${whose} AND to_source = ? AND to_path = ? AND key = ?`
    await tx.run(`DELETE FROM refers WHERE ${which}`, ...valuesOf(referrer), to.source, to.path, to.key)
    if (to.key !== '') freed.set(`${referrer.destination}/${to.key}`, referrer.destination)
  }
  for (const [name, destination] of freed) {
    const job = await queue.find('delete-key', name, tx)
    const payload = job?.payload as { key: string; delayMs?: number } | undefined
    if (!payload || (await isReferredTo(tx, destination, payload.key))) continue
    // Its time of grace begins when the last who referred to it was replaced.
    await queue.add({ queue: 'delete-key', key: name, group: destination, payload, delayMs: payload.delayMs ?? 0 }, tx)
  }
}

/** Does anything that is delivered show this key's address? */
export async function isReferredTo(tx: Transaction, destination: string, key: string): Promise<boolean> {
  const rows = await tx.all('SELECT 1 FROM refers WHERE destination = ? AND key = ? LIMIT 1', destination, key)
  return rows.length > 0
}

/** Does a file wait, at a store, for another, however long the way round? */
export async function isWaitingFor(
  tx: Transaction,
  destination: string,
  file: FileName,
  other: FileName,
): Promise<boolean> {
  const rows = await tx.all(
    `WITH RECURSIVE ahead (source, path) AS (
       SELECT to_source, to_path FROM refers WHERE source = ? AND path = ? AND destination = ? AND pending = 1
       UNION
       SELECT r.to_source, r.to_path FROM refers r JOIN ahead a ON r.source = a.source AND r.path = a.path
       WHERE r.destination = ? AND r.pending = 1)
     SELECT 1 FROM ahead WHERE source = ? AND path = ? LIMIT 1`,
    file.source,
    file.path,
    destination,
    destination,
    other.source,
    other.path,
  )
  return rows.length > 0
}

/**
 * Has the files that refer to one follow: those that waited for it, and those that show an address it has no more. To be
 * called when the file's work is done at these stores (default: everywhere), in the transaction that records it.
 */
export async function wakeReferrers(
  tx: Transaction,
  file: FilePayload,
  destinations: ReadonlySet<string> | undefined,
  context: { queue: Queue; rules: readonly Rule[] },
): Promise<void> {
  const all = 'SELECT DISTINCT destination FROM refers WHERE to_source = ? AND to_path = ?'
  const known = (await tx.all(all, file.source, file.path)).map((row) => String(row['destination']))
  for (const destination of known.filter((name) => destinations?.has(name) ?? true)) {
    const to = [file.source, file.path, destination]
    const where = 'to_source = ? AND to_path = ? AND destination = ?'
    const rows = await tx.all(`SELECT source, path, key, pending FROM refers WHERE ${where}`, ...to)
    await tx.run(`UPDATE refers SET pending = 0 WHERE ${where} AND pending = 1`, ...to)
    const delivered = (await rowsOf(tx, file.source, file.path)).filter((row) => row.destination === destination)
    const keys = new Set(delivered.map(({ key }) => key))
    const moved = rows.filter(
      ({ key, pending }) => pending === 1 || (key === '' ? keys.size > 0 : !keys.has(String(key))),
    )
    const names = new Map(moved.map((row) => [`${row['source']}/${row['path']}`, row]))
    for (const { source, path } of names.values()) {
      const referrer = { source: String(source), path: String(path) }
      await wake(tx, referrer, destination, (file.follows ?? 0) + 1, context)
    }
  }
}

async function wake(
  tx: Transaction,
  referrer: FileName,
  destination: string,
  follows: number,
  { queue, rules }: { queue: Queue; rules: readonly Rule[] },
) {
  const waits = 'SELECT 1 FROM refers WHERE source = ? AND path = ? AND destination = ? AND pending = 1 LIMIT 1'
  const stillWaits = (await tx.all(waits, referrer.source, referrer.path, destination)).length > 0
  if (follows <= longestChain && !stillWaits) await queue.add(followJob(referrer, rules, follows), tx)
}

/** The job of a file whose references may have changed. */
export function followJob({ source, path }: FileName, rules: readonly Rule[], follows = 0): NewJob {
  const payload: FilePayload = { source, path, event: 'modified', follows }
  const group = laneOf(rules, source, path) ?? ''
  return { queue: 'file', key: fileJobKey(source, path), group, payload, isReminder: true }
}

/** Is anything noted at all? */
export async function hasReferences(database: Database): Promise<boolean> {
  return (await database.query('SELECT 1 FROM refers LIMIT 1')).length > 0
}

function valuesOf({ source, path, rule, destination, directory }: Referrer) {
  return [source, path, rule, destination, directory] as const
}
