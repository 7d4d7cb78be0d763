/** What all actions of `stowage filestore` share. */
import { StowageError } from '../core/errors.ts'
import type { FilestoreReport } from '../daemon/filestores.ts'
import type { Output } from './output.ts'
import type { Client } from './state.ts'

/** What the actions take beside names, as commander gives it. */
export interface FilestoreCliOptions {
  dryRun?: boolean
  rate?: string
  stop?: boolean
  /** False when `--no-wait` was given. */
  wait: boolean
  drop?: boolean
  from?: string
  to?: string
  keep?: boolean
  remote?: string
  prefix?: string
  list?: boolean
  repair?: boolean
  content?: boolean
  delete?: boolean
  unknown?: boolean
}

/** One action on one filestore. */
export interface Order {
  action: string
  name: string
  /** What follows the name. */
  values: string[]
  options: FilestoreCliOptions
  client: Client
  output: Output
  signal: AbortSignal
}

/** How one filestore is. */
export async function reportOf(client: Client, name: string): Promise<FilestoreReport> {
  const all = await client.call<FilestoreReport[]>('filestore.status')
  const report = all.find((each) => each.name === name)
  if (report) return report
  throw new StowageError('NOT_FOUND', `The daemon has no filestore ${name}.`, {
    hint: 'Its configuration was another when it was started: start it anew.',
  })
}

/** The beginning of keys, as it was typed. */
export function prefixFrom([prefix]: readonly string[]): string | undefined {
  if (prefix?.startsWith('/'))
    throw invalid(
      `No key begins with "/", as ${quoted(prefix)} does.`,
      'Give the beginning of keys, such as photos/2026/.',
    )
  return prefix
}

/** `1 file`, `1,234 files`. */
export function count(number: number, what: string): string {
  return `${number.toLocaleString('en')} ${what}${number === 1 ? '' : 's'}`
}

/** A mistake on the command line. */
export function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, hint === undefined ? {} : { hint })
}

/** What was typed, safe to print. */
export function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 100))
}
