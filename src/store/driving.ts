/** What drivers have in common: small checks, and a listing made from sorted keys. */
import { StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import type { Entry, FileInfo, ListOptions } from './driver.ts'

/** Throws ABORTED when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })
}

/** Throws CORRUPT when a body's length is not the one that was announced. */
export function checkSize(key: string, size: number, expected: number | undefined): void {
  if (expected !== undefined && size !== expected)
    throw new StowageError('CORRUPT', `${key} was announced with ${expected} bytes but has ${size}; it was not stored.`)
}

/** The listing of a directory, made from the infos of all files in key order. */
export function* entriesBelow(
  infos: Iterable<FileInfo>,
  directory: string,
  options: ListOptions,
): Generator<Entry, void> {
  const prefix = directory === '' ? '' : `${directory}/`
  let last: string | undefined
  for (const info of infos) {
    if (!info.key.startsWith(prefix)) continue
    const slash = options.recursive === false ? info.key.indexOf('/', prefix.length) : -1
    const key = slash < 0 ? info.key : info.key.slice(0, slash)
    if (options.after !== undefined && compareKeys(key, options.after) <= 0) continue
    if (slash < 0) yield { kind: 'file', ...info }
    else if (key !== last) yield { kind: 'directory', key }
    last = key
  }
}
