import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { describe, test, type TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { StowageError } from '../core/errors.ts'
import {
  gate,
  minute,
  remote,
  scene,
  type Call,
  type Scene,
  type SceneOptions,
} from '../../test/servers/filestore-scene.ts'
import type { MoveOrder } from './mover.ts'

const keys = Array.from({ length: 100 }, (_, index) => `${index < 50 ? 'a' : 'b'}/${100 + index}`)

/** A filestore with files that are local only, or in the cloud only. */
async function filled(t: TestContext, where: 'local' | 'away', options: SceneOptions = {}): Promise<Scene> {
  const s = await scene(t, options)
  await Promise.all(keys.map(async (key) => s.store.put(key, key)))
  if (where === 'away') await s.pass(10 * minute)
  for (const each of Object.values(s.remotes)) each.calls.length = 0
  s.events.length = 0
  return s
}

const places = () => ({ remotes: { one: remote(), two: remote() }, remote: 'one' })
const local = (s: Scene) => keys.filter((key) => s.isLocal(key))
const below = (prefix: string) => keys.filter((key) => key.startsWith(prefix))
const same = (some: readonly string[]) => Object.fromEntries(some.map((key) => [key, key]))

async function move(s: Scene, order: MoveOrder) {
  const begun = await s.filestore.move(order)
  await s.patiently(ended(s))
  await s.quiet()
  return { begun, last: await s.filestore.moving() }
}

const ended = async (s: Scene) => s.until('it has ended', async () => (await s.filestore.moving())?.state !== 'running')

/** Reads all files over and over until it is stopped. */
function reading(s: Scene, contents: Map<string, Buffer>) {
  let isOver = false
  const done = Promise.all(
    [...contents].map(async ([key, bytes]) => {
      for (; !isOver; await setImmediate()) assert.ok((await s.store.get(key)).equals(bytes), key)
    }),
  )
  return { done, stop: () => void (isOver = true) }
}

describe('offloading', () => {
  test('everything, or what is below a prefix, goes at once, whatever its cool-down', async (t) => {
    const s = await filled(t, 'local')
    assert.deepEqual(await s.filestore.measure({ kind: 'offload', prefix: 'a/' }), { files: 50, bytes: 250 })
    const { begun, last } = await move(s, { kind: 'offload', prefix: 'a/' })
    assert.deepEqual(begun.total, { files: 50, bytes: 250 })
    assert.deepEqual([last?.state, last?.done, last?.failed], ['done', begun.total, 0])
    assert.deepEqual([local(s), await s.remote().contents()], [below('b/'), same(below('a/'))])
    await move(s, { kind: 'offload' })
    assert.deepEqual([local(s), await s.remote().contents()], [[], same(keys)])
    assert.equal(s.remote().asked('write').length, keys.length)
    await s.pass(20 * minute)
    assert.equal(s.remote().asked('write').length, keys.length)
  })

  test('where local files are kept, they are', async (t) => {
    const s = await filled(t, 'local', { keepLocal: true })
    await move(s, { kind: 'offload' })
    assert.deepEqual([local(s), await s.remote().contents()], [keys, same(keys)])
    assert.deepEqual(await s.filestore.measure({ kind: 'offload' }), { files: 0, bytes: 0 })
  })

  test('measuring changes nothing', async (t) => {
    const s = await filled(t, 'local')
    for (const kind of ['offload', 'recall'] as const)
      assert.equal((await s.filestore.measure({ kind })).files, kind === 'offload' ? keys.length : 0)
    await s.quiet()
    assert.deepEqual([s.remote().calls, await s.filestore.moving(), s.events], [[], undefined, []])
  })

  test('a remote that is down keeps nothing from going to another', async (t) => {
    const s = await scene(t, {
      remotes: { one: remote(), two: remote() },
      remote: ({ key }) => (key < 'b' ? 'one' : 'two'),
    })
    await Promise.all(Array.from({ length: 600 }, async (_, index) => s.store.put(`a/${index}`, 'x')))
    await s.store.put('b', 'x')
    await s.filestore.pause('one')
    await s.filestore.move({ kind: 'offload' })
    await s.until('the other has its file', () => s.told('uploaded').includes('b'))
    assert.deepEqual(s.remote('one').calls, [])
    await s.filestore.resume('one')
    await s.filestore.idle()
    assert.equal((await s.filestore.moving())?.done.files, 601)
  })
})

describe('recalling', () => {
  test('everything, or what is below a prefix, comes home and stays', async (t) => {
    const s = await filled(t, 'away', { cache: {} })
    assert.deepEqual(await s.filestore.measure({ kind: 'recall', prefix: 'b/' }), { files: 50, bytes: 250 })
    const { begun, last } = await move(s, { kind: 'recall', prefix: 'b/' })
    assert.deepEqual(begun.total, { files: 50, bytes: 250 })
    assert.deepEqual([last?.state, last?.done], ['done', begun.total])
    assert.deepEqual(local(s), below('b/'))
    await move(s, { kind: 'recall' })
    assert.deepEqual([local(s), await s.contents()], [keys, same(keys)])
    await s.filestore.scan()
    await s.reopen()
    await s.pass(60 * minute)
    assert.deepEqual([local(s), await s.remote().contents()], [keys, same(keys)])
    assert.deepEqual((await s.filestore.status()).both.files, keys.length)
  })

  test('with drop the copies in the cloud go after deleteAfter, but not those of what has left again', async (t) => {
    const s = await filled(t, 'away', { deleteAfterMs: 60 * minute })
    await move(s, { kind: 'recall', drop: true })
    await s.pass(59 * minute)
    assert.deepEqual(await s.remote().contents(), same(keys))
    await move(s, { kind: 'offload', prefix: 'a/' })
    await s.pass(60 * minute)
    assert.deepEqual(await s.remote().contents(), same(below('a/')))
    assert.deepEqual(await s.contents(), same(keys))
  })

  test('a file that cannot be had is counted and set aside, and the others come', async (t) => {
    const s = await filled(t, 'away')
    await s.remote().inner.delete('a/107')
    const { last } = await move(s, { kind: 'recall' })
    assert.deepEqual([last?.state, last?.done.files, last?.failed], ['done', keys.length - 1, 1])
    assert.deepEqual(
      local(s),
      keys.filter((key) => key !== 'a/107'),
    )
    const failed = s.events.flatMap(({ name, event }) => (name === 'failed' ? [`${event.operation} ${event.key}`] : []))
    assert.deepEqual(failed, ['fetch a/107', 'recall a/107'])
  })
})

describe('migrating', () => {
  test('everything, or what is below a prefix, goes from one remote to another', async (t) => {
    const s = await filled(t, 'away', places())
    const order = { kind: 'migrate', from: 'one', to: 'two' } as const
    assert.deepEqual(await s.filestore.measure({ ...order, prefix: 'b/' }), { files: 50, bytes: 250 })
    const { begun, last } = await move(s, { ...order, prefix: 'b/' })
    assert.deepEqual([last?.state, last?.done], ['done', begun.total])
    assert.deepEqual(await s.remote('one').contents(), same(below('a/')))
    assert.deepEqual(await s.remote('two').contents(), same(below('b/')))
    await move(s, { ...order, drop: false })
    assert.deepEqual(await s.remote('one').contents(), same(below('a/')))
    assert.deepEqual(await s.remote('two').contents(), same(keys))
    assert.deepEqual([local(s), await s.contents()], [[], same(keys)])
    assert.equal(s.remote('two').asked('write').length, keys.length)
  })

  test('the former copy goes only when the new one is verified', async (t) => {
    const s = await filled(t, 'away', places())
    s.remote('two').garble = (bytes) => Buffer.from(bytes).fill(0)
    await s.filestore.move({ kind: 'migrate', from: 'one', to: 'two' })
    await s.pass(60 * minute)
    assert.deepEqual(await s.remote('one').contents(), same(keys))
    assert.deepEqual(await s.contents(), same(keys))
    s.remote('two').garble = undefined
    await s.pass(10 * minute)
    assert.deepEqual([await s.remote('one').contents(), await s.remote('two').contents()], [{}, same(keys)])
  })

  test('between a remote and itself, or to one that is not known, is refused', async (t) => {
    const s = await filled(t, 'away', places())
    await assert.rejects(s.filestore.move({ kind: 'migrate', from: 'one', to: 'one' }), { code: 'INVALID_ARGUMENT' })
    await assert.rejects(s.filestore.move({ kind: 'migrate', from: 'one', to: 'three' }), { code: 'INVALID_CONFIG' })
    assert.equal(await s.filestore.moving(), undefined)
  })
})

describe('a move', () => {
  const orders: Record<string, MoveOrder> = {
    offload: { kind: 'offload' },
    recall: { kind: 'recall' },
    migrate: { kind: 'migrate', from: 'one', to: 'two' },
  }
  for (const [kind, order] of Object.entries(orders))
    test(`(${kind}) disturbs neither those who read nor those who write`, async (t) => {
      for (const cache of [undefined, {}]) {
        const s = await scene(t, { ...places(), ...(cache && { cache }) })
        const contents = new Map(keys.slice(30, 70).map((key) => [key, randomBytes(1000)]))
        await Promise.all([...contents].map(async ([key, bytes]) => s.store.put(key, bytes)))
        if (kind !== 'offload') await s.pass(10 * minute)
        const written = new Map(keys.slice(0, 5).map((key) => [`new/${key}`, randomBytes(100)]))
        const readers = reading(s, contents)
        await s.filestore.move(order)
        for (const [key, bytes] of written) await s.store.put(key, bytes)
        await ended(s)
        readers.stop()
        await readers.done
        for (const [key, bytes] of [...contents, ...written]) assert.ok((await s.store.get(key)).equals(bytes), key)
        await s.close()
      }
    })

  for (const [kind, order] of Object.entries(orders))
    test(`(${kind}) goes on where it was when it is closed in the middle and opened again, and does nothing twice`, async (t) => {
      const s = await filled(t, kind === 'offload' ? 'local' : 'away', places())
      let left = 15
      const limited = ({ operation }: Call) => {
        const isMine = operation === (kind === 'recall' ? 'read' : 'write')
        if (isMine && left-- <= 0) throw new StowageError('UNREACHABLE', 'It is down (on purpose).')
      }
      const place = s.remote(kind === 'migrate' ? 'two' : 'one')
      place.before = limited
      const { id, total } = await s.filestore.move(order)
      await s.until('it has come half-way', () => left < 0)
      const closing = s.close()
      await s.patiently(closing)
      await s.reopen()
      const halfway = await s.filestore.moving()
      place.before = undefined
      const before = place.calls.length
      assert.deepEqual([halfway?.id, halfway?.state, halfway?.total], [id, 'running', total])
      assert.ok((halfway?.done.files ?? 0) <= 15)
      await s.patiently(ended(s))
      await s.quiet()
      const last = await s.filestore.moving()
      assert.deepEqual([last?.id, last?.state, last?.done, last?.failed], [id, 'done', total, 0])
      assert.deepEqual(await s.contents(), same(keys))
      const asked = place.calls
        .slice(before)
        .filter(({ operation }) => operation === (kind === 'recall' ? 'read' : 'write'))
      assert.ok(
        asked.length <= keys.length - (halfway?.done.files ?? 0),
        `${asked.length} after ${halfway?.done.files}`,
      )
      if (kind === 'recall') assert.deepEqual(local(s), keys)
      else assert.deepEqual([local(s), await place.contents()], [[], same(keys)])
    })

  test('keeps to its rate, all files together, and when it has ended nothing else does', async (t) => {
    for (const kind of ['offload', 'recall', 'migrate'] as const)
      for (const end of ['done', 'stopped', 'replaced', 'empty'] as const) {
        const s = await scene(t, places())
        if (end !== 'empty') for (let index = 0; index < 6; index++) await s.store.put(`${index}`, randomBytes(100_000))
        if (kind !== 'offload') await s.pass(10 * minute)
        const begun = s.clock.now()
        const order = { ...(orders[kind] as MoveOrder), bytesPerSecond: 50_000 }
        await s.filestore.move(order)
        if (end === 'done') {
          await s.patiently(ended(s))
          const seconds = (s.clock.now() - begun) / 1000
          assert.ok(seconds >= 10 && seconds <= 12, `${kind}: 600,000 bytes at 50,000 a second took ${seconds} s`)
        }
        if (end === 'stopped') assert.equal(await s.filestore.stopMoving(), true)
        if (end === 'replaced') await s.filestore.move({ kind: 'offload', prefix: 'nothing' })
        await ended(s)
        // What was in hand is finished at its own speed.
        await s.patiently(s.quiet())
        await s.store.put('free', randomBytes(4_000_000))
        await s.clock.advance(10 * minute)
        const free = s.clock.now()
        await s.until('it is uploaded', () => s.told('uploaded').includes('free'))
        assert.equal(s.clock.now(), free)
        await s.close()
      }
  })

  test('another stops it: what was still to go stays, and what had gone comes back', async (t) => {
    const s = await filled(t, 'local')
    const stopped = gate()
    let writes = 0
    s.remote().before = async ({ operation }) => (operation === 'write' && ++writes > 5 ? stopped.pass() : undefined)
    const first = await s.filestore.move({ kind: 'offload' })
    await stopped.reached
    const second = await s.filestore.move({ kind: 'recall' })
    assert.notEqual(first.id, second.id)
    stopped.open()
    await s.filestore.idle()
    await s.quiet()
    assert.deepEqual([local(s), await s.contents()], [keys, same(keys)])
    // Only what was in hand has been sent.
    assert.ok(s.remote().asked('write').length < keys.length)
    const last = await s.filestore.moving()
    assert.deepEqual([last?.id, last?.state], [second.id, 'done'])
    await s.pass(60 * minute)
    assert.deepEqual(local(s), keys)
  })

  test('a recall also stops the uploads that were to come, of what is below its prefix', async (t) => {
    const s = await filled(t, 'local')
    await move(s, { kind: 'recall', prefix: 'a/' })
    await s.pass(60 * minute)
    assert.deepEqual([local(s), await s.remote().contents()], [below('a/'), same(below('b/'))])
    await s.store.put('a/101', 'changed')
    await s.pass(10 * minute)
    assert.equal((await s.remote().contents())['a/101'], 'changed')
  })

  test('can be stopped, and what has gone is gone', async (t) => {
    const s = await filled(t, 'local')
    const stopped = gate()
    let writes = 0
    s.remote().before = async ({ operation }) => (operation === 'write' && ++writes > 5 ? stopped.pass() : undefined)
    await s.filestore.pause('cloud')
    await s.filestore.resume('cloud')
    await s.filestore.move({ kind: 'offload' })
    await stopped.reached
    assert.equal(await s.filestore.stopMoving(), true)
    assert.equal(await s.filestore.stopMoving(), false)
    stopped.open()
    await s.quiet()
    const last = await s.filestore.moving()
    assert.equal(last?.state, 'stopped')
    const sent = s.remote().asked('write').length
    assert.ok(sent < keys.length)
    await s.reopen()
    await s.quiet()
    assert.equal(s.remote().asked('write').length, sent)
    assert.deepEqual(await s.contents(), same(keys))
    // Those that were to go anyway still do.
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), same(keys))
  })

  test('that was stopped does not go on when what was in hand has failed', async (t) => {
    const s = await filled(t, 'local')
    const stopped = gate()
    s.remote().before = async ({ operation }) => {
      if (operation !== 'write') return
      await stopped.pass()
      throw new StowageError('UNREACHABLE', 'It is down (on purpose).')
    }
    await s.filestore.move({ kind: 'offload' })
    await stopped.reached
    await s.filestore.stopMoving()
    stopped.open()
    await s.quiet()
    s.remote().before = undefined
    for (let minutes = 0; minutes < 9; minutes++) await s.pass(minute)
    assert.deepEqual([local(s), await s.remote().contents()], [keys, {}])
    assert.equal((await s.filestore.status()).queues.find(({ queue }) => queue === 'move')?.waiting, 0)
    await s.pass(minute)
    assert.deepEqual(await s.remote().contents(), same(keys))
  })

  test('counts add up while files come, change and go', async (t) => {
    const s = await filled(t, 'away')
    const stopped = gate()
    s.remote().before = async ({ operation }) => (operation === 'read' ? stopped.pass() : undefined)
    await s.filestore.move({ kind: 'recall' })
    await stopped.reached
    await s.store.delete('a/101')
    await s.store.put('a/102', 'changed')
    await s.store.move('a/103', 'c')
    await s.store.put('d', 'new')
    stopped.open()
    await ended(s)
    const { state, done, failed } = (await s.filestore.moving()) ?? {}
    assert.deepEqual([state, done?.files, failed], ['done', keys.length, 0])
    assert.equal((await s.contents())['a/102'], 'changed')
    const { 'a/101': _gone, 'a/103': moved, ...others } = same(keys)
    assert.deepEqual(await s.contents(), { ...others, 'a/102': 'changed', c: moved, d: 'new' })
  })
})
