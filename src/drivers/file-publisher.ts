/** Changes of names in directories, made in groups so that they share the syncs that make them last. */
import { closeSync, fsync, linkSync, openSync, renameSync, unlinkSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'

interface Change {
  target: string
  apply: () => void
  /** Make the directory when it is not there. A file that is to go is gone without it. */
  makesDirectory: boolean
  resolve: () => void
  reject: (error: unknown) => void
}

/**
 * Gives finished files their names, and takes names away. What waits together is changed together, and each directory is
 * then synced once for all of them: on a journalling file system the first sync carries the others. Every change is made
 * before the sync it waits for begins.
 */
export class Publisher {
  readonly #fsync: boolean
  #waiting: Change[] = []
  #isRunning = false

  /** Without `fsync` nothing waits for the disk. */
  constructor(fsync: boolean) {
    this.#fsync = fsync
  }

  /** Resolves when the file has its name, durably. Missing directories are made. `ifAbsent` rejects with EEXIST. */
  async publish(temporary: string, target: string, ifAbsent: boolean): Promise<void> {
    const link = () => {
      linkSync(temporary, target)
      unlinkSync(temporary)
    }
    return this.#add(target, true, ifAbsent ? link : () => renameSync(temporary, target))
  }

  /** Resolves when the file is gone, durably. Rejects with ENOENT when it was not there. */
  async remove(target: string): Promise<void> {
    return this.#add(target, false, () => unlinkSync(target))
  }

  async #add(target: string, makesDirectory: boolean, apply: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ target, apply, makesDirectory, resolve, reject })
      if (!this.#isRunning) void this.#run()
    })
  }

  async #run() {
    this.#isRunning = true
    // Those who finish in the same turn of the event loop come along.
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#waiting.length > 0) {
      const group = this.#waiting
      this.#waiting = []
      await this.#change(group)
    }
    this.#isRunning = false
  }

  async #change(group: readonly Change[]) {
    const changed = new Map<string, Change[]>()
    for (const change of group)
      try {
        await this.#apply(change)
        const directory = path.dirname(change.target)
        const others = changed.get(directory)
        if (others) others.push(change)
        else changed.set(directory, [change])
      } catch (error) {
        change.reject(error)
      }
    await Promise.all(
      [...changed].map(async ([directory, changes]) => {
        try {
          if (this.#fsync) await syncDirectory(directory)
          for (const { resolve } of changes) resolve()
        } catch (error) {
          for (const { reject } of changes) reject(error)
        }
      }),
    )
  }

  /** The directory may be removed by a delete next to us, so it is made anew if need be. */
  async #apply({ apply, target, makesDirectory }: Change) {
    for (let attempt = 1; ; attempt++)
      try {
        return apply()
      } catch (error) {
        if (!makesDirectory || (error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt > 10) throw error
        await this.#makeDirectory(path.dirname(target))
      }
  }

  /** Makes a directory with its parents; each new one is on disk only when the one above it is synced. */
  async #makeDirectory(directory: string) {
    const first = await fs.mkdir(directory, { recursive: true })
    if (first === undefined || !this.#fsync) return
    for (let made = directory; made.length >= first.length; made = path.dirname(made))
      await syncDirectory(path.dirname(made))
  }
}

/** Codes of a directory that is gone by now, or that cannot be opened for a sync at all. */
const unsyncable = new Set(['ENOENT', 'EACCES', 'EPERM', 'EISDIR'])

/** A change of names is on disk only when its directory is. */
async function syncDirectory(directory: string): Promise<void> {
  let descriptor: number
  try {
    descriptor = openSync(directory, 'r')
  } catch (error) {
    if (unsyncable.has((error as NodeJS.ErrnoException).code ?? '')) return
    throw error
  }
  try {
    await new Promise<void>((resolve, reject) => fsync(descriptor, (error) => (error ? reject(error) : resolve())))
  } finally {
    closeSync(descriptor)
  }
}
