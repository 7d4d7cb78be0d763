import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { Readable } from 'node:stream'
import { describe, test, type TestContext } from 'node:test'
import { crc32 } from 'node:zlib'
import { collect, toBody } from '../core/bytes.ts'
import { silentLog } from '../core/log.ts'
import { memoryDriver } from '../drivers/memory.ts'
import type { ByteRange, Driver, OpenFile } from '../store/driver.ts'
import { renamed } from '../store/wrappers/renamed.ts'
import { Cache, type CacheOptions } from './cache.ts'
import { cached } from './cached.ts'

const parent = fs.mkdtempSync(path.join(tmpdir(), 'stowage-cache-faults-'))
test.after(() => fs.rmSync(parent, { recursive: true, force: true }))
let directories = 0
const newDirectory = () => path.join(parent, String(directories++))
/** A page of the file system: blocks of this size take exactly as much on disk. */
const page = 4096

type Through = (opened: OpenFile, signal: AbortSignal | undefined) => Promise<OpenFile>

/** A cache before an origin of which every read may be tampered with. */
async function scene(t: TestContext, options: Partial<CacheOptions> = {}) {
  const inner = memoryDriver()
  const origin = { reads: 0, through: (async (opened) => opened) as Through }
  const driver: Driver = {
    ...renamed(inner, { inner: (key) => key, outer: (key) => key }),
    supports: inner.supports,
    list: inner.list.bind(inner),
    read: async (key, call) => {
      origin.reads++
      return origin.through(await inner.read(key, call), call?.signal)
    },
  }
  const settings = { directory: newDirectory(), blockBytes: page, ...options }
  const cache = await Cache.open(settings)
  t.after(async () => cache.close())
  const front = cached(driver, { cache, freshMs: Infinity })
  const put = async (key: string, bytes: Buffer) => inner.write(key, toBody(bytes))
  const open = async (key: string, call: { range?: ByteRange; signal?: AbortSignal } = {}) =>
    (await front.read(key, call)).body
  const get = async (key: string, range?: ByteRange) => collect(await open(key, range ? { range } : {}))
  const blocks = path.join(settings.directory, 'blocks')
  return { inner, origin, driver: front, cache, settings, put, open, get, blocks }
}

/** An opened file whose body comes in small pieces, each of which waits for what `before` gives. */
function slowly({ info, body }: OpenFile, before: (piece: number) => Promise<void> | void, bytes = 1500): OpenFile {
  const pieces = async function* () {
    let count = 0
    for await (const chunk of body as AsyncIterable<Buffer>)
      for (let at = 0; at < chunk.byteLength; at += bytes) {
        await before(count++)
        yield chunk.subarray(at, at + bytes)
      }
  }
  return { info, body: Readable.from(pieces(), { objectMode: false, highWaterMark: 1 }) }
}

const never = new Promise<never>(() => {})

function bytesIn(directory: string): number {
  let bytes = 0
  for (const name of fs.readdirSync(directory))
    bytes += (fs.statSync(path.join(directory, name), { throwIfNoEntry: false })?.blocks ?? 0) * 512
  return bytes
}

function seeded(t: TestContext): (below: number) => number {
  const seed = process.env['STOWAGE_SEED'] ?? String(Date.now())
  t.diagnostic(`seed ${seed}`)
  let state = Number(seed) >>> 0
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

describe('a cache on a disk of one megabyte', {
  skip: process.getuid?.() !== 0 && !process.env['CI'] && 'only root may mount one',
}, () => {
  function mount(t: TestContext): string {
    const directory = newDirectory()
    fs.mkdirSync(directory)
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', directory])
    t.after(() => execFileSync('umount', ['-l', directory]))
    return directory
  }

  test('on a full disk reads go past the cache and are right, and it recovers by itself', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const directory = mount(t)
    const unnoted = Promise.withResolvers<void>()
    const warn = (message: string) => message.startsWith('The catalogue') && unnoted.resolve()
    const options = { directory, hotBytes: 0, log: { ...silentLog, warn } }
    const { cache, origin, settings, put, open, get } = await scene(t, options)
    const [bytes, small] = [randomBytes(200_000), randomBytes(page)]
    await put('a', bytes)
    await put('b', small)
    await get('b')
    const held = await open('b') // so that it does not have to make room
    const ballast = path.join(directory, 'ballast')
    fs.writeFileSync(ballast, Buffer.alloc(fs.statfsSync(directory).bavail * page))
    t.mock.timers.tick(1000)
    await unnoted.promise
    const all = await Promise.all(Array.from({ length: 10 }, async () => get('a')))
    assert.ok(all.every((got) => got.equals(bytes)))
    assert.ok((await get('a', { start: 150_000, end: 160_000 })).equals(bytes.subarray(150_000, 160_000)))
    assert.ok(cache.statistics.passed > 0)
    assert.equal(cache.has('memory:', 'a'), false)
    fs.rmSync(ballast)
    assert.ok((await get('a')).equals(bytes))
    const { reads } = origin
    assert.ok((await get('a')).equals(bytes))
    assert.equal(origin.reads, reads)
    assert.ok((await collect(held)).equals(small))
    await cache.close()
    await using again = await Cache.open(settings)
    assert.deepEqual([again.has('memory:', 'a'), again.has('memory:', 'b')], [true, true])
  })

  test('where the disk is smaller than the bound, old files make room for new ones', async (t) => {
    const { cache, origin, put, get } = await scene(t, { directory: mount(t) })
    const files = Array.from({ length: 12 }, (_, i) => ({ key: `f${i}`, bytes: randomBytes(200_000) }))
    for (const { key, bytes } of files) {
      await put(key, bytes)
      assert.ok((await get(key)).equals(bytes))
    }
    assert.ok(cache.statistics.evictions > 0)
    assert.deepEqual([cache.statistics.passed, origin.reads], [0, 12])
    assert.ok(cache.has('memory:', 'f11'))
  })
})

describe('a cache with faults', () => {
  // Small blocks are read at once, large ones in the background.
  for (const blockBytes of [page, 20 * page])
    test(`has no more bytes on disk than it may at any moment, and its statistics add up (blocks of ${blockBytes})`, async (t) => {
      const random = seeded(t)
      const maxBytes = 24 * blockBytes
      const settings = { blockBytes, maxBytes, maxEntries: 9, hotBytes: 2 * blockBytes }
      const { cache, origin, driver, put, open, blocks } = await scene(t, settings)
      let moments = 0
      const wrong: string[] = []
      const look = () => {
        moments++
        const found = bytesIn(blocks)
        const { bytes: told, entries } = cache.statistics
        if (found > told || told > maxBytes || entries > 9)
          wrong.push(`${found} on disk, ${told} told, ${entries} entries`)
      }
      origin.through = async (opened) => slowly(opened, look, blockBytes / 4)
      cache.onEvicted(look)
      const files = Array.from({ length: 14 }, (_, i) => ({
        key: `f${i}`,
        bytes: randomBytes(blockBytes * (1 + random(9))),
      }))
      for (const { key, bytes } of files) await put(key, bytes)
      let opened = 0
      const one = async () => {
        const { key, bytes } = files[random(files.length)] ?? { key: '', bytes: Buffer.alloc(0) }
        if (random(10) === 0) return driver.write(key, toBody(bytes))
        if (random(10) === 0) {
          const file = path.join(parent, `adopted-${key}`)
          fs.writeFileSync(file, bytes)
          return void (await cache.adopt('memory:', file, await driver.stat(key)))
        }
        const start = random(bytes.byteLength)
        const end = start + 1 + random(bytes.byteLength)
        const body = await open(key, { range: { start, end } })
        opened++
        if (random(5) === 0) return void body.destroy()
        const got = await collect(body).catch((error: unknown) => error as Error)
        // Somebody may have written it anew, with other versions of the same bytes.
        if (Buffer.isBuffer(got)) assert.ok(got.equals(bytes.subarray(start, end)))
        else assert.equal((got as { code?: string }).code, 'CONFLICT')
      }
      for (let round = 0; round < 40; round++) await Promise.all(Array.from({ length: 1 + random(12) }, one))
      await cache.close()
      assert.deepEqual(wrong, [])
      const { hits, misses, readers, bytes, evictions } = cache.statistics
      assert.deepEqual([hits + misses, readers], [opened, 0])
      assert.equal(bytes, bytesIn(blocks))
      assert.ok(moments > 200 && evictions > 10 && hits > 10, JSON.stringify({ moments, evictions, hits }))
    })

  test('does not exceed its bound by what a killed process had written and not noted', async (t) => {
    const { cache, settings, put, get, blocks } = await scene(t, { maxBytes: 20 * page })
    for (const key of ['a', 'b']) await put(key, randomBytes(10 * page))
    await get('a', { start: 0, end: 3 * page })
    await get('b')
    await cache.close()
    const catalogue = path.join(settings.directory, 'catalogue')
    const early = fs.readFileSync(catalogue)
    {
      await using second = await Cache.open(settings)
      assert.equal(second.statistics.bytes, 13 * page)
      const file = path.join(parent, 'whole')
      fs.writeFileSync(file, randomBytes(10 * page))
    }
    const partial = fs.readdirSync(blocks).find((name) => fs.statSync(path.join(blocks, name)).blocks * 512 < 10 * page)
    fs.writeFileSync(path.join(blocks, partial ?? ''), randomBytes(10 * page))
    fs.writeFileSync(catalogue, early)
    await using third = await Cache.open(settings)
    assert.deepEqual([third.statistics.bytes, bytesIn(blocks)], [10 * page, 10 * page])
  })

  test('serves everybody at their own pace: who stops reading holds up nobody', async (t) => {
    const { origin, put, open, get, cache } = await scene(t, { hotBytes: 2 * page })
    const bytes = randomBytes(100 * page)
    await put('a', bytes)
    origin.through = async (opened) => slowly(opened, () => undefined)
    const stopped = (await open('a'))[Symbol.asyncIterator]()
    const { value: first } = (await stopped.next()) as { value: Buffer }
    const others = await Promise.all(Array.from({ length: 10 }, async () => get('a')))
    assert.ok(others.every((got) => got.equals(bytes)))
    const rest = [first]
    for (let next = await stopped.next(); !next.done; next = await stopped.next()) rest.push(next.value as Buffer)
    assert.ok(Buffer.concat(rest).equals(bytes))
    assert.deepEqual([origin.reads, cache.statistics.passed], [1, 0])
  })

  test('readers far apart are fetched for separately, and nothing is fetched twice', async (t) => {
    const { origin, put, open, get, cache } = await scene(t, { blockBytes: 1 << 16 })
    const bytes = randomBytes(20 << 20)
    await put('a', bytes)
    const gate = Promise.withResolvers<void>()
    let fetched = 0
    origin.through = async (opened) => {
      opened.body.on('data', (chunk: Buffer) => (fetched += chunk.byteLength)).pause()
      return slowly(opened, (piece) => (piece === 50 ? gate.promise : undefined))
    }
    const front = open('a').then(collect)
    const far = get('a', { start: 15 << 20 })
    assert.ok(
      (await get('a', { start: 12 << 20, end: (12 << 20) + 10 })).equals(bytes.subarray(12 << 20).subarray(0, 10)),
    )
    gate.resolve()
    assert.ok((await far).equals(bytes.subarray(15 << 20)))
    assert.ok((await front).equals(bytes))
    assert.equal(cache.has('memory:', 'a'), true)
    assert.ok(fetched < bytes.byteLength * 1.1, `${fetched} bytes were fetched`)
  })

  test('an origin that does not answer, or stalls, or trickles is TIMEOUT for all who wait, and is asked again', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { origin, put, get, cache } = await scene(t, { timeoutMs: 1000 })
    const pass = (ms: number) => t.mock.timers.tick(ms)
    const bytes = randomBytes(5 * page)
    await put('a', bytes)
    const stall = async () => {
      setImmediate(() => pass(1000))
      return never
    }
    for (const through of [
      stall,
      async (opened) => slowly(opened, async (piece) => (piece === 5 ? stall() : undefined)),
      async (opened) => slowly(opened, (piece) => (piece < 3 ? undefined : pass(400))),
    ] satisfies Through[]) {
      origin.through = through
      const { reads } = origin
      const all = await Promise.allSettled(Array.from({ length: 5 }, async () => get('a')))
      for (const each of all)
        assert.equal(each.status === 'rejected' && (each.reason as { code: string }).code, 'TIMEOUT')
      assert.equal(origin.reads, reads + 1)
      origin.through = async (opened) => opened
      assert.ok((await get('a')).equals(bytes))
      await cache.drop('memory:', 'a')
    }
    origin.through = async (opened) => slowly(opened, () => pass(200))
    assert.ok((await get('a')).equals(bytes), 'slow is not too slow')
  })

  test('past a cache without room an origin has its time limit too, and readers have all the time', async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const { origin, put, get, open, cache } = await scene(t, { timeoutMs: 1000, maxBytes: page })
    const bytes = randomBytes(50 * page)
    await put('a', bytes)
    origin.through = async (opened) =>
      slowly(opened, async (piece) => {
        if (piece < 20) return
        setImmediate(() => t.mock.timers.tick(1000))
        await never
      })
    await assert.rejects(get('a'), { code: 'TIMEOUT' })
    origin.through = async (opened) => slowly(opened, () => undefined)
    const chunks: Buffer[] = []
    const body = await open('a')
    for await (const chunk of body as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      if (chunks.length !== 20) continue
      while (body.readableLength === 0) await new Promise((resolve) => setImmediate(resolve))
      t.mock.timers.tick(5000)
    }
    assert.ok(Buffer.concat(chunks).equals(bytes))
    assert.ok(cache.statistics.passed >= 2)
  })

  test('who asked first may leave: the others get the file, and when all have left it is given up', async (t) => {
    const { origin, put, open, get } = await scene(t)
    const bytes = randomBytes(20 * page)
    await put('a', bytes)
    const answer = Promise.withResolvers<void>()
    const signals: (AbortSignal | undefined)[] = []
    origin.through = async (opened, signal) => {
      signals.push(signal)
      await answer.promise
      return opened
    }
    const [one, two, three] = [new AbortController(), new AbortController(), new AbortController()]
    const first = open('a', { signal: one.signal })
    const second = open('a', { signal: two.signal })
    const third = get('a')
    one.abort()
    await assert.rejects(first, { code: 'ABORTED' })
    answer.resolve()
    const body = await second
    two.abort()
    await assert.rejects(collect(body), { code: 'ABORTED' })
    assert.ok((await third).equals(bytes))
    assert.deepEqual([origin.reads, signals[0]?.aborted], [1, true])

    await put('b', bytes)
    origin.through = async (_, signal) => {
      signals.push(signal)
      return never
    }
    const last = open('b', { signal: three.signal })
    await new Promise((resolve) => setImmediate(resolve))
    three.abort()
    await assert.rejects(last, { code: 'ABORTED' })
    assert.equal(signals[1]?.aborted, true)
    origin.through = async (opened) => opened
    assert.ok((await get('b')).equals(bytes))
  })

  test('a file that is dropped while it is read is read to its end, and its room is free after that', async (t) => {
    const { origin, cache, put, open, get, blocks } = await scene(t, { hotBytes: 0 })
    const bytes = randomBytes(20 * page)
    await put('a', bytes)
    await get('a')
    const iterator = (await open('a'))[Symbol.asyncIterator]()
    const { value: first } = (await iterator.next()) as { value: Buffer }
    await cache.drop('memory:', 'a')
    assert.deepEqual([fs.readdirSync(blocks), cache.statistics.bytes], [[], 20 * page])
    const rest = [first]
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) rest.push(next.value as Buffer)
    assert.ok(Buffer.concat(rest).equals(bytes))
    assert.deepEqual([origin.reads, cache.statistics.damaged, cache.statistics.bytes], [1, 0, 0])
  })

  test('an adopted file that was changed under its other name is fetched anew, and the other name is left alone', async (t) => {
    const { origin, cache, put, get, driver } = await scene(t, { hotBytes: 0 })
    const bytes = randomBytes(4 * page)
    const file = path.join(parent, 'both')
    await put('a', bytes)
    fs.writeFileSync(file, bytes)
    const checksums = Uint32Array.from([0, 1, 2, 3], (at) => crc32(bytes.subarray(at * page, (at + 1) * page)))
    await cache.adopt('memory:', file, await driver.stat('a'), { checksums, blockBytes: page })
    const damaged = Buffer.from(bytes)
    damaged.fill(0, 5000, 6000)
    fs.writeFileSync(file, damaged)
    for (let i = 0; i < 3; i++) assert.ok((await get('a')).equals(bytes))
    assert.ok(fs.readFileSync(file).equals(damaged))
    const { reads } = origin
    assert.ok((await get('a')).equals(bytes))
    assert.equal(origin.reads, reads)
  })

  test('a clock that jumps by days changes nothing', async (t) => {
    const random = seeded(t)
    t.mock.method(Date, 'now', () => 1.8e12 + (random(21) - 10) * 86_400_000)
    const { cache, settings, origin, put, get, inner } = await scene(t, { maxBytes: 4 * page, hotBytes: 0 })
    for (const key of ['a', 'b', 'c', 'd', 'e', 'f']) await put(key, randomBytes(page))
    for (const key of ['a', 'b', 'c', 'd', 'b', 'a', 'd']) await get(key)
    assert.equal(origin.reads, 4)
    await get('e')
    assert.deepEqual(kept(cache), ['a', 'b', 'd', 'e'])
    await cache.close()
    await using again = await Cache.open(settings)
    const driver = cached(inner, { cache: again })
    for (const key of ['b', 'f']) await collect((await driver.read(key)).body)
    assert.deepEqual(kept(again), ['b', 'd', 'e', 'f'])
  })
})

function kept(cache: Cache): string[] {
  return ['a', 'b', 'c', 'd', 'e', 'f'].filter((key) => cache.find('memory:', key))
}
