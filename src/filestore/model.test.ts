/**
 * Thousands of random steps on a filestore, against a plain map: whatever is done by calls, by others in the directory, by
 * workers meanwhile, by time and by remotes that fail or lie, reads, listings and counters agree with the map.
 *
 * Replay a run with STOWAGE_SEED=n; STOWAGE_STEPS sets how many steps each of the filestores makes.
 */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { pipeline, Transform, type Readable } from 'node:stream'
import { test } from 'node:test'
import { Cache } from '../cache/cache.ts'
import type { Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase, type Database } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import type { Driver, FileInfo, OpenFile, WriteOptions } from '../store/driver.ts'
import { entriesBelow } from '../store/driving.ts'
import { faulty, type FaultMoment } from '../store/wrappers/faults.ts'
import { Filestore, type FilestoreOptions } from './filestore.ts'

const steps = Number(process.env['STOWAGE_STEPS'] ?? 600)
const seed = Number(process.env['STOWAGE_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

const hourMs = 3_600_000
const dayMs = 24 * hourMs

const shapes: Record<string, Partial<FilestoreOptions> & { isCached: boolean }> = {
  'that offloads at once, through a cache': { coolDownMs: 0, deleteAfterMs: 10 * dayMs, isCached: true },
  'that offloads after a while, without a cache': { coolDownMs: hourMs, deleteAfterMs: 10 * dayMs, isCached: false },
  'that deletes at once': { coolDownMs: 0, deleteAfterMs: 0, isCached: true },
  'that keeps local files, and deleted ones for ever': {
    coolDownMs: 1000,
    deleteAfterMs: Infinity,
    keepLocal: true,
    isCached: false,
  },
}
for (const [index, [name, shape]] of Object.entries(shapes).entries())
  test(`${steps} random steps on a filestore ${name} leave what a map of files says`, async (t) => {
    t.diagnostic(`STOWAGE_SEED=${seed}`)
    const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-model-'))
    const world = await World.open(base, seeded(seed + index), shape)
    let failure: Error | undefined
    const note = (error: unknown) => {
      const story = world.story.slice(-40).join('\n')
      const message = `${(error as Error).message}\nSTOWAGE_SEED=${seed}, the last steps:\n${story}`
      failure ??= new Error(message, { cause: error })
    }
    try {
      for (let step = 0; step < steps; step++) await world.step()
      await world.rest()
    } catch (error) {
      note(error)
    }
    await world.close().catch(note)
    fs.rmSync(base, { recursive: true, force: true })
    if (failure) throw failure
  })

interface Content {
  bytes: Buffer
  contentType?: string | undefined
  metadata?: Record<string, string> | undefined
}

/** Some that stand in each other's way, and some that are hard to write. */
const keys = ['a', 'a/b', 'a/c', 'b', 'b/d/e', 'b/d/f', 'c.jpg', 'd/x', 'ü/ñ %25 ?#', `l/${'o'.repeat(250)}ng`]

/** A filestore, what it stands on, and the map of what should be in it. */
class World {
  /** What was done, one line each. */
  readonly story: string[] = []
  readonly #base: string
  readonly #random: () => number
  readonly #shape: Partial<FilestoreOptions> & { isCached: boolean }
  readonly #clock = new LeapingClock()
  readonly #database: Database
  readonly #remotes: Map<string, Driver>
  readonly #places: Record<string, Driver>
  #queue!: Queue
  #cache: Cache | undefined
  #filestore!: Filestore
  readonly #files = new Map<string, Content>()
  /** Deleted ones, which can be restored; those of which that is not certain are `maybe`. */
  readonly #deleted = new Map<string, Content & { deletedMs: number; maybe?: boolean }>()
  /** Known, but gone from the directory before there was a copy. */
  readonly #lost = new Map<string, Content>()
  /** How likely a call of a remote fails, and how likely its bytes are not what they should be. */
  #faults = 0
  #lies = 0
  #isPaused = false
  /** What was just being removed may have gone away with it, and be there when it is back. */
  #wasAway = false
  /** What was deleted went with the directory. */
  #hasLostTrash = false

  static async open(base: string, random: () => number, shape: Partial<FilestoreOptions> & { isCached: boolean }) {
    const world = new World(base, random, shape, await openDatabase(':memory:'))
    await world.#start()
    return world
  }

  private constructor(
    base: string,
    random: () => number,
    shape: Partial<FilestoreOptions> & { isCached: boolean },
    database: Database,
  ) {
    this.#base = base
    this.#random = random
    this.#shape = shape
    this.#database = database
    this.#places = { one: memoryDriver(), two: fileDriver({ directory: path.join(base, 'two'), fsync: false }) }
    const strike = (): FaultMoment | undefined =>
      random() < this.#faults ? this.#pick(['before', 'during', 'after'] as const) : undefined
    this.#remotes = new Map(
      Object.entries(this.#places).map(([name, place]) => [name, faulty(this.#lying(place), { strike })]),
    )
  }

  async #start() {
    const { isCached, ...shape } = this.#shape
    this.#queue = new Queue(this.#database, { clock: this.#clock, random: this.#random })
    if (isCached)
      this.#cache = await Cache.open({
        directory: path.join(this.#base, 'cache'),
        maxBytes: 900_000,
        hotBytes: 300_000,
      })
    this.#filestore = await Filestore.open({
      name: 'files',
      directory: path.join(this.#base, 'files'),
      remotes: this.#remotes,
      remote: this.#pick(['one', 'two']),
      database: this.#database,
      queue: this.#queue,
      clock: this.#clock,
      scanEveryMs: 0,
      ...(this.#cache && { cache: this.#cache }),
      ...shape,
    })
    await this.#soon(this.#filestore.start())
  }

  async close() {
    await this.#soon(this.#filestore.close())
    await this.#cache?.close()
    for (const place of Object.values(this.#places)) await place.close()
    await this.#database.close()
  }

  /** Does something, and compares some of what is then; everything now and then. */
  async step(): Promise<void> {
    const acts: [weight: number, act: () => Promise<void>][] = [
      [22, async () => this.#put()],
      [9, async () => this.#delete()],
      [7, async () => this.#restore()],
      [8, async () => this.#move()],
      [8, async () => this.#readPart()],
      [8, async () => this.#writeForeign()],
      [3, async () => this.#removeForeign()],
      [8, async () => this.#order()],
      [3, async () => this.#pause()],
      [4, async () => this.#trouble()],
      [8, async () => this.#jump()],
      [8, async () => this.#drain()],
      [1, async () => this.#restart()],
      [1, async () => this.#loseDirectory()],
      [1, async () => this.#loseCache()],
      [1, async () => this.#collect()],
    ]
    let dice = this.#random() * acts.reduce((sum, [weight]) => sum + weight, 0)
    const [, act] = acts.find(([weight]) => (dice -= weight) < 0) ?? [0, async () => undefined]
    await act()
    const isAll = this.#random() < 0.1
    for (const key of isAll ? keys : [this.#key(), this.#key()]) await this.#compare(key)
    await this.#compareAll()
  }

  async #put() {
    const key = this.#key()
    const dice = this.#random()
    const [isConditional, isStream] = [dice < 0.3, this.#random() < 0.5]
    const bytes = this.#bytes()
    const content: Content = {
      bytes,
      ...(this.#random() < 0.5 && { contentType: this.#pick(['image/png', 'text/plain; charset=utf-8']) }),
      ...(this.#random() < 0.5 && { metadata: { name: String(bytes.byteLength) } }),
    }
    const known = this.#files.get(key)
    const etag = known && this.#random() < 0.7 ? (await this.#soon(this.#filestore.driver.stat(key))).etag : 'another'
    const condition: WriteOptions = dice < 0.15 ? { ifAbsent: true } : isConditional && etag ? { ifMatch: etag } : {}
    const { bytes: _bytes, ...rest } = content
    // Times that come back again and again are how one file is taken for another.
    const modified = this.#random() < 0.5 ? { modified: new Date(1_700_000_000_000) } : {}
    const options = { ...rest, ...condition, ...modified, size: bytes.byteLength } as WriteOptions
    let expected = !known && this.#isBlocked(key) ? 'CONFLICT' : undefined
    if (condition.ifAbsent && known) expected = 'EXISTS'
    if (condition.ifMatch !== undefined && (!known || etag === 'another')) expected = 'CONFLICT'
    const { driver } = this.#filestore
    await this.#call(`put ${key} ${bytes.byteLength} ${Object.keys(condition).join()}`, expected, async () =>
      isStream ? driver.write(key, pieces(bytes), options) : driver.writeBytes?.(key, bytes, options),
    )
    if (expected === undefined) this.#set(key, content)
  }

  async #delete() {
    const key = this.#key()
    await this.#call(`delete ${key}`, undefined, async () => this.#filestore.driver.delete(key))
    const content = this.#files.get(key)
    if (content) this.#deleted.set(key, { ...content, deletedMs: this.#clock.now() })
    this.#files.delete(key)
    this.#lost.delete(key)
  }

  async #restore() {
    const key = this.#random() < 0.6 ? (this.#pick([...this.#deleted.keys()]) ?? this.#key()) : this.#key()
    const content = this.#deleted.get(key)
    const expected = this.#files.has(key)
      ? 'EXISTS'
      : content
        ? this.#isBlocked(key)
          ? 'CONFLICT'
          : undefined
        : 'NOT_FOUND'
    const isOver =
      content && (content.maybe || this.#clock.now() >= content.deletedMs + (this.#shape.deleteAfterMs ?? 0))
    const code = await this.#call(`restore ${key}`, isOver ? 'anything' : expected, async () =>
      this.#filestore.restore(key),
    )
    if (isOver) {
      if (code !== undefined) assert.ok(code === 'NOT_FOUND' || code === expected, `${code} instead of ${expected}`)
      if (code === 'NOT_FOUND') this.#deleted.delete(key)
    }
    if (!content || code !== undefined) return
    const { bytes, contentType, metadata } = content
    this.#set(key, { bytes, contentType, metadata })
  }

  async #move() {
    const [from, to] = [this.#key(), this.#key()]
    const ifAbsent = this.#random() < 0.3
    const content = this.#files.get(from)
    let expected: string | undefined
    if (!content) expected = 'NOT_FOUND'
    else if (from !== to && this.#files.has(to) && ifAbsent) expected = 'EXISTS'
    else if (from !== to && !this.#files.has(to) && this.#isBlocked(to)) expected = 'CONFLICT'
    const code = await this.#call(`move ${from} ${to} ${ifAbsent}`, expected, async () =>
      this.#filestore.driver.move?.(from, to, { ifAbsent }),
    )
    if (code !== undefined || !content || from === to) return
    this.#files.delete(from)
    this.#set(to, content)
  }

  async #readPart() {
    const key = this.#key()
    const content = this.#files.get(key)
    if (!content) return
    const start = Math.floor(this.#random() * (content.bytes.byteLength + 1))
    const end = start + 1 + Math.floor(this.#random() * (content.bytes.byteLength - start + 10))
    this.#tell(`read ${key} ${start} ${end}`)
    const found = await this.#read(key, { start, end })
    if (this.#isSound) assert.equal(found.code, undefined, `${key}: ${found.code}`)
    if (found.bytes) assert.ok(found.bytes.equals(content.bytes.subarray(start, end)), `a part of ${key} is wrong`)
  }

  /** Somebody writes into the directory, beside what we know of it. */
  async #writeForeign() {
    const key = this.#key()
    if (!this.#files.has(key) && this.#isBlocked(key)) return
    const bytes = this.#bytes()
    this.#tell(`foreign ${key} ${bytes.byteLength}`)
    const aside = path.join(this.#base, 'aside')
    fs.writeFileSync(aside, bytes)
    fs.mkdirSync(path.dirname(this.#path(key)), { recursive: true })
    fs.renameSync(aside, this.#path(key))
    // The very same bytes are the same file, with all that is known of it.
    const known = this.#files.get(key) ?? this.#lost.get(key)
    this.#set(key, known?.bytes.equals(bytes) ? known : { bytes })
    // A read or a scan notices it, or the kernel has told of it.
    if (this.#random() < 0.5) await this.#compare(key)
    await this.#soon(this.#filestore.scan())
  }

  async #removeForeign() {
    await this.#drain()
    // What is on its way now may arrive all the same.
    if (!this.#isSound || this.#isPaused) return
    const key = this.#pick([...this.#files.keys()])
    if (key === undefined || !fs.existsSync(this.#path(key))) return
    const [row] = await this.#database.query('SELECT cloud FROM files WHERE key = ?', key)
    this.#tell(`unlink ${key}, which is ${row?.['cloud'] === 1 ? '' : 'not '}in the cloud`)
    fs.rmSync(this.#path(key))
    this.#removeEmptyParents(key)
    const content = this.#files.get(key)
    if (content && row?.['cloud'] !== 1) {
      this.#files.delete(key)
      this.#lost.set(key, content)
    }
    if (this.#random() < 0.5) await this.#compare(key)
    await this.#soon(this.#filestore.scan())
  }

  /** A directory that somebody left empty would be in the way of a file of its name. */
  #removeEmptyParents(key: string) {
    for (let parent = path.dirname(key); parent !== '.'; parent = path.dirname(parent)) {
      if (fs.readdirSync(this.#path(parent)).length > 0) return
      fs.rmdirSync(this.#path(parent))
    }
  }

  async #order() {
    const prefix = this.#pick(['', 'a', 'b/'])
    const [from = '', to = ''] = this.#pick([
      ['one', 'two'],
      ['two', 'one'],
    ])
    const order = this.#pick([
      { kind: 'offload', prefix },
      { kind: 'recall', prefix, drop: this.#random() < 0.5 },
      { kind: 'migrate', prefix, from, to, drop: this.#random() < 0.7 },
    ] as const)
    await this.#call(JSON.stringify(order), undefined, async () => this.#filestore.move(order))
    if (this.#random() < 0.2) await this.#call('stop', undefined, async () => this.#filestore.stopMoving())
  }

  async #pause() {
    this.#isPaused = !this.#isPaused
    const remote = this.#pick([undefined, 'one', 'two'])
    if (this.#isPaused) await this.#call(`pause ${remote}`, undefined, async () => this.#filestore.pause(remote))
    else await this.#call('resume', undefined, async () => this.#filestore.resume())
  }

  /** Remotes that fail, or give and take other bytes than they should, or are well again. */
  async #trouble() {
    const isBad = this.#isSound && this.#random() < 0.7
    this.#faults = isBad ? this.#random() * 0.5 : 0
    this.#lies = isBad ? this.#pick([0, 0.1, 0.3]) : 0
    this.#tell(`faults ${this.#faults}, lies ${this.#lies}`)
    // What was found to be damaged is not asked for again for ten minutes, unless somebody says so.
    if (!isBad) await this.#call('retry', undefined, async () => this.#filestore.retry())
  }

  get #isSound(): boolean {
    return this.#faults === 0 && this.#lies === 0
  }

  async #jump() {
    const ms = this.#pick([1000, 60_000, 11 * 60_000, hourMs, dayMs, 11 * dayMs])
    this.#tell(`${ms} ms pass`)
    this.#clock.leap(ms)
  }

  /** What can be done is done. */
  async #drain() {
    this.#tell('drain')
    const hasTrouble = this.#isPaused || !this.#isSound
    for (let turn = 0; ; turn++) {
      await this.#turn(1000)
      const counts = await this.#queue.counts()
      const isDue = ({ oldestMs = Infinity }: { oldestMs?: number | undefined }) =>
        oldestMs <= this.#clock.now() + 10_000
      if (!counts.some((each) => each.running > 0 || isDue(each))) break
      if (hasTrouble && turn > 20) return
      assert.ok(turn < 5000, `it does not come to rest: ${JSON.stringify(counts)}`)
    }
    if (hasTrouble) return
    const { move, queues } = await this.#filestore.status()
    assert.deepEqual(
      queues.filter(({ setAside }) => setAside > 0),
      [],
      'nothing is set aside',
    )
    if (move && this.#isDueSoon(queues)) assert.notEqual(move.state, 'running')
    for (const [key, { deletedMs }] of this.#deleted)
      if (deletedMs + (this.#shape.deleteAfterMs ?? 0) <= this.#clock.now()) this.#deleted.delete(key)
  }

  #isDueSoon(queues: readonly { queue: string; waiting: number }[]): boolean {
    return queues.every(({ queue, waiting }) => queue !== 'move' || waiting === 0)
  }

  async #restart() {
    this.#tell('restart')
    await this.#soon(this.#filestore.close())
    await this.#cache?.close()
    await this.#start()
  }

  /** The disk of the directory is away for a while; or it is gone, when there is nothing on it that is nowhere else. */
  async #loseDirectory() {
    await this.#drain()
    if (!this.#isSound || this.#isPaused) return
    const [row] = await this.#database.query(
      'SELECT COUNT(*) AS files FROM files WHERE local IS NOT NULL AND cloud = 0 AND deleted_ms IS NULL',
    )
    const files = path.join(this.#base, 'files')
    const isNeeded = row?.['files'] !== 0
    this.#tell(`the directory is away, ${isNeeded ? '' : 'not '}needed`)
    fs.renameSync(files, `${files}-away`)
    this.#wasAway = true
    for (const [key, { bytes }] of this.#files) {
      const [where] = await this.#database.query('SELECT cloud FROM files WHERE key = ?', key)
      const found = await this.#read(key)
      if (where?.['cloud'] === 1) assert.ok(found.bytes?.equals(bytes), `${key} is in the cloud: ${found.code}`)
      else assert.equal(found.code, 'UNREACHABLE', `${key} is away`)
    }
    if (isNeeded || this.#random() < 0.5) {
      fs.rmSync(files, { recursive: true, force: true })
      fs.renameSync(`${files}-away`, files)
    } else {
      fs.rmSync(`${files}-away`, { recursive: true })
      this.#hasLostTrash = true
      for (const content of this.#deleted.values()) content.maybe = true
      await this.#put()
    }
    await this.#soon(this.#filestore.scan())
  }

  async #loseCache() {
    this.#tell('the cache is emptied by somebody')
    const blocks = path.join(this.#base, 'cache', 'blocks')
    fs.rmSync(blocks, { recursive: true, force: true, maxRetries: 10 })
  }

  async #collect() {
    await this.#drain()
    this.#tell('gc')
    const orphans = await this.#soon(Array.fromAsync(this.#filestore.gc({ delete: true }))).catch((error: unknown) => {
      if (this.#isSound) throw error
      return []
    })
    assert.deepEqual(
      orphans.filter(({ kind }) => kind === 'unknown'),
      [],
    )
  }

  /** Reads a file, and looks at it. */
  async #compare(key: string) {
    const content = this.#files.get(key)
    const found = await this.#read(key)
    if (!content) return assert.ok(found.code === 'NOT_FOUND', `${key} should be absent, not ${found.code ?? 'there'}`)
    if (found.code !== undefined) {
      assert.ok(!this.#isSound && /UNREACHABLE|CORRUPT/.test(found.code), `${key} cannot be read: ${found.code}`)
    } else assert.ok(found.bytes?.equals(content.bytes), `${key} has other bytes, ${found.bytes?.byteLength}`)
    const info = await this.#soon(this.#filestore.driver.stat(key))
    const { size, contentType, metadata } = info
    const { bytes, ...expected } = content
    assert.deepEqual(
      { size, contentType, metadata },
      { size: bytes.byteLength, contentType: expected.contentType, metadata: expected.metadata },
      key,
    )
  }

  async #compareAll() {
    const { driver } = this.#filestore
    const infos: FileInfo[] = [...this.#files].map(([key, { bytes }]) => ({ key, size: bytes.byteLength }))
    infos.sort((a, b) => compareKeys(a.key, b.key))
    const directory = this.#random() < 0.5 ? '' : this.#pick(['a', 'b', 'b/d'])
    const options = {
      recursive: this.#random() < 0.5,
      ...(this.#random() < 0.5 && { after: this.#pick([...keys, 'a/', 'b/']) }),
    }
    const listed = await this.#soon(Array.fromAsync(driver.list(directory, options)))
    assert.deepEqual(
      listed.map((entry) => (entry.kind === 'file' ? `${entry.key} ${entry.size}` : entry.key)),
      [...entriesBelow(infos, directory, options)].map((entry) =>
        entry.kind === 'file' ? `${entry.key} ${entry.size}` : entry.key,
      ),
      `listing of ${directory} ${JSON.stringify(options)}`,
    )
    const { media, local, cloud, both, lost } = await this.#filestore.status()
    assert.equal(lost.files, this.#lost.size, 'lost files')
    assert.equal(media.files, this.#files.size + this.#lost.size, 'files')
    assert.equal(
      media.bytes - lost.bytes,
      infos.reduce((sum, { size }) => sum + size, 0),
      'bytes',
    )
    assert.equal(local.bytes + cloud.bytes - both.bytes, media.bytes - lost.bytes)
  }

  /** At rest, nothing is anywhere but what is recorded. */
  async rest() {
    this.#tell('rest')
    ;[this.#faults, this.#lies, this.#isPaused] = [0, 0, false]
    await this.#soon(this.#filestore.resume())
    await this.#soon(this.#filestore.retry())
    this.#clock.leap(11 * dayMs)
    await this.#soon(this.#filestore.scan())
    await this.#drain()
    await this.#collect()
    await this.#drain()
    for (const key of keys) await this.#compare(key)
    await this.#compareAll()
    const faults = await this.#soon(Array.fromAsync(this.#filestore.verify({ content: true })))
    assert.deepEqual(
      faults.filter(({ problem }) => problem !== 'lost'),
      [],
    )
    for (const [remote, place] of Object.entries(this.#places)) {
      const there = (await Array.fromAsync(place.list(''))).map(({ key }) => key)
      const rows = await this.#database.query('SELECT remote_key FROM replicas WHERE remote = ?', remote)
      assert.deepEqual(there, rows.map((row) => String(row['remote_key'])).sort(compareKeys), `what is at ${remote}`)
    }
    // What was handed over last may just be going.
    await this.#soon(this.#filestore.close())
    const isKnownLost = this.#hasLostTrash ? ' AND deleted_ms IS NULL' : ''
    const rows = await this.#database.query(`SELECT * FROM files WHERE local IS NOT NULL${isKnownLost}`)
    const names = rows.map((row) =>
      row['deleted_ms'] === null ? String(row['key']) : `.stowage-trash/${row['version']}`,
    )
    const here = fs.readdirSync(path.join(this.#base, 'files'), { recursive: true, withFileTypes: true })
    const found = here.flatMap((entry) =>
      entry.isFile() ? [path.relative(path.join(this.#base, 'files'), path.join(entry.parentPath, entry.name))] : [],
    )
    const mayStay = (name: string) =>
      name === '.stowage-directory' ||
      (this.#hasLostTrash && name.startsWith('.stowage-trash/')) ||
      (this.#wasAway && name.startsWith('.stowage-trash/removing/'))
    assert.deepEqual(
      found.filter((name) => !mayStay(name)).sort(compareKeys),
      names.sort(compareKeys),
      'the local directory',
    )
  }

  async #read(key: string, range?: { start: number; end: number }): Promise<{ bytes?: Buffer; code?: string }> {
    try {
      const { body } = await this.#soon(this.#filestore.driver.read(key, range ? { range } : {}))
      return { bytes: Buffer.concat((await this.#soon(body.toArray())) as Buffer[]) }
    } catch (error) {
      return { code: codeIn(error) }
    }
  }

  /** Makes a call and compares its code with what is expected; gives it back. */
  async #call(what: string, expected: string | undefined, work: () => Promise<unknown>): Promise<string | undefined> {
    this.#tell(what)
    let code: string | undefined
    let message = ''
    try {
      await this.#soon(work())
    } catch (error) {
      code = codeIn(error)
      message = (error as Error).message
    }
    if (expected !== 'anything') assert.equal(code, expected, `${what}: ${message}`)
    return code
  }

  /** Waits for work, and lets as much time pass as it sleeps meanwhile. */
  async #soon<T>(work: Promise<T>): Promise<T> {
    let isDone = false
    const done = work.then(
      () => (isDone = true),
      () => (isDone = true),
    )
    for (let turns = 0; !isDone; turns++) {
      await this.#turn(turns < 20 ? 0 : 1000)
      assert.ok(turns < 100_000, 'it does not end')
    }
    await done
    return work
  }

  /** Lets everybody run, and some time pass. */
  async #turn(ms: number) {
    await new Promise((resolve) => setImmediate(resolve))
    this.#clock.leap(ms)
  }

  #set(key: string, content: Content) {
    this.#files.set(key, content)
    this.#deleted.delete(key)
    this.#lost.delete(key)
  }

  /** Does a file stand where this one would need a directory, or the other way round? */
  #isBlocked(key: string): boolean {
    return [...this.#files.keys()].some((each) => each.startsWith(`${key}/`) || key.startsWith(`${each}/`))
  }

  /** The place with bytes that change on their way, in both directions. */
  #lying(place: Driver): Driver {
    const { location, supports } = place
    const lie = () => {
      const at = this.#random() < this.#lies ? Math.floor(this.#random() * 1000) : -1
      let offset = 0
      return (chunk: Uint8Array) => {
        const index = at - offset
        offset += chunk.byteLength
        if (index < 0 || index >= chunk.byteLength || at < 0) return chunk
        const other = Buffer.from(chunk)
        other[index] = (other[index] ?? 0) ^ 1
        return other
      }
    }
    return {
      location,
      supports,
      stat: async (key, call) => place.stat(key, call),
      list: (directory, call) => place.list(directory, call),
      delete: async (key, call) => place.delete(key, call),
      close: async () => undefined,
      write: async (key, body, call) => {
        const change = lie()
        const changed = async function* () {
          for await (const chunk of body) yield change(chunk)
        }
        return place.write(key, changed(), call)
      },
      read: async (key, call): Promise<OpenFile> => {
        const { info, body } = await place.read(key, call)
        const change = lie()
        const transform = new Transform({
          transform: (chunk: Buffer, _encoding, callback) => callback(null, change(chunk)),
        })
        return { info, body: pipeline(body, transform, () => undefined) as Readable }
      },
    }
  }

  #path(key: string): string {
    return path.join(this.#base, 'files', key)
  }

  #key(): string {
    return this.#pick(keys)
  }

  #bytes(): Buffer {
    const dice = this.#random()
    const size = dice < 0.1 ? 0 : dice < 0.3 ? 100 : Math.floor(this.#random() * (dice < 0.9 ? 3000 : 700_000))
    return Buffer.alloc(size, `${this.#random()}.`)
  }

  #pick<T>(from: readonly T[]): T {
    return from[Math.floor(this.#random() * from.length)] as T
  }

  #tell(what: string) {
    this.story.push(what)
  }
}

/** Time that passes when it is told to, all at once, as when a machine has been asleep. */
class LeapingClock implements Clock {
  #now = Date.now()
  readonly #sleepers = new Set<{ until: number; wake: () => void }>()

  now(): number {
    return this.#now
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = {
        until: this.#now + ms,
        wake: () => {
          signal?.removeEventListener('abort', leave)
          this.#sleepers.delete(sleeper)
          resolve()
        },
      }
      const leave = () => {
        this.#sleepers.delete(sleeper)
        reject(new StowageError('ABORTED', 'The wait was cancelled.'))
      }
      if (signal?.aborted) return leave()
      this.#sleepers.add(sleeper)
      signal?.addEventListener('abort', leave, { once: true })
    })
  }

  leap(ms: number): void {
    this.#now += ms
    for (const { until, wake } of this.#sleepers) if (until <= this.#now) wake()
  }
}

async function* pieces(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += 100_000) yield bytes.subarray(at, at + 100_000)
}

function codeIn(error: unknown): string {
  const { code } = error as { code?: string }
  if (code === undefined || code === 'UNKNOWN') throw error
  return code
}

/** Small seeded generator (mulberry32, public domain algorithm by Tommy Ettinger). */
function seeded(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
