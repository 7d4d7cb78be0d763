import assert from 'node:assert/strict'
import { test } from 'node:test'
import { asciiKey, cleanDirectory, cleanKey, compareKeys } from './keys.ts'

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

const names: [from: string, to: string][] = [
  ['Übung 1.JPG', 'Ubung_1.JPG'],
  ['  a \t b  ', 'a_b'],
  ['..hidden..', 'hidden'],
  ['a&b<c>.txt', 'abc.txt'],
  ['ﬁne ½.png', 'fine_12.png'],
  ['back\\slash', 'back_slash'],
  ['_x_', 'x'],
]
for (const [from, to] of names)
  test(`${JSON.stringify(from)} becomes ${to}, which stays as it is`, () => {
    assert.equal(asciiKey(from), to)
    assert.equal(asciiKey(to), to)
  })

test('parts are cleaned one by one, and one of which nothing is left is refused', () => {
  assert.equal(asciiKey('é/è/a b'), 'e/e/a_b')
  assert.equal(asciiKey(['a/../b', 'c']), 'a_.._b/c')
  for (const bad of ['日本', '..', 'a//b', 'a/ /b']) assert.throws(() => asciiKey(bad), { code: 'INVALID_KEY' }, bad)
})
