/** What a store of several locations promises beyond the suite of drivers. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { memoryDriver } from '../drivers/memory.ts'
import type { FileInfo } from './driver.ts'
import { locations, PartialFailure, type LocationsOptions, type Partial } from './locations.ts'
import { repair, repairKey } from './repair.ts'
import { Store } from './store.ts'
import { faulty } from './wrappers/faults.ts'
import { readOnly } from './wrappers/read-only.ts'
import { renamed } from './wrappers/renamed.ts'

const down = new StowageError('UNREACHABLE', 'It is down.')

/** Two places, of which the near one can be made to fail; each asked call is noted. */
function twoPlaces(options: LocationsOptions = {}) {
  const [near, far] = [memoryDriver(), memoryDriver()]
  const state = { error: undefined as StowageError | undefined, asked: 0 }
  const same = (key: string) => key
  const noted = (key: string) => {
    state.asked++
    if (state.error) throw state.error
    return key
  }
  const failing = { ...renamed(near, { inner: noted, outer: same }), list: near.list.bind(near), location: 'near' }
  const store = new Store(
    locations(
      [failing, { ...renamed(far, { inner: same, outer: same }), list: far.list.bind(far), location: 'far' }],
      options,
    ),
  )
  return { store, near, far, state }
}

test('every call may be for one location', async () => {
  const { store, near, far } = twoPlaces()
  await store.put('a', 'near', { location: 'near' })
  await store.put('a', 'far', { location: 'far' })
  assert.equal((await store.get('a')).toString(), 'near')
  assert.equal((await store.get('a', { location: 'far' })).toString(), 'far')
  await store.delete('a', { location: 'near' })
  assert.equal(await store.exists('a', { location: 'near' }), false)
  assert.equal((await store.get('a', { location: 'all' })).toString(), 'far')
  await store.put('b', 'everywhere')
  assert.deepEqual([(await near.stat('b')).size, (await far.stat('b')).size], [10, 10])
  assert.deepEqual(await Array.fromAsync(store.list('', { location: 'near' }), ({ key }) => key), ['b'])
  await assert.rejects(store.get('a', { location: 'middle' as never }), { code: 'INVALID_ARGUMENT' })
})

test('each location says whether it has a file, or why it cannot be asked', async () => {
  const { store, state } = twoPlaces()
  await store.put('a', 'x', { location: 'far' })
  const found = await store.locate('a')
  assert.deepEqual(
    found.map(({ location, info }) => [location, info?.size]),
    [
      ['near', undefined],
      ['far', 1],
    ],
  )
  state.error = down
  assert.equal((await store.locate('a'))[0]?.error, down)
  assert.equal((await store.locate('a', { location: 'far' })).length, 1)
})

test('a location that is down is asked last for a while, and is still asked before a file is called absent', async () => {
  let now = 0
  const warnings: string[] = []
  const log: Log = { debug: () => {}, info: () => {}, error: () => {}, warn: (message) => warnings.push(message) }
  const { store, state } = twoPlaces({ now: () => now, log })
  await store.put('a', 'x')
  await store.put('n', 'x', { location: 'near' })
  const asked = async (work: () => Promise<unknown>) => {
    const before = state.asked
    await work()
    return state.asked - before
  }
  state.error = down
  assert.equal(await asked(async () => store.get('a')), 1)
  assert.match(warnings[0] ?? '', /near could not be asked for a: It is down/)
  assert.equal(await asked(async () => store.get('a')), 0)
  await assert.rejects(store.get('n'), { code: 'UNREACHABLE' })
  state.error = undefined
  assert.equal((await store.get('n')).toString(), 'x')
  state.error = down
  await store.get('a')
  now = 6000
  assert.equal(await asked(async () => store.get('a')), 1)
})

test('a change that some locations took is told, and one key is made level again', async () => {
  const partials: Partial[] = []
  const { store, near, state } = twoPlaces({ onPartial: (partial) => void partials.push(partial) })
  await store.put('a', 'old')
  state.error = down
  await assert.rejects(store.put('a', 'newer'), (error) => {
    assert.ok(error instanceof PartialFailure)
    assert.deepEqual(
      error.outcomes.map(({ location, error: why }) => [location, why]),
      [
        ['near', down],
        ['far', undefined],
      ],
    )
    return true
  })
  assert.deepEqual(
    partials.map(({ operation, key }) => [operation, key]),
    [['write', 'a']],
  )
  state.error = undefined
  const [repaired] = await repairKey(store.driver, 'a', { from: 'far' })
  assert.deepEqual({ ...repaired }, { key: 'a', location: 'near', why: 'different', from: 'far' })
  assert.equal((await near.stat('a')).size, 5)
  assert.deepEqual(await repairKey(store.driver, 'a'), [])
  assert.deepEqual(await repairKey(store.driver, 'absent'), [])
})

test('a change that one location had made when the others were cancelled is told', async () => {
  const partials: Partial[] = []
  const [near, far] = [memoryDriver(), memoryDriver()]
  const error = () => new StowageError('ABORTED', 'The call was cancelled.')
  const slow = faulty(far, { strike: () => 'after', error })
  const driver = locations([near, slow], { onPartial: (partial) => void partials.push(partial) })
  await near.write('b', toBody('old'))
  await assert.rejects(driver.write('a', toBody('x')), { code: 'ABORTED' })
  await assert.rejects(driver.delete('b'), { code: 'ABORTED' })
  assert.deepEqual(
    partials.map(({ operation, key, outcomes }) => [operation, key, outcomes.map((each) => each.error === undefined)]),
    [
      ['write', 'a', [true, false]],
      ['delete', 'b', [true, false]],
    ],
  )
})

for (const why of ['the call is cancelled', 'no location is left that would take it'])
  test(`a write ends although its body is silent, when ${why}`, async () => {
    const controller = new AbortController()
    const isDown = why.startsWith('no')
    const inner = [memoryDriver(), memoryDriver()]
    /** Waits for more of the body when its connection breaks off. */
    const breakOff = async (_: string, body: AsyncIterable<Uint8Array>) => {
      const pieces = body[Symbol.asyncIterator]()
      await pieces.next()
      void pieces.next()
      throw down
    }
    const places = inner.map((driver) => ({
      ...faulty(driver, { strike: () => undefined }),
      ...(isDown && { write: breakOff }),
    }))
    const body = async function* () {
      yield Buffer.from('half')
      if (!isDown) controller.abort()
      await new Promise(() => {})
    }
    const writing = locations(places).write('a', body(), { signal: controller.signal })
    await assert.rejects(writing, { code: isDown ? 'UNREACHABLE' : 'ABORTED' })
    for (const place of inner) await assert.rejects(place.stat('a'), { code: 'NOT_FOUND' })
  })

test('a repair copies what is missing with all that is known of it, and a dry run only tells', async () => {
  const { store, near, far } = twoPlaces()
  await store.put('same', 'x')
  await store.put('d/near', 'n', { location: 'near', contentType: 'text/css', metadata: { origin: 'here' } })
  await store.put('d/far', 'f', { location: 'far' })
  const told: string[] = []
  const onRepair = ({ key, location, why, from }: { key: string; location: string; why: string; from?: string }) =>
    told.push(`${key} ${why} at ${location}, from ${from}`)
  assert.deepEqual(await repair(store.driver, { dryRun: true, onRepair }), { checked: 3, repaired: 2, failed: 0 })
  assert.deepEqual(told, ['d/far missing at near, from far', 'd/near missing at far, from near'])
  assert.equal(await store.exists('d/far', { location: 'near' }), false)
  assert.deepEqual(await repair(store.driver, { directory: 'd' }), { checked: 2, repaired: 2, failed: 0 })
  assert.equal((await near.stat('d/far')).size, 1)
  const copied = await far.stat('d/near')
  assert.deepEqual([copied.contentType, copied.metadata], ['text/css', { origin: 'here' }])
  assert.deepEqual(await repair(store.driver), { checked: 3, repaired: 0, failed: 0 })
})

test('the newer of two different copies wins, and where times do not tell nothing is touched', async () => {
  const { store } = twoPlaces()
  const [early, late] = [new Date(1000), new Date(2000)]
  await store.put('newer-far', 'old', { location: 'near', modified: early })
  await store.put('newer-far', 'newer', { location: 'far', modified: late })
  await store.put('unclear', 'one', { location: 'near', modified: early })
  await store.put('unclear', 'other', { location: 'far', modified: early })
  const failures: unknown[] = []
  const summary = await repair(store.driver, { onRepair: ({ error }) => error && failures.push(error) })
  assert.deepEqual(summary, { checked: 2, repaired: 1, failed: 1 })
  assert.equal((await store.get('newer-far', { location: 'near' })).toString(), 'newer')
  assert.equal((failures[0] as StowageError).code, 'CONFLICT')
  assert.equal((await store.get('unclear', { location: 'near' })).toString(), 'one')
})

test('copies of one size are told apart by their content where that is asked for', async () => {
  const places = [memoryDriver(), memoryDriver()].map((place) => {
    const plain = renamed(place, { inner: (key) => key, outer: (key) => key })
    const without = ({ key, size, modified }: FileInfo): FileInfo => ({ key, size, ...(modified && { modified }) })
    const stat: typeof place.stat = async (key, call) => without(await place.stat(key, call))
    const list: typeof place.list = async function* (directory, call) {
      for await (const entry of place.list(directory, call))
        yield entry.kind === 'file' ? { kind: 'file', ...without(entry) } : entry
    }
    return { ...plain, stat, list }
  })
  const store = new Store(locations(places))
  await store.put('a', 'one', { location: 'near', modified: new Date(1000) })
  await store.put('a', 'two', { location: 'far', modified: new Date(2000) })
  assert.equal((await repair(store.driver)).repaired, 0)
  assert.equal((await repair(store.driver, { compare: 'content' })).repaired, 1)
  assert.equal((await store.get('a', { location: 'near' })).toString(), 'two')
})

test('a location that takes no writes is a source of repairs and never their target: old files move to a new store', async () => {
  const [fresh, old] = [memoryDriver(), memoryDriver()]
  for (const key of ['a', 'b', 'c']) await new Store(old).put(key, key)
  const store = new Store(locations([fresh, readOnly(old)]))
  await store.put('d', 'd')
  assert.deepEqual(await repair(store.driver), { checked: 4, repaired: 3, failed: 0 })
  assert.deepEqual(await Array.fromAsync(fresh.list(''), ({ key }) => key), ['a', 'b', 'c', 'd'])
  assert.deepEqual(await Array.fromAsync(old.list(''), ({ key }) => key), ['a', 'b', 'c'])
})

test('a repair can be cancelled, and a location whose listing fails is not taken for empty', async () => {
  const { store, far } = twoPlaces()
  await store.put('a', 'x', { location: 'far' })
  await assert.rejects(repair(store.driver, { signal: AbortSignal.abort() }), { code: 'ABORTED' })
  const broken = faulty(memoryDriver(), { strike: (operation) => (operation === 'list' ? 'before' : undefined) })
  await assert.rejects(repair(locations([broken, far])), { code: 'UNREACHABLE' })
})
