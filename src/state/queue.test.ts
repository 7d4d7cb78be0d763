import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { openDatabase, type Database } from './database.ts'
import { Queue, type Job } from './queue.ts'

let database: Database
let queue: Queue
let now: number

beforeEach(async () => {
  now = 1_000_000
  database = await openDatabase(':memory:')
  const clock = { now: () => now, sleep: async () => undefined }
  queue = new Queue(database, { clock, random: () => 0.5, maxAttempts: 3 })
})

const add = async (key: string, payload: unknown = key, delayMs = 0) => queue.add({ queue: 'q', key, payload, delayMs })
const take = async (limit = 10) => queue.take('q', limit)
const one = async (): Promise<Job> => {
  const [job] = await take(1)
  assert.ok(job)
  return job
}

test('jobs come out oldest due first, and each to one taker only', async () => {
  await add('b')
  now += 1
  await add('a')
  assert.deepEqual(
    (await take()).map(({ key }) => key),
    ['b', 'a'],
  )
  assert.deepEqual(await take(), [])
})

test('a job is not taken before it is due', async () => {
  await add('later', null, 100)
  assert.deepEqual(await take(), [])
  assert.equal(await queue.nextDueMs('q'), now + 100)
  now += 100
  assert.equal((await one()).key, 'later')
})

test('adding a waiting key again replaces it and restarts its clock', async () => {
  await add('k', 1, 100)
  now += 90
  await add('k', 2, 100)
  now += 90
  assert.deepEqual(await take(), [])
  now += 10
  assert.equal((await one()).payload, 2)
})

test('a key added while it runs runs once more afterwards', async () => {
  await add('k', 1)
  const job = await one()
  await add('k', 2)
  await add('k', 3)
  assert.deepEqual(await take(), [])
  assert.equal(await queue.finish(job), true)
  const again = await one()
  assert.equal(again.payload, 3)
  assert.equal(await queue.finish(again), true)
  assert.deepEqual(await take(), [])
})

test('a reminder changes nothing but when: what waits to be tried again is due, what runs runs once more', async () => {
  const remind = async () => queue.add({ queue: 'q', key: 'a', payload: 'reminder', isReminder: true })
  await add('a', 'first', 1000)
  await remind()
  assert.equal((await queue.find('q', 'a'))?.dueMs, now + 1000)
  now += 1000
  await queue.fail(await one(), new Error('not yet'))
  await remind()
  const job = await one()
  assert.deepEqual([job.payload, job.attempt], ['first', 2])
  await add('a', 'news')
  await remind()
  await queue.finish(job)
  assert.equal((await queue.find('q', 'a'))?.payload, 'news')
  const again = await one()
  await remind()
  await queue.finish(again)
  await queue.finish(await one())
  assert.equal(await queue.find('q', 'a'), undefined)
  await remind()
  assert.equal((await one()).payload, 'reminder')
})

test('merging may cancel a job that was never tried, but not one that was', async () => {
  const merge = () => undefined
  await queue.add({ queue: 'q', key: 'k', merge })
  await queue.add({ queue: 'q', key: 'k', merge })
  assert.deepEqual(await take(), [])
  await queue.add({ queue: 'q', key: 'k', merge })
  await queue.fail(await one(), new Error('no'))
  await queue.add({ queue: 'q', key: 'k', payload: 'second', merge })
  assert.equal((await one()).payload, 'second')
})

test('a failing job waits longer each time and is set aside with its reason', async () => {
  await add('k')
  const waits: number[] = []
  for (let attempt = 1; attempt < 3; attempt++) {
    assert.equal(await queue.fail(await one(), new Error('broken')), 'retry')
    const due = await queue.nextDueMs('q')
    assert.ok(due)
    waits.push(due - now)
    now = due
  }
  assert.ok((waits[1] ?? 0) > (waits[0] ?? 0), `waits ${waits.join()} grow`)
  assert.equal(await queue.fail(await one(), new Error('broken')), 'set aside')
  const [aside] = await queue.setAside()
  assert.deepEqual([aside?.key, aside?.reason, aside?.attempts], ['k', 'broken', 3])
  assert.equal(await queue.retry({ key: 'k' }), 1)
  assert.equal((await one()).attempt, 1)
})

test('a place that is down is waited for without end, and for as long as it asks', async () => {
  await add('k')
  for (let attempt = 1; attempt < 20; attempt++) {
    const error = new StowageError('THROTTLED', 'slow down', { retryAfterMs: 7_000_000 })
    assert.equal(await queue.fail(await one(), error), 'retry')
    assert.equal(await queue.nextDueMs('q'), now + 7_000_000)
    now += 7_000_000
  }
})

test('what cannot succeed is set aside at once', async () => {
  await add('k')
  assert.equal(await queue.fail(await one(), new StowageError('DENIED', 'no')), 'set aside')
})

test('after a crash what was running waits again, with what was added meanwhile', async () => {
  await add('a', 1)
  await add('b', 1)
  const [a] = await take()
  await add('a', 2)
  await queue.recover()
  const jobs = await take()
  assert.deepEqual(Object.fromEntries(jobs.map(({ key, payload }) => [key, payload])), { a: 2, b: 1 })
  assert.ok(a)
  assert.equal(await queue.finish(a), false, 'the old holder is fenced off')
})

test('groups that are left out stay', async () => {
  await queue.add({ queue: 'q', key: 'a', group: 'down' })
  await queue.add({ queue: 'q', key: 'b', group: 'up' })
  const excludeGroups = ['down']
  assert.deepEqual(
    (await queue.take('q', 10, { excludeGroups })).map(({ key }) => key),
    ['b'],
  )
  assert.equal(await queue.nextDueMs('q', { excludeGroups }), undefined)
  const [counts] = await queue.counts()
  assert.deepEqual([counts?.waiting, counts?.running], [1, 1])
})

test('jobs of several groups come out oldest due first, no more than were asked for', async () => {
  for (const [key, group] of ['a1', 'b2', 'b3', 'a4', 'c5'].map((name) => [name, name.charAt(0)] as const)) {
    await queue.add({ queue: 'q', key, group })
    now += 1
  }
  const keys = async (limit: number, excludeGroups: string[]) =>
    (await queue.take('q', limit, { excludeGroups })).map(({ key }) => key)
  assert.equal(await queue.nextDueMs('q', { excludeGroups: ['a', 'b'] }), now - 1)
  assert.deepEqual(await keys(2, ['b']), ['a1', 'a4'])
  assert.deepEqual(await keys(2, []), ['b2', 'b3'])
  assert.deepEqual(await keys(2, []), ['c5'])
})

test('a job and the row it belongs to are kept or lost together', async () => {
  const failing = database.transaction(async (tx) => {
    await tx.run(`INSERT INTO settings VALUES ('a', 'b')`)
    await queue.add({ queue: 'q', key: 'k' }, tx)
    throw new Error('changed my mind')
  })
  await assert.rejects(failing, /changed my mind/)
  assert.deepEqual(await take(), [])
  assert.deepEqual(await database.transaction(async (tx) => tx.all('SELECT * FROM settings')), [])
})
