/** What verifying promises: it finds what is wrong, nothing else, and has delivered again what can be. Real stores, a real web server. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { gzipSync } from 'node:zlib'
import { systemClock, type Clock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import { silentLog } from '../core/log.ts'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase, type Transaction } from '../state/database.ts'
import type { Driver } from '../store/driver.ts'
import { Store } from '../store/store.ts'
import { Conveyor } from './conveyor.ts'
import { fileJobKey } from './intake.ts'
import { forget, intend, record, rowsOf, type LedgerRow } from './ledger.ts'
import { checkServed } from './served.ts'
import type { Destination, Rule } from './rules.ts'
import type { DeliveryFault, VerifyOptions } from './verify.ts'

interface Settings {
  drivers: Record<string, Driver>
  /** Of all destinations. */
  to?: Partial<Destination>
  /** Of the verifying. */
  clock?: Clock
  rule?: Partial<Rule>
}

/** A source that is delivered to some stores. */
async function scene(t: TestContext, { drivers, to, clock = systemClock, rule = {} }: Settings) {
  const base = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-verify-')))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const site = path.join(base, 'site')
  fs.mkdirSync(site)
  const database = await openDatabase(path.join(base, 'state.db'))
  t.after(async () => database.close())
  const stores = new Map(Object.entries(drivers).map(([name, driver]) => [name, new Store(driver)]))
  const destinations = [...stores.keys()].map((store) => ({ store, path: '', ...to }))
  const open = (time: Clock) =>
    new Conveyor({
      sources: [{ name: 'site', directory: site, ignore: [], settleMs: 0 }],
      rules: [
        {
          label: 'all',
          source: 'site',
          filter: {},
          processors: [],
          supersededAfterMs: 0,
          timeLimitMs: 60_000,
          destinations,
          ...rule,
        },
      ],
      stores,
      database,
      clock: time,
      log: silentLog,
      workDirectory: path.join(base, 'work'),
    })
  return {
    base,
    site,
    database,
    store: (name: string) => stores.get(name) as Store,
    write: (name: string, content: string) => fs.writeFileSync(path.join(site, name), content),
    rows: async (file: string) => database.transaction(async (tx) => rowsOf(tx, 'site', file)),
    conveyor: open(systemClock),
    async sync() {
      const conveyor = open(systemClock)
      await conveyor.start()
      await conveyor.scan()
      await conveyor.idle({ patienceMs: 2000 })
      await conveyor.close()
    },
    verify: async (options: VerifyOptions = {}) => allOf(open(clock).verify(options)),
  }
}

async function allOf(faults: AsyncIterable<DeliveryFault>): Promise<DeliveryFault[]> {
  const all = []
  for await (const fault of faults) all.push(fault)
  return all
}

/** `place:path problem`, with what was done. */
function short({ destination, path: file, problem, repaired }: DeliveryFault): string {
  return `${destination}:${file} ${problem}${repaired ? `, ${repaired}` : ''}`
}

/** A place that knows SHA-256 of what it has. */
function vouching(driver: Driver): Driver {
  return Object.assign(Object.create(driver) as Driver, {
    async stat(key: string) {
      const bytes = await new Store(driver).get(key)
      return { key, size: bytes.byteLength, digests: { sha256: createHash('sha256').update(bytes).digest('hex') } }
    },
  })
}

/** Time passes as soon as somebody waits for it. */
function hurriedClock(): Clock {
  let now = systemClock.now()
  return {
    now: () => now,
    async sleep(ms) {
      now += ms
    },
  }
}

test('random damage is found, all of it and nothing else, and what is delivered again is whole', async (t) => {
  const seed = Number(process.env['STOWAGE_TEST_SEED'] ?? Date.now() % 1_000_000)
  t.diagnostic(`STOWAGE_TEST_SEED=${seed}`)
  let state = seed
  const random = (below: number) => {
    state = (state * 48_271 + 1) % 2_147_483_647
    return state % below
  }
  const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage-verify-'))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  // One vouches for digests, the other does not.
  const s = await scene(t, {
    drivers: { memory: vouching(memoryDriver()), disk: fileDriver({ directory, fsync: false }) },
  })
  const names = Array.from({ length: 60 }, (_, index) => `file ${String(index).padStart(2, '0')}`)
  for (const name of names) s.write(name, `content of ${name}`)
  await s.sync()
  assert.deepEqual(await s.verify({ content: true }), [])
  const expected: string[] = []
  const unseen: string[] = []
  for (const name of names)
    for (const place of ['disk', 'memory']) {
      const right = await s.store(place).get(name)
      const kind = random(6)
      if (kind === 0) {
        await s.store(place).delete(name)
        expected.push(`${place}:${name} missing`)
      } else if (kind === 1) {
        await s.store(place).put(name, right.subarray(1))
        expected.push(`${place}:${name} damaged`)
      } else if (kind === 2) {
        await s.store(place).put(name, Buffer.from(right.toString().toUpperCase()))
        if (place === 'disk') unseen.push(`${place}:${name} damaged`)
        expected.push(`${place}:${name} damaged`)
      }
    }
  assert.ok(unseen.length > 0 && expected.length > unseen.length, 'it damages nothing')
  assert.deepEqual(
    (await s.verify()).map(short),
    expected.filter((line) => !unseen.includes(line)),
  )
  assert.deepEqual((await s.verify({ content: true })).map(short), expected)
  const repaired = await s.verify({ content: true, repair: true })
  assert.deepEqual(
    repaired.map(short),
    expected.map((line) => `${line}, queued for delivery`),
  )
  // What is queued is in doubt until it is delivered.
  assert.deepEqual(
    (await s.verify({ content: true })).map(short),
    expected.map((line) => line.replace(/\w+$/, 'pending')),
  )
  await s.sync()
  assert.deepEqual(await s.verify({ content: true }), [])
  for (const name of names)
    for (const place of ['disk', 'memory'])
      assert.equal((await s.store(place).get(name)).toString(), `content of ${name}`)
})

test('where nobody knows the digest only the size tells', async (t) => {
  const s = await scene(t, { drivers: { out: memoryDriver() } })
  s.write('a', 'first')
  s.write('b', 'second')
  await s.sync()
  await s.database.transaction(async (tx) => tx.run(`UPDATE ledger SET digest = ''`))
  await s.store('out').put('a', 'FIRST')
  await s.store('out').put('b', 'longer than before')
  assert.deepEqual((await s.verify({ content: true })).map(short), ['out:b damaged'])
})

test('a running conveyor delivers again what is found; a file whose job was set aside too', async (t) => {
  const s = await scene(t, { drivers: { out: memoryDriver() } })
  s.write('a', 'first')
  s.write('b', 'second')
  await s.sync()
  const { queue } = s.conveyor
  await queue.add({
    queue: 'file',
    key: fileJobKey('site', 'b'),
    payload: { source: 'site', path: 'b', event: 'modified' },
  })
  for (const job of await queue.take('file', 9)) await queue.fail(job, new StowageError('DENIED', 'No.'))
  assert.equal((await queue.setAside()).length, 1)
  await s.conveyor.start()
  t.after(async () => s.conveyor.close())
  for (const name of ['a', 'b']) await s.store('out').delete(name)
  const faults = await allOf(s.conveyor.verify({ repair: true }))
  assert.deepEqual(faults.map(short), ['out:a missing, queued for delivery', 'out:b missing, queued for delivery'])
  await s.conveyor.idle()
  assert.equal((await s.store('out').get('a')).toString(), 'first')
  assert.equal((await s.store('out').get('b')).toString(), 'second')
  assert.deepEqual(await s.verify(), [])
  assert.deepEqual(await queue.setAside(), [])
})

test('what has no original any more is told, and nothing is put in doubt', async (t) => {
  const s = await scene(t, { drivers: { out: memoryDriver() } })
  s.write('a', 'first')
  await s.sync()
  const before = await s.rows('a')
  fs.rmSync(path.join(s.site, 'a'))
  await s.store('out').delete('a')
  const [fault, ...more] = await s.verify({ repair: true })
  assert.deepEqual(more, [])
  assert.partialDeepStrictEqual(fault, {
    problem: 'missing',
    source: 'site',
    rule: 'all',
    destination: 'out',
    key: 'a',
  })
  assert.match(fault?.why ?? '', /There is no file a.*Its original is not there either/)
  assert.equal(fault?.repaired, undefined)
  assert.deepEqual(await s.rows('a'), before)
  assert.equal(await s.conveyor.queue.find('file', 'site/a'), undefined)
})

/** A driver whose `stat` and `read` are hindered. */
function hindered(driver: Driver, hinder: (key: string) => void | Promise<void>): Driver {
  return new Proxy(driver, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (name !== 'stat' && name !== 'read') return typeof value === 'function' ? value.bind(target) : value
      return async (key: string, ...rest: unknown[]) => {
        await hinder(key)
        return (value as (...all: unknown[]) => unknown).call(target, key, ...rest)
      }
    },
  })
}

test('a place that cannot be asked is unchecked and never repaired, and asked no more for a while', async (t) => {
  let isDown = false
  let asked = 0
  const down = hindered(memoryDriver(), () => {
    if (!isDown) return
    asked++
    throw new StowageError('UNREACHABLE', 'It is down.')
  })
  const denying = hindered(memoryDriver(), () => {
    if (isDown) throw new StowageError('DENIED', 'Not you.')
  })
  const s = await scene(t, { drivers: { denying, down, well: memoryDriver() }, clock: hurriedClock() })
  const names = Array.from({ length: 300 }, (_, index) => `${1000 + index}`)
  for (const name of names) s.write(name, name)
  await s.sync()
  isDown = true
  await s.store('well').delete('1299')
  const before = await s.rows('1000')
  const faults = await s.verify({ repair: true })
  const unchecked = names.flatMap((name) => [`denying:${name} unchecked`, `down:${name} unchecked`])
  assert.deepEqual(faults.map(short), [...unchecked, 'well:1299 missing, queued for delivery'])
  assert.deepEqual(
    faults.slice(0, 2).map(({ why }) => why),
    ['Not you.', 'It is down.'],
  )
  assert.deepEqual(await s.rows('1000'), before)
  assert.ok(asked < 100, `it was asked ${asked} times`)
})

test('a place that is in trouble for a moment is asked again', async (t) => {
  let troubles = 0
  const driver = hindered(memoryDriver(), () => {
    if (troubles-- > 0) throw new StowageError('THROTTLED', 'Not now.', { retryAfterMs: 2000 })
  })
  const s = await scene(t, { drivers: { out: driver }, clock: hurriedClock() })
  s.write('a', 'first')
  await s.sync()
  troubles = 2
  assert.deepEqual(await s.verify(), [])
  assert.equal(troubles, -1)
})

test('what is delivered, replaced or removed while it is looked at is no fault', async (t) => {
  let meanwhile: ((row: LedgerRow, tx: Transaction) => Promise<void>) | undefined
  const driver = hindered(memoryDriver(), async (key) => {
    const change = meanwhile
    const [row] = await s.rows(key)
    if (change && row) await s.database.transaction(async (tx) => change(row, tx))
    if (change) throw new StowageError('NOT_FOUND', 'It is gone.')
  })
  const s = await scene(t, { drivers: { out: driver } })
  s.write('a', 'first')
  await s.sync()
  meanwhile = async () => undefined
  assert.deepEqual((await s.verify()).map(short), ['out:a missing'])
  meanwhile = async (row, tx) => {
    assert.ok(row.delivery)
    await record(tx, row, { ...row.delivery, deliveredMs: row.delivery.deliveredMs + 1 })
  }
  assert.deepEqual(await s.verify({ repair: true }), [])
  meanwhile = async (row, tx) => intend(tx, { ...row, rule: 'another' })
  assert.deepEqual((await s.verify({ repair: true })).map(short), ['out:a pending'])
  await s.database.transaction(async (tx) => tx.run(`DELETE FROM ledger WHERE rule = 'another'`))
  meanwhile = async (row, tx) => intend(tx, row)
  assert.deepEqual((await s.verify({ repair: true })).map(short), ['out:a pending'])
  assert.deepEqual(await s.conveyor.queue.find('file', 'site/a'), undefined)
  await s.database.transaction(async (tx) => tx.run('UPDATE ledger SET delivered_ms = 1'))
  meanwhile = async (row, tx) => forget(tx, row)
  assert.deepEqual(await s.verify({ repair: true }), [])
})

test('a link is there or not; that its original has changed is no damage', async (t) => {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-verify-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  const driver = fileDriver({ directory, linksInto: [fs.realpathSync(tmpdir())] })
  const s = await scene(t, { drivers: { out: driver }, to: { link: 'hard' } })
  for (const name of ['changed', 'gone', 'other']) s.write(name, name)
  await s.sync()
  assert.equal((await s.rows('gone'))[0]?.delivery?.link, 'hard')
  assert.deepEqual(await s.verify({ content: true }), [])
  s.write('changed', 'and longer now')
  fs.rmSync(path.join(directory, 'gone'))
  fs.rmSync(path.join(directory, 'other'))
  fs.writeFileSync(path.join(directory, 'other'), 'OTHER')
  assert.deepEqual((await s.verify({ content: true })).map(short), ['out:gone missing', 'out:other damaged'])
})

/** Many rows, with many of one file, which are nowhere. */
async function manyRows(t: TestContext, driver: Driver) {
  const s = await scene(t, { drivers: { out: driver } })
  await s.database.transaction(async (tx) => {
    for (let index = 0; index < 5000; index++)
      await tx.run(
        `INSERT INTO ledger (source, path, rule, destination, key, size, digest, source_size, source_mtime_ns,
           source_inode, fingerprint, delivered_ms) VALUES ('site', ?, 'all', 'out', ?, 1, 'd', 1, '1', '1', '', 1)`,
        index < 2500 ? 'one' : `two ${index}`,
        `key ${1000 + index}`,
      )
  })
  return s
}

test('a ledger of any length is looked at whole and in order, some at a time', async (t) => {
  let [now, most] = [0, 0]
  const driver = hindered(memoryDriver(), async () => {
    most = Math.max(most, ++now)
    await new Promise((resolve) => setImmediate(resolve))
    now--
  })
  const s = await manyRows(t, driver)
  const progress: number[] = []
  const faults = await s.verify({ onProgress: (deliveries) => progress.push(deliveries) })
  assert.deepEqual(
    faults.map(({ key }) => key),
    Array.from({ length: 5000 }, (_, index) => `key ${1000 + index}`),
  )
  assert.deepEqual([progress.length, progress.at(-1)], [5000, 5000])
  assert.ok(most > 1 && most <= 16, `${most} at once`)
})

test('who is cancelled, or wants no more, stops at once and leaves nothing under way', async (t) => {
  let [asked, now] = [0, 0]
  const stop = new AbortController()
  const driver = hindered(memoryDriver(), async () => {
    if (++asked === 40) stop.abort()
    now++
    await new Promise((resolve) => setImmediate(resolve))
    now--
  })
  const s = await manyRows(t, driver)
  await assert.rejects(s.verify({ signal: stop.signal }), { code: 'ABORTED' })
  assert.ok(asked >= 40 && asked < 80, `${asked} were asked for`)
  asked = 1000
  for await (const _fault of s.conveyor.verify()) break
  assert.ok(asked < 1040, `${asked - 1000} were asked for`)
  assert.equal(now, 0)
})

/** Lets whatever can happen happen, for a while. */
async function aWhile() {
  for (let turns = 0; turns < 500; turns++) await new Promise((resolve) => setImmediate(resolve))
}

test('who wants no more waits for what is under way', async (t) => {
  let [asked, now] = [0, 0]
  const driver = hindered(memoryDriver(), async (key) => {
    asked++
    now++
    if (key !== 'key 1000') await aWhile()
    now--
  })
  const s = await manyRows(t, driver)
  for await (const _fault of s.conveyor.verify()) break
  assert.deepEqual([asked > 1, now], [true, 0])
})

test('what fails before its turn when all is cancelled is heard of', async (t) => {
  const stop = new AbortController()
  const driver = hindered(memoryDriver(), async (key) => {
    await aWhile()
    if (key !== 'key 1000') return
    stop.abort()
    // Meanwhile the others are cancelled.
    for (let turns = 0; turns < 9; turns++) await aWhile()
    if (stop.signal.aborted) throw new StowageError('ABORTED', 'The call was cancelled.')
  })
  const s = await manyRows(t, driver)
  await assert.rejects(s.verify({ signal: stop.signal }), { code: 'ABORTED' })
})

test('only the source that is asked for is looked at', async (t) => {
  const s = await scene(t, { drivers: { out: memoryDriver() } })
  s.write('a', 'first')
  await s.sync()
  await s.store('out').delete('a')
  assert.equal((await s.verify({ source: 'site' })).length, 1)
  await assert.rejects(s.verify({ source: 'sight' }), {
    code: 'INVALID_ARGUMENT',
    message: /"sight"\. There are: site/,
  })
})

type Answer = (response: ServerResponse, request: IncomingMessage) => void

/** A web server that answers for each name as it is told. */
async function webServer(t: TestContext, answers: Record<string, Answer>) {
  const requests: string[] = []
  const server = createServer((request, response) => {
    const name = (request.url ?? '').slice(1)
    requests.push(`${request.method} ${name}`)
    const answer = answers[name]
    if (answer) answer(response, request)
    else response.writeHead(404).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { base: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`, requests }
}

const says =
  (content: string | Buffer, headers: Record<string, string> = {}): Answer =>
  (response, { method }) => {
    response.writeHead(200, { 'content-length': Buffer.byteLength(content), ...headers })
    response.end(method === 'HEAD' ? undefined : content)
  }

test('public addresses are asked for status and length, and read when they are to be', async (t) => {
  const web = await webServer(t, {
    moved: (response) => response.writeHead(302, { location: '/well' }).end(),
    'no-head': (response, request) =>
      request.method === 'HEAD' ? response.writeHead(405).end() : response.writeHead(200).end('12345'),
    'no-head-short': (response, request) =>
      request.method === 'HEAD' ? response.writeHead(405).end() : response.writeHead(200).end('123'),
    denied: (response) => response.writeHead(403).end(),
    down: (response) => response.writeHead(503).end(),
    other: says('54321'),
    packed: says(gzipSync('12345'), { 'content-encoding': 'gzip' }),
    partial: (response) => response.writeHead(206, { 'content-length': '5' }).end(),
    short: says('123'),
    well: says('12345'),
  })
  const drivers = { out: memoryDriver() }
  const s = await scene(t, { drivers, to: { url: web.base }, clock: hurriedClock() })
  const names = [
    'denied',
    'missing',
    'moved',
    'no-head',
    'no-head-short',
    'other',
    'packed',
    'partial',
    'short',
    'well',
  ]
  for (const name of names) s.write(name, '12345')
  await s.sync()
  assert.deepEqual(await s.verify(), [])
  assert.equal(web.requests.length, 0)
  const wrong = ['denied', 'missing', 'no-head-short', 'partial', 'short'].map((name) => `out:${name} unserved`)
  assert.deepEqual((await s.verify({ url: true, repair: true })).map(short), wrong)
  assert.ok(web.requests.includes('HEAD well') && !web.requests.includes('GET well'))
  const read = await s.verify({ url: true, content: true })
  assert.deepEqual(read.map(short), [...wrong, 'out:other unserved'].sort())
  assert.match(read.find(({ path: file }) => file === 'missing')?.why ?? '', /\/missing is answered with status 404/)
  s.write('down', '12345')
  await s.sync()
  const asked = await s.verify({ url: true })
  assert.ok(asked.map(short).includes('out:down unchecked'))
})

test('a server that is silent, breaks off or is not there cannot be asked', async (t) => {
  const web = await webServer(t, {
    silent: () => undefined,
    stalls: (response, { method }) => {
      response.writeHead(200, { 'content-length': '5' })
      if (method === 'HEAD') response.end()
      else response.write('123')
    },
    breaks: (response) => {
      response.writeHead(200, { 'content-length': '5' })
      response.write('123', () => response.destroy())
    },
    endless: (response) => {
      response.writeHead(200)
      const more = () => void (response.destroyed || response.write(Buffer.alloc(65_536), more))
      more()
    },
  })
  const expected = { size: 5, digest: createHash('sha256').update('12345').digest('hex') }
  const check = async (url: string, options = {}) =>
    checkServed(url, expected, { content: true, limitMs: 200, ...options })
  await assert.rejects(check(`${web.base}silent`), { code: 'TIMEOUT', retryable: true })
  await assert.rejects(check(`${web.base}stalls`), { code: 'TIMEOUT', retryable: true })
  await check(`${web.base}stalls`, { content: false })
  await assert.rejects(check(`${web.base}breaks`, { limitMs: 60_000 }), { code: 'UNREACHABLE', retryable: true })
  await assert.rejects(check(`${web.base}endless`, { limitMs: 60_000 }), {
    code: 'CORRUPT',
    message: /more bytes instead of 5/,
  })
  const gone = createServer().listen(0, '127.0.0.1')
  await once(gone, 'listening')
  const { port } = gone.address() as AddressInfo
  gone.close()
  await assert.rejects(check(`http://127.0.0.1:${port}/`), { code: 'UNREACHABLE', retryable: true })
  const stop = new AbortController()
  const cancelled = assert.rejects(check(`${web.base}silent`, { signal: stop.signal, limitMs: 60_000 }), {
    code: 'ABORTED',
  })
  stop.abort()
  await cancelled
})

test('what has no public address is told, and is no fault', async (t) => {
  const s = await scene(t, { drivers: { out: memoryDriver() } })
  s.write('a', 'first')
  await s.sync()
  assert.deepEqual((await s.verify({ url: true })).map(short), ['out:a unaddressed'])
})
