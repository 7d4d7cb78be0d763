import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { memoryDriver } from '../drivers/memory.ts'
import { Store } from './store.ts'

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
