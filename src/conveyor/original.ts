/** The original: a file of a source as it was at one moment, and the proof that it has not changed since. */
import { lstatSync, type BigIntStats } from 'node:fs'
import * as path from 'node:path'
import { StowageError } from '../core/errors.ts'

/** A regular file of a source. Two originals with the same size, mtime and inode hold the same bytes. */
export interface Original {
  /** Path on the disk. */
  file: string
  /** Path relative to the source, with slashes. */
  path: string
  size: number
  mtimeNs: bigint
  inode: bigint
}

/** Looks at a file of a source; undefined where there is no regular file. Symbolic links are not followed. */
export function lookAt(directory: string, relative: string): Original | undefined {
  const file = path.join(directory, relative)
  let stats: BigIntStats | undefined
  try {
    stats = lstatSync(file, { bigint: true, throwIfNoEntry: false })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOTDIR') return undefined
    throw new StowageError('DENIED', `Cannot look at ${file}: ${(error as NodeJS.ErrnoException).code}.`, {
      cause: error,
    })
  }
  if (!stats?.isFile()) return undefined
  return { file, path: relative, ...identityOf(stats) }
}

/** What tells one state of a file from another. */
export function identityOf(stats: BigIntStats): Pick<Original, 'size' | 'mtimeNs' | 'inode'> {
  return { size: Number(stats.size), mtimeNs: stats.mtimeNs, inode: stats.ino }
}

/** Do two looks at a file show the same state? */
export function isSame(a: Pick<Original, 'size' | 'mtimeNs' | 'inode'>, b: typeof a): boolean {
  return a.size === b.size && a.mtimeNs === b.mtimeNs && a.inode === b.inode
}

/** Raised when a file changed under our hands. The change itself brings it back; nothing of this try is kept. */
export function changedMeanwhile(original: Original): StowageError {
  return new StowageError(
    'CONFLICT',
    `${original.file} changed while it was being read; it is taken again when it rests.`,
    {
      retryable: true,
    },
  )
}
