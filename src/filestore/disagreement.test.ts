/** Registry, disk and remotes disagree, in each of the ways they can: what is served then, and what becomes of it. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { describe, test, type TestContext } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { gate, minute, scene, type Scene, type SceneOptions } from '../../test/servers/filestore-scene.ts'

/** A filestore with a file `a` that is only local, `b` in both places, and `c` only in the cloud. */
async function three(t: TestContext, options: SceneOptions = {}): Promise<Scene> {
  const s = await scene(t, options)
  await s.store.put('b', 'bb')
  await s.store.put('c', 'ccc')
  await s.pass(10 * minute)
  await s.filestore.move({ kind: 'recall', prefix: 'b' })
  await s.filestore.idle()
  await s.store.put('a', 'a')
  assert.deepEqual([s.isLocal('a'), s.isLocal('b'), s.isLocal('c')], [true, true, false])
  s.remote().calls.length = 0
  s.events.length = 0
  return s
}

const all = { a: 'a', b: 'bb', c: 'ccc' }

/** Files and bytes of each kind, as the counters tell and as the registry is. */
async function counted(s: Scene) {
  const { media, local, cloud, both, lost, deleted } = await s.filestore.status()
  const files = { media, local, cloud, both, lost, deleted }
  return Object.fromEntries(Object.entries(files).map(([kind, count]) => [kind, count.files]))
}

describe('a file that is on disk and not in the registry', () => {
  const ways: Record<string, (s: Scene) => Promise<unknown>> = {
    'by a scan': async (s) => s.filestore.scan(),
    'when it is asked for': async (s) => s.store.stat('d/e'),
    'at the next start': async (s) => s.reopen(),
    'when the kernel tells': async (s) => s.until('it is known', () => s.told('stored').length > 0),
  }
  for (const [how, find] of Object.entries(ways))
    test(`is taken in ${how}, and offloaded like any other`, async (t) => {
      const s = await scene(t, { watch: how === 'when the kernel tells' })
      fs.mkdirSync(s.file('d'))
      fs.writeFileSync(s.file('d/e'), 'x')
      await find(s)
      assert.deepEqual(await s.contents(), { 'd/e': 'x' })
      const [told] = s.events.filter(({ name }) => name === 'stored')
      assert.ok(told?.name === 'stored' && told.event.isForeign)
      await s.pass(11 * minute)
      assert.deepEqual(await s.remote().contents(), { 'd/e': 'x' })
    })

  test('what is no file, what is being written, and what a link leads to is left alone', async (t) => {
    const s = await scene(t)
    fs.mkdirSync(s.file('directory'), { recursive: true })
    fs.symlinkSync('/etc/passwd', s.file('link'))
    fs.symlinkSync('/etc', s.file('linked'))
    fs.mkdirSync(s.file('.stowage-tmp'), { recursive: true })
    fs.writeFileSync(s.file('.stowage-tmp/1'), 'x')
    await s.filestore.scan()
    assert.deepEqual(await s.contents(), {})
    for (const key of ['link', 'linked/passwd', 'directory', '.stowage-tmp/1', '.stowage-directory'])
      await assert.rejects(s.store.get(key), (error: { code: string }) =>
        ['NOT_FOUND', 'INVALID_KEY', 'DENIED'].includes(error.code),
      )
  })
})

describe('a file that is in the registry and not on disk', () => {
  test('is served from the cloud if it is there, and otherwise lost, which is said', async (t) => {
    const s = await three(t)
    fs.rmSync(s.file('a'))
    fs.rmSync(s.file('b'))
    await s.filestore.scan()
    assert.deepEqual(await s.contents(), { b: 'bb', c: 'ccc' })
    await assert.rejects(s.store.get('a'), { code: 'NOT_FOUND' })
    assert.ok(s.messages.some((message) => /^a has vanished .* no other copy/.test(message)))
    assert.deepEqual(await counted(s), { media: 3, local: 0, cloud: 2, both: 0, lost: 1, deleted: 0 })
    await s.pass(20 * minute)
    assert.deepEqual(await s.contents(), { b: 'bb', c: 'ccc' })
  })

  test('is what it was when it is back, and what was to be uploaded still is', async (t) => {
    const s = await three(t)
    // Nobody has read it yet, so that its bytes cannot tell.
    fs.writeFileSync(s.file('d'), 'dddd')
    await s.filestore.scan()
    const etags = async () => Promise.all(['a', 'b', 'd'].map(async (key) => (await s.store.stat(key)).etag))
    const before = await etags()
    for (const key of ['a', 'b', 'd']) fs.renameSync(s.file(key), `${s.base}/${key}`)
    await s.filestore.scan()
    await s.pass(20 * minute)
    for (const key of ['a', 'b', 'd']) fs.renameSync(`${s.base}/${key}`, s.file(key))
    await s.filestore.scan()
    assert.deepEqual([await s.contents(), await etags()], [{ ...all, d: 'dddd' }, before])
    await s.pass(20 * minute)
    assert.deepEqual(await s.remote().contents(), { ...all, d: 'dddd' })
    assert.deepEqual(s.remote().asked('write').sort(), ['a', 'd'])
  })

  test('can be written anew when it is lost', async (t) => {
    const s = await three(t)
    fs.rmSync(s.file('a'))
    await s.store.put('a', 'new', { ifAbsent: true })
    assert.deepEqual(await s.contents(), { ...all, a: 'new' })
    assert.deepEqual(await counted(s), { media: 3, local: 2, cloud: 2, both: 1, lost: 0, deleted: 0 })
  })
})

describe('another file on disk than is recorded', () => {
  for (const key of ['a', 'b', 'c'])
    test(`(${key}) is the file from then on; the copies of the former one are replaced`, async (t) => {
      const s = await three(t, { cache: {} })
      await s.store.get(key)
      const { etag } = await s.store.stat(key)
      fs.rmSync(s.file(key), { force: true })
      fs.writeFileSync(s.file(key), 'other')
      assert.equal((await s.store.get(key)).toString(), 'other')
      assert.notEqual((await s.store.stat(key)).etag, etag)
      await s.filestore.scan()
      assert.deepEqual(await s.contents(), { ...all, [key]: 'other' })
      await s.pass(20 * minute)
      assert.equal((await s.remote().contents())[key], 'other')
      assert.deepEqual(await s.contents(), { ...all, [key]: 'other' })
    })

  test('with the same bytes is no other file: what is known of it stays, and nothing is uploaded', async (t) => {
    const s = await three(t)
    await s.store.put('t', 'typed', { contentType: 'text/x-test' })
    await s.pass(10 * minute)
    const before = await Promise.all(['b', 't'].map(async (key) => s.store.stat(key)))
    s.remote().calls.length = 0
    // As after a restore of the directory from a backup.
    fs.rmSync(s.file('b'))
    fs.writeFileSync(s.file('b'), 'bb')
    fs.writeFileSync(s.file('t'), 'typed')
    await s.filestore.scan()
    assert.deepEqual(await Promise.all(['b', 't'].map(async (key) => s.store.stat(key))), before)
    await s.pass(20 * minute)
    assert.deepEqual(s.remote().asked('write'), [])
  })
})

describe('a file that was handed over', () => {
  test('and turns up again, as after a crash between the two, is handed over again and not uploaded', async (t) => {
    const s = await scene(t, { cache: {} })
    await s.store.put('a', 'x')
    fs.linkSync(s.file('a'), `${s.base}/kept`)
    await s.pass(10 * minute)
    assert.equal(s.isLocal('a'), false)
    await s.close()
    fs.renameSync(`${s.base}/kept`, s.file('a'))
    await s.reopen()
    assert.deepEqual(await s.contents(), { a: 'x' })
    await s.pass(10 * minute)
    await s.until('it is handed over', () => !s.isLocal('a'))
    assert.deepEqual(s.remote().asked('write'), ['a'])
    assert.deepEqual(await s.contents(), { a: 'x' })
  })

  test('and is called back when the process is killed keeps its type and its version', async (t) => {
    const s = await scene(t)
    await s.store.put('a', 'x', { contentType: 'text/x-test' })
    await s.pass(10 * minute)
    const { modified, etag } = await s.store.stat('a')
    await s.close()
    // The bytes are in their place, and the registry has not heard of it.
    fs.writeFileSync(s.file('a'), 'x')
    fs.utimesSync(s.file('a'), modified ?? 0, modified ?? 0)
    await s.reopen()
    const info = await s.store.stat('a')
    assert.deepEqual([info.contentType, info.etag], ['text/x-test', etag])
    await s.pass(20 * minute)
    assert.deepEqual(s.remote().asked('write'), ['a'])
  })
})

describe('a file that was deleted', () => {
  for (const key of ['a', 'b'])
    test(`and is still on disk (${key}), as after a crash, is gone all the same, and can be restored`, async (t) => {
      const s = await three(t)
      fs.linkSync(s.file(key), `${s.base}/kept`)
      await s.store.delete(key)
      await s.close()
      for (const name of fs.readdirSync(s.file('.stowage-trash'), { withFileTypes: true }))
        if (name.isFile()) fs.rmSync(s.file(`.stowage-trash/${name.name}`))
      fs.renameSync(`${s.base}/kept`, s.file(key))
      await s.reopen()
      const { [key]: _deleted, ...others } = all as Record<string, string>
      assert.deepEqual(await s.contents(), others)
      await assert.rejects(s.store.get(key), { code: 'NOT_FOUND' })
      await s.until('the scan has moved it away', () => !s.isLocal(key))
      await s.filestore.restore(key)
      assert.deepEqual(await s.contents(), all)
    })

  test('and of which another is written into the directory is that one', async (t) => {
    const s = await three(t)
    await s.store.delete('a')
    await s.store.delete('b')
    fs.writeFileSync(s.file('a'), 'new')
    fs.writeFileSync(s.file('b'), 'new')
    await s.filestore.scan()
    assert.deepEqual(await s.contents(), { a: 'new', b: 'new', c: 'ccc' })
    await assert.rejects(s.filestore.restore('a'), { code: 'EXISTS' })
    await s.pass(20 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'new', b: 'new', c: 'ccc' })
  })

  test('and is restored while the directory is scanned stays restored', async (t) => {
    let stopped = gate()
    stopped.open()
    const s = await scene(t, { remote: async () => stopped.pass().then(() => 'cloud') })
    await s.store.put('a', 'x')
    await s.store.delete('a')
    stopped = gate()
    // Its bytes are back in their place before the registry says so.
    const restored = s.filestore.restore('a')
    await stopped.reached
    const scanned = s.filestore.scan()
    await s.until('the scan has met it', async () => (await settles(scanned)) === false)
    stopped.open()
    await Promise.all([restored, scanned])
    assert.deepEqual(await s.contents(), { a: 'x' })
    assert.deepEqual(await counted(s), { media: 1, local: 1, cloud: 0, both: 0, lost: 0, deleted: 0 })
  })
})

/** Has it ended after some turns of the event loop, in which it could do all that it does without waiting for others? */
async function settles(work: Promise<unknown>): Promise<boolean> {
  let isDone = false
  work.then(
    () => (isDone = true),
    () => (isDone = true),
  )
  for (let turns = 0; turns < 200 && !isDone; turns++) await new Promise((resolve) => setTimeout(resolve, 0))
  return isDone
}

describe('a directory that is not there', () => {
  for (const isMountPoint of [false, true])
    test(`${isMountPoint ? 'with an empty one in its place ' : ''}has lost nothing: what is in the cloud is served, the rest is UNREACHABLE, and all is well when it is back`, async (t) => {
      const s = await three(t)
      for (const step of ['while it runs', 'across a restart']) {
        if (step === 'across a restart') await s.close()
        fs.renameSync(s.file(''), `${s.base}/elsewhere`)
        if (isMountPoint) fs.mkdirSync(s.file(''))
        if (step === 'across a restart') await s.reopen()
        await s.filestore.scan().catch(() => undefined)
        assert.equal((await s.store.get('b')).toString(), 'bb')
        assert.equal((await s.store.get('c')).toString(), 'ccc')
        await assert.rejects(s.store.get('a'), { code: 'UNREACHABLE' })
        await assert.rejects(s.store.put('a', 'new'), { code: 'UNREACHABLE' })
        await assert.rejects(s.store.put('new', 'new'), { code: 'UNREACHABLE' })
        await s.pass(minute)
        assert.deepEqual(s.remote().asked('write'), [])
        if (isMountPoint) fs.rmSync(s.file(''), { recursive: true })
        assert.equal(fs.existsSync(s.file('')), false, 'nothing is made in its place')
        fs.renameSync(`${s.base}/elsewhere`, s.file(''))
        await s.filestore.scan()
        assert.deepEqual(await s.contents(), all)
        assert.deepEqual(await counted(s), { media: 3, local: 2, cloud: 2, both: 1, lost: 0, deleted: 0 })
      }
      await s.pass(10 * minute)
      assert.deepEqual(await s.remote().contents(), all)
    })

  test('and is gone for good is given up by a repair, which says what is lost', async (t) => {
    const s = await three(t)
    fs.rmSync(s.file(''), { recursive: true })
    await assert.rejects(s.store.put('new', 'new'), { code: 'UNREACHABLE' })
    const faults = await Array.fromAsync(s.filestore.verify({ repair: true }))
    assert.deepEqual(
      faults.map(({ key, where, problem }) => [key, where, problem]),
      [
        ['a', 'local', 'lost'],
        ['b', 'local', 'missing'],
      ],
    )
    await s.store.put('new', 'new')
    assert.deepEqual(await s.contents(), { b: 'bb', c: 'ccc', new: 'new' })
    assert.deepEqual(await counted(s), { media: 4, local: 1, cloud: 2, both: 0, lost: 1, deleted: 0 })
  })

  test('but of which everything is in the cloud is made anew', async (t) => {
    const s = await three(t)
    await s.pass(10 * minute)
    fs.rmSync(s.file(''), { recursive: true })
    assert.deepEqual(await s.contents(), all)
    await s.store.put('d', 'dddd')
    assert.deepEqual(await s.contents(), { ...all, d: 'dddd' })
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), { ...all, d: 'dddd' })
  })
})

describe('a replica', () => {
  test('that was written but not recorded when the process ended is written again under the same name', async (t) => {
    const s = await scene(t)
    const stopped = gate()
    s.remote().before = async ({ operation }) => (operation === 'stat' ? stopped.pass() : undefined)
    await s.store.put('a', 'first')
    await s.clock.advance(10 * minute)
    await stopped.reached
    assert.deepEqual(await s.remote().contents(), { a: 'first' })
    assert.deepEqual((await s.filestore.status()).cloud.files, 0)
    // A copy of the state as it is now is what a crash leaves.
    for (const end of ['', '-wal']) fs.copyFileSync(`${s.base}/state.db${end}`, `${s.base}/copy.db${end}`)
    s.remote().before = undefined
    stopped.open()
    await s.close()
    fs.writeFileSync(s.file('a'), 'first')
    for (const end of ['', '-wal']) fs.copyFileSync(`${s.base}/copy.db${end}`, `${s.base}/state.db${end}`)
    await s.reopen()
    assert.deepEqual(await s.contents(), { a: 'first' })
    await s.pass(20 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'first' })
    assert.deepEqual(await s.contents(), { a: 'first' })
    assert.deepEqual((await s.filestore.status()).cloud.files, 1)
  })

  test('that is recorded and gone does no harm while the file is local', async (t) => {
    const s = await three(t)
    await s.remote().inner.delete('b')
    assert.deepEqual(await s.contents(), all)
    await s.store.put('b', 'new')
    await s.pass(10 * minute)
    assert.equal((await s.remote().contents())['b'], 'new')
  })

  test('under whose name somebody else has written is not served', async (t) => {
    const s = await three(t)
    await s.remote().inner.write('c', toBody('xyz'))
    await assert.rejects(s.store.get('c'), { code: 'CORRUPT' })
  })
})
