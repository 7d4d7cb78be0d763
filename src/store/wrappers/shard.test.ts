import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { compareKeys } from '../../core/keys.ts'
import { memoryDriver } from '../../drivers/memory.ts'
import { Store } from '../store.ts'
import { sharded } from './shard.ts'

const hashes = Array.from({ length: 40 }, (_, i) => createHash('sha256').update(`${i}`).digest('hex'))

test('hashes are spread over directories, other names are not, and both are found and listed as they are', async () => {
  const inner = memoryDriver()
  const store = new Store(sharded(inner, 4))
  const others = ['a', 'a/b/c/d', `x/${hashes[0]}`, `a/b/c/d/${'e'.repeat(63)}`, 'zz']
  for (const key of [...hashes, ...others]) await store.put(key, key)
  const [first = ''] = hashes
  const kept = [first[0], first[1], first[2], first[3], first].join('/')
  assert.equal((await inner.stat(kept)).size, 64)
  assert.equal((await store.stat(first)).key, first)
  for (const key of others) assert.equal((await inner.stat(key)).key, key)
  const sorted = [...hashes, ...others].sort(compareKeys)
  const listed = await Array.fromAsync(store.list())
  assert.deepEqual(
    listed.map(({ key }) => key),
    sorted,
  )
  for (const at of [0, 7, 20, 44])
    assert.deepEqual(
      (await Array.fromAsync(store.list('', { after: sorted[at] ?? '' }))).map(({ key }) => key),
      sorted.slice(at + 1),
    )
  const level = await Array.fromAsync(store.list('', { recursive: false }))
  assert.deepEqual(
    level.map(({ kind, key }) => (kind === 'directory' ? `${key}/` : key)),
    ['a', 'a/', 'x/', 'zz', ...hashes].sort(compareKeys),
  )
  await store.deleteMany(hashes)
  assert.deepEqual(
    (await Array.fromAsync(inner.list(''))).map(({ key }) => key),
    others.toSorted(compareKeys),
  )
})
