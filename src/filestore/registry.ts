/** The registry: which file is where. All SQL of the filestore is here, and every change goes through a transaction. */
import { setImmediate } from 'node:timers/promises'
import { compareKeys } from '../core/keys.ts'
import type { Database, Row, Transaction, Value } from '../state/database.ts'
import type { FileInfo } from '../store/driver.ts'

/** One file, as the registry knows it. */
export interface FileRow {
  key: string
  /** The etag: new with each change of content. */
  version: string
  size: number
  modifiedMs: number
  /** When this version was first seen: the cool-down is counted from it. */
  changedMs: number
  contentType?: string | undefined
  metadata?: Record<string, string> | undefined
  /** The state of the local file that holds this version; absent when none does. */
  local?: string | undefined
  /** The state of the local file that held it last, which may turn up again. */
  former?: string | undefined
  /** Is there a replica of this version? */
  cloud: boolean
  /** When it was deleted; it can be restored until its replicas are gone. */
  deletedMs?: number | undefined
  /** Lower-case hex. Unknown until the file was read for the first time. */
  sha256?: string | undefined
  /** CRC32 of each block, see fingerprint.ts. Unknown as long as `sha256` is. */
  checksums?: string | undefined
}

/** `pending` while it is written, `present` once that was verified, `deleting` from the moment it is to go. */
type ReplicaState = 'pending' | 'present' | 'deleting'

/** A file at a remote. */
export interface Replica {
  remote: string
  remoteKey: string
  key: string
  /** Where the remote pointed when it was written: what is elsewhere is not ours to delete. */
  location: string
  /** The version of the file it holds. */
  version: string
  state: ReplicaState
  /** As the remote told it. */
  etag?: string | undefined
  /** When it could not be read, and why, for a reason that will not pass by itself. */
  failedMs?: number | undefined
  reason?: string | undefined
}

/** How many files, and how many bytes they have. */
export interface Count {
  files: number
  bytes: number
}

/** Counters of a filestore. `media` are all files; what is neither local nor in the cloud is lost. */
export interface Counts {
  media: Count
  local: Count
  cloud: Count
  both: Count
  deleted: Count
}

/** A part of the registry in key order. */
export interface PageOptions {
  /** The first key that is not wanted; default: no end. */
  before?: string
  /** Start after this key, or at this one when `from` is given instead. */
  after?: string
  from?: string
  limit: number
  /** Default: those that are there. */
  which?: Which
}

/**
 * A kind of files: those that are `there`; `deleted` ones; `all` of both; of those there, the ones that are `local`, that are
 * `local only`, or that are `away`; the `lost` ones, of which there is no copy; and those with a good replica at one remote.
 */
export type Which = keyof typeof conditions | { at: string }

/** No key has anything after it: the largest code point. */
const lastCharacter = '\u{10ffff}'

/** What is known, short of the checksums, which can be long. */
const columns =
  'key, version, size, modified_ms, changed_ms, content_type, metadata, local, former, cloud, deleted_ms, sha256'

/** The rows of one filestore. */
export class Registry {
  readonly store: string
  readonly #database: Database

  constructor(database: Database, store: string) {
    this.#database = database
    this.store = store
  }

  /** Runs the work as one transaction. */
  async transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    return this.#database.transaction(work)
  }

  /** A file, deleted or not. */
  async find(key: string, tx?: Transaction): Promise<FileRow | undefined> {
    const sql = `SELECT ${columns}, checksums FROM files WHERE store = ? AND key = ?`
    const [row] = tx ? await tx.all(sql, this.store, key) : await this.#database.query(sql, this.store, key)
    return row && fileOf(row)
  }

  /** Files in the order of their keys' bytes, without their checksums. */
  async page({ after, from, before, limit, which = 'there' }: PageOptions): Promise<FileRow[]> {
    const rows = await this.#database.query(
      `SELECT ${columns} FROM ${tableOf(which)} WHERE store = ? AND key ${from === undefined ? '>' : '>='} ?
       ${before === undefined ? '' : 'AND key < ?'} AND ${conditionOf(which)} ORDER BY key LIMIT ?`,
      this.store,
      from ?? after ?? '',
      ...(before === undefined ? [] : [before]),
      ...valuesOf(which),
      limit,
    )
    return rows.map(fileOf)
  }

  /** How many files of a kind there are below a prefix. They are counted now, some at a time, so that nobody waits for it. */
  async measure(prefix: string, which: Which): Promise<Count> {
    const sum: Count = { files: 0, bytes: 0 }
    const end = prefix + lastCharacter
    for (let from: string | undefined = prefix; from !== undefined; ) {
      const [next]: Row[] = await this.#database.query(
        'SELECT key FROM files WHERE store = ? AND key >= ? AND key < ? ORDER BY key LIMIT 1 OFFSET 10000',
        this.store,
        from,
        end,
      )
      const [row = {}]: Row[] = await this.#database.query(
        `SELECT COUNT(*) AS files, SUM(size) AS bytes FROM ${tableOf(which)}
         WHERE store = ? AND key >= ? AND key < ? AND ${conditionOf(which)}`,
        this.store,
        from,
        next ? String(next['key']) : end,
        ...valuesOf(which),
      )
      sum.files += Number(row['files'])
      sum.bytes += Number(row['bytes'] ?? 0)
      from = next && String(next['key'])
      await setImmediate()
    }
    return sum
  }

  /** Files below a prefix, page by page. They may be changed meanwhile. */
  async *walk(prefix: string, options: Pick<PageOptions, 'after' | 'which'> = {}): AsyncGenerator<FileRow> {
    let from: string | undefined = prefix
    let { after } = options
    if (after !== undefined && compareKeys(after, prefix) >= 0) from = undefined
    for (;;) {
      const page = await this.page({
        ...options,
        ...(from === undefined ? { after: after ?? '' } : { from }),
        before: prefix + lastCharacter,
        limit: 500,
      })
      yield* page
      after = page.at(-1)?.key
      if (after === undefined) return
      from = undefined
    }
  }

  /** Is there a file under a name that this key would make a directory, or below this key? */
  async blocking(key: string): Promise<string | undefined> {
    const parents: string[] = []
    for (let slash = key.indexOf('/'); slash > 0; slash = key.indexOf('/', slash + 1)) parents.push(key.slice(0, slash))
    const marks = parents.map(() => '?').join(', ')
    const sql = `SELECT key FROM files WHERE store = ? AND key IN (${marks}) AND ${conditions.there}`
    const [above] = parents.length === 0 ? [] : await this.#database.query(sql, this.store, ...parents)
    if (above) return String(above['key'])
    const [below] = await this.page({ after: `${key}/`, before: `${key}0`, limit: 1 }) // "0" follows "/"
    return below?.key
  }

  /** Puts a file into the registry in place of what was known under its key. */
  async put(file: FileRow, tx: Transaction): Promise<void> {
    const values: Record<string, Value> = {
      store: this.store,
      key: file.key,
      version: file.version,
      size: file.size,
      modified_ms: file.modifiedMs,
      changed_ms: file.changedMs,
      content_type: file.contentType ?? null,
      metadata: file.metadata ? JSON.stringify(file.metadata) : null,
      local: file.local ?? null,
      former: file.former ?? null,
      deleted_ms: file.deletedMs ?? null,
      sha256: file.sha256 ?? null,
      checksums: file.checksums ?? null,
    }
    const names = Object.keys(values)
    await tx.run(
      `INSERT INTO files (${names.join(', ')}) VALUES (${names.map(() => '?').join(', ')})
       ON CONFLICT (store, key) DO UPDATE SET ${names.map((name) => `${name} = excluded.${name}`).join(', ')}`,
      ...Object.values(values),
    )
    await this.#settle(file.key, tx)
  }

  /** Notes where a version is locally; undefined when it no longer is. Nothing happens when the file has another version now. */
  async setLocal(key: string, version: string, local: string | undefined, tx: Transaction): Promise<void> {
    await tx.run(
      `UPDATE files SET former = CASE WHEN ? IS NULL THEN local ELSE NULL END, local = ?
       WHERE store = ? AND key = ? AND version = ? AND local IS NOT ?`,
      local ?? null,
      local ?? null,
      this.store,
      key,
      version,
      local ?? null,
    )
  }

  /** Notes what a version's bytes came to when they were read. */
  async setDigest(
    key: string,
    version: string,
    { sha256, checksums }: { sha256: string; checksums: string },
    tx: Transaction,
  ): Promise<void> {
    await tx.run(
      'UPDATE files SET sha256 = ?, checksums = ? WHERE store = ? AND key = ? AND version = ?',
      sha256,
      checksums,
      this.store,
      key,
      version,
    )
  }

  /** What is recorded with a later time than now counts as of now. */
  async forgetFuture(nowMs: number, tx: Transaction): Promise<void> {
    for (const [column, table] of [
      ['deleted_ms', 'files INDEXED BY files_deleted'],
      ['changed_ms', 'files INDEXED BY files_local'],
    ]) {
      const isThere = column === 'deleted_ms' ? 'deleted_ms IS NOT NULL' : 'local IS NOT NULL'
      const sql = `UPDATE ${table} SET ${column} = ? WHERE store = ? AND ${isThere} AND ${column} > ?`
      await tx.run(sql, nowMs, this.store, nowMs)
    }
  }

  /** Takes a file out of the registry, with all that is known of it. */
  async remove(key: string, tx: Transaction): Promise<void> {
    await tx.run('DELETE FROM files WHERE store = ? AND key = ?', this.store, key)
  }

  /** Gives a file another key; what was known under that key must be gone. */
  async rename(from: string, to: string, tx: Transaction): Promise<void> {
    for (const table of ['files', 'replicas'])
      await tx.run(`UPDATE ${table} SET key = ? WHERE store = ? AND key = ?`, to, this.store, from)
  }

  /** The replicas of a file, in the order of their remotes' names. */
  async replicas(key: string, tx?: Transaction): Promise<Replica[]> {
    const sql = 'SELECT * FROM replicas WHERE store = ? AND key = ? ORDER BY remote, remote_key'
    const rows = tx ? await tx.all(sql, this.store, key) : await this.#database.query(sql, this.store, key)
    return rows.map(replicaOf)
  }

  /** What is recorded under a name at a remote, be it of this filestore or of another. */
  async replicaAt(
    remote: string,
    remoteKey: string,
    tx?: Transaction,
  ): Promise<(Replica & { store: string }) | undefined> {
    const sql = 'SELECT * FROM replicas WHERE remote = ? AND remote_key = ?'
    const [row] = await (tx ? tx.all(sql, remote, remoteKey) : this.#database.query(sql, remote, remoteKey))
    return row && { ...replicaOf(row), store: String(row['store']) }
  }

  /** Is anything recorded at a remote below a name, as if that was a directory? */
  async hasBelow(remote: string, name: string, tx: Transaction): Promise<boolean> {
    const sql = 'SELECT 1 FROM replicas WHERE remote = ? AND remote_key >= ? AND remote_key < ? LIMIT 1'
    return (await tx.all(sql, remote, `${name}/`, `${name}0`)).length > 0 // "0" follows "/"
  }

  /** Records a replica of a file, or what it is now. */
  async putReplica(replica: Replica, tx: Transaction): Promise<void> {
    await tx.run(
      `INSERT INTO replicas (remote, remote_key, store, key, location, version, state, etag)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (remote, remote_key) DO UPDATE SET location = excluded.location, version = excluded.version,
         state = excluded.state, etag = excluded.etag, failed_ms = NULL, reason = NULL`,
      replica.remote,
      replica.remoteKey,
      this.store,
      replica.key,
      replica.location,
      replica.version,
      replica.state,
      replica.etag ?? null,
    )
    // The file may have been renamed since the caller looked.
    const recorded = await this.replicaAt(replica.remote, replica.remoteKey, tx)
    await this.#settle(recorded?.key ?? replica.key, tx)
  }

  /**
   * Records that what was announced as `pending` is there, verified. False when it was given up meanwhile, and is about to
   * be removed.
   */
  async confirmReplica(replica: Replica, tx: Transaction): Promise<boolean> {
    const announced = await this.replicaAt(replica.remote, replica.remoteKey, tx)
    if (announced?.state !== 'pending' || announced.version !== replica.version) return false
    await this.putReplica({ ...replica, state: 'present' }, tx)
    return true
  }

  /** Forgets a replica; the file it was of goes too when it was deleted and has no other. */
  async dropReplica({ remote, remoteKey, key }: Replica, tx: Transaction): Promise<void> {
    await tx.run('DELETE FROM replicas WHERE remote = ? AND remote_key = ?', remote, remoteKey)
    await this.#settle(key, tx)
    await tx.run(
      `DELETE FROM files WHERE store = ? AND key = ? AND deleted_ms IS NOT NULL AND local IS NULL
       AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.store = files.store AND r.key = files.key)`,
      this.store,
      key,
    )
  }

  /** Remembers why a replica cannot be read, or that it can. */
  async setFailure(
    { remote, remoteKey }: Replica,
    failure: { atMs: number; reason: string } | undefined,
  ): Promise<void> {
    await this.transaction(async (tx) =>
      tx.run(
        'UPDATE replicas SET failed_ms = ?, reason = ? WHERE remote = ? AND remote_key = ?',
        failure?.atMs ?? null,
        failure?.reason ?? null,
        remote,
        remoteKey,
      ),
    )
  }

  /** Forgets all that is remembered of failures. Returns of how many replicas that was. */
  async resetFailures(prefix: string): Promise<number> {
    return this.transaction(async (tx) =>
      tx.run(
        `UPDATE replicas SET failed_ms = NULL, reason = NULL
         WHERE store = ? AND key >= ? AND key < ? AND failed_ms IS NOT NULL`,
        this.store,
        prefix,
        prefix + lastCharacter,
      ),
    )
  }

  /** The remotes that have, or had, something of this filestore. */
  async remotes(): Promise<string[]> {
    const rows = await this.#database.query('SELECT DISTINCT remote FROM replicas WHERE store = ?', this.store)
    return rows.map(({ remote }) => String(remote))
  }

  /** What is recorded at a remote, of this and of other filestores, in the order of the names there. */
  async *recordedAt(remote: string): AsyncGenerator<Replica & { store: string }> {
    for (let after = ''; ; ) {
      const rows = await this.#database.query(
        'SELECT * FROM replicas WHERE remote = ? AND remote_key > ? ORDER BY remote_key LIMIT 1000',
        remote,
        after,
      )
      for (const row of rows) yield { ...replicaOf(row), store: String(row['store']) }
      const last = rows.at(-1)
      if (!last) return
      after = String(last['remote_key'])
    }
  }

  /** How many files are where, from counters that every change keeps. */
  async counts(): Promise<Counts> {
    const [row = {}] = await this.#database.query('SELECT * FROM file_counts WHERE store = ?', this.store)
    const count = (kind: string): Count => ({
      files: Number(row[`${kind}files`] ?? 0),
      bytes: Number(row[`${kind}bytes`] ?? 0),
    })
    return {
      media: count(''),
      local: count('local_'),
      cloud: count('cloud_'),
      both: count('both_'),
      deleted: count('deleted_'),
    }
  }

  /** Something this filestore remembers beside its files. */
  async setting(name: string, tx?: Transaction): Promise<unknown> {
    const sql = 'SELECT value FROM settings WHERE name = ?'
    const [row] = await (tx ? tx.all(sql, this.#settingName(name)) : this.#database.query(sql, this.#settingName(name)))
    return row && JSON.parse(String(row['value']))
  }

  /** All that is remembered under names with this beginning. */
  async settings(prefix: string): Promise<{ name: string; value: unknown }[]> {
    const from = this.#settingName(prefix)
    const rows = await this.#database.query(
      'SELECT name, value FROM settings WHERE name >= ? AND name < ?',
      from,
      from + lastCharacter,
    )
    return rows.map(({ name, value }) => ({
      name: String(name).slice(this.#settingName('').length),
      value: JSON.parse(String(value)),
    }))
  }

  /** Remembers something; undefined forgets it. */
  async set(name: string, value: unknown, tx: Transaction): Promise<void> {
    if (value === undefined) await tx.run('DELETE FROM settings WHERE name = ?', this.#settingName(name))
    else
      await tx.run(
        'INSERT INTO settings VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value',
        this.#settingName(name),
        JSON.stringify(value),
      )
  }

  #settingName(name: string): string {
    return `filestore:${this.store}:${name}`
  }

  /** Whether a file is in the cloud follows from its replicas. */
  async #settle(key: string, tx: Transaction) {
    const isCloud = `EXISTS (SELECT 1 FROM replicas r WHERE r.store = files.store AND r.key = files.key
      AND r.version = files.version AND r.state = 'present')`
    await tx.run(
      `UPDATE files SET cloud = ${isCloud} WHERE store = ? AND key = ? AND cloud <> ${isCloud}`,
      this.store,
      key,
    )
  }
}

const isThere = 'deleted_ms IS NULL AND (local IS NOT NULL OR cloud = 1)'

const conditions = {
  there: isThere,
  deleted: 'deleted_ms IS NOT NULL',
  all: '1 = 1',
  local: 'deleted_ms IS NULL AND local IS NOT NULL',
  'local only': 'deleted_ms IS NULL AND local IS NOT NULL AND cloud = 0',
  lost: 'deleted_ms IS NULL AND local IS NULL AND cloud = 0',
  away: 'deleted_ms IS NULL AND local IS NULL AND cloud = 1',
}

/** Where the few are found. Not knowing that they are few, SQLite would search among all. */
const indexes: Partial<Record<string, string>> = {
  deleted: 'files_deleted',
  local: 'files_local',
  'local only': 'files_local',
}

function tableOf(which: Which): string {
  const index = typeof which === 'string' ? indexes[which] : undefined
  return index === undefined ? 'files' : `files INDEXED BY ${index}`
}

function conditionOf(which: Which): string {
  if (typeof which === 'string') return conditions[which]
  return `${isThere} AND EXISTS (SELECT 1 FROM replicas r WHERE r.store = files.store AND r.key = files.key
    AND r.version = files.version AND r.state = 'present' AND r.remote = ?)`
}

function valuesOf(which: Which): Value[] {
  return typeof which === 'string' ? [] : [which.at]
}

/** What is told of a file that is there. */
export function infoOf({ key, version, size, modifiedMs, contentType, metadata, sha256 }: FileRow): FileInfo {
  return {
    key,
    size,
    modified: new Date(modifiedMs),
    etag: version,
    ...(contentType === undefined ? {} : { contentType }),
    ...(metadata && { metadata }),
    ...(sha256 === undefined ? {} : { digests: { sha256 } }),
  }
}

function fileOf(row: Row): FileRow {
  const text = (name: string) => (row[name] === null || row[name] === undefined ? undefined : String(row[name]))
  const metadata = text('metadata')
  return {
    key: String(row['key']),
    version: String(row['version']),
    size: Number(row['size']),
    modifiedMs: Number(row['modified_ms']),
    changedMs: Number(row['changed_ms']),
    contentType: text('content_type'),
    metadata: metadata === undefined ? undefined : (JSON.parse(metadata) as Record<string, string>),
    local: text('local'),
    former: text('former'),
    cloud: row['cloud'] === 1,
    deletedMs: row['deleted_ms'] === null ? undefined : Number(row['deleted_ms']),
    sha256: text('sha256'),
    checksums: text('checksums'),
  }
}

function replicaOf(row: Row): Replica {
  const text = (name: string) => (row[name] === null ? undefined : String(row[name]))
  return {
    remote: String(row['remote']),
    remoteKey: String(row['remote_key']),
    key: String(row['key']),
    location: String(row['location']),
    version: String(row['version']),
    state: row['state'] as ReplicaState,
    etag: text('etag'),
    failedMs: row['failed_ms'] === null ? undefined : Number(row['failed_ms']),
    reason: text('reason'),
  }
}
