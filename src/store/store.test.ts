import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { memoryDriver } from '../drivers/memory.ts'
import type { Driver } from './driver.ts'
import { locations } from './locations.ts'
import { Store } from './store.ts'
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
  const outcomes = await store.uploadMany(pairs, {
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
  const uploading = store.uploadMany(pairs, {
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
