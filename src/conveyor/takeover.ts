/** Takes over what another program has delivered, so that it is not sent again. */
import * as path from 'node:path'
import type { Clock } from '../core/clock.ts'
import type { Database } from '../state/database.ts'
import type { Store } from '../store/store.ts'
import { fingerprintOf } from './chain.ts'
import type { Source } from './intake.ts'
import { intend, record, type LedgerKey } from './ledger.ts'
import { lookAt } from './original.ts'
import { mismatch, type Destination, type Rule } from './rules.ts'
import { findUrl } from './urls.ts'

/** A delivery by another program. */
export interface FormerDelivery {
  /** The original: its path on the disk. */
  file: string
  /** The base name it was delivered under. */
  name: string
  /** The store that stands for the place it was delivered to. */
  store: string
  /** When the original had been changed last, in seconds since the epoch, as that program knew it. */
  modifiedSeconds?: number
}

/** What became of them. */
export interface Takeover {
  taken: number
  /** The original is not the one that was delivered any more: it is delivered anew. */
  changed: number
  /** The original, or what was delivered, is not there. */
  missing: number
  /** No rule would deliver it. */
  unmatched: number
}

interface Parts {
  sources: readonly Source[]
  rules: readonly Rule[]
  stores: ReadonlyMap<string, Store>
  database: Database
  clock: Clock
}

/** Records each delivery that is still right: the original unchanged, the file at its place, and a rule that would deliver it. */
export async function takeOver(former: Iterable<FormerDelivery>, parts: Parts): Promise<Takeover> {
  const sum: Takeover = { taken: 0, changed: 0, missing: 0, unmatched: 0 }
  for (const each of former) sum[await takeOne(each, parts)]++
  return sum
}

async function takeOne(
  former: FormerDelivery,
  { sources, rules, stores, database, clock }: Parts,
): Promise<keyof Takeover> {
  const source = sources.find(({ directory }) => former.file.startsWith(`${directory}/`))
  const store = stores.get(former.store)
  if (!source || !store) return 'unmatched'
  const original = lookAt(source.directory, path.relative(source.directory, former.file))
  if (!original) return 'missing'
  const seconds = Number(original.mtimeNs / 1_000_000_000n)
  if (former.modifiedSeconds !== undefined && former.modifiedSeconds !== seconds) return 'changed'
  const matching = rules.filter(
    (rule) => rule.source === source.name && !mismatch(rule.filter, original.path, original.size),
  )
  let outcome: keyof Takeover = 'unmatched'
  for (const { rule, to } of matching.flatMap(destinationsAt(former.store))) {
    const key = path.posix.join(to.path, path.posix.dirname(original.path), former.name)
    const info = await store.find(key)
    if (!info) {
      outcome = outcome === 'taken' ? outcome : 'missing'
      continue
    }
    const row: LedgerKey = { source: source.name, path: original.path, rule: rule.label, destination: to.store, key }
    const url = findUrl(store, key, to.url)
    await database.transaction(async (tx) => {
      await intend(tx, row)
      await record(tx, row, {
        ...(url !== undefined && { url }),
        size: info.size,
        // Nobody has told; a file is known by its size then.
        digest: info.digests?.sha256 ?? '',
        sourceSize: original.size,
        sourceMtimeNs: original.mtimeNs,
        sourceInode: original.inode,
        fingerprint: fingerprintOf(rule.processors, to),
        deliveredMs: clock.now(),
      })
    })
    outcome = 'taken'
  }
  return outcome
}

function destinationsAt(store: string) {
  return (rule: Rule): { rule: Rule; to: Destination }[] =>
    rule.destinations.filter((to) => to.store === store).map((to) => ({ rule, to }))
}
