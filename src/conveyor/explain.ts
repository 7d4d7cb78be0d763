/** Answers the question every user of a conveyor asks: what about this file? */
import * as path from 'node:path'
import { formatBytes } from '../core/units.ts'
import type { Database } from '../state/database.ts'
import type { Queue } from '../state/queue.ts'
import { findIgnored, ignoreMatcher } from '../watch/ignore.ts'
import { fileJobKey, type Source } from './intake.ts'
import { isCurrent, rowsOf, type LedgerRow } from './ledger.ts'
import { lookAt, type Original } from './original.ts'
import { fingerprintOf } from './chain.ts'
import { destinationOf, mismatch, type Rule } from './rules.ts'

/** What is known about a file, and what happens next. */
export interface Explanation {
  path: string
  /** The source it belongs to. */
  source?: string
  /** For people, in order. */
  lines: string[]
  rules: { label: string; matches: boolean; reason: string }[]
  deliveries: { rule: string; store: string; key: string; url?: string; size: number; delivered: string }[]
  job?: { state: string; attempt: number; due: string; reason?: string }
}

/** What an explanation is drawn from. */
export interface ExplainContext {
  sources: readonly Source[]
  rules: readonly Rule[]
  database: Database
  queue: Queue
}

/** Explains the file at a path of the disk. Reads only. */
export async function explain(file: string, context: ExplainContext): Promise<Explanation> {
  const absolute = path.resolve(file)
  const source = context.sources.find(({ directory }) => isBelow(directory, absolute))
  const explanation: Explanation = { path: absolute, lines: [], rules: [], deliveries: [] }
  if (!source) {
    const directories = context.sources.map(({ name, directory }) => `${name} (${directory})`)
    explanation.lines.push(`It is in none of the sources: ${directories.join(', ')}. Nothing happens to it.`)
    return explanation
  }
  explanation.source = source.name
  const relative = path.relative(source.directory, absolute).split(path.sep).join('/')
  const ignored = findIgnored(ignoreMatcher(source.ignore), relative)
  if (ignored) {
    explanation.lines.push(`It is in the source ${source.name}, which ignores ${ignored}. Nothing happens to it.`)
    return explanation
  }
  const original = lookAt(source.directory, relative)
  explanation.lines.push(describeOriginal(source, original))
  if (original) explainRules(explanation, context.rules, source, original)
  await explainDeliveries(explanation, context, { source, relative, original })
  await explainJob(explanation, context, source, relative)
  return explanation
}

function isBelow(directory: string, file: string): boolean {
  const relative = path.relative(directory, file)
  return relative !== '' && relative !== '..' && !relative.startsWith(`..${path.sep}`) && !path.isAbsolute(relative)
}

function describeOriginal(source: Source, original: Original | undefined): string {
  if (!original) return `It is in the source ${source.name}, and there is no such regular file now.`
  const changed = new Date(Number(original.mtimeNs / 1_000_000n)).toISOString()
  return `It is in the source ${source.name}: ${formatBytes(original.size)}, changed ${changed}.`
}

function explainRules(explanation: Explanation, rules: readonly Rule[], source: Source, original: Original) {
  for (const rule of rules.filter((candidate) => candidate.source === source.name)) {
    const reason = mismatch(rule.filter, original.path, original.size)
    const names = rule.processors.map(({ name }) => name)
    const to = rule.destinations.map((destination) => destination.store).join(', ')
    const matched = `${names.length > 0 ? `goes through ${names.join(', ')}, ` : ''}goes to ${to}`
    explanation.rules.push({ label: rule.label, matches: reason === undefined, reason: reason ?? matched })
    explanation.lines.push(
      reason === undefined
        ? `Rule "${rule.label}" matches: it ${matched}.`
        : `Rule "${rule.label}" does not match: ${reason}.`,
    )
  }
  if (!explanation.rules.some(({ matches }) => matches))
    explanation.lines.push('No rule matches, so it is delivered nowhere.')
}

async function explainDeliveries(
  explanation: Explanation,
  context: ExplainContext,
  { source, relative, original }: { source: Source; relative: string; original: Original | undefined },
) {
  const rows = await context.database.transaction(async (tx) => rowsOf(tx, source.name, relative))
  for (const row of rows) {
    explanation.lines.push(describeDelivery(row, original, context.rules))
    if (!row.delivery) continue
    const { url, size, deliveredMs } = row.delivery
    explanation.deliveries.push({
      rule: row.rule,
      store: row.destination,
      key: row.key,
      ...(url === undefined ? {} : { url }),
      size,
      delivered: new Date(deliveredMs).toISOString(),
    })
  }
}

function describeDelivery(row: LedgerRow, original: Original | undefined, rules: readonly Rule[]): string {
  const where = `${row.key} in ${row.destination} (rule "${row.rule}")`
  if (!row.delivery) return `It is to be delivered as ${where}; that has not succeeded yet.`
  const when = new Date(row.delivery.deliveredMs).toISOString()
  if (!original) return `It was delivered as ${where} at ${when}.`
  const rule = rules.find(({ label }) => label === row.rule)
  const isUpToDate =
    rule !== undefined && isCurrent(row, original, fingerprintOf(rule.processors, destinationOf(rule, row)?.to))
  return `It was delivered as ${where} at ${when}, and ${isUpToDate ? 'has not changed since' : 'is not up to date'}.`
}

async function explainJob(explanation: Explanation, context: ExplainContext, source: Source, relative: string) {
  const job = await context.queue.find('file', fileJobKey(source.name, relative))
  if (!job) {
    explanation.lines.push('Nothing waits to be done for it.')
    return
  }
  const due = new Date(job.dueMs).toISOString()
  const reason = job.reason ?? undefined
  explanation.job = { state: job.state, attempt: job.attempt, due, ...(reason === undefined ? {} : { reason }) }
  const because = reason === undefined ? '' : ` The last try failed: ${reason}`
  if (job.state === 'aside')
    explanation.lines.push(
      `It was set aside after ${job.attempt} attempts.${because} Mend that, then run \`stowage retry\`.`,
    )
  else if (job.state === 'running') explanation.lines.push(`It is being worked on, attempt ${job.attempt}.${because}`)
  else explanation.lines.push(`It waits for its turn, due ${due}.${because}`)
}
