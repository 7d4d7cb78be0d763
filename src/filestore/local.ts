/** The local directory of a filestore: files under their keys, and those that were deleted and may be restored. */
import { lstatSync, mkdirSync, readFileSync } from 'node:fs'
import * as path from 'node:path'
import { isNotFound, StowageError } from '../core/errors.ts'
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

  /** The path of a file on disk. */
  pathOf(key: string): string {
    return this.#driver.localPath?.(key) ?? key
  }

  /** The state of a file; undefined where there is none. It does not leave the thread: that costs more than the look. */
  stateOf(key: string): string | undefined {
    return this.look(key)?.state
  }

  /** Do all directories of a key lie in this one? A link among them could lead anywhere. */
  isInside(key: string): boolean {
    for (let slash = key.indexOf('/'); slash > 0; slash = key.indexOf('/', slash + 1)) {
      const stats = lstatSync(this.pathOf(key.slice(0, slash)), { throwIfNoEntry: false })
      if (!stats?.isDirectory()) return false
    }
    return true
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
    const aside = `${trashDirectory}/removing-${owner}-${moves++}`
    if (!(await this.#moveAside(key, state, aside))) return false
    await this.#driver.delete(aside)
    return true
  }

  /** Moves a file in this state to where it can be restored from as this version. False when it is in another. */
  async discard(key: string, state: string, version: string): Promise<boolean> {
    return this.#moveAside(key, state, `${trashDirectory}/${version}`)
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

  /** The versions that were discarded, and what was moved aside by a process that has ended since. */
  async *discarded(): AsyncGenerator<string> {
    for await (const { key } of this.#driver.list(trashDirectory)) {
      const name = key.slice(trashDirectory.length + 1)
      const [, holder] = /^removing-(.*)-\d+$/.exec(name) ?? []
      if (holder === undefined || !isOwnerAlive(holder)) yield name
    }
  }

  async close(): Promise<void> {
    await this.#driver.close()
  }

  async #moveAside(key: string, state: string, aside: string): Promise<boolean> {
    if (this.stateOf(key) !== state) return false
    try {
      await this.rename(key, aside)
    } catch (error) {
      if (isNotFound(error)) return false
      throw error
    }
    if (this.stateOf(aside) === state) return true
    // Somebody wrote it in that very moment. If another has done so since, theirs is the newer.
    await this.rename(aside, key, { ifAbsent: true }).catch(() => undefined)
    return false
  }
}

function isFile(entry: Entry): entry is Entry & { kind: 'file' } {
  return entry.kind === 'file' && !ownNames.test(entry.key)
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
