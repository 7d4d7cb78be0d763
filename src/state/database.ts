/**
 * What survives a crash, behind an asynchronous port. This is the only file that opens a database engine: node's own
 * SQLite, one file, owned by one process. WAL with synchronous=FULL: what is committed is on the disk.
 *
 * Transactions run one after another. Those that wait while others run share one COMMIT (group commit), each in a
 * savepoint of its own, so that one that fails takes nobody with it. All resolve after the commit is durable.
 */
import { mkdirSync } from 'node:fs'
import * as path from 'node:path'
import { DatabaseSync, type StatementSync } from 'node:sqlite'
import { StowageError } from '../core/errors.ts'
import { migrations } from './migrations.ts'

/** What a column holds. Integers beyond 2^53 do not occur: nanoseconds and inodes are kept as text. */
export type Value = string | number | null

/** One row of an answer. */
export type Row = Record<string, Value>

/** A running transaction. SQL is the portable kind, with `?` for values. Not to be used after the work has ended. */
export interface Transaction {
  all(sql: string, ...values: Value[]): Promise<Row[]>
  /** How many rows changed. */
  run(sql: string, ...values: Value[]): Promise<number>
}

/** The port: all of state that the layers above know. */
export interface Database {
  /** Runs the work as one transaction, one at a time; resolves when it is durable, and rolls back when the work rejects. */
  transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T>
  /** Only reads, and sees what is committed. */
  query(sql: string, ...values: Value[]): Promise<Row[]>
  /** Waits for running work, then closes. Later calls reject with CLOSED. */
  close(): Promise<void>
}

/** So many transactions share one commit at most: the first of them should not wait long. */
const groupLimit = 256

/**
 * Opens the database file, makes it when absent, and brings it to the present schema. Rejects with BUSY when another
 * process owns it, with UNSUPPORTED when a newer version of Stowage wrote it, with CORRUPT when it is damaged.
 * `:memory:` is a database that lives as long as the process.
 */
export async function openDatabase(file: string): Promise<Database> {
  if (file !== ':memory:') mkdirSync(path.dirname(path.resolve(file)), { recursive: true })
  let engine: DatabaseSync | undefined
  try {
    engine = new DatabaseSync(file)
    // The lock is taken by the first write and held until the process ends, however it ends.
    engine.exec('PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL')
    engine.exec('PRAGMA foreign_keys = ON; PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -8192')
    migrate(engine, file)
    return new SqliteDatabase(engine, file)
  } catch (error) {
    engine?.close()
    throw explain(error, file)
  }
}

interface Waiting {
  work: (tx: Transaction) => Promise<unknown>
  resolve: (value: never) => void
  reject: (error: unknown) => void
}

class SqliteDatabase implements Database {
  readonly #engine: DatabaseSync
  readonly #file: string
  readonly #statements = new Map<string, StatementSync>()
  readonly #waiting: Waiting[] = []
  #running: Promise<void> | undefined
  #closed = false

  constructor(engine: DatabaseSync, file: string) {
    this.#engine = engine
    this.#file = file
  }

  transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new StowageError('CLOSED', `The database ${this.#file} is closed.`))
    return new Promise<T>((resolve, reject) => {
      this.#waiting.push({ work, resolve, reject })
      // Begun a moment later, so that transactions started side by side share their commit.
      this.#running ??= new Promise((begin) => setImmediate(begin)).then(() => this.#drain())
    })
  }

  /** While no transaction is open there is nothing to wait for, which saves a look-up most of its cost. */
  async query(sql: string, ...values: Value[]) {
    if (this.#closed || this.#engine.isTransaction) return this.transaction(async (tx) => tx.all(sql, ...values))
    try {
      return await this.#transaction.all(sql, ...values)
    } catch (error) {
      throw explain(error, this.#file)
    }
  }

  async close() {
    if (this.#closed) return
    this.#closed = true
    await this.#running
    this.#engine.close()
  }

  async #drain() {
    while (this.#waiting.length > 0) await this.#group()
    this.#running = undefined
  }

  /** Runs what waits, in order, under one commit. */
  async #group() {
    const done: (() => void)[] = []
    const members: Waiting[] = []
    try {
      this.#engine.exec('BEGIN IMMEDIATE')
      for (let next = this.#waiting.shift(); next; next = this.#waiting.shift()) {
        members.push(next)
        done.push(await this.#member(next))
        if (members.length >= groupLimit) break
      }
      this.#engine.exec('COMMIT')
      for (const settle of done) settle()
    } catch (error) {
      if (this.#engine.isTransaction) this.#engine.exec('ROLLBACK')
      const explained = explain(error, this.#file)
      // Nothing of the group is kept. When not even BEGIN worked, those who wait hear the same, rather than for ever.
      for (const { reject } of members.length > 0 ? members : this.#waiting.splice(0)) reject(explained)
    }
  }

  /** Runs one member in its savepoint and returns how to settle it once the group is committed. */
  async #member({ work, resolve, reject }: Waiting): Promise<() => void> {
    this.#prepared('SAVEPOINT member').run()
    try {
      const value = await work(this.#transaction)
      this.#prepared('RELEASE member').run()
      return () => resolve(value as never)
    } catch (error) {
      // SQLite gives up the whole transaction on some errors, such as a full disk; then the group fails as one.
      if (!this.#engine.isTransaction) throw error
      this.#prepared('ROLLBACK TO member').run()
      this.#prepared('RELEASE member').run()
      const explained = explain(error, this.#file)
      return () => reject(explained)
    }
  }

  readonly #transaction: Transaction = {
    all: async (sql, ...values) => this.#prepared(sql).all(...values) as Row[],
    run: async (sql, ...values) => Number(this.#prepared(sql).run(...values).changes),
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql)
    if (!statement) {
      statement = this.#engine.prepare(sql)
      this.#statements.set(sql, statement)
    }
    return statement
  }
}

/** Runs the migrations this file has not seen. Each is one transaction that also writes its number. */
function migrate(engine: DatabaseSync, file: string) {
  const version = Number(engine.prepare('PRAGMA user_version').get()?.['user_version'])
  if (version > migrations.length)
    throw new StowageError(
      'UNSUPPORTED',
      `${file} was written by a newer version of Stowage (schema ${version}; this one knows ${migrations.length}).`,
      { hint: 'Update this installation, or give another file as state.' },
    )
  engine.exec('BEGIN EXCLUSIVE')
  for (const [index, sql] of migrations.entries()) if (index >= version) engine.exec(sql)
  engine.exec(`PRAGMA user_version = ${migrations.length}; COMMIT`)
}

/** SQLite's primary result codes (https://www.sqlite.org/rescode.html), in our words. */
function explain(error: unknown, file: string): unknown {
  const { errcode, code } = error as { errcode?: number; code?: string }
  if (code !== 'ERR_SQLITE_ERROR' || errcode === undefined) return error
  const details = { cause: error }
  switch (errcode & 0xff) {
    case 5: // SQLITE_BUSY
    case 6: // SQLITE_LOCKED
      return new StowageError('BUSY', `${file} is in use by another process.`, {
        ...details,
        hint: 'One process owns the state; stop the other, or ask it with `stowage status`.',
      })
    case 11: // SQLITE_CORRUPT
    case 26: // SQLITE_NOTADB
      return new StowageError('CORRUPT', `${file} is damaged or not a database of Stowage.`, {
        ...details,
        hint: 'Restore it from a backup, or move it away: sources are then scanned and delivered anew.',
      })
    case 13: // SQLITE_FULL
      return new StowageError('NO_SPACE', `${file} cannot grow: the disk is full.`, { ...details, retryable: true })
    case 8: // SQLITE_READONLY
    case 14: // SQLITE_CANTOPEN
      return new StowageError('DENIED', `${file} cannot be opened for writing.`, {
        ...details,
        hint: 'Check the owner and mode of the file and of its directory.',
      })
    default:
      return new StowageError('UNKNOWN', `${file}: ${(error as Error).message}.`, details)
  }
}
