/**
 * A filestore with a million files and as many uploads that wait: what its users wait for, beside the same done without it.
 * Each part is a process of its own.
 */
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import * as sync from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { setImmediate } from 'node:timers/promises'
import { Cache } from '../src/cache/cache.ts'
import { systemClock } from '../src/core/clock.ts'
import { fileVersion } from '../src/drivers/file.ts'
import { memoryDriver } from '../src/drivers/memory.ts'
import { Filestore } from '../src/filestore/filestore.ts'
import { openDatabase } from '../src/state/database.ts'
import { Queue } from '../src/state/queue.ts'
import { workplace } from './scene.ts'

const million = 1_000_000
const users = 20_000
const cachedFiles = 1000
const bytes = Buffer.alloc(4096, 'x')
/** Every tenth file is local, the others are in the cloud. */
const isLocal = (index: number) => index % 10 === 0
const isAway = (index: number) => !isLocal(index)
const day = 'archive/2026/11/21'

const roles: Record<string, (base: string) => Promise<Figures>> = { fill, look, list, puts, plain, queues, scan, again }
const [role, place = ''] = process.argv.slice(2)
if (role === undefined) main()
else console.log(JSON.stringify(await roles[role]?.(place)))

type Figures = Record<string, string>

function main() {
  // On a disk: in memory durability costs nothing.
  const base = workplace('/tmp')
  for (const name of Object.keys(roles)) {
    const output = execFileSync(process.execPath, [import.meta.filename, name, base], { encoding: 'utf8' })
    console.log(`\n${name}`)
    for (const [what, figure] of Object.entries(JSON.parse(output) as Figures)) console.log(what.padEnd(60), figure)
  }
}

/** In their order: photographs, 1,458 to a day, and one file of each user. */
function keyOf(index: number): string {
  if (index >= million - users) return `users/${index}/portrait.jpg`
  const two = (value: number) => String(value).padStart(2, '0')
  const days = Math.floor(index / 1458)
  const date = [2025 + Math.floor(days / 336), two((Math.floor(days / 28) % 12) + 1), two((days % 28) + 1)]
  return `archive/${date.join('/')}/photograph-${100_000 + index}.jpg`
}

/** Written past the program, but for the first file. */
async function fill(base: string): Promise<Figures> {
  const file = path.join(base, 'state.db')
  {
    await using store = await open(base)
    await store.driver.writeBytes?.('first', bytes)
  }
  const engine = new DatabaseSync(file)
  engine.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA cache_size = -500000; BEGIN')
  const now = Date.now()
  const begun = performance.now()
  const addFile = engine.prepare(`INSERT INTO files (store, key, version, size, modified_ms, changed_ms, content_type,
    local, cloud, sha256, checksums) VALUES ('files', ?, ?, 4096, ?, ?, 'image/jpeg', ?, ?, ?, 'AAAAAA==')`)
  const addReplica =
    engine.prepare(`INSERT INTO replicas (remote, remote_key, store, key, location, version, state, etag)
    VALUES ('cloud', ?, 'files', ?, 's3://s3.eu-central-1.amazonaws.com/archive', ?, 'present', ?)`)
  const versions = new Map<string, string>()
  const wanted = new Set(someOf(cachedFiles, isAway))
  for (let index = 0; index < million; index++) {
    const key = keyOf(index)
    const version = randomBytes(12).toString('base64url')
    const local = isLocal(index) ? writeLocal(path.join(base, 'files', key)) : null
    addFile.run(key, version, now, now, local, local === null ? 1 : 0, randomBytes(32).toString('hex'))
    if (local === null) addReplica.run(key, key, version, randomBytes(16).toString('hex'))
    if (wanted.has(key)) versions.set(key, version)
  }
  engine.exec('COMMIT')
  const filesMegabytes = megabytesOf(file)
  engine.exec('BEGIN')
  addJobs(engine, million, now + 600_000)
  engine.exec('COMMIT; PRAGMA wal_checkpoint(TRUNCATE)')
  engine.close()
  const seconds = (performance.now() - begun) / 1000
  await using cache = await Cache.open({ directory: path.join(base, 'cache') })
  await fs.writeFile(path.join(base, 'adopted'), bytes)
  for (const [key, etag] of versions) await cache.adopt('files', path.join(base, 'adopted'), { key, size: 4096, etag })
  return {
    'filled in, s': seconds.toFixed(0),
    'database with a million files, MB': filesMegabytes.toFixed(0),
    'and with a million jobs': megabytesOf(file).toFixed(0),
  }
}

function writeLocal(file: string): string {
  sync.mkdirSync(path.dirname(file), { recursive: true })
  sync.writeFileSync(file, bytes)
  return fileVersion(sync.lstatSync(file, { bigint: true }))
}

/** Uploads in the order of their time, of every tenth to another remote. */
function addJobs(engine: DatabaseSync, count: number, dueMs: number) {
  const add = engine.prepare(`INSERT INTO jobs (queue, key, grp, payload, state, due_ms, attempt, token)
    VALUES ('offload:files', ?, ?, 'null', 'waiting', ?, 0, 0)`)
  for (let index = 0; index < count; index++) add.run(keyOf(index), index % 10 === 9 ? 'other' : 'cloud', dueMs + index)
}

/** Without its write-ahead log. */
function megabytesOf(file: string): number {
  const engine = new DatabaseSync(file, { readOnly: true })
  const pages = engine.prepare('SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size').get()
  engine.close()
  return Number(pages?.['bytes']) / 1e6
}

async function open(base: string) {
  const database = await openDatabase(path.join(base, 'state.db'))
  const queue = new Queue(database, { clock: systemClock })
  const cache = await Cache.open({ directory: path.join(base, 'cache') })
  const remotes = new Map([
    ['cloud', memoryDriver()],
    ['other', memoryDriver()],
  ])
  const directory = path.join(base, 'files')
  const options = { name: 'files', directory, remotes, remote: 'cloud', database, queue, cache }
  const filestore = await Filestore.open(options)
  const close = async () => {
    await filestore.close()
    await cache.close()
    await database.close()
  }
  return { filestore, driver: filestore.driver, queue, [Symbol.asyncDispose]: close }
}

async function look(base: string): Promise<Figures> {
  const [cloud, local, adopted] = [someOf(2000, isAway), someOf(2000, isLocal), someOf(cachedFiles, isAway)]
  const figures: Figures = {}
  {
    await using store = await open(base)
    const { filestore, driver } = store
    const stat = async (key: string) => driver.stat?.(key)
    // At first the pages of the database may be on the disk only.
    figures['stat of an offloaded file for the first time, ms'] = await times(cloud, stat)
    figures['stat of an offloaded file'] = await times(cloud, stat)
    figures['stat of a local file'] = await times(local, stat)
    figures['fs.stat of it'] = await times(local, async (key) => fs.stat(path.join(base, 'files', key)))
    figures['stat of a file that is not there'] = await times(cloud, async (key) => stat(`${key}x`).catch(() => 0))
    figures['status'] = await times(cloud.slice(0, 200), async () => filestore.status())
    const read = async (key: string) => {
      let size = 0
      for await (const chunk of (await driver.read(key)).body as AsyncIterable<Buffer>) size += chunk.byteLength
      if (size !== bytes.byteLength) throw new Error(`${size} bytes of ${key}`)
    }
    const repeated = Array.from({ length: 5 }, () => adopted).flat()
    figures['open and read 4 KiB in the cache'] = await times(repeated, read)
    figures['open and read 4 KiB, local'] = await times(local, read)
    figures['fs.readFile of it'] = await times(local, async (key) => fs.readFile(path.join(base, 'files', key)))
  }
  const engine = new DatabaseSync(path.join(base, 'state.db'))
  const select = engine.prepare(`SELECT * FROM files WHERE store = 'files' AND key = ?`)
  figures['node:sqlite alone, one row'] = await times(cloud, async (key) => select.get(key))
  engine.close()
  return { ...figures, ...memory() }
}

async function list(base: string): Promise<Figures> {
  const figures: Figures = {}
  const starts = someOf(200, () => true)
  {
    await using store = await open(base)
    const { driver } = store
    const page = async (directory: string, after: string, recursive: boolean) => {
      let count = 0
      for await (const entry of driver.list?.(directory, { after, recursive }) ?? [])
        if (entry.key !== after && ++count === 1000) break
      return count
    }
    figures['list, a page of 1,000 anywhere, ms'] = await times(starts, async (key) => page('', key, true))
    figures['list, one level, 1,000 files of a day'] = await times(starts, async () => page(day, `${day}/p`, false))
    figures['list, one level, 1,000 of 20,000 directories'] = await times(starts, async (_, index) =>
      page('users', `users/${million - users + index * 90}`, false),
    )
    figures['list, one level, the 28 directories of a month'] = await times(starts, async () =>
      page('archive/2026/11', '', false),
    )
  }
  const engine = new DatabaseSync(path.join(base, 'state.db'))
  const rows = engine.prepare(`SELECT key, version, size, modified_ms, content_type, metadata, sha256 FROM files
    WHERE store = 'files' AND key > ? AND deleted_ms IS NULL AND (local IS NOT NULL OR cloud = 1) ORDER BY key LIMIT 1000`)
  figures['node:sqlite alone, 1,000 rows anywhere'] = await times(starts, async (key) => rows.all(key))
  engine.close()
  return { ...figures, ...memory() }
}

/** In a registry of a million, of which some are looked at meanwhile. */
async function puts(base: string): Promise<Figures> {
  await using store = await open(base)
  const { driver } = store
  let isDone = false
  const asked = function* () {
    for (const key of someOf(100_000, isAway)) if (!isDone) yield key
  }
  const meanwhile = times(asked(), async (key) => {
    await setImmediate()
    return driver.stat?.(key)
  })
  const rate = await perSecond(async (i) => driver.writeBytes?.(`new-${process.pid}/d${i % 100}/f${i}`, bytes))
  isDone = true
  return {
    '5,000 files of 4 KiB, 16 at once, a second': rate,
    'stat meanwhile, ms': await meanwhile,
    ...memory(),
  }
}

/** The same files by hand, each durable under its name. */
async function plain(base: string): Promise<Figures> {
  const write = async (i: number, isSafe: boolean) => {
    const directory = path.join(base, `${isSafe ? 'safe' : 'plain'}-${process.pid}`, `d${i % 100}`)
    await fs.mkdir(directory, { recursive: true })
    const [file, temporary] = [path.join(directory, `f${i}`), path.join(directory, `.f${i}`)]
    await fs.writeFile(isSafe ? temporary : file, bytes, { flush: true })
    if (!isSafe) return
    await fs.rename(temporary, file)
    const handle = await fs.open(directory)
    await handle.sync()
    await handle.close()
  }
  return {
    'writeFile with fsync, 16 at once, a second': await perSecond(async (i) => write(i, false)),
    'the same under another name, renamed, directory synced': await perSecond(async (i) => write(i, true)),
  }
}

async function queues(base: string): Promise<Figures> {
  const figures: Figures = {}
  for (const count of [1000, million]) {
    const file = path.join(base, `jobs-${count}.db`)
    await (await openDatabase(file)).close()
    const engine = new DatabaseSync(file)
    engine.exec('PRAGMA synchronous = OFF; BEGIN')
    addJobs(engine, count, Date.now() - 2 * million)
    engine.exec('COMMIT')
    engine.close()
    const database = await openDatabase(file)
    const queue = new Queue(database, { clock: systemClock })
    const rate = async (most: number, excludeGroups: string[] = []) => {
      const begun = performance.now()
      let done = 0
      while (done < most) {
        const jobs = await queue.take('offload:files', 64, { excludeGroups })
        await Promise.all(jobs.map(async (job) => queue.finish(job)))
        if (jobs.length === 0) break
        done += jobs.length
      }
      return (done / ((performance.now() - begun) / 1000)).toFixed(0)
    }
    const waiting = `of ${count.toLocaleString('en')} that wait`
    const exclude = { excludeGroups: ['cloud', 'other'] }
    const twenty = someOf(20, isLocal)
    figures[`${waiting}, counted, ms`] = await times(twenty, async () => queue.counts())
    figures[`${waiting}, all paused: found so, ms`] = await times(twenty, async () => {
      await queue.take('offload:files', 64, exclude)
      return queue.nextDueMs('offload:files', exclude)
    })
    figures[`${waiting}, taken and finished a second, nine of ten paused`] = await rate(count / 20, ['cloud'])
    figures[`${waiting}, taken and finished a second`] = await rate(count / 2)
    await database.close()
    await fs.rm(file)
  }
  return { ...figures, ...memory() }
}

async function scan(base: string): Promise<Figures> {
  await using store = await open(base)
  const begun = performance.now()
  const found = await store.filestore.scan()
  const seconds = ((performance.now() - begun) / 1000).toFixed(2)
  return { 'files, changed': `${found.files}, ${found.changed}`, 'compared in, s': seconds, ...memory() }
}

/** The same directory without a registry. */
async function again(base: string): Promise<Figures> {
  const begun = performance.now()
  const entries = await fs.readdir(path.join(base, 'files'), { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  for (const { parentPath, name } of files) await fs.lstat(path.join(parentPath, name))
  return { 'readdir and lstat of all, s': ((performance.now() - begun) / 1000).toFixed(2) }
}

/** So many keys of a kind from everywhere, in no order, and the same ones each time. */
function someOf(count: number, isWanted: (index: number) => boolean): string[] {
  const found: string[] = []
  for (let index = 7919; found.length < count; index = (index + 483_061) % million)
    if (isWanted(index)) found.push(keyOf(index))
  return found
}

/** Median and 95th percentile in milliseconds, one after another. */
async function times(of: Iterable<string>, work: (key: string, index: number) => Promise<unknown>): Promise<string> {
  const taken: number[] = []
  let index = 0
  for (const key of of) {
    const begun = performance.now()
    await work(key, index++)
    taken.push(performance.now() - begun)
  }
  taken.sort((a, b) => a - b)
  const at = (share: number) => (taken[Math.floor(taken.length * share)] ?? Number.NaN).toFixed(3)
  return `median ${at(0.5)}, 95 % ${at(0.95)}`
}

async function perSecond(put: (index: number) => Promise<unknown>): Promise<string> {
  const total = 5000
  let next = 0
  const [begun, cpu] = [performance.now(), process.cpuUsage()]
  await Promise.all(
    Array.from({ length: 16 }, async () => {
      for (let i = next++; i < total; i = next++) await put(i)
    }),
  )
  const { user, system } = process.cpuUsage(cpu)
  const rate = total / ((performance.now() - begun) / 1000)
  return `${rate.toFixed(0)}, ${((user + system) / 1000 / total).toFixed(2)} ms CPU each`
}

function memory(): Figures {
  return { 'peak memory, MB': (process.resourceUsage().maxRSS / 1024).toFixed(0) }
}
