import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import type { Driver } from './driver.ts'
import { locations } from './locations.ts'
import { Store, type TransferProgress } from './store.ts'
import { faulty } from './wrappers/faults.ts'
import { readOnly } from './wrappers/read-only.ts'

test('a key may be a list of parts', async () => {
  const store = new Store(memoryDriver())
  await store.put(['a', 'b.txt'], 'hello')
  assert.equal((await store.get('a/b.txt')).toString(), 'hello')
})

test('no method lets a bad key through to the driver', async () => {
  const store = new Store(memoryDriver())
  await assert.rejects(store.get('../x'), { code: 'INVALID_KEY' })
  await assert.rejects(store.put('/x', ''), { code: 'INVALID_KEY' })
  await assert.rejects(store.move('a', 'b//c'), { code: 'INVALID_KEY' })
})

test('a range that is none is refused', async () => {
  const store = new Store(memoryDriver())
  await store.put('a', 'abc')
  await assert.rejects(store.open('a', { range: { start: 2, end: 2 } }), { code: 'INVALID_ARGUMENT' })
})

test('moving a file leaves it under its new name only', async () => {
  const store = new Store(memoryDriver())
  await store.put('a', 'x')
  await store.move('a', 'b')
  assert.deepEqual([await store.exists('a'), await store.exists('b')], [false, true])
})

test('a file goes to the local disk and back, and a failed download leaves nothing', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-store-'))
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const store = new Store(memoryDriver())
  await store.put('a', 'content')
  await store.download('a', path.join(directory, 'deep/a'))
  await store.upload(path.join(directory, 'deep/a'), 'b')
  assert.equal((await store.get('b')).toString(), 'content')
  await assert.rejects(store.download('absent', path.join(directory, 'absent')), { code: 'NOT_FOUND' })
  assert.deepEqual(fs.readdirSync(directory), ['deep'])
})

test('a public address treats the base as a prefix and encodes the key', () => {
  const store = new Store(memoryDriver(), { publicUrl: 'https://cdn.example.com/media' })
  assert.equal(store.url('a b/c#.jpg'), 'https://cdn.example.com/media/a%20b/c%23.jpg')
  assert.throws(() => new Store(memoryDriver()).url('a'), { code: 'NO_PUBLIC_URL' })
})

test('many files are uploaded, those that fail are told apart, and progress is told of each', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-store-'))
  t.after(() => fs.rmSync(directory, { recursive: true }))
  for (const name of ['a', 'b', 'c']) fs.writeFileSync(path.join(directory, name), name.repeat(10))
  const store = new Store(memoryDriver())
  const done: number[] = []
  const pairs = ['a', 'absent', 'b', 'c'].map((name) => [path.join(directory, name), ['up', name]] as const)
  const outcomes = await store.uploadBatch(pairs, {
    concurrency: 2,
    onProgress: ({ filesDone, filesTotal }) => done.push(filesDone / filesTotal),
  })
  assert.deepEqual(
    outcomes.map(({ key, info }) => [key, info?.size]),
    [
      [['up', 'a'], 10],
      [['up', 'absent'], undefined],
      [['up', 'b'], 10],
      [['up', 'c'], 10],
    ],
  )
  assert.ok(outcomes[1]?.error instanceof Error)
  assert.deepEqual(done, [0.25, 0.5, 0.75, 1])
})

test('uploading many ends when it is cancelled', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-store-'))
  t.after(() => fs.rmSync(directory, { recursive: true }))
  fs.writeFileSync(path.join(directory, 'a'), 'x')
  const controller = new AbortController()
  const store = new Store(memoryDriver())
  const pairs = ['1', '2', '3'].map((key) => [path.join(directory, 'a'), key] as const)
  const uploading = store.uploadBatch(pairs, {
    concurrency: 1,
    signal: controller.signal,
    onProgress: () => controller.abort(),
  })
  await assert.rejects(uploading, { code: 'ABORTED' })
  assert.deepEqual(
    (await Array.fromAsync(store.list())).map(({ key }) => key),
    ['1'],
  )
})

test('a file that is not there, or is none, is named', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-store-'))
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const store = new Store(memoryDriver())
  await assert.rejects(store.upload(path.join(directory, 'absent'), 'a'), { code: 'NOT_FOUND', message: /absent/ })
  await assert.rejects(store.upload(directory, 'a'), { code: 'INVALID_ARGUMENT' })
  await store.put('a', 'x')
  fs.writeFileSync(path.join(directory, 'file'), '')
  await assert.rejects(store.download('a', path.join(directory, 'file/below')), { code: 'EXISTS', message: /file/ })
})

test('many files are deleted; the first failure comes through after all were tried', async () => {
  const inner = memoryDriver()
  for (const key of ['a', 'b', 'c']) await inner.writeBytes?.(key, Buffer.from(key))
  const stubborn: Driver = {
    ...inner,
    delete: async (key) => (key === 'a' ? Promise.reject(new Error('a stays')) : inner.delete(key)),
  }
  await assert.rejects(new Store(stubborn).deleteMany(['a', 'b', 'absent', ['c']]), /a stays/)
  assert.deepEqual(
    (await Array.fromAsync(inner.list(''))).map(({ key }) => key),
    ['a'],
  )
})

test('near and far are stores of their own; a store of one place is its own near and far', async () => {
  const store = new Store(locations([memoryDriver(), memoryDriver()]), { publicUrl: 'https://example.com/' })
  await store.at('far').put('old', 'x')
  assert.ok(await store.exists('old'))
  assert.ok(!(await store.at('near').exists('old')))
  assert.equal(store.at('far').url('old'), 'https://example.com/old')
  const single = new Store(memoryDriver())
  await single.put('a', 'x')
  assert.ok(await single.at('far').exists('a'))
})

test('URLs are signed where the place can, and for reading only where it is read-only', async () => {
  const signing: Driver = { ...memoryDriver(), signedUrl: async (key, { method }) => `signed:${method}:${key}` }
  assert.equal(await new Store(signing).signedUrl(['a', 'b'], { expiresInSeconds: 60 }), 'signed:GET:a/b')
  const guarded = new Store(readOnly(signing))
  assert.equal(await guarded.signedUrl('a', { expiresInSeconds: 60 }), 'signed:GET:a')
  await assert.rejects(guarded.signedUrl('a', { method: 'PUT', expiresInSeconds: 60 }), { code: 'READ_ONLY' })
})

test('a stream that ends stores a file, and finishes when it is stored', async () => {
  const store = new Store(memoryDriver())
  const bytes = randomBytes(3_000_000)
  const writer = store.create('a', { contentType: 'image/png' })
  await pipeline(Readable.from([bytes.subarray(0, 1), bytes.subarray(1)]), writer)
  assert.ok((await store.get('a')).equals(bytes))
  const { size, contentType } = await writer.stored
  assert.deepEqual([size, contentType], [3_000_000, 'image/png'])
  const text = store.create('b')
  text.write('line 1\n')
  text.end('line 2\n')
  await once(text, 'finish')
  assert.equal((await store.get('b')).toString(), 'line 1\nline 2\n')
})

test('a stream that is destroyed, or whose source fails, stores nothing', async () => {
  const store = new Store(memoryDriver())
  const writer = store.create('a')
  writer.write('half')
  writer.destroy()
  await assert.rejects(writer.stored, { code: 'ABORTED' })
  const failing = async function* () {
    yield 'half'
    throw new Error('the source broke')
  }
  await assert.rejects(pipeline(Readable.from(failing()), store.create('a')), /the source broke/)
  assert.equal(await store.exists('a'), false)
})

test('a stream whose place fails says so, at once and to whoever waits', async () => {
  const store = new Store(faulty(memoryDriver(), { strike: () => 'before' }))
  const source = Readable.from(Array.from({ length: 100 }, () => Buffer.alloc(100_000)))
  await assert.rejects(pipeline(source, store.create('a')), { code: 'UNREACHABLE' })
  assert.throws(() => new Store(readOnly(memoryDriver())).create('a'), { code: 'READ_ONLY' })
})

test('of many who want a name at once, one has it and every other a name of its own', async () => {
  for (const driver of [memoryDriver(), locations([memoryDriver(), memoryDriver()])]) {
    const store = new Store(driver)
    const keys = await Promise.all(Array.from({ length: 8 }, async () => store.uniqueKey(['d', 'photo.jpg'])))
    assert.equal(new Set(keys).size, 8)
    assert.equal(keys.filter((key) => key === 'd/photo.jpg').length, driver.supports.ifAbsent ? 1 : 0)
    const other = /^d\/[0-9a-f]{8}-[0-9a-f-]{27}-photo\.jpg$/
    assert.ok(keys.every((key) => key === 'd/photo.jpg' || other.test(key)))
  }
})

test('a directory is deleted when it is empty, or with all below it; the root never', async () => {
  const store = new Store(memoryDriver())
  for (const key of ['d/a', 'd/b/c', 'd-2', 'e']) await store.put(key, 'x')
  await assert.rejects(store.deleteDirectory('d'), { code: 'CONFLICT' })
  assert.equal(await store.deleteDirectory('nowhere'), 0)
  assert.equal(await store.deleteDirectory(['d'], { recursive: true }), 2)
  for (const root of ['', []])
    await assert.rejects(store.deleteDirectory(root, { recursive: true }), { code: 'INVALID_ARGUMENT' })
  assert.deepEqual(await Array.fromAsync(store.list(), ({ key }) => key), ['d-2', 'e'])
})

test('names are made web-safe where the store says so, whichever way they come in', async () => {
  const inner = memoryDriver()
  const store = new Store(inner, { cleanName: 'ascii', publicUrl: 'https://example.com' })
  await store.put(['Übung 1', '../été.JPG'], 'x')
  assert.deepEqual(await Array.fromAsync(inner.list(''), ({ key }) => key), ['Ubung_1/ete.JPG'])
  assert.equal((await store.get('Übung 1/été.JPG')).toString(), 'x')
  assert.equal((await store.get('Ubung_1/ete.JPG')).toString(), 'x')
  assert.equal(store.url('Übung 1/été.JPG'), 'https://example.com/Ubung_1/ete.JPG')
  assert.equal(await store.deleteDirectory('Übung 1', { recursive: true }), 1)
  await assert.rejects(store.put('日本/x', 'x'), { code: 'INVALID_KEY' })
})

test('the path of a local file is told, and that others have none', () => {
  assert.equal(new Store(fileDriver({ directory: '/srv/media' })).localPath(['a', 'b']), '/srv/media/a/b')
  assert.throws(() => new Store(memoryDriver()).localPath('a'), { code: 'UNSUPPORTED' })
  const both = new Store(locations([fileDriver({ directory: '/srv/media' }), memoryDriver()]))
  assert.equal(both.localPath('a', { location: 'near' }), '/srv/media/a')
})

test('transfers tell how far they are', async (t) => {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-store-'))
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const file = path.join(directory, 'a')
  fs.writeFileSync(file, randomBytes(1_000_000))
  const store = new Store(memoryDriver())
  const told: TransferProgress[] = []
  const onProgress = (progress: TransferProgress) => told.push(progress)
  for (const work of [
    async () => store.upload(file, 'a', { onProgress }),
    async () => store.download('a', `${file}.back`, { onProgress }),
    async () => store.put('b', fs.createReadStream(file), { onProgress, size: 1_000_000 }),
    async () => store.put('c', fs.readFileSync(file), { onProgress }),
  ]) {
    told.length = 0
    await work()
    assert.deepEqual(told.at(-1), { bytes: 1_000_000, total: 1_000_000 })
    assert.ok(told.every(({ bytes }, index) => bytes > (told[index - 1]?.bytes ?? 0)))
  }
})
