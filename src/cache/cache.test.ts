import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { crc32 } from 'node:zlib'
import { collect, toBody } from '../core/bytes.ts'
import { StowageError } from '../core/errors.ts'
import { memoryDriver } from '../drivers/memory.ts'
import type { ByteRange, Driver } from '../store/driver.ts'
import { faulty } from '../store/wrappers/faults.ts'
import { renamed } from '../store/wrappers/renamed.ts'
import { testDriver } from '../testing/index.ts'
import { Cache, type CacheOptions } from './cache.ts'
import { cached } from './cached.ts'

const parent = fs.mkdtempSync(path.join(tmpdir(), 'stowage-cache-'))
test.after(() => fs.rmSync(parent, { recursive: true, force: true }))
let directories = 0
const newDirectory = () => path.join(parent, String(directories++))

const shapes: [name: string, options: Omit<CacheOptions, 'directory'>][] = [
  ['of usual blocks', {}],
  ['of small blocks', { blockBytes: 1000 }],
  ['too small for anything', { blockBytes: 1000, maxBytes: 3000, hotBytes: 5000 }],
  ['of few entries', { maxEntries: 2, blockBytes: 64 }],
]
for (const [name, options] of shapes)
  testDriver(`behind a cache ${name}`, async () => {
    const cache = await Cache.open({ directory: newDirectory(), ...options })
    return { driver: cached(memoryDriver(), { cache }), close: async () => cache.close() }
  })

/** An origin whose reads are noted, with a cache before it. */
async function scene(t: TestContext, options: Partial<CacheOptions> & { freshMs?: number; range?: boolean } = {}) {
  const { freshMs = Infinity, range = true, ...cacheOptions } = options
  const inner = memoryDriver()
  const reads: (ByteRange | undefined)[] = []
  let gate: Promise<void> | undefined
  const origin: Driver = {
    ...renamed(inner, { inner: (key) => key, outer: (key) => key }),
    supports: { ...inner.supports, range },
    list: inner.list.bind(inner),
    read: async (key, call) => {
      reads.push(call?.range)
      const opened = await inner.read(key, call)
      if (!gate) return opened
      const held = gate
      const slow = async function* () {
        let first = true
        for await (const chunk of opened.body as AsyncIterable<Buffer>)
          for (let at = 0; at < chunk.byteLength; at += 1000) {
            if (!first) await held
            first = false
            yield chunk.subarray(at, at + 1000)
          }
      }
      const { Readable } = await import('node:stream')
      return { info: opened.info, body: Readable.from(slow(), { objectMode: false, highWaterMark: 1 }) }
    },
  }
  const directory = newDirectory()
  const settings = { directory, blockBytes: 1000, ...cacheOptions }
  const cache = await Cache.open(settings)
  t.after(async () => cache.close())
  const driver = cached(origin, { cache, freshMs })
  const get = async (key: string, wanted?: ByteRange) =>
    collect((await driver.read(key, wanted ? { range: wanted } : {})).body)
  const put = async (key: string, bytes: Buffer) => inner.write(key, toBody(bytes))
  const hold = () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    gate = promise
    return () => {
      gate = undefined
      resolve()
    }
  }
  const onDisk = () => {
    const files = fs.readdirSync(path.join(directory, 'blocks')).map((name) => path.join(directory, 'blocks', name))
    return files
  }
  return { inner, origin, reads, cache, driver, get, put, hold, directory, settings, onDisk }
}

describe('a cache', () => {
  test('fetches a file once, however many ask, and they follow it as it arrives', async (t) => {
    const { get, put, reads, hold, driver, cache } = await scene(t)
    const bytes = randomBytes(10_500)
    await put('a', bytes)
    const release = hold()
    const early = await driver.read('a')
    const iterator = early.body[Symbol.asyncIterator]()
    const { value: first } = (await iterator.next()) as { value: Buffer }
    assert.ok(first.equals(bytes.subarray(0, 1000)), 'the first block is there before the others have come')
    const others = Array.from({ length: 50 }, async (_, i) => get('a', { start: i * 100 }))
    release()
    const all = await Promise.all(others)
    assert.ok(all.every((got, i) => got.equals(bytes.subarray(i * 100))))
    early.body.destroy()
    assert.equal(reads.length, 1)
    assert.ok((await get('a')).equals(bytes))
    assert.equal(reads.length, 1)
    const { fills, bytes: kept, entries, hits } = cache.statistics
    assert.deepEqual([fills, kept, entries], [1, 10_500, 1])
    assert.ok(hits >= 1)
  })

  test('fetches only the blocks of a range, and later only those that are missing', async (t) => {
    const { get, put, reads } = await scene(t)
    const bytes = randomBytes(10_000)
    await put('a', bytes)
    assert.ok((await get('a', { start: 3500, end: 4200 })).equals(bytes.subarray(3500, 4200)))
    assert.ok((await get('a', { start: 3100, end: 4900 })).equals(bytes.subarray(3100, 4900)))
    assert.deepEqual(reads, [{ start: 3000, end: 5000 }])
    assert.ok((await get('a', { start: 1500, end: 7500 })).equals(bytes.subarray(1500, 7500)))
    assert.deepEqual(reads.slice(1), [
      { start: 1000, end: 3000 },
      { start: 5000, end: 8000 },
    ])
    assert.ok((await get('a')).equals(bytes))
    assert.deepEqual(reads.slice(3), [
      { start: 0, end: 1000 },
      { start: 8000, end: 10_000 },
    ])
  })

  test('fetches ahead of whoever reads in sequence', async (t) => {
    const { get, put, reads } = await scene(t)
    await put('a', randomBytes(100_000))
    await get('a', { start: 0, end: 2000 })
    await get('a', { start: 2000, end: 4000 })
    for (let at = 4000; at < 100_000; at += 2000) await get('a', { start: at, end: at + 2000 })
    assert.equal(reads.length, 2)
  })

  test('begins at the front where the origin cannot begin elsewhere', async (t) => {
    const { get, put, reads } = await scene(t, { range: false })
    const bytes = randomBytes(20_000)
    await put('a', bytes)
    const [end, start] = await Promise.all([get('a', { start: 15_000 }), get('a', { start: 10, end: 20 })])
    assert.ok(end.equals(bytes.subarray(15_000)) && start.equals(bytes.subarray(10, 20)))
    assert.ok((await get('a')).equals(bytes))
    assert.deepEqual(reads, [undefined])
  })

  test('stops fetching what nobody wants any more', async (t) => {
    const { driver, put, reads, get, cache } = await scene(t, { blockBytes: 100_000 })
    const bytes = randomBytes(20_000_000)
    await put('a', bytes)
    const { body } = await driver.read('a')
    await body[Symbol.asyncIterator]().next()
    body.destroy()
    assert.ok((await get('a', { start: 19_950_000 })).equals(bytes.subarray(19_950_000)))
    assert.ok(cache.statistics.bytes < 10_000_000, `${cache.statistics.bytes} bytes were fetched`)
    assert.equal(reads.length, 2)
  })

  test('a fill that fails fails its readers, never ends early, and the next read begins anew', async (t) => {
    const inner = memoryDriver()
    const bytes = randomBytes(500_000)
    await inner.write('a', toBody(bytes))
    let isFailing = true
    const origin = faulty(inner, { strike: (operation) => (isFailing && operation === 'read' ? 'during' : undefined) })
    const cache = await Cache.open({ directory: newDirectory(), blockBytes: 1000 })
    t.after(async () => cache.close())
    const driver = cached(origin, { cache, freshMs: Infinity })
    const results = await Promise.allSettled(
      Array.from({ length: 10 }, async () => collect((await driver.read('a')).body)),
    )
    for (const result of results)
      assert.equal(result.status === 'rejected' && (result.reason as StowageError).code, 'UNREACHABLE')
    isFailing = false
    assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
  })

  test('one who is cancelled while waiting leaves, and the others get the file', async (t) => {
    const { driver, put, hold, get } = await scene(t)
    const bytes = randomBytes(5000)
    await put('a', bytes)
    const release = hold()
    const waiting = get('a')
    const controller = new AbortController()
    const { body } = await driver.read('a', { signal: controller.signal })
    const impatient = collect(body)
    controller.abort()
    await assert.rejects(impatient, { code: 'ABORTED' })
    release()
    assert.ok((await waiting).equals(bytes))
  })

  test('keeps what it has over a restart, and asks the origin only whether it is still the same', async (t) => {
    const { get, put, reads, cache, origin, settings } = await scene(t)
    const bytes = randomBytes(10_500)
    await put('a', bytes)
    await get('a', { start: 0, end: 5000 })
    await get('a', { start: 8000 })
    await cache.close()
    await using again = await Cache.open(settings)
    assert.deepEqual([again.statistics.bytes, again.statistics.entries], [7500, 1])
    const driver = cached(origin, { cache: again })
    assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
    assert.deepEqual(reads.slice(2), [{ start: 5000, end: 8000 }])
  })

  test('does not believe a damaged catalogue, nor blocks that are not as they were written', async (t) => {
    const { get, put, reads, cache, origin, settings, directory, onDisk } = await scene(t)
    const contents = ['a', 'b', 'c', 'd'].map((key) => ({ key, bytes: randomBytes(5000) }))
    for (const { key, bytes } of contents) {
      await put(key, bytes)
      await get(key)
    }
    await cache.close()
    const [flipped = '', cut = '', gone = ''] = onDisk()
    const damaged = fs.readFileSync(flipped)
    damaged[2500] = (damaged[2500] ?? 0) ^ 1
    fs.writeFileSync(flipped, damaged)
    fs.truncateSync(cut, 3200)
    fs.rmSync(gone)
    fs.writeFileSync(path.join(directory, 'blocks', 'stranger'), 'x')
    fs.appendFileSync(path.join(directory, 'catalogue'), 'rubbish\n12 {"id":"x"}\n')
    {
      await using again = await Cache.open(settings)
      assert.equal(again.statistics.entries, 3)
      const driver = cached(origin, { cache: again, freshMs: Infinity })
      for (const { key, bytes } of contents) assert.ok((await collect((await driver.read(key)).body)).equals(bytes))
      const sizes = reads.slice(4).map((range) => (range?.end === undefined ? 5000 : range.end - range.start))
      assert.deepEqual(
        sizes.toSorted((one, other) => one - other),
        [1000, 1000, 1000, 5000],
      )
      assert.equal(again.statistics.damaged, 3)
      assert.ok(!fs.existsSync(path.join(directory, 'blocks', 'stranger')))
    }
    fs.writeFileSync(path.join(directory, 'catalogue'), randomBytes(1000))
    await using empty = await Cache.open(settings)
    assert.deepEqual([empty.statistics.entries, empty.statistics.bytes, onDisk().length], [0, 0, 0])
  })

  test('serves what it should when its directory is damaged or deleted while it runs', async (t) => {
    const { get, put, reads, directory, onDisk } = await scene(t, { hotBytes: 0 })
    const bytes = randomBytes(5000)
    await put('a', bytes)
    await get('a')
    for (const damage of [
      () => fs.writeFileSync(onDisk()[0] ?? '', randomBytes(5000)),
      () => fs.truncateSync(onDisk()[0] ?? '', 10),
      () => fs.rmSync(onDisk()[0] ?? ''),
      () => fs.rmSync(directory, { recursive: true }),
    ]) {
      damage()
      assert.ok((await get('a')).equals(bytes))
      const { length } = reads
      assert.ok((await get('a')).equals(bytes))
      assert.equal(reads.length, length, 'it is in the cache again')
    }
  })

  test('notices that a file was replaced, and never mixes two versions', async (t) => {
    const { driver, put, hold, get, inner } = await scene(t, { freshMs: 0 })
    const [old, fresh] = [randomBytes(5000), randomBytes(5000)]
    await put('a', old)
    assert.ok((await get('a')).equals(old))
    await put('a', fresh)
    assert.ok((await get('a')).equals(fresh))
    await put('b', old)
    await get('b', { start: 0, end: 1000 })
    const release = hold()
    const { body } = await driver.read('b')
    await put('b', fresh)
    release()
    await assert.rejects(collect(body), { code: 'CONFLICT' })
    assert.ok((await get('b')).equals(fresh))
    await inner.delete('b')
    await assert.rejects(get('b'), { code: 'NOT_FOUND' })
  })

  test('trusts a file for as long as it was told', async (t) => {
    let now = 0
    const inner = memoryDriver()
    const cache = await Cache.open({ directory: newDirectory() })
    t.after(async () => cache.close())
    const driver = cached(inner, { cache, freshMs: 1000, now: () => now })
    const text = async () => (await collect((await driver.read('a')).body)).toString()
    await inner.write('a', toBody('old'))
    assert.equal(await text(), 'old')
    await inner.write('a', toBody('new'))
    assert.equal(await text(), 'old')
    now = 1001
    assert.equal(await text(), 'new')
    await driver.write('a', toBody('mine'))
    assert.equal(await text(), 'mine')
  })

  test('never has more bytes than it may, whatever is read by whom, and every byte is right', async (t) => {
    const seed = process.env['STOWAGE_SEED'] ?? String(Date.now())
    t.diagnostic(`seed ${seed}`)
    let state = Number(seed) >>> 0
    const random = (below: number) => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    const { get, put, cache, onDisk } = await scene(t, { maxBytes: 20_000, hotBytes: 3000 })
    const files = Array.from({ length: 20 }, (_, i) => ({ key: `f${i}`, bytes: randomBytes(random(12_000)) }))
    for (const { key, bytes } of files) await put(key, bytes)
    for (let round = 0; round < 60; round++) {
      const reads = Array.from({ length: 1 + random(8) }, async () => {
        const { key, bytes } = files[random(files.length)] ?? { key: '', bytes: Buffer.alloc(0) }
        const start = random(bytes.byteLength + 1)
        const end = start + 1 + random(bytes.byteLength)
        assert.ok((await get(key, { start, end })).equals(bytes.subarray(start, end)), `${key} ${start}-${end}`)
      })
      await Promise.all(reads)
      const blocks = onDisk().reduce((sum, file) => sum + fs.statSync(file).blocks * 512, 0)
      assert.ok(cache.statistics.bytes <= 20_000)
      assert.ok(blocks <= 20_000 + onDisk().length * 2 * 4096, `${blocks} bytes on disk`)
    }
    assert.ok(cache.statistics.evictions > 0)
    assert.equal(cache.statistics.readers, 0)
  })

  test('evicts what was not read for the longest time, and nothing that is being read', async (t) => {
    let now = 0
    const { get, put, driver, cache } = await scene(t, { maxBytes: 3000, now: () => now++, hotBytes: 0 })
    for (const key of ['a', 'b', 'c', 'd']) await put(key, randomBytes(1000))
    for (const key of ['a', 'b', 'c', 'a']) await get(key)
    const { body } = await driver.read('b')
    await get('d')
    const kept = ['a', 'b', 'c', 'd'].filter((key) => cache.find('memory:', key))
    assert.deepEqual(kept, ['a', 'b', 'd'])
    await collect(body)
  })

  test('lets through what there is no room for', async (t) => {
    const { get, put, cache } = await scene(t, { maxBytes: 5000 })
    const bytes = randomBytes(50_000)
    await put('a', bytes)
    for (const range of [undefined, { start: 7000, end: 30_000 }])
      assert.ok((await get('a', range)).equals(bytes.subarray(range?.start ?? 0, range?.end)))
    assert.ok(cache.statistics.passed >= 1)
    assert.ok(cache.statistics.bytes <= 5000)
  })

  test('takes over a file of this machine, which stays where it is', async (t) => {
    const { cache, driver, reads, put, directory } = await scene(t)
    const bytes = randomBytes(12_345)
    const file = path.join(parent, 'local')
    fs.writeFileSync(file, bytes)
    await put('a', bytes)
    const info = await driver.stat('a')
    assert.equal(await cache.adopt('memory:', file, info), true)
    assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
    assert.deepEqual(reads, [])
    assert.ok(fs.readFileSync(file).equals(bytes))
    await assert.rejects(cache.adopt('memory:', file, { ...info, size: 12_346 }), { code: 'CORRUPT' })
    await using small = await Cache.open({ directory: `${directory}-small`, maxBytes: 1000 })
    assert.equal(await small.adopt('memory:', file, info), false)
    assert.equal(small.statistics.bytes, 0)
  })

  test('takes over a file whose checksums are known without reading it, and finds out when they are wrong', async (t) => {
    const { cache, driver, reads, put, get, onDisk } = await scene(t, { hotBytes: 0 })
    const bytes = randomBytes(3500)
    const file = path.join(parent, 'known')
    fs.writeFileSync(file, bytes)
    await put('a', bytes)
    const info = await driver.stat('a')
    const checksums = Uint32Array.from([0, 1000, 2000, 3000], (start) => crc32(bytes.subarray(start, start + 1000)))
    await cache.adopt('memory:', file, info, { checksums, blockBytes: 1000 })
    assert.equal(fs.statSync(onDisk()[0] ?? '').ino, fs.statSync(file).ino)
    assert.ok((await get('a')).equals(bytes))
    assert.deepEqual(reads, [])
    for (const [known, wrong] of [
      [{ checksums: checksums.map((sum) => sum ^ 1), blockBytes: 1000 }, true],
      [{ checksums: new Uint32Array(3), blockBytes: 1000 }, false],
      [{ checksums: new Uint32Array(4), blockBytes: 999 }, false],
    ] as const) {
      await cache.adopt('memory:', file, info, known)
      assert.ok((await get('a')).equals(bytes))
      assert.equal(reads.length > 0, wrong)
      reads.length = 0
    }
    assert.ok(fs.readFileSync(file).equals(bytes))
  })

  test('knows whether a file is here as a whole', async (t) => {
    const { cache, get, put, inner } = await scene(t)
    await put('a', randomBytes(2500))
    const { etag } = await inner.stat('a')
    assert.ok(etag !== undefined)
    await get('a', { start: 0, end: 2000 })
    assert.equal(cache.has('memory:', 'a'), false)
    await get('a')
    assert.deepEqual([cache.has('memory:', 'a'), cache.has('memory:', 'a', etag)], [true, true])
    assert.deepEqual(
      [cache.has('memory:', 'a', 'other'), cache.has('else', 'a'), cache.has('memory:', 'b')],
      Array(3).fill(false),
    )
  })

  test('tells of what it evicts, and not of what is dropped', async (t) => {
    const { cache, get, put } = await scene(t, { maxBytes: 3000 })
    const evicted: unknown[] = []
    const stop = cache.onEvicted((...entry) => evicted.push(entry))
    for (const key of ['a', 'b', 'c']) await put(key, randomBytes(2000))
    await get('a')
    await cache.drop('memory:', 'a')
    await get('a')
    await get('b')
    assert.deepEqual(evicted, [['memory:', 'a', 2000]])
    stop()
    await get('c')
    assert.equal(evicted.length, 1)
    assert.equal(cache.statistics.evictions, 2)
  })

  test('is one process’s at a time, and closed is closed', async (t) => {
    const { settings, cache, driver, put, directory } = await scene(t)
    await put('a', randomBytes(10))
    fs.writeFileSync(path.join(directory, 'owner'), '1-1')
    const born = fs.readFileSync('/proc/1/stat', 'utf8').split(') ')[1]?.split(' ')[19]
    fs.writeFileSync(path.join(directory, 'owner'), `1-${born}`)
    await assert.rejects(Cache.open(settings), { code: 'BUSY' })
    await cache.close()
    await assert.rejects(driver.read('a'), { code: 'CLOSED' })
  })
})
