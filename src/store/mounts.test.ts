import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryDriver } from '../drivers/memory.ts'
import { mounted } from './mounts.ts'
import { Store } from './store.ts'
import { readOnly } from './wrappers/read-only.ts'

async function keysOf(store: Store, directory = '', recursive = true) {
  const entries = await Array.fromAsync(store.list(directory, { recursive }))
  return entries.map(({ kind, key }) => (kind === 'directory' ? `${key}/` : key))
}

test('the longest prefix takes a key, and its store sees the rest of it', async () => {
  const [root, media, thumbs] = [memoryDriver(), memoryDriver(), memoryDriver()]
  const store = new Store(mounted({ '': root, media, 'media/thumbs': thumbs }))
  for (const key of ['media', 'a', 'media/a', 'media/thumbs', 'media/thumbs/a', 'media-2/a', 'z'])
    await store.put(key, key)
  assert.deepEqual(await keysOf(new Store(root)), ['a', 'media', 'media-2/a', 'z'])
  assert.deepEqual(await keysOf(new Store(media)), ['a', 'thumbs'])
  assert.deepEqual(await keysOf(new Store(thumbs)), ['a'])
  assert.deepEqual(await keysOf(store), ['a', 'media', 'media-2/a', 'media/a', 'media/thumbs', 'media/thumbs/a', 'z'])
  assert.equal((await store.get('media/thumbs/a')).toString(), 'media/thumbs/a')
  assert.equal((await store.stat('media/thumbs/a')).key, 'media/thumbs/a')
  await store.move('media/thumbs/a', 'moved')
  assert.deepEqual([await keysOf(new Store(thumbs)), (await root.stat('moved')).size], [[], 14])
})

test('what lies behind a mount is hidden from reads and listings, on every level', async () => {
  const [root, media, thumbs] = [memoryDriver(), memoryDriver(), memoryDriver()]
  await new Store(root).put('media/hidden', 'x')
  await new Store(media).put('thumbs/hidden', 'x')
  await new Store(thumbs).put('seen', 'x')
  const store = new Store(mounted({ '': root, media, 'media/thumbs': thumbs }))
  assert.deepEqual(await keysOf(store), ['media/thumbs/seen'])
  assert.deepEqual(await keysOf(store, '', false), ['media/'])
  assert.deepEqual(await keysOf(store, 'media', false), ['media/thumbs/'])
  assert.deepEqual(await keysOf(store, 'media/thumbs', false), ['media/thumbs/seen'])
  assert.equal(await store.exists('media/hidden'), false)
})

test('without a store at the root, other keys are absent and cannot be stored', async () => {
  const store = new Store(mounted({ 'a/b': memoryDriver(), c: readOnly(memoryDriver()) }))
  await store.put('a/b/x', 'x')
  assert.deepEqual(await keysOf(store), ['a/b/x'])
  assert.deepEqual(await keysOf(store, '', false), ['a/', 'c/'])
  assert.equal(await store.exists('d/x'), false)
  await store.delete('d/x')
  await assert.rejects(store.put('d/x', 'x'), { code: 'INVALID_KEY', message: /nothing is mounted there.*a\/b\// })
  await assert.rejects(store.put('c/x', 'x'), { code: 'READ_ONLY' })
})

test('two stores at one place, and none at all, are refused', () => {
  assert.throws(() => mounted({ a: memoryDriver(), 'a/': memoryDriver() }), { code: 'INVALID_ARGUMENT' })
  assert.throws(() => mounted({}), { code: 'INVALID_ARGUMENT' })
})
