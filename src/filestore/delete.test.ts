import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { describe, test, type TestContext } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { StowageError } from '../core/errors.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { day, gate, minute, remote, scene, type Scene, type SceneOptions } from '../../test/servers/filestore-scene.ts'

const week = 7 * day

/** A filestore with `here`, which is only local, and `away`, which is only in the cloud. */
async function two(t: TestContext, options: SceneOptions = {}): Promise<Scene> {
  const s = await scene(t, options)
  await s.store.put('away', 'a')
  await s.pass(10 * minute)
  await s.filestore.pause()
  await s.store.put('here', 'h')
  await s.filestore.resume()
  s.remote().calls.length = 0
  s.events.length = 0
  return s
}

/** What deleted files have left here. */
function trashed(s: Scene): string[] {
  const trash = s.file('.stowage-trash')
  if (!fs.existsSync(trash)) return []
  return fs
    .readdirSync(trash, { recursive: true, withFileTypes: true })
    .flatMap((each) => (each.isFile() ? [each.name] : []))
}

const restorable = async (s: Scene) => (await Array.fromAsync(s.filestore.deleted())).map(({ key }) => key)

describe('a deleted file', () => {
  test('is gone at once, and can be restored for five weeks, wherever it was', async (t) => {
    const s = await two(t)
    for (const key of ['away', 'here']) await s.store.delete(key)
    assert.deepEqual(await s.contents(), {})
    for (const key of ['away', 'here']) await assert.rejects(s.store.get(key), { code: 'NOT_FOUND' })
    await s.pass(5 * week - minute)
    assert.deepEqual(s.remote().asked('delete'), [])
    assert.deepEqual(await restorable(s), ['away', 'here'])
    for (const key of ['away', 'here']) await s.filestore.restore(key)
    assert.deepEqual(await s.contents(), { away: 'a', here: 'h' })
    await s.pass(10 * week)
    assert.deepEqual(await s.remote().contents(), { away: 'a', here: 'h' })
    assert.deepEqual([await s.contents(), trashed(s)], [{ away: 'a', here: 'h' }, []])
  })

  test('is gone for good after five weeks, here and at the remote', async (t) => {
    const s = await two(t)
    for (const key of ['away', 'here']) await s.store.delete(key)
    assert.deepEqual(s.told('deleted').sort(), ['away', 'here'])
    await s.reopen()
    await s.pass(5 * week)
    assert.deepEqual([await s.remote().contents(), trashed(s), await restorable(s)], [{}, [], []])
    for (const key of ['away', 'here']) await assert.rejects(s.filestore.restore(key), { code: 'NOT_FOUND' })
    await s.until('it is told', () => s.told('deleted').length === 4)
    const final = s.events.flatMap(({ name, event }) => (name === 'deleted' && event.isFinal ? [event.key] : []))
    assert.deepEqual(final.sort(), ['away', 'here'])
    assert.deepEqual(await s.database.query('SELECT * FROM files'), [])
    assert.deepEqual(await s.database.query('SELECT * FROM replicas'), [])
  })

  test('goes at once where deleteAfter is 0', async (t) => {
    const s = await two(t, { deleteAfterMs: 0 })
    for (const key of ['away', 'here']) await s.store.delete(key)
    await s.quiet()
    assert.deepEqual([await s.remote().contents(), trashed(s), await restorable(s)], [{}, [], []])
    assert.deepEqual(await s.database.query('SELECT * FROM files'), [])
  })

  test('is kept for ever where deleteAfter is Infinity, also when it was on its way', async (t) => {
    const s = await two(t, { deleteAfterMs: Infinity })
    const stopped = gate()
    s.remote().before = async ({ operation }) => (operation === 'write' ? stopped.pass() : undefined)
    await s.store.put('sent', 's')
    await s.clock.advance(10 * minute)
    await stopped.reached
    for (const key of ['away', 'here', 'sent']) await s.store.delete(key)
    stopped.open()
    await s.quiet()
    await s.pass(400 * day)
    assert.deepEqual(await restorable(s), ['away', 'here', 'sent'])
    for (const key of ['away', 'here', 'sent']) await s.filestore.restore(key)
    assert.deepEqual(await s.contents(), { away: 'a', here: 'h', sent: 's' })
    const { queues } = await s.filestore.status()
    assert.ok(queues.every(({ oldestMs }) => oldestMs === undefined || Number.isFinite(oldestMs)))
  })

  test('of which another was written cannot be restored, and goes when its time has come', async (t) => {
    const s = await two(t)
    for (const key of ['away', 'here']) {
      await s.store.delete(key)
      await s.store.put(key, 'new')
      await assert.rejects(s.filestore.restore(key), { code: 'EXISTS' })
    }
    assert.deepEqual(await restorable(s), [])
    await s.pass(6 * week)
    assert.deepEqual(await s.contents(), { away: 'new', here: 'new' })
    assert.deepEqual(await s.remote().contents(), { away: 'new', here: 'new' })
    assert.deepEqual(trashed(s), [])
  })

  test('below which, or above which, there is a file now, cannot be restored', async (t) => {
    const s = await scene(t)
    await s.store.put('a', 'x')
    await s.store.delete('a')
    await s.store.put('a/b', 'x')
    await assert.rejects(s.filestore.restore('a'), { code: 'CONFLICT' })
    await s.store.delete('a/b')
    await s.filestore.restore('a')
    await assert.rejects(s.filestore.restore('a/b'), { code: 'CONFLICT' })
    assert.deepEqual(await s.contents(), { a: 'x' })
  })

  test('that is restored, changed and deleted again can be restored as it was then', async (t) => {
    const s = await two(t)
    await s.store.delete('away')
    await s.filestore.restore('away')
    await s.store.put('away', 'second')
    await s.store.delete('away')
    await s.pass(4 * week)
    await s.filestore.restore('away')
    assert.equal((await s.store.get('away')).toString(), 'second')
    await s.pass(10 * week)
    assert.equal((await s.store.get('away')).toString(), 'second')
  })

  test('keeps its type and its metadata when it is restored', async (t) => {
    const s = await scene(t)
    const { contentType, metadata } = { contentType: 'text/x-test', metadata: { origin: 'test' } }
    await s.store.put('a', 'x', { contentType, metadata })
    await s.store.delete('a')
    const info = await s.filestore.restore('a')
    assert.deepEqual([info.contentType, info.metadata], [contentType, metadata])
  })

  test('whose remote is down goes when that is back', async (t) => {
    const s = await two(t, { deleteAfterMs: 0 })
    await s.store.delete('here')
    s.remote().before = () => {
      throw new StowageError('UNREACHABLE', 'It is down (on purpose).')
    }
    await s.store.delete('away')
    await s.pass(60 * minute)
    assert.deepEqual(await s.remote().contents(), { away: 'a' })
    await assert.rejects(s.filestore.restore('away'), { code: 'NOT_FOUND' })
    s.remote().before = undefined
    await s.pass(6 * minute)
    assert.deepEqual([await s.remote().contents(), await s.database.query('SELECT * FROM replicas')], [{}, []])
  })
})

describe('a file that is deleted while it is uploaded', () => {
  for (const moment of ['write', 'stat'] as const)
    test(`(${moment}) is not left behind at the remote, and can be restored until its time has come`, async (t) => {
      for (const deleteAfterMs of [0, week]) {
        const s = await scene(t, { deleteAfterMs })
        const stopped = gate()
        s.remote().before = async ({ operation }) => (operation === moment ? stopped.pass() : undefined)
        await s.store.put('a', 'x')
        await s.clock.advance(10 * minute)
        await stopped.reached
        await s.store.delete('a')
        stopped.open()
        await s.quiet()
        if (deleteAfterMs > 0) {
          await s.filestore.restore('a')
          assert.deepEqual(await s.contents(), { a: 'x' })
          await s.store.delete('a')
        }
        await s.pass(deleteAfterMs)
        assert.deepEqual([await s.contents(), await s.remote().contents(), trashed(s)], [{}, {}, []])
        assert.deepEqual(await s.database.query('SELECT * FROM replicas'), [])
        await s.close()
      }
    })
})

describe('deletes at a remote', () => {
  test('touch nothing at another place than the one that was recorded, as with a copied state', async (t) => {
    const production = { cloud: remote(memoryDriver(), {}, 's3://production/media') }
    const s = await two(t, { remotes: production, deleteAfterMs: 0 })
    await s.pass(10 * minute)
    await s.close()
    const staging = remote(memoryDriver(), {}, 's3://staging/media')
    for (const key of ['away', 'here']) await staging.inner.write(key, toBody('of staging'))
    await s.reopen({ remotes: { cloud: staging } })
    for (const key of ['away', 'here']) await s.store.delete(key)
    await s.pass(week)
    assert.deepEqual([staging.asked('delete'), staging.asked('deleteMany')], [[], []])
    assert.deepEqual(await staging.contents(), { away: 'of staging', here: 'of staging' })
    assert.deepEqual(await production.cloud.contents(), { away: 'a', here: 'h' })
    assert.deepEqual(await s.database.query('SELECT * FROM replicas'), [])
    assert.ok(s.messages.some((message) => /at s3:\/\/staging\/media nothing is deleted/.test(message)))
  })

  test('go many at a time', async (t) => {
    const s = await scene(t, { coolDownMs: 0, deleteAfterMs: week })
    const keys = Array.from({ length: 700 }, (_, index) => `d/${index}`)
    await Promise.all(keys.map(async (key) => s.store.put(key, 'x')))
    await s.quiet()
    await Promise.all(keys.map(async (key) => s.store.delete(key)))
    s.remote().calls.length = 0
    await s.pass(week)
    assert.deepEqual(await s.remote().contents(), {})
    const requests = s.remote().calls.length
    assert.ok(requests <= 20, `${requests} requests for ${keys.length} files`)
  })

  test('one that cannot be deleted keeps none of the others, and is set aside with its reason', async (t) => {
    const s = await scene(t, { coolDownMs: 0, deleteAfterMs: week })
    const keys = Array.from({ length: 20 }, (_, index) => `d/${index}`)
    for (const key of keys) await s.store.put(key, 'x')
    await s.quiet()
    for (const key of keys) await s.store.delete(key)
    s.remote().before = ({ operation, key }) => {
      if (operation.startsWith('delete') && key.split(' ').includes('d/7'))
        throw new StowageError('DENIED', 'It is locked (on purpose).')
    }
    await s.pass(week)
    assert.deepEqual(await s.remote().contents(), { 'd/7': 'x' })
    assert.equal((await s.filestore.status()).queues.find(({ queue }) => queue === 'remove')?.setAside, 1)
    s.remote().before = undefined
    await s.filestore.retry()
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), {})
  })

  test('the former copies of what was overwritten, renamed or routed elsewhere go, and nothing else', async (t) => {
    const route = ({ key, size }: { key: string; size: number }) =>
      size > 10 ? undefined : key.startsWith('far/') ? 'far' : 'near'
    const s = await scene(t, { remotes: { near: remote(), far: remote() }, remote: route })
    for (const key of ['same', 'grown', 'moved', 'target', 'kept', 'far/x']) await s.store.put(key, key)
    await s.pass(10 * minute)
    await s.store.put('same', 'new')
    await s.store.put('grown', 'more than ten bytes')
    await s.store.move('moved', 'target')
    await s.store.move('far/x', 'x')
    await s.pass(10 * minute)
    const expected = { grown: 'more than ten bytes', kept: 'kept', same: 'new', target: 'moved', x: 'far/x' }
    assert.deepEqual(await s.contents(), expected)
    // A renamed file keeps its copy under the name it has there.
    assert.deepEqual(await s.remote('near').contents(), { kept: 'kept', moved: 'moved', same: 'new' })
    assert.deepEqual(await s.remote('far').contents(), { 'far/x': 'far/x' })
    await s.store.put('moved', 'another')
    await s.store.put('far/x', 'another')
    await s.pass(10 * minute)
    assert.deepEqual(await s.contents(), { ...expected, moved: 'another', 'far/x': 'another' })
    await s.store.delete('target')
    await s.store.delete('x')
    await s.pass(6 * week)
    assert.deepEqual(await s.contents(), {
      grown: 'more than ten bytes',
      kept: 'kept',
      same: 'new',
      moved: 'another',
      'far/x': 'another',
    })
    assert.deepEqual(Object.values(await s.remote('near').contents()).sort(), ['another', 'kept', 'new'])
    assert.deepEqual(Object.values(await s.remote('far').contents()), ['another'])
  })

  for (const moment of ['write', 'stat'] as const)
    test(`a file that is overwritten while it is uploaded (${moment}), by one that stays here, leaves nothing there`, async (t) => {
      const s = await scene(t, { remote: ({ size }) => (size > 10 ? undefined : 'cloud') })
      const stopped = gate()
      s.remote().before = async ({ operation }) => (operation === moment ? stopped.pass() : undefined)
      await s.store.put('a', 'short')
      await s.clock.advance(10 * minute)
      await stopped.reached
      await s.store.put('a', 'more than ten bytes')
      stopped.open()
      await s.pass(10 * minute)
      assert.deepEqual(await s.contents(), { a: 'more than ten bytes' })
      assert.deepEqual(await s.remote().contents(), {})
      assert.deepEqual(await s.database.query('SELECT * FROM replicas'), [])
    })
})

describe('a clock that is wrong', () => {
  test('one that is set back before a start keeps nothing for ever, deletes nothing early, and uploads everything', async (t) => {
    const s = await two(t)
    await s.store.put('early', 'e')
    await s.store.delete('early')
    await s.close()
    s.clock.jump(1000 * day)
    await s.reopen({ deleteAfterMs: 3 * 365 * day })
    await s.store.put('new', 'n')
    await s.store.put('old', 'o', { modified: new Date(s.clock.now() - 10 * day) })
    for (const key of ['away', 'here']) await s.store.delete(key)
    await s.close()
    s.clock.jump(-1000 * day)
    await s.reopen()
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), { away: 'a', here: 'h', new: 'n', old: 'o' })
    assert.deepEqual(await restorable(s), ['away', 'early', 'here'])
    await s.pass(5 * week - day)
    assert.deepEqual(await restorable(s), ['away', 'early', 'here'])
    await s.pass(2 * day)
    assert.deepEqual(await restorable(s), [])
    assert.deepEqual([await s.remote().contents(), trashed(s)], [{ new: 'n', old: 'o' }, []])
  })

  test('days in which it did not run count', async (t) => {
    const s = await two(t)
    await s.store.delete('away')
    await s.close()
    await s.clock.advance(6 * week)
    await s.reopen()
    await s.pass(minute)
    assert.deepEqual(await restorable(s), [])
  })
})
