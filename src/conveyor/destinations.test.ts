/** What a destination says about the files it gets: headers, links, addresses, how many at once. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { systemClock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase, type Database } from '../state/database.ts'
import type { Driver, WriteOptions } from '../store/driver.ts'
import { Store } from '../store/store.ts'
import { Conveyor } from './conveyor.ts'
import type { Invalidate } from './invalidation.ts'
import { rowsOf } from './ledger.ts'
import type { Processor } from './processor.ts'
import { spacesToDashes } from './processors/filename.ts'
import { md5, mtime } from './processors/unique-filename.ts'
import { cachingOf, type Destination, type Rule } from './rules.ts'

/** A source and one destination, synced as often as a test says. */
function scene(t: TestContext) {
  const base = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-destinations-')))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const [site, out] = [path.join(base, 'site'), path.join(base, 'out')]
  fs.mkdirSync(site)
  const messages: string[] = []
  const say = (message: string) => void messages.push(message)
  const log: Log = { debug: say, info: say, warn: say, error: say }
  const source = { name: 'site', directory: site, ignore: [], settleMs: 0 }
  const withDatabase = async <T>(work: (database: Database) => Promise<T>) => {
    const database = await openDatabase(path.join(base, 'state.db'))
    try {
      return await work(database)
    } finally {
      await database.close()
    }
  }
  return {
    site,
    out,
    messages,
    write(name: string, content: string | Uint8Array) {
      fs.mkdirSync(path.dirname(path.join(site, name)), { recursive: true })
      fs.writeFileSync(path.join(site, name), content)
    },
    rows: async (file: string) =>
      withDatabase(async (database) => database.transaction(async (tx) => rowsOf(tx, 'site', file))),
    sync: async (driver: Driver, to: Partial<Destination>, rule: Partial<Rule> = {}, invalidate?: Invalidate) =>
      withDatabase(async (database) => {
        const conveyor = new Conveyor({
          sources: [source],
          rules: [ruleOf({ destinations: [{ store: 'out', path: '', ...to }], ...rule })],
          stores: new Map([['out', new Store(driver, { publicUrl: 'https://cdn.example.com/' })]]),
          database,
          clock: systemClock,
          log,
          workDirectory: path.join(base, 'work'),
          ...(invalidate && { invalidate }),
        })
        await conveyor.start()
        await conveyor.scan()
        await conveyor.idle({ patienceMs: 2000 })
        await conveyor.close()
      }),
  }
}

function ruleOf(rule: Partial<Rule>): Rule {
  const usual = { label: 'all', source: 'site', filter: {}, processors: [], destinations: [] }
  return { ...usual, supersededAfterMs: 0, timeLimitMs: 60_000, ...rule }
}

/** A place that remembers what it was told about each key. */
function recording() {
  const told: Record<string, Pick<WriteOptions, 'contentType' | 'cacheControl'>> = {}
  const inner = memoryDriver()
  const write: Driver['write'] = async (key, body, options = {}) => {
    const { contentType, cacheControl } = options
    told[key] = { ...(contentType && { contentType }), ...(cacheControl && { cacheControl }) }
    return inner.write(key, body, options)
  }
  const { location, supports } = inner
  return { told, driver: { ...bound(inner), location, supports, write } satisfies Driver }
}

function bound(driver: Driver): Omit<Driver, 'location' | 'supports' | 'write'> {
  return {
    read: driver.read.bind(driver),
    stat: driver.stat.bind(driver),
    list: driver.list.bind(driver),
    delete: driver.delete.bind(driver),
    close: driver.close.bind(driver),
  }
}

const md5Of = (text: string) => createHash('md5').update(text).digest('hex')
const forever = 'public, max-age=31536000, immutable'
const changing: Processor = {
  name: 'changing',
  version: '1',
  process: async ({ workDirectory, file }) => {
    const made = path.join(await workDirectory(), 'made')
    fs.writeFileSync(made, `made of ${fs.readFileSync(file, 'utf8')}`)
    return { file: made }
  },
}

test('what is named by its content may be kept for a year; other names get no such header', async (t) => {
  const s = scene(t)
  const { told, driver } = recording()
  s.write('a b.png', 'x')
  await s.sync(driver, {}, { processors: [spacesToDashes, changing, md5] })
  await s.sync(driver, {}, { label: 'plain' })
  await s.sync(driver, { path: 't' }, { label: 'by time', processors: [mtime] })
  assert.deepEqual(told[`a-b_${md5Of('x')}.png`], { contentType: 'image/png', cacheControl: forever })
  assert.deepEqual(told['a b.png'], { contentType: 'image/png' })
  assert.equal(Object.values(told).filter(({ cacheControl }) => cacheControl !== undefined).length, 1)
})

test('a name given after the version, or content that depends on the destination, is not for ever', async (t) => {
  const s = scene(t)
  s.write('a b.css', 'x')
  for (const processors of [
    [md5, spacesToDashes],
    [md5, { ...changing, differsPerDestination: true }],
    [{ ...changing, differsPerDestination: true }, md5],
  ]) {
    const { told, driver } = recording()
    await s.sync(driver, {}, { label: processors.map(({ name }) => name).join(), processors })
    const [only, ...others] = Object.values(told)
    assert.equal(others.length, 0)
    assert.equal(only?.cacheControl, undefined)
  }
})

test('a destination says what caches are told: of all files, or of versioned and other names', async (t) => {
  const to = (cacheControl: NonNullable<Destination['cacheControl']>) => ({ store: 'out', path: '', cacheControl })
  assert.equal(cachingOf(to('no-cache'), true), 'no-cache')
  assert.equal(cachingOf(to('no-cache'), false), 'no-cache')
  assert.equal(cachingOf(to(''), true), undefined)
  assert.equal(cachingOf(to({ other: 'no-cache' }), true), forever)
  assert.equal(cachingOf(to({ other: 'no-cache' }), false), 'no-cache')
  assert.equal(cachingOf(to({ versioned: 'max-age=60' }), true), 'max-age=60')
  assert.equal(cachingOf(to({ versioned: '' }), true), undefined)
  const s = scene(t)
  const { told, driver } = recording()
  s.write('a.css', 'x')
  await s.sync(driver, {})
  assert.equal(told['a.css']?.cacheControl, undefined)
  await s.sync(driver, { cacheControl: 'no-cache' })
  assert.equal(told['a.css']?.cacheControl, 'no-cache', 'what is delivered already gets it too')
})

test('text says that it is UTF-8 when it is, small and large; of other text nobody knows', async (t) => {
  const s = scene(t)
  const { told, driver } = recording()
  const large = `${'ü'.repeat(3 * 2 ** 20)}€`
  const contents: Record<string, string | Uint8Array> = {
    'a.css': 'ü',
    'a.html': 'plain',
    'a.js': '',
    'latin.html': Buffer.from('ü', 'latin1'),
    'large.txt': large,
    'large-latin.txt': Buffer.from(`${'a'.repeat(2 ** 20)}ü`, 'latin1'),
    'cut.txt': Buffer.from(large).subarray(0, -1),
    'a.json': '{}',
    'a.svg': '<svg/>',
    'a.unheard-of': 'x',
  }
  for (const [name, content] of Object.entries(contents)) s.write(name, content)
  await s.sync(driver, {})
  const types = Object.entries(told).map(([key, { contentType }]) => [key, contentType])
  assert.deepEqual(Object.fromEntries(types), {
    'a.css': 'text/css; charset=utf-8',
    'a.html': 'text/html; charset=utf-8',
    'a.js': 'text/javascript; charset=utf-8',
    'latin.html': 'text/html',
    'large.txt': 'text/plain; charset=utf-8',
    'large-latin.txt': 'text/plain',
    'cut.txt': 'text/plain',
    'a.json': 'application/json',
    'a.svg': 'image/svg+xml',
    'a.unheard-of': undefined,
  })
})

test('the address is below the destination’s own URL where it has one', async (t) => {
  const s = scene(t)
  s.write('a b', 'x')
  await s.sync(memoryDriver(), { path: 'static' })
  assert.equal((await s.rows('a b'))[0]?.delivery?.url, 'https://cdn.example.com/static/a%20b')
  await s.sync(memoryDriver(), { path: 'static', url: 'https://own.example.com/x' }, { label: 'own' })
  assert.equal((await s.rows('a b'))[0]?.delivery?.url, 'https://own.example.com/x/static/a%20b')
})

test('maxConnections holds: never more deliveries at once, and that many', async (t) => {
  const s = scene(t)
  const inner = memoryDriver()
  let [running, most] = [0, 0]
  const full = Promise.withResolvers<void>()
  const driver: Driver = {
    ...inner,
    ...bound(inner),
    write: async (key, body, options) => {
      most = Math.max(most, ++running)
      if (running === 3) full.resolve()
      await full.promise
      const info = await inner.write(key, body, options)
      running--
      return info
    },
    writeBytes: undefined as never,
  }
  for (let i = 0; i < 30; i++) s.write(`f${i}`, `${i}`)
  await s.sync(driver, { maxConnections: 3 })
  assert.equal(most, 3)
  assert.equal((await Array.fromAsync(inner.list(''))).length, 30)
})

for (const link of ['symlink', 'hard'] as const)
  test(`${link}: an untouched original is linked to, read back, followed when it changes, and gone when it goes`, async (t) => {
    const s = scene(t)
    const driver = fileDriver({ directory: s.out, linksInto: [s.site] })
    const isLink = (name: string) => {
      const stats = fs.lstatSync(path.join(s.out, name))
      return link === 'symlink' ? stats.isSymbolicLink() : stats.ino === fs.statSync(path.join(s.site, name)).ino
    }
    s.write('d/a.txt', 'one')
    await s.sync(driver, { link })
    assert.ok(isLink('d/a.txt'))
    const [row] = await s.rows('d/a.txt')
    assert.equal(row?.delivery?.link, link)
    assert.equal(row?.delivery?.digest, createHash('sha256').update('one').digest('hex'))
    const store = new Store(driver)
    assert.equal((await store.get('d/a.txt')).toString(), 'one')
    assert.equal((await store.stat('d/a.txt')).size, 3)
    assert.deepEqual(
      (await Array.fromAsync(store.list())).map(({ key }) => key),
      ['d/a.txt'],
    )
    fs.rmSync(path.join(s.site, 'd/a.txt'))
    s.write('d/a.txt', 'two!')
    await s.sync(driver, { link })
    assert.ok(isLink('d/a.txt'))
    assert.equal((await store.get('d/a.txt')).toString(), 'two!')
    fs.rmSync(path.join(s.site, 'd/a.txt'))
    await s.sync(driver, { link })
    assert.deepEqual(
      fs.readdirSync(s.out).filter((name) => name !== '.stowage-tmp'),
      [],
    )
  })

test('processed content, versioned names and places without links get copies', async (t) => {
  const s = scene(t)
  s.write('a.txt', 'x')
  const driver = fileDriver({ directory: s.out, linksInto: [s.site] })
  const isCopy = (name: string) => fs.lstatSync(path.join(s.out, name)).isFile()
  await s.sync(driver, { link: 'symlink' }, { label: 'processed', processors: [changing] })
  assert.ok(isCopy('a.txt'))
  await s.sync(driver, { link: 'symlink' }, { label: 'versioned', processors: [md5] })
  assert.ok(isCopy(`a_${md5Of('x')}.txt`))
  await s.sync(fileDriver({ directory: s.out }), { link: 'symlink' }, { label: 'not allowed' })
  assert.ok(isCopy('a.txt'))
  const memory = memoryDriver()
  await s.sync(memory, { link: 'hard' }, { label: 'elsewhere' })
  assert.equal((await new Store(memory).get('a.txt')).toString(), 'x')
})

test('a copy becomes a link and a link a copy when the configuration says so; the original stays as it is', async (t) => {
  const s = scene(t)
  s.write('a.txt', 'x')
  const before = fs.statSync(path.join(s.site, 'a.txt'))
  const driver = fileDriver({ directory: s.out, linksInto: [s.site] })
  const look = () => fs.lstatSync(path.join(s.out, 'a.txt'))
  await s.sync(driver, {})
  assert.ok(look().isFile())
  await s.sync(driver, { link: 'symlink' })
  assert.ok(look().isSymbolicLink())
  await s.sync(driver, { link: 'hard' })
  assert.equal(look().ino, before.ino)
  await s.sync(driver, {})
  assert.ok(look().isFile() && look().ino !== before.ino)
  const after = fs.statSync(path.join(s.site, 'a.txt'))
  assert.deepEqual([after.ino, after.mtimeMs, after.nlink, after.size], [before.ino, before.mtimeMs, 1, 1])
})

test('an original that a link leads to is never deleted; one with a second name of its own may be', async (t) => {
  const s = scene(t)
  s.write('a.txt', 'x')
  const driver = fileDriver({ directory: s.out, linksInto: [s.site] })
  await s.sync(driver, { link: 'symlink' }, { deleteSourceAfterMs: 0 })
  assert.equal(fs.readFileSync(path.join(s.site, 'a.txt'), 'utf8'), 'x')
  assert.match(s.messages.join('\n'), /a\.txt in out is a link to a\.txt, which stays/)
  await s.sync(driver, { link: 'hard' }, { deleteSourceAfterMs: 0 })
  assert.equal(fs.existsSync(path.join(s.site, 'a.txt')), false)
  assert.equal(fs.readFileSync(path.join(s.out, 'a.txt'), 'utf8'), 'x')
})

test('an original that changes while it is linked is taken again', async (t) => {
  const s = scene(t)
  s.write('a.txt', 'one')
  const inner = fileDriver({ directory: s.out, linksInto: [s.site] })
  let links = 0
  const driver: Driver = {
    ...bound(inner),
    location: inner.location,
    supports: inner.supports,
    write: inner.write.bind(inner),
    link: async (key, file, kind, options) => {
      if (links++ === 0) fs.writeFileSync(file, 'another')
      return inner.link?.(key, file, kind, options) ?? assert.fail()
    },
  }
  await s.sync(driver, { link: 'symlink' })
  assert.equal(links, 2)
  assert.equal((await s.rows('a.txt'))[0]?.delivery?.digest, createHash('sha256').update('another').digest('hex'))
})

test('what is replaced under its name is to be forgotten by caches, all of it at once; nothing else is', async (t) => {
  const s = scene(t)
  const calls: [string, readonly string[]][] = []
  const invalidate: Invalidate = async (distribution, paths) => void calls.push([distribution, paths])
  const sync = async (rule: Partial<Rule> = {}) => s.sync(driver, { path: 'x', invalidate: 'E1' }, rule, invalidate)
  const driver = memoryDriver()
  for (const name of ['a b', 'c', 'd']) s.write(name, '1')
  await sync()
  assert.deepEqual(calls, [], 'what is new is in no cache')
  for (const name of ['a b', 'c']) s.write(name, 'two')
  await sync()
  assert.deepEqual(calls, [['E1', ['/x/a%20b', '/x/c']]])
  await sync()
  assert.equal(calls.length, 1, 'what has not changed stays')
  await sync({ label: 'versioned', processors: [md5] })
  for (const name of ['a b', 'c']) s.write(name, 'three!')
  await sync({ label: 'versioned', processors: [md5] })
  assert.equal(calls.length, 1, 'another name is another file')
})

test('what could not be forgotten is told again at the next start, with what came since', async (t) => {
  const s = scene(t)
  const driver = memoryDriver()
  const to = { url: 'https://other.example.com/base', invalidate: 'E1' }
  s.write('a', '1')
  s.write('b', '1')
  await s.sync(driver, to, {}, async () => undefined)
  s.write('a', '22')
  let tries = 0
  const down: Invalidate = async () => {
    tries++
    throw new StowageError('UNREACHABLE', 'CloudFront is down.')
  }
  const { promise: tried, resolve } = Promise.withResolvers<void>()
  await s.sync(driver, to, {}, async (...call) => {
    resolve()
    return down(...call)
  })
  await tried
  assert.ok(tries > 0)
  s.write('b', '22')
  const calls: string[] = []
  await s.sync(driver, to, {}, async (_, paths) => void calls.push(...paths))
  assert.deepEqual(calls.sort(), ['/base/a', '/base/b'])
})
