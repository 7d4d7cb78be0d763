import assert from 'node:assert/strict'
import { test } from 'node:test'
import { cleanDirectory, cleanKey, compareKeys } from './keys.ts'

test('a clean key comes back as it is, and a list of parts is joined', () => {
  assert.equal(cleanKey('a/b c/ünï.jpg'), 'a/b c/ünï.jpg')
  assert.equal(cleanKey(['a', 'b.jpg']), 'a/b.jpg')
})

for (const bad of ['', '/a', 'a//b', 'a/', '.', 'a/../b', './a', 'a\0b', '\ud800', 'x'.repeat(1025)])
  test(`the key ${JSON.stringify(bad.slice(0, 12))} is refused`, () => {
    assert.throws(() => cleanKey(bad), { code: 'INVALID_KEY' })
  })

test('a part of a list may not smuggle in a slash', () => {
  assert.throws(() => cleanKey(['a', '../b']), { code: 'INVALID_KEY' })
})

test('a directory may be the root and may end in one slash', () => {
  assert.equal(cleanDirectory(''), '')
  assert.equal(cleanDirectory('a/b/'), 'a/b')
  assert.throws(() => cleanDirectory('a//'), { code: 'INVALID_KEY' })
})

test('keys order by their UTF-8 bytes, not by UTF-16 code units', () => {
  const keys = ['a', 'a-b', 'a/b', 'ab', 'é', '\uffee', '\u{1f600}', '\ue000', 'B']
  const byBytes = keys.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
  assert.deepEqual(keys.toSorted(compareKeys), byBytes)
})
