/** What both sides of filestore-crash.test.ts know: the keys, the contents, and how a child is told what to do. */
import { createHash } from 'node:crypto'

/** What a child is told. */
export interface Life {
  base: string
  number: number
  seed: number
  /** The moment at which it kills itself; 0 leaves that to its parent. */
  killAt: number
  /** So many calls each actor makes at most. */
  calls: number
  coolDownMs: number
  keepLocal: boolean
  deleteAfterMs: number
  isCached: boolean
  route: 'one' | 'two'
  /** Comes to rest, and ends by itself. */
  isLast: boolean
}

/** What a call came to: the bytes that were read, a code, or a failure that nobody can have expected. */
export interface Result {
  digest?: string
  code?: string
  message?: string
  error?: string
}

/** Who works on files at the same time, each on keys of its own. */
export const actors = ['a', 'b', 'c']

/** Some in directories that come and go with them. */
export function keysOf(actor: string): string[] {
  return ['1', '2', '3.jpg', 'x/4', 'x/5', 'y/z/6'].map((name) => `${actor}/${name}`)
}

/** What somebody writes into the directory: below `f` it is overwritten, below `g` it is removed too. */
export const foreignKeys = [...keysOf('f'), ...keysOf('g')]

export const allKeys = [...actors.flatMap(keysOf), ...foreignKeys]

/** The content of a name is always the same. Many are small, some have several blocks, some are empty. */
export function contentOf(name: string): Buffer {
  const digest = createHash('sha256').update(name).digest('hex')
  const dice = seeded(Number.parseInt(digest.slice(0, 8), 16))
  const kind = dice()
  const size =
    kind < 0.05 ? 0 : kind < 0.3 ? 1000 : Math.ceil(dice() * (kind < 0.8 ? 5000 : kind < 0.95 ? 90_000 : 600_000))
  // Blocks that change places must not look alike.
  return Buffer.alloc(size, `${digest}.`)
}

export function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Small seeded generator (mulberry32, public domain algorithm by Tommy Ettinger). */
export function seeded(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
