/** The local directory of a filestore: files under their keys, and those that were deleted and may be restored. */
import { createHash } from 'node:crypto'
import { linkSync, lstatSync, mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, unlinkSync } from 'node:fs'
import type { BigIntStats } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { diskError } from '../core/disk-error.ts'
import { isNotFound, StowageError } from '../core/errors.ts'
import { FileBody } from '../core/file-body.ts'
import { isOwnerAlive, owner } from '../core/owner.ts'
import { fileDriver, fileVersion } from '../drivers/file.ts'
import type {
  Body,
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  OpenFile,
  ReadOptions,
  WriteOptions,
} from '../store/driver.ts'

/** Where deleted files wait; below the directory itself, so that moving there is a rename. */
const trashDirectory = '.stowage-trash'

/** Tells this directory from another in its place, such as the one a disk is mounted on. */
const markFile = '.stowage-directory'

/** Keys that are ours: where the file driver writes, where deleted files wait, and the mark of the directory. */
export const ownNames = /^\.stowage-(?:trash|tmp|directory)(?:\/|$)/

/** Tells apart what this process moves aside. */
let moves = 0

/** The directory. The state of a file in it is told by a short text that changes when the file does. */
export class LocalDirectory {
  readonly #driver: Driver
  readonly #directory: string
  #mark: string | undefined

  constructor(directory: string) {
    this.#driver = fileDriver({ directory })
    this.#directory = directory
  }

  get maxPartBytes(): number {
    return this.#driver.supports.maxPartBytes
  }

  get location(): string {
    return this.#driver.location
  }

  /** The mark in the directory; undefined when there is none, or no directory. */
  get mark(): string | undefined {
    try {
      return readFileSync(path.join(this.#directory, markFile), 'utf8').trim()
    } catch {
      return undefined
    }
  }

  /** Is it there, and the one it was? One that is not, because its disk is not mounted, has not lost its files. */
  get isThere(): boolean {
    return this.#mark !== undefined && this.mark === this.#mark
  }

  /** From now on the directory is the one with this mark. */
  expect(mark: string): void {
    this.#mark = mark
  }

  /** Makes the directory, if need be, and puts the expected mark into it. */
  async makeOurs(): Promise<void> {
    mkdirSync(this.#directory, { recursive: true })
    await this.writeBytes(markFile, Buffer.from(`${this.#mark}\n`), {})
  }

  /** On a disk that is full no directory can be made, and nothing be moved aside: so it is made before. */
  prepare(): void {
    try {
      mkdirSync(this.#aside, { recursive: true })
    } catch {
      // It is tried again when it is needed.
    }
  }

  /** The path of a file on disk. */
  pathOf(key: string): string {
    return this.#driver.localPath?.(key) ?? key
  }

  /** The state of a file; undefined where there is none. It does not leave the thread: that costs more than the look. */
  stateOf(key: string): string | undefined {
    return this.look(key)?.state
  }

  /** Is it the key of a file, all of whose directories lie in this one? A link among them could lead anywhere. */
  isInside(key: string): boolean {
    if (ownNames.test(key)) return false
    for (let slash = key.indexOf('/'); slash > 0; slash = key.indexOf('/', slash + 1)) {
      const stats = lstatSync(this.pathOf(key.slice(0, slash)), { throwIfNoEntry: false })
      if (!stats?.isDirectory()) return false
    }
    return true
  }

  /** The SHA-256, lower-case hex, of a file in this state; undefined when it is not in it, or does not stay in it. */
  async digestOf(key: string, state: string): Promise<string | undefined> {
    const hash = createHash('sha256')
    const check = (stats: BigIntStats) => {
      if (fileVersion(stats) !== state) throw new StowageError('CONFLICT', `${key} changed while it was read.`)
    }
    try {
      for await (const bytes of new FileBody(this.pathOf(key), { onOpen: check, onEnd: check })) hash.update(bytes)
      return hash.digest('hex')
    } catch {
      return undefined
    }
  }

  /** The state of a file, with what else can be seen of it. */
  look(key: string): { state: string; size: number; modifiedMs: number } | undefined {
    try {
      const stats = lstatSync(this.pathOf(key), { bigint: true, throwIfNoEntry: false })
      if (!stats?.isFile()) return undefined
      return { state: fileVersion(stats), size: Number(stats.size), modifiedMs: Number(stats.mtimeMs) }
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOTDIR' || code === 'ENAMETOOLONG') return undefined
      throw new StowageError('DENIED', `Cannot look at ${key} in ${this.#driver.location}: ${code}.`, { cause: error })
    }
  }

  async write(key: string, body: Body, options: WriteOptions): Promise<FileInfo> {
    return this.#driver.write(key, body, options)
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions): Promise<FileInfo> {
    return this.#driver.writeBytes?.(key, bytes, options) ?? this.#driver.write(key, once(bytes), options)
  }

  async read(key: string, options?: ReadOptions): Promise<OpenFile> {
    return this.#driver.read(key, options)
  }

  async rename(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<void> {
    await this.#driver.move?.(from, to, options)
  }

  /** Every file, in key order. */
  async *files(options: CallOptions): AsyncGenerator<FileInfo> {
    for await (const entry of this.#driver.list('', options)) if (isFile(entry)) yield entry
  }

  /**
   * Removes a file that is still in this state. False when it is not: then somebody has written it anew, and it stays. It
   * is looked at after it has been moved aside, so that nothing can come in between.
   */
  async remove(key: string, state: string): Promise<boolean> {
    const aside = this.#moveAside(key, state)
    if (aside === undefined) return false
    await fs.rm(aside, { force: true })
    return true
  }

  /** Moves a file in this state to where it can be restored from as this version. False when it is in another. */
  discard(key: string, state: string, version: string): boolean {
    const aside = this.#moveAside(key, state)
    if (aside === undefined) return false
    renameSync(aside, this.#trashed(version))
    return true
  }

  /** Brings back what was discarded. False when it is not there. Rejects with EXISTS when the key was taken meanwhile. */
  async restore(version: string, key: string): Promise<boolean> {
    try {
      await this.rename(`${trashDirectory}/${version}`, key, { ifAbsent: true })
      return true
    } catch (error) {
      if (isNotFound(error)) return false
      throw error
    }
  }

  /** Removes for good what was discarded. */
  async purge(version: string): Promise<void> {
    await this.#driver.delete(`${trashDirectory}/${version}`)
  }

  /** The versions that were discarded. */
  async *discarded(): AsyncGenerator<string> {
    for await (const entry of this.#driver.list(trashDirectory, { recursive: false }))
      if (entry.kind === 'file') yield entry.key.slice(trashDirectory.length + 1)
  }

  /**
   * What a process that has ended since had moved aside, and from which key. `isExpected` when it is what was to be moved
   * aside, and not something that somebody wrote in that moment.
   */
  leftAside(): { name: string; key: string; state: string; isExpected: boolean }[] {
    const names = readdirIfThere(this.#aside)
    return names.flatMap((name) => {
      const [, holder = '', state = '', key = ''] = asideName.exec(name) ?? []
      if (key === '' || isOwnerAlive(holder)) return []
      const isExpected = this.stateOf(`${trashDirectory}/removing/${name}`) === state
      return [{ name, key: decodeURIComponent(key), state, isExpected }]
    })
  }

  /** Ends what was begun with it: it is put back unless the key was taken since, kept as a version, or removed. */
  async settleAside(name: string, key: string, end: 'put back' | 'remove' | { discardAs: string }): Promise<void> {
    const aside = this.#trashed(`removing/${name}`)
    if (typeof end === 'object') renameSync(aside, this.#trashed(end.discardAs))
    else if (end === 'put back') this.#putBack(aside, key)
    else await fs.rm(aside, { force: true })
  }

  async close(): Promise<void> {
    await this.#driver.close()
  }

  /** All in one go: the less time there is, the less can happen in it. The path it has then; undefined when it stays. */
  #moveAside(key: string, state: string): string | undefined {
    if (this.stateOf(key) !== state || !this.isInside(key)) return undefined
    const aside = this.#trashed(`removing/${asideFor(key, state)}`)
    try {
      withDirectory(aside, () => renameSync(this.pathOf(key), aside))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
      throw diskError(error, `Cannot remove ${key} from ${this.location}`) ?? error
    }
    const found = lstatSync(aside, { bigint: true, throwIfNoEntry: false })
    if (found?.isFile() && fileVersion(found) === state) {
      this.#removeEmptyParents(key)
      return aside
    }
    this.#putBack(aside, key)
    return undefined
  }

  /** Somebody wrote it in that very moment. If another has done so since, theirs is the newer. */
  #putBack(aside: string, key: string) {
    try {
      withDirectory(this.pathOf(key), () => linkSync(aside, this.pathOf(key)))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    unlinkSync(aside)
  }

  #removeEmptyParents(key: string) {
    try {
      for (let slash = key.lastIndexOf('/'); slash > 0; slash = key.lastIndexOf('/', slash - 1))
        rmdirSync(this.pathOf(key.slice(0, slash)))
    } catch {
      // It is not empty.
    }
  }

  get #aside(): string {
    return this.#trashed('removing')
  }

  #trashed(name: string): string {
    return path.join(this.#directory, trashDirectory, name)
  }
}

/** Who moved it aside, its number, its state, and its key. */
const asideName = /^(\d+-\d+)-\d+-(\w+-\w+-\w+)-(.+)$/

/** Long keys are cut: those of them that a kill leaves aside are only removed by hand. */
function asideFor(key: string, state: string): string {
  const name = `${owner}-${moves++}-${state}-${encodeURIComponent(key)}`
  return name.length <= maxNameBytes ? name : name.slice(0, name.indexOf(state) - 1)
}

/** Longest name of a file. */
const maxNameBytes = 255

/** The directory may be tidied away by whoever empties it next to us. */
function withDirectory(file: string, work: () => void) {
  for (let attempt = 1; ; attempt++)
    try {
      return work()
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt > 3) throw error
      mkdirSync(path.dirname(file), { recursive: true })
    }
}

function readdirIfThere(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function isFile(entry: Entry): entry is Entry & { kind: 'file' } {
  return entry.kind === 'file' && !ownNames.test(entry.key)
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
