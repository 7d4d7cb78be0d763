import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StowageError } from './errors.ts'
import { AdaptiveLimit, Limit } from './limit.ts'

test('no more than the limit run at once, in the order they came', async () => {
  const limit = new Limit(3)
  const order: number[] = []
  let most = 0
  const work = Array.from({ length: 20 }, async (_, i) =>
    limit.run(async () => {
      order.push(i)
      most = Math.max(most, limit.running)
      await new Promise((resolve) => setImmediate(resolve))
    }),
  )
  await Promise.all(work)
  assert.equal(most, 3)
  assert.deepEqual(
    order,
    order.toSorted((a, b) => a - b),
  )
  assert.equal(limit.running, 0)
})

test('who is cancelled while waiting leaves the queue, and his place is not lost', async () => {
  const limit = new Limit(1)
  const first = Promise.withResolvers<void>()
  const running = limit.run(async () => first.promise)
  const controller = new AbortController()
  const cancelled = limit.run(async () => assert.fail('it ran'), controller.signal)
  const last = limit.run(async () => 'ran')
  controller.abort()
  await assert.rejects(cancelled, { code: 'ABORTED' })
  first.resolve()
  await running
  assert.equal(await last, 'ran')
  assert.equal(limit.running, 0)
})

/** Simulated time: a place that serves `capacity` requests at once, each in `latencyMs`; more have to wait there. */
async function simulate(options: { capacity: number; latencyMs: number; requests: number }): Promise<number> {
  let now = 0
  const limit = new AdaptiveLimit({ now: () => now })
  const events: { at: number; done: () => void }[] = []
  const freeAt = Array.from({ length: options.capacity }, () => 0)
  const request = async () => {
    freeAt.sort((a, b) => a - b)
    const at = Math.max(now, freeAt[0] ?? 0) + options.latencyMs
    freeAt[0] = at
    await new Promise<void>((done) => events.push({ at, done }))
  }
  const all = Array.from({ length: options.requests }, async () => limit.run(request))
  let finished = false
  void Promise.all(all).then(() => {
    finished = true
  })
  while (!finished) {
    events.sort((a, b) => a.at - b.at)
    const next = events.shift()
    if (next) {
      now = next.at
      next.done()
    }
    await new Promise((resolve) => setImmediate(resolve))
  }
  return limit.max
}

test('where only latency is in the way the limit climbs', async () => {
  assert.ok((await simulate({ capacity: 10_000, latencyMs: 20, requests: 8000 })) >= 180)
})

test('where the place serves 20 at once it stays moderate', async () => {
  assert.ok((await simulate({ capacity: 20, latencyMs: 20, requests: 4000 })) <= 64)
})

test('a place that asks for less gets half', async () => {
  const limit = new AdaptiveLimit({ start: 64 })
  await assert.rejects(
    limit.run(async () => {
      throw new StowageError('THROTTLED', 'slow down')
    }),
  )
  assert.equal(limit.max, 32)
})
