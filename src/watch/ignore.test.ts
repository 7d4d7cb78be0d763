import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ignoreMatcher } from './ignore.ts'

const isIgnored = ignoreMatcher(['.git', '*.tmp', '.*.swp', 'build/cache/**', '/top', 'only/'])

for (const [path, isDirectory, expected] of [
  ['a/.git', true, true],
  ['x.tmp', false, true],
  ['deep/er/x.tmp', false, true],
  ['a/.b.swp', false, true],
  ['build/cache/x/y', false, true],
  ['other/build/cache/x', false, false],
  ['top', false, true],
  ['a/top', false, false],
  ['a/only', true, true],
  ['a/only', false, false],
  ['tmp', false, false],
  ['a.gitx', false, false],
] as const)
  test(`${path}${isDirectory ? '/' : ''} is ${expected ? '' : 'not '}ignored`, () => {
    assert.equal(isIgnored(path, isDirectory), expected)
  })
