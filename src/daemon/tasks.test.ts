/** What long work over the control socket promises: nothing is lost or kept without end, and nobody has to end it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { Tasks } from './tasks.ts'

async function reportsOf(tasks: Tasks, id: string) {
  const reports = []
  for (;;) {
    const report = await tasks.report(id)
    reports.push(report)
    if (report.isEnded) return reports
  }
}

test('every item comes once and in order; the work waits while nobody asks', async () => {
  const tasks = new Tasks()
  let made = 0
  const full = Promise.withResolvers<void>()
  const id = tasks.begin(async function* ({ onProgress }) {
    for (; made < 1200; made++) {
      if (made === 499) setImmediate(() => setImmediate(full.resolve))
      onProgress(made)
      yield made
    }
  })
  await full.promise
  assert.equal(made, 499)
  const reports = await reportsOf(tasks, id)
  const items = reports.flatMap((report) => report.items)
  assert.deepEqual(items, [...Array(1200).keys()])
  assert.equal(reports.at(-1)?.progress, 1199)
  assert.ok(reports.every((report) => report.items.length <= 500 && report.error === undefined))
  await assert.rejects(tasks.report(id), { code: 'NOT_FOUND' })
})

test('what makes the work fail is the end of its last report, after all it has found', async () => {
  const tasks = new Tasks()
  const id = tasks.begin(async function* () {
    yield 'found'
    throw new StowageError('UNREACHABLE', 'The place is down.')
  })
  const reports = await reportsOf(tasks, id)
  assert.deepEqual(
    reports.flatMap((report) => report.items),
    ['found'],
  )
  assert.deepEqual(reports.at(-1)?.error, { code: 'UNREACHABLE', message: 'The place is down.' })
})

/** Work that ends when it is told to, and tells. */
function endless() {
  const ended = Promise.withResolvers<void>()
  const work = async function* ({ signal }: { signal: AbortSignal }) {
    try {
      await new Promise((_, reject) =>
        signal.addEventListener('abort', () => reject(new Error('stop')), { once: true }),
      )
      yield 'never'
    } finally {
      ended.resolve()
    }
  }
  return { work, ended: ended.promise }
}

test('work ends when it is cancelled, when nobody asks for it, and when all of it is closed', async () => {
  const tasks = new Tasks()
  const [first, second, forgotten] = [endless(), endless(), endless()]
  const id = tasks.begin(first.work)
  await tasks.cancel(id)
  await first.ended
  await assert.rejects(tasks.report(id), { code: 'NOT_FOUND' })
  await tasks.cancel(id)
  tasks.begin(second.work)
  await tasks.close()
  await second.ended
  new Tasks({ questionMs: 1 }).begin(forgotten.work)
  // The limit does not keep a process alive.
  const alive = setInterval(() => undefined, 1000)
  await forgotten.ended
  clearInterval(alive)
})

test('work that is cancelled while it waits for somebody to ask ends too', async () => {
  const tasks = new Tasks()
  const ended = Promise.withResolvers<void>()
  const id = tasks.begin(async function* () {
    try {
      for (;;) yield 'x'
    } finally {
      ended.resolve()
    }
  })
  await tasks.cancel(id)
  await ended.promise
})
