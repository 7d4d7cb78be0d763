/**
 * A filestore on a real directory and a real database, for tests: its remotes count what is asked of them and misbehave as
 * told, and its time passes when a test says so.
 */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { Readable } from 'node:stream'
import type { TestContext } from 'node:test'
import { Cache, type CacheOptions } from '../../src/cache/cache.ts'
import { collect } from '../../src/core/bytes.ts'
import type { Clock } from '../../src/core/clock.ts'
import { StowageError } from '../../src/core/errors.ts'
import type { Log } from '../../src/core/log.ts'
import { fileVersion } from '../../src/drivers/file.ts'
import { memoryDriver } from '../../src/drivers/memory.ts'
import type { FilestoreEvents } from '../../src/filestore/events.ts'
import { Filestore, type FilestoreOptions } from '../../src/filestore/filestore.ts'
import { openDatabase, type Database } from '../../src/state/database.ts'
import { Queue } from '../../src/state/queue.ts'
import type { Driver, Supports } from '../../src/store/driver.ts'
import { Store } from '../../src/store/store.ts'

/** A minute and a day, in milliseconds. */
export const minute = 60_000
export const day = 86_400_000

/** One thing that was asked of a remote. */
export interface Call {
  operation: 'read' | 'write' | 'stat' | 'delete' | 'deleteMany'
  key: string
  range?: { start: number; end?: number }
}

/** A remote: what is really there, what was asked of it, and what it is to do wrong. */
export interface Remote {
  /** What the filestore has. */
  driver: Driver
  /** The truth. */
  inner: Driver
  calls: Call[]
  /** Called before each call; it may throw, or wait. */
  before?: ((call: Call) => void | Promise<void>) | undefined
  /** Changes what is stored. */
  garble?: ((bytes: Buffer) => Buffer) | undefined
  /** Changes the bodies that are read. */
  altered?: ((body: AsyncIterable<Buffer>, call: Call) => AsyncIterable<Buffer>) | undefined
  /** Keys that were asked for by this operation, in order. */
  asked(operation: Call['operation']): string[]
  /** What is there, by key. */
  contents(): Promise<Record<string, string>>
}

/** Makes a remote of a driver, by default one in memory. */
export function remote(inner = memoryDriver(), supports: Partial<Supports> = {}, location = inner.location): Remote {
  const calls: Call[] = []
  const note = async (call: Call) => {
    calls.push(call)
    await self.before?.(call)
  }
  const driver: Driver = {
    location,
    supports: { ...inner.supports, ...supports },
    read: async (key, options = {}) => {
      const call: Call = { operation: 'read', key, ...(options.range && { range: options.range }) }
      await note(call)
      const { range: _range, ...rest } = options
      const { info, body } = await inner.read(key, driver.supports.range ? options : rest)
      if (!self.altered) return { info, body }
      return { info, body: Readable.from(self.altered(body as AsyncIterable<Buffer>, call), { objectMode: false }) }
    },
    write: async (key, body, options) => {
      await note({ operation: 'write', key })
      if (!self.garble) return inner.write(key, body, options)
      const bytes = self.garble(await collect(body))
      return inner.write(key, once(bytes), { ...options, size: bytes.byteLength })
    },
    stat: async (key, options) => {
      await note({ operation: 'stat', key })
      return inner.stat(key, options)
    },
    list: (directory, options) => inner.list(directory, options),
    delete: async (key, options) => {
      await note({ operation: 'delete', key })
      return inner.delete(key, options)
    },
    deleteMany: async (keys, options) => {
      await note({ operation: 'deleteMany', key: [...keys].sort().join(' ') })
      for (const key of keys) await inner.delete(key, options)
    },
    close: async () => undefined,
  }
  const self: Remote = {
    driver,
    inner,
    calls,
    asked: (operation) => calls.filter((call) => call.operation === operation).map(({ key }) => key),
    contents: async () => contentsOf(inner),
  }
  return self
}

/** All files of a driver with their contents. */
export async function contentsOf(driver: Driver): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  for await (const entry of driver.list(''))
    found[entry.key] = (await collect((await driver.read(entry.key)).body as AsyncIterable<Buffer>)).toString()
  return found
}

/** A clock that stands still until it is advanced, and whose hands can be moved without time passing. */
export interface TestClock extends Clock {
  advance(ms: number): Promise<void>
  /** Somebody sets the clock. */
  jump(ms: number): void
  /** Until the next sleep ends; undefined when nobody sleeps. */
  nextMs(): number | undefined
}

/** Longer spans pass in steps of an hour, in which all who sleep wake once: there are weeks to pass. */
const longMs = 2 * 60 * minute
const stepMs = 60 * minute

function testClock(): TestClock {
  let now = Date.now()
  let offset = 0
  const sleepers = new Set<{ atMs: number; wake: () => void }>()
  const next = () => (sleepers.size === 0 ? undefined : Math.min(...[...sleepers].map(({ atMs }) => atMs)))
  const wake = async () => {
    for (const sleeper of [...sleepers].sort((a, b) => a.atMs - b.atMs)) if (sleeper.atMs <= now) sleeper.wake()
    await turn()
  }
  return {
    now: () => now + offset,
    jump: (ms) => void (offset += ms),
    nextMs: () => {
      const at = next()
      return at === undefined ? undefined : at - now
    },
    sleep: async (ms, signal) =>
      new Promise((resolve, reject) => {
        const end = (settle: () => void) => () => {
          sleepers.delete(sleeper)
          signal?.removeEventListener('abort', cancel)
          settle()
        }
        const cancel = end(() => reject(new StowageError('ABORTED', 'The wait was cancelled.')))
        const sleeper = { atMs: now + Math.max(0, ms), wake: end(resolve) }
        sleepers.add(sleeper)
        if (signal?.aborted) cancel()
        else signal?.addEventListener('abort', cancel)
      }),
    async advance(ms) {
      const end = now + ms
      await turn()
      while (now < end) {
        now = Math.max(now, Math.min(end, ms > longMs ? now + stepMs : (next() ?? end)))
        await wake()
      }
      await wake()
    },
  }
}

/** What a scene is made of, besides the options of the filestore. */
export interface SceneOptions extends Partial<Omit<FilestoreOptions, 'remotes' | 'cache'>> {
  /** Default: one by the name of `cloud`. */
  remotes?: Record<string, Remote>
  /** Finds remotes in their place. */
  lookUp?: Extract<FilestoreOptions['remotes'], (...parameters: never[]) => unknown>
  cache?: Partial<CacheOptions>
  /** Default: a directory of its own. */
  base?: string
  /** Do not start it. */
  isIdle?: boolean
}

/** Events by what they say, without what differs from run to run. */
type Told = { [Name in keyof FilestoreEvents]: { name: Name; event: FilestoreEvents[Name] } }[keyof FilestoreEvents]

/** A filestore and all around it. */
export interface Scene {
  base: string
  clock: TestClock
  remotes: Record<string, Remote>
  /** The remote of that name, by default `cloud`. */
  remote(name?: string): Remote
  filestore: Filestore
  store: Store
  database: Database
  cache: Cache | undefined
  messages: string[]
  events: Told[]
  /** Keys of the events of a name, in order. */
  told(name: keyof FilestoreEvents): string[]
  /** Where a file is on disk. */
  file(key: string): string
  isLocal(key: string): boolean
  /** Contents of the files there are, as the filestore tells them. */
  contents(): Promise<Record<string, string>>
  /** Lets time pass, and what is due then be done. */
  pass(ms: number): Promise<void>
  /** Waits until nothing that is due is left to do. */
  quiet(): Promise<void>
  /** Waits for something to become true. */
  until(what: string, isTrue: () => unknown): Promise<void>
  /** Lets pauses of less than ten seconds pass for as long as this takes. */
  patiently<T>(work: Promise<T>): Promise<T>
  /** Ends it as a process does, and opens it again. */
  reopen(options?: SceneOptions): Promise<void>
  close(): Promise<void>
}

const log = (messages: string[]): Log => {
  const say = (message: string) => void messages.push(message)
  return { debug: say, info: say, warn: say, error: say }
}

/** Opens a filestore that is scanned only when a test says so. */
export async function scene(t: TestContext, given: SceneOptions = {}): Promise<Scene> {
  const base = given.base ?? fs.mkdtempSync(path.join(tmpdir(), 'stowage-filestore-'))
  if (!given.base) t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const parts = { messages: [] as string[], events: [] as Told[], clock: testClock() }
  const s = { base, ...parts, ...actions(), remotes: given.remotes ?? { cloud: remote() } } as unknown as Scene
  await open(s, given)
  t.after(async () => s.close())
  return s

  function actions(): Partial<Scene> {
    return {
      remote: (name = 'cloud') => s.remotes[name] as Remote,
      told: (name) => s.events.filter((each) => each.name === name).map(({ event }) => event.key),
      file: (key) => path.join(base, 'files', key),
      isLocal: (key) => fs.existsSync(s.file(key)),
      contents: async () => contentsOf(s.filestore.driver),
      pass: async (ms) => {
        await s.quiet()
        await s.clock.advance(ms)
        await s.quiet()
      },
      quiet: async () => s.until('nothing is left to do', async () => isQuiet(s)),
      until,
      patiently: async (work) => patiently(s.clock, work),
      reopen: async (options = {}) => {
        await s.close()
        await open(s, { ...given, ...options })
      },
    }
  }
}

async function open(s: Scene, { remotes, lookUp, cache, isIdle = false, base: _base, ...options }: SceneOptions) {
  const { base, clock } = s
  if (remotes) s.remotes = remotes
  const drivers = Object.entries(s.remotes).map(([name, { driver }]) => [name, driver] as const)
  s.database = await openDatabase(path.join(base, 'state.db'))
  s.cache = cache && (await Cache.open({ directory: path.join(base, 'cache'), now: () => clock.now(), ...cache }))
  s.filestore = await Filestore.open({
    name: 'files',
    directory: path.join(base, 'files'),
    scanEveryMs: 0,
    watch: false, // what a test does to files is noticed when it says so
    remotes: lookUp ?? new Map(drivers),
    database: s.database,
    queue: new Queue(s.database, { clock, random: () => 1 }),
    clock,
    log: log(s.messages),
    ...(s.cache && { cache: s.cache }),
    ...options,
  })
  s.store = new Store(s.filestore.driver)
  let isClosed = false
  const { filestore, database, cache: opened } = s
  s.close = async () => {
    if (isClosed) return
    isClosed = true
    await filestore.close()
    await opened?.close()
    await database.close()
  }
  const names = ['stored', 'queued', 'uploaded', 'fetched', 'evicted', 'deleted', 'failed'] as const
  for (const name of names) filestore.on(name, (event) => s.events.push({ name, event } as Told))
  if (!isIdle) await filestore.start()
}

/** Is nothing in hand, nothing due but for those that rest, and no local file on its way out? */
async function isQuiet(s: Scene): Promise<boolean> {
  const { paused, troubles } = await s.filestore.status()
  const resting = [...paused, ...troubles.map((each) => each.remote)]
  const isResting = paused.includes('*') ? "grp <> ''" : `grp IN (${resting.map((each) => `'${each}'`).join(', ')})`
  const open = await s.database.query(
    `SELECT key FROM jobs WHERE state = 'running' OR (state = 'waiting' AND due_ms <= ? AND NOT (${isResting}))`,
    s.clock.now(),
  )
  if (open.length > 0) return false
  const gone = await s.database.query(
    `SELECT key, former FROM files WHERE store = 'files' AND local IS NULL AND deleted_ms IS NULL`,
  )
  return !gone.some(({ key, former }) => {
    const stats = fs.lstatSync(s.file(String(key)), { bigint: true, throwIfNoEntry: false })
    return stats && fileVersion(stats) === former
  })
}

/** Looks again whenever anything may have happened. Rejects when it has not become true after 20 s. */
async function until(what: string, isTrue: () => unknown): Promise<void> {
  const late = Date.now() + 20_000
  while (!(await isTrue())) {
    assert.ok(Date.now() < late, `it never came to this: ${what}`)
    await turn()
  }
}

async function patiently<T>(clock: TestClock, work: Promise<T>): Promise<T> {
  let isDone = false
  const end = () => void (isDone = true)
  work.then(end, end)
  while (!isDone) {
    await turn()
    const next = clock.nextMs()
    if (next !== undefined && next < 10_000) await clock.advance(Math.max(0, next))
  }
  return work
}

async function turn() {
  await new Promise((resolve) => setImmediate(resolve))
}

/** Something that stays closed until it is opened; those who come by wait. */
export function gate(): { open: () => void; opened: Promise<void>; reached: Promise<void>; pass: () => Promise<void> } {
  const opened = Promise.withResolvers<void>()
  const reached = Promise.withResolvers<void>()
  const pass = async () => {
    reached.resolve()
    await opened.promise
  }
  return { open: opened.resolve, opened: opened.promise, reached: reached.promise, pass }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
