/**
 * What comes in: events and scans become jobs. A job and the memory of having seen the file are one transaction, so
 * that after a crash a scan finds exactly what has no job yet.
 */
import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Row, Transaction } from '../state/database.ts'
import type { NewJob, Queue } from '../state/queue.ts'
import { mergeEvents, type FileEvent } from './events.ts'
import { isSame, lookAt, type Original } from './original.ts'
import type { ScannedDirectory } from './scanner.ts'

type Identity = Pick<Original, 'size' | 'mtimeNs' | 'inode'>

/** A directory that is watched. */
export interface Source {
  name: string
  /** Absolute path. */
  directory: string
  /** Patterns of what does not exist for us. */
  ignore: readonly string[]
  /** How long a file must have rested before it is taken. */
  settleMs: number
  /** Ask the file system every so many milliseconds instead of listening to it. */
  pollingMs?: number
  /** The directory that the web server shows as its root, for references that begin with a slash. Default: `directory`. */
  documentRoot?: string
  /** Where the site begins for its visitors, with slashes at both ends. Taken away where the document root has no such directory. Default `/`. */
  basePath?: string
}

/** What a file job is about. */
export interface FilePayload {
  source: string
  path: string
  event: FileEvent
  /** How many changes of addresses led to this one, each by another. */
  follows?: number
}

/** The key of the job of a file. A source's name has no slash. */
export function fileJobKey(source: string, path: string): string {
  return `${source}/${path}`
}

/** The key of the job of one destination of a file. */
export function deliveryJobKey(
  { source, path }: Pick<FilePayload, 'source' | 'path'>,
  rule: string,
  to: { store: string; path: string },
): string {
  return `${fileJobKey(source, path)} ${JSON.stringify([rule, to.store, to.path])}`
}

/** How a file was when it was last seen; undefined when there has been no news of it. */
export async function seenAs(tx: Transaction, source: string, path: string): Promise<Identity | undefined> {
  const [directory, name] = split(path)
  const where = 'source = ? AND directory = ? AND name = ?'
  const [row] = await tx.all(`SELECT size, mtime_ns, inode FROM seen WHERE ${where}`, source, directory, name)
  return row && identityOf(row)
}

/** Adds file jobs for one source. */
export class Intake {
  readonly #source: Source
  readonly #queue: Queue
  readonly #clock: Clock
  readonly #log: Log
  readonly #laneOf: (path: string) => string

  /** `laneOf` tells the group of a file's jobs. Default: one for all. */
  constructor(source: Source, options: { queue: Queue; clock: Clock; log: Log; laneOf?: (path: string) => string }) {
    this.#source = source
    this.#laneOf = options.laneOf ?? (() => '')
    this.#queue = options.queue
    this.#clock = options.clock
    this.#log = options.log
  }

  /** Looks at paths something may have happened to, and adds jobs for what really did. */
  async look(paths: Iterable<string>, tx: Transaction): Promise<void> {
    for (const path of paths) {
      const original = this.#lookAt(path)
      if (original) {
        await this.#touch(split(path)[0], tx)
        await this.#found(original, tx, await seenAs(tx, this.#source.name, path))
      } else if (original === undefined) await this.#gone(path, tx)
    }
  }

  /** Compares a directory, as a scan found it, with what was last seen, and adds jobs for the differences. */
  async compare(scanned: ScannedDirectory, tx: Transaction): Promise<void> {
    const { name: source, directory: root } = this.#source
    const { directory, digest } = scanned
    const known = 'SELECT digest FROM seen_directories WHERE source = ? AND directory = ?'
    const [before] = await tx.all(known, source, directory)
    if (before?.['digest'] === digest) return
    const where = 'source = ? AND directory = ?'
    const rows = await tx.all(`SELECT name, size, mtime_ns, inode FROM seen WHERE ${where}`, source, directory)
    const missing = new Map(rows.map((row) => [String(row['name']), row]))
    for (const [index, name] of (scanned.count > 0 ? scanned.names.split('\0') : []).entries()) {
      const path = joined(directory, name)
      const file = `${root}/${path}`
      const mtimeNs = scanned.mtimesNs[index] ?? 0n
      const known = missing.get(name)
      await this.#found(
        { file, path, size: scanned.sizes[index] ?? 0, mtimeNs, inode: scanned.inodes[index] ?? 0n },
        tx,
        known && identityOf(known),
      )
      missing.delete(name)
    }
    // The walk is a moment old: only what is not there now either is gone.
    await this.look(
      [...missing.keys()].map((name) => joined(directory, name)),
      tx,
    )
    await tx.run(
      `INSERT INTO seen_directories (source, directory, digest) VALUES (?, ?, ?)
       ON CONFLICT DO UPDATE SET digest = excluded.digest`,
      source,
      directory,
      digest,
    )
  }

  /** Files of directories that a complete scan has not come by are gone, unless it could not look at what holds them. */
  async loseDirectories(visited: ReadonlySet<string>, unreadable: readonly string[], tx: Transaction): Promise<void> {
    const { name: source } = this.#source
    const known = await tx.all('SELECT directory FROM seen_directories WHERE source = ?', source)
    const others = await tx.all('SELECT DISTINCT directory FROM seen WHERE source = ?', source)
    for (const directory of new Set([...known, ...others].map((row) => String(row['directory'])))) {
      const isHidden = unreadable.some((parent) => directory === parent || directory.startsWith(`${parent}/`))
      if (visited.has(directory) || isHidden) continue
      const names = await tx.all('SELECT name FROM seen WHERE source = ? AND directory = ?', source, directory)
      await this.look(
        names.map((row) => joined(directory, String(row['name']))),
        tx,
      )
      await tx.run('DELETE FROM seen_directories WHERE source = ? AND directory = ?', source, directory)
    }
  }

  /** Adds a job for every file that was seen, so that changed rules are applied to it. */
  async reconsider(tx: Transaction): Promise<void> {
    for (const row of await tx.all('SELECT directory, name FROM seen WHERE source = ?', this.#source.name))
      await this.#add(joined(String(row['directory']), String(row['name'])), 'modified', 0, tx)
  }

  /** Adds a job for a file that is to be delivered again although it has not changed. */
  async again(path: string, tx: Transaction): Promise<void> {
    await this.#add(path, 'modified', 0, tx)
  }

  /** Undefined: it is gone. False: it cannot be looked at, which is not the same. */
  #lookAt(path: string): Original | undefined | false {
    try {
      return lookAt(this.#source.directory, path)
    } catch (error) {
      this.#log.warn((error as Error).message)
      return false
    }
  }

  /** From now on the directory is not what its digest says. */
  async #touch(directory: string, tx: Transaction) {
    await tx.run('DELETE FROM seen_directories WHERE source = ? AND directory = ?', this.#source.name, directory)
  }

  async #found(original: Original, tx: Transaction, before: Identity | undefined) {
    const [directory, name] = split(original.path)
    const { name: source } = this.#source
    if (before && isSame(before, original)) return
    await tx.run(
      `INSERT INTO seen (source, directory, name, size, mtime_ns, inode) VALUES (?, ?, ?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, inode = excluded.inode`,
      source,
      directory,
      name,
      original.size,
      String(original.mtimeNs),
      String(original.inode),
    )
    const restedMs = this.#clock.now() - Number(original.mtimeNs / 1_000_000n)
    const delayMs = Math.min(this.#source.settleMs, Math.max(0, this.#source.settleMs - restedMs))
    await this.#add(original.path, before ? 'modified' : 'created', delayMs, tx)
  }

  /** A path that is gone was a file, or a directory with all below it. */
  async #gone(path: string, tx: Transaction) {
    const [directory, name] = split(path)
    await this.#forget(directory, name, tx)
    const below = await tx.all(
      // '0' is the character after the slash: this is the range of all directories below.
      'SELECT directory, name FROM seen WHERE source = ? AND (directory = ? OR (directory >= ? AND directory < ?))',
      this.#source.name,
      path,
      `${path}/`,
      `${path}0`,
    )
    for (const row of below) await this.#forget(String(row['directory']), String(row['name']), tx)
  }

  async #forget(directory: string, name: string, tx: Transaction) {
    const { name: source } = this.#source
    const where = 'source = ? AND directory = ? AND name = ?'
    const known = await tx.run(`DELETE FROM seen WHERE ${where}`, source, directory, name)
    if (known === 0) return
    await this.#touch(directory, tx)
    await this.#add(joined(directory, name), 'deleted', this.#source.settleMs, tx)
  }

  async #add(path: string, event: FileEvent, delayMs: number, tx: Transaction) {
    const payload: FilePayload = { source: this.#source.name, path, event }
    const job: NewJob = {
      queue: 'file',
      key: fileJobKey(this.#source.name, path),
      group: this.#laneOf(path),
      payload,
      delayMs,
      merge: (waiting, added) => {
        const merged = mergeEvents((waiting as FilePayload).event, (added as FilePayload).event)
        return merged && { ...payload, event: merged }
      },
    }
    await this.#queue.add(job, tx)
  }
}

function identityOf(row: Row): Identity {
  return { size: Number(row['size']), mtimeNs: BigInt(row['mtime_ns'] ?? 0), inode: BigInt(row['inode'] ?? 0) }
}

function split(path: string): [directory: string, name: string] {
  const slash = path.lastIndexOf('/')
  return slash < 0 ? ['', path] : [path.slice(0, slash), path.slice(slash + 1)]
}

/** The path of a name in a directory, `''` being the root. */
export function joined(directory: string, name: string): string {
  return directory === '' ? name : `${directory}/${name}`
}
