/** A configuration that is being checked, and what all checks share. */
import * as path from 'node:path'

/** A configuration of which nothing is sure yet: people want to hear of every mistake, also beside another. */
export interface Draft {
  directory: string
  secrets: boolean
  stores: Map<string, { isReadOnly: boolean; hasUrl: boolean; isDirectory: boolean; directories: string[] }>
  /** Directories of filestores, by their names. */
  filestores: Map<string, string>
  sourceNames: string[]
  /** Those whose directory is known. */
  sources: Map<string, { root: string; ignore: string[] }>
  problems: string[]
}

/** A part of it, by name. */
export type Loose = Record<string, unknown>

/** A sentence about what was meant, to be appended; empty when there is nothing to choose from. */
export function suggest(given: string, known: readonly string[]): string {
  const close = known.map((word) => ({ word, distance: editDistance(given.toLowerCase(), word.toLowerCase()) }))
  const best = close.sort((a, b) => a.distance - b.distance)[0]
  if (best && best.distance <= Math.max(2, given.length / 3)) return ` Did you mean ${JSON.stringify(best.word)}?`
  return known.length > 0 ? ` There ${known.length === 1 ? 'is' : 'are'}: ${known.join(', ')}.` : ''
}

/** Notes a name that nothing has. */
export function checkName(draft: Draft, given: unknown, names: string[], where: string, what: string) {
  if (typeof given !== 'string' || names.includes(given)) return
  draft.problems.push(`${where}: there is no ${what} ${JSON.stringify(given)}.${suggest(given, names)}`)
}

/** Is a path another, or below it? */
export function isWithin(inner: string, outer: string): boolean {
  return inner === outer || inner.startsWith(outer.endsWith(path.sep) ? outer : outer + path.sep)
}

/** A table of names; an empty one in place of anything else. */
export function asRecord(value: unknown): Loose {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Loose) : {}
}

/** How many letters must be changed, added or taken away (Levenshtein 1966). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1))
    row = next
  }
  return row[b.length] ?? 0
}
