/**
 * Links in the place of files. A hard link is a file like any other. A symbolic link is only followed when it is one that
 * we could have made: it stands in the place of a file, never of a directory; it belongs to this user or to the owner of
 * the root; and it leads straight to a regular file in a directory that was named for that, through no further link.
 */
import * as fs from 'node:fs'
import * as path from 'node:path'
import { StowageError } from '../core/errors.ts'
import { realPath } from '../core/real-path.ts'
import type { LinkKind } from '../store/driver.ts'

/** Answers of systems that cannot link these two places, or must not. */
const refusals = new Set(['EXDEV', 'EPERM', 'EACCES', 'EMLINK', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS', 'EINVAL'])

/** The links below one root. */
export class Links {
  readonly #root: string
  readonly #into: readonly string[]

  /** `into` names the directories that symbolic links may lead into. */
  constructor(root: string, into: readonly string[]) {
    this.#root = root
    this.#into = into.map(realPath)
  }

  /** May there be symbolic links at all? */
  get areAllowed(): boolean {
    return this.#into.length > 0
  }

  /** Does the name lead to the file already? Renaming one hard link of a file over another does nothing, and leaves both. */
  isLinked(name: string, file: string, kind: LinkKind): boolean {
    if (kind === 'symlink') return false
    try {
      const [a, b] = [fs.lstatSync(name, { bigint: true }), fs.lstatSync(file, { bigint: true })]
      return a.isFile() && a.ino === b.ino && a.dev === b.dev
    } catch {
      return false
    }
  }

  /** Makes a link under a new name, and tells what it leads to. Rejects with UNSUPPORTED where there can be none. */
  async make(name: string, file: string, kind: LinkKind, fsync: boolean): Promise<fs.BigIntStats> {
    if (kind === 'symlink' && !this.#leadsInto(file))
      throw unsupported(file, 'it is in none of the directories that links may lead into')
    try {
      if (kind === 'symlink') fs.symlinkSync(file, name)
      else fs.linkSync(file, name)
    } catch (error) {
      const { code = '' } = error as NodeJS.ErrnoException
      throw refusals.has(code) ? unsupported(file, code, error) : error
    }
    const stats = fs.lstatSync(kind === 'symlink' ? file : name, { bigint: true })
    if (!stats.isFile()) throw unsupported(file, 'it is no regular file')
    // From now on the original may be deleted, so its bytes must be as lasting as its new name.
    if (kind === 'hard' && fsync) await syncFile(name)
    return stats
  }

  /** Where a symbolic link of ours leads; undefined when it is not one. */
  follow(link: string): string | undefined {
    if (!this.areAllowed) return undefined
    try {
      const target = fs.readlinkSync(link)
      const owner = fs.lstatSync(link).uid
      const isOurs = owner === process.geteuid?.() || owner === fs.lstatSync(this.#root).uid
      return isOurs && this.#leadsInto(target) ? target : undefined
    } catch {
      return undefined
    }
  }

  #leadsInto(target: string): boolean {
    const isPlain = path.isAbsolute(target) && path.normalize(target) === target
    const isInside = this.#into.some((directory) => target.startsWith(directory === '/' ? '/' : directory + path.sep))
    return isPlain && isInside && realPath(path.dirname(target)) === path.dirname(target)
  }
}

async function syncFile(file: string) {
  const handle = await fs.promises.open(file, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW)
  try {
    await handle.datasync()
  } finally {
    await handle.close()
  }
}

function unsupported(file: string, reason: string, cause?: unknown): StowageError {
  return new StowageError('UNSUPPORTED', `${file} cannot be linked to: ${reason}.`, { cause })
}
