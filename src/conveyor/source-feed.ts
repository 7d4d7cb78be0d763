/** Feeds one source's changes to its intake: events while it is watched, scans at the start and after events were lost. */
import { lstatSync, readdirSync, statSync } from 'node:fs'
import type { Clock } from '../core/clock.ts'
import { codeOf, StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../state/database.ts'
import type { Intake, Source } from './intake.ts'
import { scan } from './scanner.ts'
import { watch, type Watcher } from '../watch/watcher.ts'

/** So many paths make one transaction at most. */
const batch = 500

/** How often a tree is scanned of which not every directory can be heard. */
const deafPollingMs = 30_000

/** How long to wait before a source that is gone is looked at again. */
const absenceMs = 10_000

/** What a feed needs. */
export interface FeedOptions {
  database: Database
  intake: Intake
  clock: Clock
  log: Log
  /** Called with the number of files a scan has looked at, as it goes. */
  onScanned?: (files: number) => void
}

/** The feed of one source. */
export class SourceFeed {
  readonly source: Source
  readonly #options: FeedOptions
  readonly #abort = new AbortController()
  readonly #news = new Set<string>()
  #watcher: Watcher | undefined
  #flushing: Promise<void> | undefined
  #recovering: Promise<void> | undefined
  #polling: Promise<void> | undefined
  #isRescanDue = false
  #isLost = false

  constructor(source: Source, options: FeedOptions) {
    this.source = source
    this.#options = options
  }

  /** How the source is watched, for people. */
  get watching(): string {
    if (this.#watcher) return this.#watcher.kind
    return this.#polling ? 'polling' : 'not watched'
  }

  /** Watches, then scans for what happened before. Resolves when both are done; a source that is gone is waited for. */
  async start(): Promise<void> {
    try {
      await this.#attend()
      await this.scan()
    } catch (error) {
      this.#troubled(error)
    }
  }

  async #attend() {
    const { pollingMs } = this.source
    this.#checkRoot()
    if (pollingMs === undefined) await this.#listen()
    else this.#poll(pollingMs)
  }

  async #listen() {
    const { directory, ignore } = this.source
    const { log } = this.#options
    this.#watcher = watch(
      directory,
      { ignore },
      {
        news: (paths) => this.#hear(paths),
        lost: (reason) => this.#rescan(`${reason} ${directory} is scanned again.`),
        gone: () => this.#lose(),
        deaf: (reason) => {
          log.warn(reason)
          this.#poll(deafPollingMs)
        },
        warning: (message) => log.warn(message),
      },
    )
    await this.#watcher.ready
  }

  /** Scans again and again, where events are not to be had or not wanted. */
  #poll(ms: number) {
    this.#polling ??= this.#scanEvery(ms).finally(() => {
      this.#polling = undefined
    })
  }

  async #scanEvery(ms: number) {
    const { signal } = this.#abort
    while (!signal.aborted) {
      await this.#options.clock.sleep(ms, signal).catch(() => undefined)
      if (!signal.aborted)
        await this.scan().catch((error: unknown) => this.#options.log.error((error as Error).message))
    }
  }

  /** Compares the tree with what was last seen and adds jobs for the differences. Rejects with UNREACHABLE when the root is gone. */
  async scan(): Promise<void> {
    const { database, intake, log, onScanned } = this.#options
    const root = await this.#checkMount()
    const visited = new Set<string>()
    const unreadable: string[] = []
    const found = scan(this.source.directory, {
      ignore: this.source.ignore,
      signal: this.#abort.signal,
      onWarning: (message) => log.warn(message),
    })
    for await (const directories of found) {
      for (const { directory, isUnreadable } of directories) {
        visited.add(directory)
        if (isUnreadable) unreadable.push(directory)
      }
      await database.transaction(async (tx) => {
        for (const directory of directories) if (!directory.isUnreadable) await intake.compare(directory, tx)
        this.#checkSameRoot(root)
      })
      onScanned?.(directories.reduce((files, { count }) => files + count, 0))
    }
    await database.transaction(async (tx) => {
      await intake.loseDirectories(visited, unreadable, tx)
      this.#checkSameRoot(root)
    })
  }

  /** Stops listening and scanning. What was heard is handed over first. */
  async close(): Promise<void> {
    this.#abort.abort()
    await this.#watcher?.close()
    await Promise.allSettled([this.#recovering, this.#flushing, this.#polling])
  }

  #hear(paths: readonly string[]) {
    for (const path of paths) this.#news.add(path)
    this.#flushing ??= this.#flush().finally(() => {
      this.#flushing = undefined
    })
  }

  async #flush() {
    const { database, intake, log } = this.#options
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#news.size > 0) {
      const paths = [...this.#news].slice(0, batch)
      for (const path of paths) this.#news.delete(path)
      try {
        const root = this.#identity()
        await database.transaction(async (tx) => {
          await intake.look(paths, tx)
          this.#checkSameRoot(root)
        })
      } catch (error) {
        log.error(`Changes of ${this.source.directory} could not be noted: ${(error as Error).message}`)
        this.#rescan(`${this.source.directory} is scanned again.`)
        return
      }
    }
  }

  #rescan(reason: string) {
    this.#options.log.warn(reason)
    this.#isRescanDue = true
    this.#recover()
  }

  /** The root is gone: not a deletion of its files. We wait for it to come back, and then look at it afresh. */
  #lose() {
    if (this.#isLost || this.#abort.signal.aborted) return
    this.#options.log.warn(`${this.source.directory} is not there; what was delivered from it stays. Waiting for it.`)
    this.#isLost = true
    this.#recover()
  }

  #troubled(error: unknown) {
    if (this.#abort.signal.aborted) return
    this.#options.log.error((error as Error).message)
    if (codeOf(error) === 'UNREACHABLE') this.#lose()
    else {
      this.#isRescanDue = true
      this.#recover()
    }
  }

  #recover() {
    this.#recovering ??= this.#recoverAll().finally(() => {
      this.#recovering = undefined
    })
  }

  /** Whatever is wrong is mended here, one thing after another; what goes wrong meanwhile too. */
  async #recoverAll() {
    while ((this.#isLost || this.#isRescanDue) && !this.#abort.signal.aborted)
      try {
        if (this.#isLost) await this.#waitForRoot()
        this.#isRescanDue = false
        await this.scan()
      } catch (error) {
        this.#troubled(error)
        await this.#pause()
      }
  }

  /** What watched the old root hears nothing of the new one. */
  async #waitForRoot() {
    await this.#watcher?.close()
    this.#watcher = undefined
    while (!this.#abort.signal.aborted) {
      await this.#pause()
      try {
        await this.#checkMount()
        break
      } catch {
        // Not yet.
      }
    }
    this.#isLost = false
    if (!this.#abort.signal.aborted) await this.#attend()
  }

  async #pause() {
    await this.#options.clock.sleep(absenceMs, this.#abort.signal).catch(() => undefined)
  }

  /**
   * Files that were looked at while the root went away seem deleted but are only out of sight. Called at the end of a
   * transaction, so that its rejection takes back whatever was made of that.
   */
  #checkSameRoot(before: string) {
    if (this.#identity() !== before) throw this.#unreachable('it is not the directory it was a moment ago')
  }

  /** Tells the root from another directory of that name. Throws UNREACHABLE when there is none. */
  #identity(): string {
    this.#checkRoot()
    const { dev, ino } = statSync(`${this.source.directory}/`, { bigint: true })
    return `${dev}:${ino}`
  }

  #checkRoot() {
    const { directory } = this.source
    try {
      if (lstatSync(`${directory}/`).isDirectory()) return
    } catch (error) {
      throw this.#unreachable((error as NodeJS.ErrnoException).code ?? 'it cannot be read', error)
    }
    throw this.#unreachable('it is not a directory')
  }

  /**
   * A mount point without its file system is an empty directory. An empty root that is another directory than the one
   * whose files we have seen is therefore taken for an absent one.
   */
  async #checkMount(): Promise<string> {
    const { directory, name } = this.source
    const identity = this.#identity()
    const isEmpty = readdirSync(directory).length === 0
    const setting = `root of ${name}`
    await this.#options.database.transaction(async (tx) => {
      const [row] = await tx.all('SELECT value FROM settings WHERE name = ?', setting)
      const [seen] = await tx.all('SELECT name FROM seen WHERE source = ? LIMIT 1', name)
      if (isEmpty && seen && row && row['value'] !== identity)
        throw this.#unreachable('it is empty and not the directory it was; is its file system mounted?')
      await tx.run(
        'INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value',
        setting,
        identity,
      )
    })
    return identity
  }

  #unreachable(reason: string, cause?: unknown): StowageError {
    return new StowageError(
      'UNREACHABLE',
      `The source ${this.source.name}, ${this.source.directory}, cannot be read: ${reason}.`,
      { cause },
    )
  }
}
