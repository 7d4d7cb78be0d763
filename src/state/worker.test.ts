import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../core/clock.ts'
import { silentLog } from '../core/log.ts'
import { openDatabase } from './database.ts'
import { Queue } from './queue.ts'
import { Worker } from './worker.ts'

test('a group whose jobs hang keeps no other waiting', async () => {
  const database = await openDatabase(':memory:')
  const queue = new Queue(database, { clock: systemClock })
  for (let index = 0; index < 20; index++) await queue.add({ queue: 'q', key: `ill ${index}`, group: 'ill' })
  for (let index = 0; index < 20; index++) await queue.add({ queue: 'q', key: `well ${index}`, group: 'well' })
  const hanging = Promise.withResolvers<void>()
  const done = Promise.withResolvers<void>()
  let [ill, well] = [0, 0]
  const worker = new Worker(queue, {
    queue: 'q',
    concurrency: 10,
    perGroup: 4,
    handle: async (job) => {
      if (job.group === 'ill') {
        ill++
        await hanging.promise
      } else if (++well === 20) done.resolve()
      await queue.finish(job)
    },
    clock: systemClock,
    log: silentLog,
  })
  worker.start()
  await done.promise
  assert.ok(ill >= 1 && ill < 8, `${ill} in hand`)
  hanging.resolve()
  await worker.stop()
  await database.close()
})
