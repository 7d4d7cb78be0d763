/** Keys: the names of files within a store, clean and relative, `a/b.jpg`. */
import { StowageError } from './errors.ts'

/** The longest key any store takes, in UTF-8 bytes: what S3 allows. */
export const maxKeyBytes = 1024

/**
 * Checks a key and returns it as one string. Accepts a list of parts too, whose parts must not contain a slash.
 * Rejects with INVALID_KEY what is empty, absolute, has empty, `.` or `..` parts, NUL, lone surrogates or over 1,024 bytes.
 */
export function cleanKey(key: string | readonly string[]): string {
  const parts = typeof key === 'string' ? key.split('/') : key
  const joined = parts.join('/')
  const problem = keyProblem(joined, parts)
  if (problem) throw new StowageError('INVALID_KEY', `The key ${JSON.stringify(joined.slice(0, 200))} ${problem}.`)
  return joined
}

/** Like {@link cleanKey}, and the empty string for the root. One trailing slash is allowed. */
export function cleanDirectory(directory: string | readonly string[]): string {
  if (directory.length === 0) return ''
  return cleanKey(typeof directory === 'string' ? directory.replace(/\/$/, '') : directory)
}

/**
 * A key of web-safe ASCII: accents are taken off, white space becomes `_`, everything but `A-Z a-z 0-9 _ . -` is dropped,
 * and so are `.` and `_` at the ends of a part. Cleaning a clean name changes nothing. Accepts a list of parts, in which
 * a slash becomes `_` too. Rejects with INVALID_KEY where nothing usable is left of a part. The empty string is the root.
 */
export function asciiKey(key: string | readonly string[]): string {
  if (key.length === 0) return ''
  const parts = (typeof key === 'string' ? key.split('/') : key).map(asciiPart)
  return cleanKey(parts)
}

function asciiPart(part: string): string {
  const safe = part
    .normalize('NFKD')
    .replace(/[^\0-\x7f]/g, '')
    .replace(/[\s/\\]+/g, ' ')
    .trim()
    .replaceAll(' ', '_')
    .replace(/[^\w.-]/g, '')
    .replace(/^[._]+|[._]+$/g, '')
  if (safe !== '') return safe
  throw new StowageError('INVALID_KEY', `Nothing usable is left of the name ${JSON.stringify(part.slice(0, 200))}.`, {
    hint: 'Give a name with letters or digits of ASCII.',
  })
}

/** Orders keys by their UTF-8 bytes. Code units order differently only where surrogates meet U+E000 to U+FFFF. */
export function compareKeys(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let i = 0; i < length; i++) {
    const x = a.charCodeAt(i)
    const y = b.charCodeAt(i)
    if (x !== y) return rank(x) - rank(y)
  }
  return a.length - b.length
}

/** Surrogates stand for code points above U+FFFF, so they come after every other code unit. */
function rank(unit: number): number {
  return unit >= 0xd800 && unit <= 0xdfff ? unit + 0x10000 : unit
}

function keyProblem(key: string, parts: readonly string[]): string | undefined {
  if (key === '') return 'is empty'
  if (key.startsWith('/')) return 'starts with a slash; keys are relative to their store'
  if (key.includes('\0')) return 'contains a NUL character'
  if (!key.isWellFormed()) return 'is not valid Unicode'
  if (Buffer.byteLength(key) > maxKeyBytes) return `is longer than ${maxKeyBytes} bytes`
  for (const part of parts) {
    if (part === '') return 'has an empty part'
    if (part === '.' || part === '..') return `has the part "${part}"`
    if (part.includes('/')) return 'has a part with a slash in it'
  }
  return undefined
}
