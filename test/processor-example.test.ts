/** The processor that authors begin from, as docs/processors.md shows it, passes the suite. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { shout } from '../examples/processor/shout.ts'
import { testProcessor } from '../src/testing/index.ts'

testProcessor('shout', {
  make: () => shout(),
  samples: [{ name: 'note.txt', content: Buffer.from('hello') }],
  check: (output) => assert.equal(output.content.toString(), 'HELLO!'),
  mayGrow: true,
})

test('docs/processors.md shows the example as it is', () => {
  const [, code = ''] = readFileSync('examples/processor/shout.ts', 'utf8').split(/(?=^export const)/m)
  assert.ok(readFileSync('docs/processors.md', 'utf8').includes(code))
})
