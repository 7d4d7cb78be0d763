import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { memoryDriver } from '../drivers/memory.ts'
import { StowageError } from '../core/errors.ts'
import { gate, minute, remote, scene, type Scene } from '../../test/servers/filestore-scene.ts'

const down = () => {
  throw new StowageError('UNREACHABLE', 'The remote is down (on purpose).')
}

describe('an upload', () => {
  test('a file and its upload are recorded in one transaction, or neither is', async (t) => {
    const s = await scene(t)
    await s.database.transaction(async (tx) =>
      tx.run(`CREATE TEMP TRIGGER no_jobs BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no jobs today'); END`),
    )
    await assert.rejects(s.store.put('a', 'x'), /no jobs today/)
    assert.deepEqual(await s.database.query('SELECT key FROM files'), [])
    await s.database.transaction(async (tx) => tx.run('DROP TRIGGER no_jobs'))
    await s.filestore.scan()
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })

  test('begins ten minutes after the last change', async (t) => {
    const s = await scene(t)
    await s.store.put('a', 'first')
    await s.pass(9 * minute)
    await s.store.put('a', 'second')
    await s.pass(10 * minute - 1)
    assert.deepEqual(s.remote().calls, [])
    await s.pass(1)
    assert.deepEqual(s.remote().asked('write'), ['a'])
    assert.deepEqual(await s.remote().contents(), { a: 'second' })
    assert.equal(s.isLocal('a'), false)
    assert.deepEqual(await s.contents(), { a: 'second' })
  })

  test('waits for its cool-down across a restart', async (t) => {
    const s = await scene(t)
    await s.store.put('a', 'x')
    await s.pass(6 * minute)
    await s.reopen()
    await s.pass(4 * minute - 1)
    assert.deepEqual(s.remote().calls, [])
    await s.pass(1)
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })

  test('what others write is uploaded when it has rested, counted from the time on the file', async (t) => {
    const s = await scene(t, { isIdle: true })
    await s.store.put('a', 'first')
    await s.clock.advance(10 * minute)
    fs.writeFileSync(s.file('a'), 'second')
    fs.utimesSync(s.file('a'), new Date(), new Date(s.clock.now() - 2 * minute))
    await s.filestore.start()
    await s.quiet()
    assert.deepEqual(s.remote().asked('write'), [])
    // The file system may cut a millisecond off.
    await s.pass(8 * minute - 2)
    assert.deepEqual(s.remote().asked('write'), [])
    await s.pass(2)
    assert.deepEqual(await s.remote().contents(), { a: 'second' })
  })

  const changes: Record<string, (s: Scene) => unknown> = {
    'by a call': async (s) => s.store.put('a', 'second, longer'),
    'by a call, to as many bytes': async (s) => s.store.put('a', 'other'),
    'in its place': (s) => fs.writeFileSync(s.file('a'), 'other'),
    'by appending': (s) => fs.appendFileSync(s.file('a'), ' and more'),
    'by a rename': (s) => {
      fs.writeFileSync(s.file('b'), 'other')
      fs.renameSync(s.file('b'), s.file('a'))
    },
  }
  for (const [how, change] of Object.entries(changes))
    for (const moment of ['write', 'stat'] as const)
      test(`a file that is changed ${how} while it is uploaded (${moment}) is uploaded again and not handed over before`, async (t) => {
        const s = await scene(t)
        const stopped = gate()
        s.remote().before = async ({ operation }) => (operation === moment ? stopped.pass() : undefined)
        await s.store.put('a', 'first')
        await s.clock.advance(10 * minute)
        await stopped.reached
        await change(s)
        const expected = fs.readFileSync(s.file('a'), 'utf8')
        s.remote().before = undefined
        stopped.open()
        await s.quiet()
        assert.equal(s.isLocal('a'), true)
        assert.equal((await s.store.get('a')).toString(), expected)
        await s.filestore.scan()
        await s.pass(10 * minute)
        assert.deepEqual(await s.remote().contents(), { a: expected })
        assert.equal(s.isLocal('a'), false)
        assert.deepEqual(await s.contents(), { a: expected })
        assert.deepEqual(s.told('failed'), [])
        assert.equal((await s.filestore.status()).queues.find(({ queue }) => queue === 'offload')?.setAside, 0)
      })

  test('a file that is changed when its upload is due but has not begun rests once more', async (t) => {
    const s = await scene(t)
    const stopped = gate()
    s.remote().before = async ({ operation }) => (operation === 'write' ? stopped.pass() : undefined)
    await s.store.put('a', 'first')
    // Somebody is in a hurry; the upload that is due ten minutes later has to wait for that.
    await s.filestore.move({ kind: 'offload' })
    await stopped.reached
    await s.clock.advance(10 * minute)
    await s.until('both are in hand', async () => {
      const { queues } = await s.filestore.status()
      return queues.filter(({ running }) => running === 1).length === 2
    })
    await s.store.put('a', 'second')
    s.remote().before = undefined
    stopped.open()
    await s.quiet()
    assert.deepEqual([s.isLocal('a'), s.remote().asked('write').length], [true, 1])
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'second' })
  })

  test('a file that vanishes while it is uploaded is served from the remote', async (t) => {
    const s = await scene(t)
    s.remote().before = ({ operation }) => (operation === 'stat' ? fs.rmSync(s.file('a'), { force: true }) : undefined)
    await s.store.put('a', 'x')
    await s.pass(10 * minute)
    assert.deepEqual(await s.contents(), { a: 'x' })
  })

  test('empty files are stored like any other', async (t) => {
    const s = await scene(t, { cache: {} })
    await s.store.put('empty', '')
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), { empty: '' })
    assert.equal(s.isLocal('empty'), false)
    assert.deepEqual(await s.contents(), { empty: '' })
    assert.equal((await s.store.stat('empty')).size, 0)
    const move = await s.filestore.move({ kind: 'recall' })
    assert.deepEqual(move.total, { files: 1, bytes: 0 })
    await s.filestore.idle()
    assert.equal(fs.statSync(s.file('empty')).size, 0)
  })

  test('what was stored with a type and metadata has them at the remote, and so has what is read', async (t) => {
    const s = await scene(t)
    await s.store.put('a.bin', 'x', { contentType: 'image/x-test', metadata: { origin: 'test' } })
    await s.store.put('b.css', 'x')
    await s.pass(10 * minute)
    const [a, b] = [await s.remote().inner.stat('a.bin'), await s.remote().inner.stat('b.css')]
    assert.deepEqual([a.contentType, a.metadata, b.contentType], ['image/x-test', { origin: 'test' }, 'text/css'])
    const info = await s.store.stat('a.bin')
    assert.deepEqual([info.contentType, info.metadata], ['image/x-test', { origin: 'test' }])
  })

  test('with keepLocal files stay where they are, and are uploaded once', async (t) => {
    const s = await scene(t, { keepLocal: true })
    await s.store.put('a', 'x')
    await s.pass(10 * minute)
    await s.filestore.scan()
    await s.reopen()
    await s.pass(10 * minute)
    assert.equal(s.isLocal('a'), true)
    assert.deepEqual(s.remote().asked('write'), ['a'])
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
    assert.deepEqual((await s.filestore.status()).both, { files: 1, bytes: 1 })
  })
})

describe('the hand-over', () => {
  test('no reader fails, and none causes a fetch, while files are handed over to the cache', async (t) => {
    const s = await scene(t, { cache: {} })
    const contents = new Map(Array.from({ length: 20 }, (_, index) => [`d/${index}`, randomBytes(300_000 + index)]))
    for (const [key, bytes] of contents) await s.store.put(key, bytes)
    let reads = 0
    let isOver = false
    const reading = [...contents].map(async ([key, bytes]) => {
      for (; !isOver; await setImmediate()) {
        assert.ok((await s.store.get(key)).equals(bytes), key)
        const range = { start: 262_100, end: 262_200 }
        assert.ok((await s.store.get(key, { range })).equals(bytes.subarray(range.start, range.end)), key)
        assert.equal((await s.store.stat(key)).size, bytes.byteLength)
        reads++
      }
    })
    const failed = Promise.all(reading)
    await s.until('everybody reads', () => reads > 20)
    await s.clock.advance(10 * minute)
    const over = s.quiet().finally(() => (isOver = true))
    await Promise.all([over, failed])
    await s.until('all is uploaded', () => s.told('uploaded').length === contents.size)
    assert.ok([...contents.keys()].every((key) => !s.isLocal(key)))
    for (const [key, bytes] of contents) assert.ok((await s.store.get(key)).equals(bytes), key)
    // Each upload is read back once, because this remote tells no checksums; nothing else is read from it.
    assert.equal(s.remote().asked('read').length, contents.size)
    assert.deepEqual(s.told('fetched'), [])
  })

  test('a file without room in the cache is handed over, and fetched when it is wanted', async (t) => {
    const s = await scene(t, { cache: { maxBytes: 100 } })
    const bytes = randomBytes(1000)
    await s.store.put('a', bytes)
    await s.pass(10 * minute)
    assert.equal(s.isLocal('a'), false)
    assert.ok((await s.store.get('a')).equals(bytes))
    assert.deepEqual(s.told('fetched'), ['a'])
  })
})

describe('pausing', () => {
  const two = () => ({
    remotes: { near: remote(), far: remote() },
    remote: ({ key }: { key: string }) => key.slice(0, key.indexOf('/')),
  })

  test('one remote, or all of them, gets nothing more until it is resumed, also after a restart', async (t) => {
    const s = await scene(t, two())
    await s.filestore.pause('near')
    await s.store.put('near/a', 'x')
    await s.store.put('far/a', 'x')
    await s.pass(10 * minute)
    assert.deepEqual([s.remote('near').calls.length, s.remote('far').asked('write')], [0, ['far/a']])
    await s.reopen()
    assert.deepEqual((await s.filestore.status()).paused, ['near'])
    await s.filestore.idle()
    await s.pass(10 * minute)
    assert.deepEqual(s.remote('near').calls, [])
    await s.filestore.pause()
    await s.filestore.resume('near')
    await s.store.put('far/b', 'x')
    await s.reopen()
    await s.pass(10 * minute)
    assert.deepEqual([s.remote('near').calls.length, s.remote('far').asked('write')], [0, ['far/a']])
    await s.filestore.resume()
    await s.quiet()
    assert.deepEqual(
      [s.remote('near').asked('write'), s.remote('far').asked('write')],
      [['near/a'], ['far/a', 'far/b']],
    )
    assert.deepEqual((await s.filestore.status()).paused, [])
  })

  test('what is on its way arrives, and removals wait too', async (t) => {
    const s = await scene(t, { deleteAfterMs: 0 })
    await s.store.put('old', 'x')
    await s.pass(10 * minute)
    const stopped = gate()
    s.remote().before = async ({ operation }) => (operation === 'write' ? stopped.pass() : undefined)
    await s.store.put('a', 'x')
    await s.clock.advance(10 * minute)
    await stopped.reached
    await s.filestore.pause('cloud')
    await s.store.delete('old')
    stopped.open()
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), { a: 'x', old: 'x' })
    await s.filestore.resume('cloud')
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })

  test('a remote that does not exist cannot be paused', async (t) => {
    const s = await scene(t)
    await assert.rejects(s.filestore.pause('elsewhere'), { code: 'INVALID_CONFIG' })
    assert.deepEqual((await s.filestore.status()).paused, [])
  })

  test('files whose remote could not be told when they were stored are not sent to one that is paused', async (t) => {
    let isDown = true
    const route = async () => (isDown ? down() : 'cloud')
    const s = await scene(t, { remote: route })
    await s.store.put('a', 'x')
    isDown = false
    await s.filestore.pause()
    await s.pass(10 * minute)
    assert.deepEqual(s.remote().calls, [])
    await s.filestore.resume()
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })
})

describe('a remote in trouble', () => {
  test('is tried less and less often, never given up, and gets everything when it is back', async (t) => {
    const s = await scene(t)
    s.remote().before = down
    for (const key of ['a', 'b', 'c']) await s.store.put(key, key)
    await s.pass(10 * minute)
    const [trouble] = (await s.filestore.status()).troubles
    assert.equal(trouble?.remote, 'cloud')
    assert.match(trouble.reason, /down \(on purpose\)/)
    const triesIn = async (minutes: number) => {
      const before = s.remote().calls.length
      for (let passed = 0; passed < minutes; passed++) await s.pass(minute)
      return s.remote().calls.length - before
    }
    const [first, later] = [await triesIn(10), await triesIn(600)]
    assert.ok(first > 3 && later / 60 < first, `${first} tries in 10 minutes, then ${later} in 10 hours`)
    assert.equal((await s.filestore.status()).queues.find(({ queue }) => queue === 'offload')?.setAside, 0)
    assert.deepEqual(await s.contents(), { a: 'a', b: 'b', c: 'c' })
    s.remote().before = undefined
    await s.pass(6 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'a', b: 'b', c: 'c' })
    assert.deepEqual((await s.filestore.status()).troubles, [])
  })

  test('delays its own files only', async (t) => {
    const s = await scene(t, {
      remotes: { well: remote(), ill: remote() },
      remote: ({ key }) => key.slice(0, key.indexOf('/')),
    })
    s.remote('ill').before = down
    for (let index = 0; index < 100; index++) await s.store.put(`ill/${index}`, 'x')
    await s.pass(10 * minute)
    await s.store.put('well/a', 'x')
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote('well').contents(), { 'well/a': 'x' })
    // Of 100 files no more are tried than it takes to see that it is down.
    assert.ok(s.remote('ill').calls.length < 50 * 6, `${s.remote('ill').calls.length} calls`)
  })

  test('one that hangs keeps nobody else from being uploaded', async (t) => {
    const s = await scene(t, {
      remotes: { well: remote(), ill: remote() },
      remote: ({ key }) => key.slice(0, key.indexOf('/')),
    })
    const stopped = gate()
    s.remote('ill').before = stopped.pass
    for (let index = 0; index < 100; index++) await s.store.put(`ill/${index}`, 'x')
    await s.clock.advance(10 * minute)
    await stopped.reached
    await s.store.put('well/a', 'x')
    await s.clock.advance(10 * minute)
    await s.until('the other remote has its file', () => s.told('uploaded').includes('well/a'))
    stopped.open()
    await s.until('the first has them too', () => s.told('uploaded').length === 101)
  })

  test('one that hangs holds up the end for ten seconds at most; the upload is made after the next start', async (t) => {
    const s = await scene(t)
    const reached = Promise.withResolvers<void>()
    const { driver } = s.remote()
    const write = driver.write.bind(driver)
    driver.write = async (_key, _body, { signal } = {}) =>
      new Promise((_, reject) => {
        reached.resolve()
        signal?.addEventListener('abort', () => reject(new StowageError('ABORTED', 'It was cancelled.')))
      })
    await s.store.put('a', 'x')
    await s.clock.advance(10 * minute)
    await reached.promise
    let isClosed = false
    const closed = s.close().then(() => (isClosed = true))
    await s.until('it waits for nothing else', () => s.clock.nextMs() === 10_000)
    await s.clock.advance(9_999)
    assert.equal(isClosed, false)
    await s.clock.advance(1)
    await closed
    driver.write = write
    await s.reopen()
    await s.quiet()
    assert.deepEqual([s.isLocal('a'), await s.remote().contents()], [false, { a: 'x' }])
  })

  test('of what was set aside only what is below a prefix is tried again, when that is said', async (t) => {
    const s = await scene(t)
    s.remote().before = () => {
      throw new StowageError('DENIED', 'The key is wrong (on purpose).')
    }
    for (const key of ['a/1', 'b/1']) await s.store.put(key, 'x')
    await s.pass(10 * minute)
    s.remote().before = undefined
    assert.equal(await s.filestore.retry('a/'), 1)
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), { 'a/1': 'x' })
    assert.equal(await s.filestore.retry(), 1)
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), { 'a/1': 'x', 'b/1': 'x' })
  })

  test('one that denies is set aside with the reason, and tried again when somebody says so', async (t) => {
    const s = await scene(t)
    s.remote().before = () => {
      throw new StowageError('DENIED', 'The key is wrong (on purpose).')
    }
    await s.store.put('a', 'x')
    await s.pass(10 * minute)
    const offload = async () => (await s.filestore.status()).queues.find(({ queue }) => queue === 'offload')
    assert.deepEqual([(await offload())?.setAside, (await offload())?.waiting], [1, 0])
    assert.deepEqual(await s.contents(), { a: 'x' })
    s.remote().before = undefined
    assert.equal(await s.filestore.retry(), 1)
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })
})

describe('what arrives is verified', () => {
  for (const [what, garble] of Object.entries({
    'other bytes': (bytes: Buffer) => Buffer.from(bytes.map((byte, index) => (index === 3 ? byte ^ 1 : byte))),
    'fewer bytes': (bytes: Buffer) => bytes.subarray(1),
    'the beginning only': (bytes: Buffer) => bytes.subarray(0, -1),
    'more bytes': (bytes: Buffer) => Buffer.concat([bytes, Buffer.from('!')]),
    nothing: () => Buffer.alloc(0),
  }))
    test(`a remote that stores ${what} is found out, and the local file stays until it is right`, async (t) => {
      const s = await scene(t, { cache: {} })
      s.remote().garble = garble
      await s.store.put('a', 'abcdefgh')
      await s.pass(10 * minute)
      assert.ok(s.remote().asked('write').length > 0)
      assert.deepEqual([s.isLocal('a'), s.told('uploaded')], [true, []])
      assert.equal((await s.filestore.status()).cloud.files, 0)
      assert.equal((await s.store.get('a')).toString(), 'abcdefgh')
      s.remote().garble = undefined
      await s.pass(6 * minute)
      await s.until('it is uploaded', () => s.told('uploaded').length === 1)
      assert.equal(s.isLocal('a'), false)
      assert.deepEqual(await s.remote().contents(), { a: 'abcdefgh' })
    })

  test('the size is compared also where the place vouches for the bytes', async (t) => {
    const s = await scene(t, { remotes: { cloud: remote(memoryDriver(), { confirms: true }) } })
    s.remote().garble = (bytes) => bytes.subarray(1)
    await s.store.put('a', 'abcdefgh')
    await s.pass(10 * minute)
    assert.deepEqual([s.isLocal('a'), s.told('uploaded'), s.told('failed')], [true, [], ['a']])
  })

  test('what is not there after it was sent is sent again', async (t) => {
    const s = await scene(t)
    let lost = 0
    s.remote().before = async ({ operation, key }) => {
      if (operation === 'stat' && lost++ < 3) await s.remote().inner.delete(key)
    }
    await s.store.put('a', 'x')
    await s.pass(10 * minute)
    assert.equal(s.isLocal('a'), true)
    for (let minutes = 0; minutes < 6; minutes++) await s.pass(minute)
    assert.deepEqual([s.isLocal('a'), await s.remote().contents()], [false, { a: 'x' }])
    assert.equal(s.remote().asked('write').length, 4)
  })

  test('where nothing vouches for the bytes they are read back, and only there', async (t) => {
    const places = {
      mute: remote(),
      confirming: remote(memoryDriver(), { confirms: true }),
      verifying: remote(memoryDriver(), { verify: true }),
    }
    const s = await scene(t, { remotes: places, remote: ({ key }) => key })
    for (const name of Object.keys(places)) await s.store.put(name, 'x')
    await s.pass(10 * minute)
    await s.until('all is uploaded', () => s.told('uploaded').length === 3)
    const reads = Object.entries(places).map(([name, each]) => [name, each.asked('read').length])
    assert.deepEqual(Object.fromEntries(reads), { mute: 1, confirming: 0, verifying: 0 })
  })

  test('a local file that was damaged on its disk is not offloaded, and says so', async (t) => {
    const s = await scene(t)
    await s.store.put('a', 'abcdefgh')
    const { atime, mtime } = fs.statSync(s.file('a'), { bigint: false })
    const before = (await s.database.query('SELECT local FROM files'))[0]?.['local']
    const handle = fs.openSync(s.file('a'), 'r+')
    fs.writeSync(handle, 'X', 3)
    fs.closeSync(handle)
    fs.utimesSync(s.file('a'), atime, mtime)
    // Times are set to microseconds only: the registry is told what the disk now says, as if nothing had been written.
    const stats = fs.statSync(s.file('a'), { bigint: true })
    const state = [stats.mtimeNs, stats.ino, stats.size].map((part) => part.toString(36)).join('-')
    await s.database.transaction(async (tx) =>
      tx.run('UPDATE files SET local = ? WHERE local = ?', state, before ?? ''),
    )
    await s.pass(10 * minute)
    assert.equal(s.isLocal('a'), true)
    assert.deepEqual(s.told('uploaded'), [])
    assert.ok(s.messages.some((message) => /a is damaged on the local disk/.test(message)))
  })
})
