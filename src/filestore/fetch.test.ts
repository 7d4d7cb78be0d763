import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import type { Readable } from 'node:stream'
import { describe, test, type TestContext } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { StowageError } from '../core/errors.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { gate, minute, remote, scene, type Call, type SceneOptions } from '../../test/servers/filestore-scene.ts'

const block = 256 * 1024
const bytes = randomBytes(5 * block + 1000)

/** A filestore with a file of several blocks that is only in the cloud, and not in the cache. */
async function away(t: TestContext, options: SceneOptions = {}) {
  const s = await scene(t, options)
  await s.store.put('a', bytes)
  await s.pass(10 * minute)
  await s.until('it is away', () => !s.isLocal('a'))
  await s.cache?.drop('files', 'a')
  for (const each of Object.values(s.remotes)) each.calls.length = 0
  s.events.length = 0
  return s
}

/** The same with a copy at each of two remotes; `first` is asked first. */
async function twice(t: TestContext, options: SceneOptions = {}) {
  const s = await scene(t, { remotes: { first: remote(), second: remote() }, remote: 'second', ...options })
  await s.store.put('a', bytes)
  await s.pass(10 * minute)
  await s.filestore.move({ kind: 'migrate', from: 'second', to: 'first', drop: false })
  await s.filestore.idle()
  await s.cache?.drop('files', 'a')
  for (const each of Object.values(s.remotes)) each.calls.length = 0
  s.events.length = 0
  return s
}

const damaged = (at: number) => Buffer.from(bytes.map((byte, index) => (index === at ? byte ^ 1 : byte)))

const failing = (code: 'UNREACHABLE' | 'DENIED' | 'NOT_FOUND' | 'TIMEOUT', times = Infinity) => {
  let left = times
  return ({ operation }: Call) => {
    if (operation === 'read' && left-- > 0) throw new StowageError(code, `The remote says ${code} (on purpose).`)
  }
}

describe('a fetch', () => {
  test('there is one, however many ask, and later none', async (t) => {
    const s = await away(t, { cache: {} })
    const stopped = gate()
    s.remote().before = stopped.pass
    const reads = Array.from({ length: 50 }, async () => s.store.get('a'))
    await stopped.reached
    stopped.open()
    for (const each of await Promise.all(reads)) assert.ok(each.equals(bytes))
    assert.ok((await s.store.get('a')).equals(bytes))
    assert.deepEqual(s.remote().asked('read'), ['a'])
    assert.deepEqual(s.told('fetched'), ['a'])
  })

  test('a range fetches its blocks only, through the cache and without one', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, options)
      const range = { start: 2 * block + 10, end: 3 * block + 10 }
      assert.ok((await s.store.get('a', { range })).equals(bytes.subarray(range.start, range.end)))
      assert.deepEqual(s.remote().calls, [{ operation: 'read', key: 'a', range: { start: 2 * block, end: 4 * block } }])
      await s.close()
    }
  })

  test('what a place without ranges sends is cut to what was asked for', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, { ...options, remotes: { cloud: remote(memoryDriver(), { range: false }) } })
      const range = { start: 2 * block + 10, end: 3 * block + 10 }
      assert.ok((await s.store.get('a', { range })).equals(bytes.subarray(range.start, range.end)))
      await s.close()
    }
  })

  test('who opens a file and leaves without reading releases the connection', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, options)
      let open = 0
      const { driver } = s.remote()
      const read = driver.read.bind(driver)
      driver.read = async (...call) => {
        const opened = await read(...call)
        open++
        opened.body.once('close', () => open--)
        return opened
      }
      const { body } = await s.filestore.driver.read('a')
      body.destroy()
      await s.until('nothing is open', () => open === 0)
      const range = { start: 0, end: 10 }
      const part = (await s.filestore.driver.read('a', { range })).body
      part.destroy()
      await s.until('nothing is open', () => open === 0)
      await s.close()
    }
  })

  test('who leaves, whenever and for whatever reason, releases the connection and is no failure of the remote', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, options)
      let open = 0
      const { driver } = s.remote()
      const read = driver.read.bind(driver)
      driver.read = async (...call) => {
        const opened = await read(...call)
        open++
        opened.body.once('close', () => open--)
        return opened
      }
      const ways: ((body: Readable) => Promise<void> | void)[] = [
        async (body) => {
          for await (const _chunk of body) break
        },
        async (body) => {
          const failing = async () => {
            for await (const _chunk of body) throw new StowageError('NO_SPACE', 'The reader has no room (on purpose).')
          }
          await assert.rejects(failing(), { code: 'NO_SPACE' })
        },
        async (body) => {
          body.on('error', () => undefined)
          await once(body, 'readable')
          body.destroy(new Error('The reader is gone (on purpose).'))
        },
      ]
      for (const leave of ways)
        for (const range of [undefined, { start: 10, end: 20 }, { start: 2 * block, end: 4 * block }]) {
          await s.cache?.drop('files', 'a')
          const { body } = await s.filestore.driver.read('a', range ? { range } : {})
          await leave(body)
          await s.cache?.drop('files', 'a')
          await s.until('nothing is open', () => open === 0)
        }
      // While it waits for bytes, too.
      await s.cache?.drop('files', 'a')
      const stopped = gate()
      s.remote().altered = async function* (body) {
        await stopped.pass()
        yield* body
      }
      const { body } = await s.filestore.driver.read('a')
      body.resume()
      await stopped.reached
      body.destroy()
      stopped.open()
      await s.until('nothing is open', () => open === 0)
      s.remote().altered = undefined
      assert.ok((await s.store.get('a')).equals(bytes))
      assert.deepEqual(s.told('failed'), [])
      assert.deepEqual(await s.database.query('SELECT key FROM replicas WHERE failed_ms IS NOT NULL'), [])
      await s.close()
    }
  })

  test('a call that is cancelled ends, and does not count as a failure of the remote', async (t) => {
    const s = await away(t)
    const stopped = gate()
    s.remote().before = stopped.pass
    const call = new AbortController()
    const read = s.store.get('a', { signal: call.signal })
    await stopped.reached
    call.abort()
    stopped.open()
    await assert.rejects(read, { code: 'ABORTED' })
    s.remote().before = undefined
    assert.ok((await s.store.get('a')).equals(bytes))
    assert.deepEqual(s.told('failed'), [])
  })
})

describe('a fetch that fails for a moment', () => {
  test('is tried again', async (t) => {
    for (const code of ['UNREACHABLE', 'TIMEOUT'] as const) {
      const s = await away(t, { cache: {} })
      s.remote().before = failing(code, 3)
      assert.ok((await s.patiently(s.store.get('a'))).equals(bytes))
      assert.equal(s.remote().asked('read').length, 4)
      assert.deepEqual(s.told('failed'), [])
      await s.close()
    }
  })

  test('is given up in the end with the reason, which is not remembered', async (t) => {
    const s = await away(t, { cache: {} })
    s.remote().before = failing('UNREACHABLE')
    await assert.rejects(s.patiently(s.store.get('a')), { code: 'UNREACHABLE' })
    assert.deepEqual(s.told('failed'), ['a'])
    s.remote().before = undefined
    assert.ok((await s.store.get('a')).equals(bytes))
  })

  test('goes on where it broke off', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, options)
      let breaks = 0
      s.remote().altered = async function* (body) {
        let sent = 0
        for await (const chunk of body) {
          sent += chunk.byteLength
          if (sent > block * 1.5 && breaks++ < 3) throw new StowageError('UNREACHABLE', 'It broke off (on purpose).')
          yield chunk
        }
      }
      assert.ok((await s.patiently(s.store.get('a'))).equals(bytes))
      const starts = s.remote().calls.map(({ range }) => range?.start ?? 0)
      assert.deepEqual(starts, [0, block, 2 * block, 3 * block])
      await s.close()
    }
  })

  test('is never taken for the whole when the body ends early', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, options)
      s.remote().altered = async function* (body) {
        for await (const chunk of body) {
          yield chunk
          return
        }
      }
      await assert.rejects(s.patiently(s.store.get('a')), { code: 'UNREACHABLE' })
      await s.close()
    }
  })
})

describe('a replica that is of no use', () => {
  const kinds: Record<string, (s: Awaited<ReturnType<typeof away>>) => unknown> = {
    'that is gone': async (s) => s.remote().inner.delete('a'),
    'that may not be read': (s) => void (s.remote().before = failing('DENIED')),
    'with other bytes': async (s) => s.remote().inner.write('a', toBody(damaged(3 * block))),
    'of another length': async (s) => s.remote().inner.write('a', toBody(bytes.subarray(1))),
    'that was cut': async (s) => s.remote().inner.write('a', toBody(bytes.subarray(0, -1))),
  }
  for (const [kind, spoil] of Object.entries(kinds))
    test(`one ${kind} fails the read, is not asked for ten minutes, and then again`, async (t) => {
      for (const options of [{ cache: {} }, {}]) {
        const s = await away(t, options)
        await spoil(s)
        await assert.rejects(s.store.get('a'), { code: 'CORRUPT', message: /^a cannot be had: / })
        const asked = s.remote().asked('read').length
        assert.ok(asked > 0 && asked < 4, `${asked} requests`)
        assert.deepEqual(s.told('failed'), ['a'])
        await s.clock.advance(10 * minute - 1)
        await assert.rejects(s.store.get('a'), { code: 'CORRUPT' })
        assert.equal(s.remote().asked('read').length, asked)
        s.remote().before = undefined
        await s.remote().inner.write('a', toBody(bytes))
        await s.clock.advance(1)
        assert.ok((await s.store.get('a')).equals(bytes))
        await s.close()
      }
    })

  test('it is asked again at once after retry(), of all files or of those below a prefix', async (t) => {
    const s = await away(t)
    await s.remote().inner.delete('a')
    await assert.rejects(s.store.get('a'), { code: 'CORRUPT' })
    await s.remote().inner.write('a', toBody(bytes))
    assert.equal(await s.filestore.retry('b'), 0)
    await assert.rejects(s.store.get('a'), { code: 'CORRUPT' })
    assert.equal(await s.filestore.retry('a'), 1)
    assert.ok((await s.store.get('a')).equals(bytes))
    assert.equal(await s.filestore.retry(), 0)
  })

  test('that it was of no use is known after a restart, and forgotten when it is', async (t) => {
    const s = await away(t)
    await s.remote().inner.delete('a')
    await assert.rejects(s.store.get('a'), { code: 'CORRUPT' })
    await s.reopen()
    s.remote().calls.length = 0
    await assert.rejects(s.store.get('a'), { code: 'CORRUPT' })
    assert.deepEqual(s.remote().calls, [])
    await s.remote().inner.write('a', toBody(bytes))
    await s.clock.advance(10 * minute)
    assert.ok((await s.store.get('a')).equals(bytes))
    s.clock.jump(-5 * minute)
    assert.ok((await s.store.get('a')).equals(bytes))
  })

  test('wrong bytes are never passed on, not even those of a range beside them', async (t) => {
    for (const options of [{ cache: {} }, {}]) {
      const s = await away(t, options)
      await s.remote().inner.write('a', toBody(damaged(3 * block + 5)))
      const received: Buffer[] = []
      const { body } = await s.filestore.driver.read('a')
      await assert.rejects(async () => {
        for await (const chunk of body as AsyncIterable<Buffer>) received.push(chunk)
      })
      const got = Buffer.concat(received)
      assert.ok(got.byteLength <= 3 * block && got.equals(bytes.subarray(0, got.byteLength)), `${got.byteLength}`)
      await s.filestore.retry()
      const bad = { start: 3 * block + 100, end: 3 * block + 200 }
      await assert.rejects(s.store.get('a', { range: bad }), { code: 'CORRUPT' })
      await s.filestore.retry()
      const good = { start: 4 * block + 100, end: 4 * block + 200 }
      assert.ok((await s.store.get('a', { range: good })).equals(bytes.subarray(good.start, good.end)))
      await s.close()
    }
  })

  test('bytes that were damaged on the way once are asked for again, and nobody hears of it', async (t) => {
    const s = await away(t, { cache: {} })
    let left = 1
    s.remote().altered = async function* (body) {
      for await (const chunk of body) yield left-- > 0 ? Buffer.from(chunk).fill(0) : chunk
    }
    assert.ok((await s.store.get('a')).equals(bytes))
    assert.deepEqual(s.told('failed'), [])
  })

  test('another replica is used in its place, also for the rest of what was begun', async (t) => {
    const kinds: ((s: Awaited<ReturnType<typeof twice>>) => unknown)[] = [
      async (s) => s.remote('first').inner.delete('a'),
      (s) => void (s.remote('first').before = failing('DENIED')),
      (s) => void (s.remote('first').before = failing('UNREACHABLE')),
      async (s) => s.remote('first').inner.write('a', toBody(damaged(3 * block))),
      async (s) => s.remote('first').inner.write('a', toBody(bytes.subarray(1))),
    ]
    for (const options of [{ cache: {} }, {}])
      for (const spoil of kinds) {
        const s = await twice(t, options)
        await spoil(s)
        assert.ok((await s.patiently(s.store.get('a'))).equals(bytes))
        assert.ok(s.remote('first').calls.length > 0 && s.remote('second').calls.length > 0)
        const { start = 0 } = s.remote('second').calls[0]?.range ?? {}
        assert.equal(start, spoil === kinds[3] ? 3 * block : 0)
        await s.close()
      }
  })

  test('one that is just being removed is not asked', async (t) => {
    const s = await twice(t)
    const stopped = gate()
    s.remote('first').before = async ({ operation }) => (operation.startsWith('delete') ? stopped.pass() : undefined)
    await s.filestore.move({ kind: 'migrate', from: 'first', to: 'second' })
    await stopped.reached
    assert.ok((await s.store.get('a')).equals(bytes))
    assert.deepEqual([s.remote('first').asked('read'), s.remote('second').asked('read')], [[], ['a']])
    stopped.open()
    await s.quiet()
    assert.deepEqual(await s.remote('first').contents(), {})
  })

  test('when all replicas are of no use the read fails, and recovers with the first that is back', async (t) => {
    const s = await twice(t, { cache: {} })
    await s.remote('first').inner.delete('a')
    s.remote('second').before = failing('DENIED')
    await assert.rejects(s.store.get('a'), { code: 'CORRUPT' })
    s.remote('second').before = undefined
    await s.clock.advance(10 * minute)
    assert.ok((await s.store.get('a')).equals(bytes))
  })
})

describe('a read that meets a change', () => {
  test('gives the old bytes or the new ones, or an error that says so, never both mixed', async (t) => {
    const s = await away(t, { cache: {} })
    const other = randomBytes(bytes.byteLength)
    const stopped = gate()
    let chunks = 0
    s.remote().altered = async function* (body) {
      for await (const chunk of body) {
        if (++chunks === 8) await stopped.pass()
        yield chunk
      }
    }
    const read = s.store.get('a')
    await stopped.reached
    await s.store.put('a', other)
    stopped.open()
    const got = await read.catch((error: StowageError) => error)
    if (Buffer.isBuffer(got)) assert.ok(got.equals(bytes) || got.equals(other))
    else assert.equal(got.code, 'CONFLICT')
    assert.ok((await s.store.get('a')).equals(other))
  })
})
