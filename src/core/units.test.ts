import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatBytes, parseDuration, parseSize } from './units.ts'

test('durations read as people write them', () => {
  assert.equal(parseDuration('10m'), 600_000)
  assert.equal(parseDuration('1.5h'), 5_400_000)
  assert.equal(parseDuration('5w'), 3_024_000_000)
  assert.equal(parseDuration(250), 250)
})

test('sizes read as people write them', () => {
  assert.equal(parseSize('10GiB'), 10 * 2 ** 30)
  assert.equal(parseSize('5MB'), 5_000_000)
  assert.equal(parseSize('0'), 0)
})

test('a unit nobody knows is refused with examples', () => {
  assert.throws(() => parseDuration('10 fortnights'), { code: 'INVALID_ARGUMENT', message: /10s/ })
  assert.throws(() => parseSize('-1B'), { code: 'INVALID_ARGUMENT' })
  assert.throws(() => parseDuration('1constructor'), { code: 'INVALID_ARGUMENT' })
})

test('sizes print for people', () => {
  assert.deepEqual([0, 1023, 1536, 2 ** 40].map(formatBytes), ['0 B', '1023 B', '1.5 KiB', '1.0 TiB'])
})
