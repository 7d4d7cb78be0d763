import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { silentLog } from '../core/log.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import { locations } from '../store/locations.ts'
import { Store } from '../store/store.ts'
import { faulty } from '../store/wrappers/faults.ts'
import { fakeClock } from '../testing/index.ts'
import { Repairs } from './repairs.ts'

/** A store of two places whose far one is down for as long as `isDown` says, with the queue its repairs are in. */
async function scene(directory: string) {
  const clock = fakeClock()
  const database = await openDatabase(path.join(directory, 'state.db'))
  const queue = new Queue(database, { clock })
  const state = { isDown: false }
  const [near, far] = [memoryDriver(), memoryDriver()]
  const named = { ...faulty(far, { strike: () => (state.isDown ? 'before' : undefined) }), location: 'far' }
  const store: Store = new Store(
    locations([near, named], { onPartial: async (partial) => repairs.add('media', partial) }),
  )
  const repairs = new Repairs(queue, new Map([['media', store]]), { clock, log: silentLog })
  return { clock, database, queue, state, near, far, store, repairs }
}

test('what a location missed while it was down is made up for when it is back, writes and deletes', async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'stowage-repairs-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const { clock, database, queue, state, near, far, store, repairs } = await scene(directory)
  await store.put('deleted', 'x')
  await store.put('back', 'x')
  await store.put('changed', 'old')
  state.isDown = true
  await assert.rejects(store.put('new', 'new'), { code: 'UNREACHABLE' })
  await assert.rejects(store.put('changed', 'newer'), { code: 'UNREACHABLE' })
  await assert.rejects(store.delete('deleted'), { code: 'UNREACHABLE' })
  await assert.rejects(store.delete('back'), { code: 'UNREACHABLE' })
  await store.put('back', 'again', { location: 'near' })
  const waiting = async () => (await queue.counts()).find((counts) => counts.queue === 'repair')
  assert.equal((await waiting())?.waiting, 4)
  repairs.start()
  state.isDown = false
  while (await waiting()) await clock.advance(1000)
  for (const place of [near, far]) {
    const keys = await Array.fromAsync(place.list(''), ({ key }) => key)
    assert.deepEqual(keys, ['back', 'changed', 'new'])
    assert.equal((await place.stat('changed')).size, 5)
  }
  await repairs.close()
  await database.close()
})
