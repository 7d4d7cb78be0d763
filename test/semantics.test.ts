/** Every promise of docs/semantics.md names a test, and every test it names exists. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'

const document = readFileSync('docs/semantics.md', 'utf8')
const promises = document.split('\n').filter((line) => /^\d+\. /.test(line))
const sources = globSync(['src/**/*.test.ts', 'src/testing/*.ts', 'test/**/*.test.ts'])
  .map((file) => readFileSync(file, 'utf8'))
  .join('\n')

test('promises are numbered without a gap', () => {
  assert.deepEqual(
    promises.map((line) => Number.parseInt(line, 10)),
    promises.map((_, index) => index + 1),
  )
})

for (const line of promises)
  test(`promise ${Number.parseInt(line, 10)} has its test`, () => {
    const named = [...(/Tests?: (.*)$/.exec(line)?.[1] ?? '').matchAll(/`([^`]+)`/g)].map(([, name]) => name ?? '')
    assert.ok(named.length > 0, `no test is named: ${line}`)
    // As it stands in the source: a title in quotes, whose quotes may be escaped, or part of a template.
    for (const name of named)
      assert.ok(sources.includes(name) || sources.includes(name.replaceAll("'", "\\'")), `there is no test "${name}"`)
  })
