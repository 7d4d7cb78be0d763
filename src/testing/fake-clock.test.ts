import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { retry } from '../core/retry.ts'
import { fakeClock } from './fake-clock.ts'

test('sleeps end in the order of their times, also those begun on the way', async () => {
  const clock = fakeClock(1000)
  const woken: [string, number][] = []
  const sleep = async (name: string, ms: number) => {
    await clock.sleep(ms)
    woken.push([name, clock.now()])
  }
  void sleep('late', 300)
  void sleep('early', 100).then(async () => sleep('again', 150))
  void sleep('never', 5000)
  await clock.advance(300)
  assert.deepEqual(woken, [
    ['early', 1100],
    ['again', 1250],
    ['late', 1300],
  ])
  assert.deepEqual([clock.now(), clock.sleeping], [1300, 1])
})

test('a sleep is cancelled by its signal', async () => {
  const clock = fakeClock()
  const controller = new AbortController()
  const sleeping = clock.sleep(100, controller.signal)
  controller.abort()
  await assert.rejects(sleeping, { code: 'ABORTED' })
  await assert.rejects(clock.sleep(100, AbortSignal.abort()), { code: 'ABORTED' })
  assert.equal(clock.sleeping, 0)
})

test('tries are apart by the back-off, and by what the place asks for', async () => {
  const clock = fakeClock()
  const times: number[] = []
  const work = retry(
    async (attempt) => {
      times.push(clock.now())
      if (attempt < 4) throw new StowageError('THROTTLED', 'slow down', attempt === 2 ? { retryAfterMs: 7000 } : {})
      return 'done'
    },
    { clock, random: () => 1 },
  )
  await clock.advance(10_000)
  assert.equal(await work, 'done')
  assert.deepEqual(times, [0, 200, 7200, 8000])
})
