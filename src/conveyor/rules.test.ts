import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mismatch, type Filter } from './rules.ts'

const matches = (filter: Filter, path: string, size = 10) => mismatch(filter, path, size) === undefined

test('paths match at component boundaries', () => {
  const filter = { paths: ['a/b/'] }
  assert.ok(matches(filter, 'a/b/c.css'))
  assert.ok(matches(filter, 'a/b'))
  assert.ok(!matches(filter, 'a/bc.css'))
  assert.ok(matches({ paths: ['x', ''] }, 'anything'))
})

test('extensions match in any case, and a name without one has none', () => {
  const filter = { extensions: ['css', 'JPG'] }
  assert.ok(matches(filter, 'a.CSS'))
  assert.ok(matches(filter, 'a.b.jpg'))
  assert.ok(!matches(filter, 'css'))
  assert.ok(!matches(filter, '.css'))
})

test('files below an ignored directory do not match, a file of that name does', () => {
  const filter = { ignoredDirs: ['.git', 'cache'] }
  assert.ok(!matches(filter, 'a/cache/b.png'))
  assert.ok(!matches(filter, '.git/config'))
  assert.ok(matches(filter, 'a/cache'))
})

test('size limits are inclusive', () => {
  const filter = { size: { minimum: 10, maximum: 20 } }
  assert.deepEqual(
    [9, 10, 20, 21].map((size) => matches(filter, 'a', size)),
    [false, true, true, false],
  )
})

test('the pattern sees the whole path', () => {
  assert.ok(matches({ pattern: /^img\/.*\d\.png$/ }, 'img/x/1.png'))
  assert.ok(!matches({ pattern: /^img\/.*\d\.png$/ }, 'other/img/1.png'))
})

test('every condition must hold, and the reason names the one that does not', () => {
  assert.match(mismatch({ extensions: ['css'], paths: ['a'] }, 'a/x.png', 1) ?? '', /extension is not css/)
})
