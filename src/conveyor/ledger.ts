/** The ledger: what was delivered where, under which key. A row is written before its key, so that no key is ever forgotten. */
import type { Database, Row, Transaction } from '../state/database.ts'
import type { LinkKind } from '../store/driver.ts'
import type { Original } from './original.ts'

/** Whose delivery it is, and where it went. */
export interface LedgerKey {
  source: string
  path: string
  rule: string
  /** The name of a store. */
  destination: string
  key: string
}

/** One row. `delivery` is absent while it is only intended, or in doubt. */
export interface LedgerRow extends LedgerKey {
  /** It is another form of the file, with this suffix: nobody refers to it. */
  variant?: string
  delivery?: Delivery
}

/** What was delivered, and of which state of the original. */
export interface Delivery {
  url?: string
  size: number
  /** SHA-256 of the delivered bytes, lower-case hex. */
  digest: string
  sourceSize: number
  sourceMtimeNs: bigint
  sourceInode: bigint
  /** The processors and their versions, and how the destination wants it kept. */
  fingerprint: string
  /** What stands there is a link to the original. */
  link?: LinkKind
  deliveredMs: number
}

const identity = 'source = ? AND path = ? AND rule = ? AND destination = ? AND key = ?'

/** All rows of one file. */
export async function rowsOf(tx: Transaction, source: string, path: string): Promise<LedgerRow[]> {
  return (await tx.all('SELECT * FROM ledger WHERE source = ? AND path = ?', source, path)).map(rowOf)
}

/** Everyone who delivers, or means to deliver, to a key of a store. */
export async function ownersOf(tx: Transaction, destination: string, key: string): Promise<LedgerRow[]> {
  return (await tx.all('SELECT * FROM ledger WHERE destination = ? AND key = ?', destination, key)).map(rowOf)
}

/** Everything of a source, in the order of its paths, a page at a time. What changes meanwhile may come as it was or as it is. */
export async function* walkLedger(database: Database, source: string): AsyncGenerator<LedgerRow> {
  const order = 'path, rule, destination, key'
  for (let last: LedgerKey = { source, path: '', rule: '', destination: '', key: '' }; ; ) {
    const rows = await database.query(
      `SELECT * FROM ledger WHERE source = ? AND (${order}) > (?, ?, ?, ?) ORDER BY ${order} LIMIT ?`,
      ...values(last),
      pageRows,
    )
    const page = rows.map(rowOf)
    yield* page
    if (page.length < pageRows) return
    last = page.at(-1) as LedgerRow
  }
}

/** What a source has at a store, or had until a moment ago. */
export type Delivered = LedgerKey & { deliveredMs: number }

const pageRows = 2000

/**
 * What a source has, or lately had, at a store, by path, without variants. Page by page, so that others get their turn; the rows of
 * one file are on one page. What is in doubt for the moment was delivered at 0.
 */
export async function* deliveredOnce(
  database: Database,
  source: string,
  destination: string,
): AsyncGenerator<Delivered[]> {
  for (let after = ''; ; ) {
    const rows = await database.transaction(async (tx) =>
      tx.all(
        `SELECT path, rule, key, delivered_ms FROM ledger
         WHERE source = ? AND path > ? AND destination = ? AND variant = '' AND digest IS NOT NULL ORDER BY path LIMIT ?`,
        source,
        after,
        destination,
        pageRows,
      ),
    )
    // The last file of a full page may go on, so it is left to the next.
    const last = rows.length < pageRows ? undefined : rows.at(-1)?.['path']
    const page = rows.filter((row) => row['path'] !== last)
    yield page.map((row) => deliveredOf(row, source, destination))
    if (last === undefined) return
    after = String(page.at(-1)?.['path'])
  }
}

function deliveredOf(row: Row, source: string, destination: string): Delivered {
  return {
    source,
    path: String(row['path']),
    rule: String(row['rule']),
    destination,
    key: String(row['key']),
    deliveredMs: Number(row['delivered_ms'] ?? 0),
  }
}

/** Notes that a key is about to be written. What was delivered there before is in doubt from now on. */
export async function intend(tx: Transaction, row: LedgerKey & { variant?: string }): Promise<void> {
  await tx.run(
    `INSERT INTO ledger (source, path, rule, destination, key, variant) VALUES (?, ?, ?, ?, ?, ?)
     ON CONFLICT DO UPDATE SET delivered_ms = NULL, variant = excluded.variant`,
    ...values(row),
    row.variant ?? '',
  )
}

/** Notes that a key was written and verified. */
export async function record(tx: Transaction, row: LedgerKey, delivery: Delivery): Promise<void> {
  await tx.run(
    `UPDATE ledger SET url = ?, size = ?, digest = ?, source_size = ?, source_mtime_ns = ?, source_inode = ?,
       fingerprint = ?, link = ?, delivered_ms = ? WHERE ${identity}`,
    delivery.url ?? null,
    delivery.size,
    delivery.digest,
    delivery.sourceSize,
    String(delivery.sourceMtimeNs),
    String(delivery.sourceInode),
    delivery.fingerprint,
    delivery.link ?? null,
    delivery.deliveredMs,
    ...values(row),
  )
}

/** Forgets a row; in the same transaction somebody must see to the key. */
export async function forget(tx: Transaction, row: LedgerKey): Promise<void> {
  await tx.run(`DELETE FROM ledger WHERE ${identity}`, ...values(row))
}

/** Is this delivery of the original as it is now, by this chain? */
export function isCurrent({ delivery }: LedgerRow, original: Original, fingerprint: string): boolean {
  return (
    delivery !== undefined &&
    delivery.sourceSize === original.size &&
    delivery.sourceMtimeNs === original.mtimeNs &&
    delivery.sourceInode === original.inode &&
    delivery.fingerprint === fingerprint
  )
}

function values({ source, path, rule, destination, key }: LedgerKey): [string, string, string, string, string] {
  return [source, path, rule, destination, key]
}

function rowOf(row: Row): LedgerRow {
  const text = (name: string) => String(row[name])
  const base = {
    source: text('source'),
    path: text('path'),
    rule: text('rule'),
    destination: text('destination'),
    key: text('key'),
    ...(row['variant'] === '' ? {} : { variant: text('variant') }),
  }
  if (row['delivered_ms'] === null) return base
  return {
    ...base,
    delivery: {
      ...(row['url'] === null ? {} : { url: text('url') }),
      size: Number(row['size']),
      digest: text('digest'),
      sourceSize: Number(row['source_size']),
      sourceMtimeNs: BigInt(text('source_mtime_ns')),
      sourceInode: BigInt(text('source_inode')),
      fingerprint: text('fingerprint'),
      ...(row['link'] === null ? {} : { link: text('link') as LinkKind }),
      deliveredMs: Number(row['delivered_ms']),
    },
  }
}
