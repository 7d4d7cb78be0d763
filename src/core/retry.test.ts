import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StowageError } from './errors.ts'
import { backoffMs, retry } from './retry.ts'

const waits: number[] = []
const clock = {
  now: () => 0,
  sleep: async (ms: number) => {
    waits.push(ms)
  },
}

test('what may pass is tried again, waiting as long as the place asks', async () => {
  waits.length = 0
  let calls = 0
  const result = await retry(
    async () => {
      if (++calls < 3) throw new StowageError('THROTTLED', 'slow down', { retryAfterMs: 5000 })
      return 'done'
    },
    { clock },
  )
  assert.equal(result, 'done')
  assert.deepEqual(waits, [5000, 5000])
})

test('what will not pass is not tried again', async () => {
  let calls = 0
  const work = async () => {
    calls++
    throw new StowageError('DENIED', 'no')
  }
  await assert.rejects(retry(work, { clock }), { code: 'DENIED' })
  assert.equal(calls, 1)
})

test('after the last attempt the failure comes through', async () => {
  let calls = 0
  const work = async () => {
    calls++
    throw new StowageError('UNREACHABLE', 'down')
  }
  await assert.rejects(retry(work, { clock, attempts: 4 }), { code: 'UNREACHABLE' })
  assert.equal(calls, 4)
})

test('the back-off doubles up to its maximum and is spread', () => {
  const options = { baseMs: 100, maxMs: 1000 }
  assert.deepEqual(
    [1, 2, 3, 9].map((n) => backoffMs(n, { ...options, random: () => 1 })),
    [100, 200, 400, 1000],
  )
  assert.equal(backoffMs(1, { ...options, random: () => 0 }), 50)
})
