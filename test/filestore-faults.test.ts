/**
 * A filestore over a real S3 server that is down, denies, is slow, or whose connections are cut, silent or change bits on
 * the way: no file is ever missing or wrong, and all is well when the server is.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, describe, test, type TestContext } from 'node:test'
import { collect } from '../src/core/bytes.ts'
import { s3Driver, type S3Options } from '../src/drivers/s3/s3.ts'
import type { Driver } from '../src/store/driver.ts'
import { prefixed } from '../src/store/wrappers/prefix.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { FaultProxy, type Fault } from './servers/fault-proxy.ts'
import { minute, remote, scene, type Scene, type SceneOptions } from './servers/filestore-scene.ts'
import { startS3, type TestServer } from './servers/rgw.ts'

async function testServer(s3: TestServer) {
  after(() => s3.stop())
  await (await s3.bucket('filestore')).close()
  describe('a filestore over S3', () => testFaults(s3))
}

/** The scene, the proxy before the server, and a driver that goes around it. */
interface Faulty {
  s: Scene
  proxy: FaultProxy
  direct: Driver
}

let scenes = 0

async function faulty(
  t: TestContext,
  s3: TestServer,
  options: SceneOptions & { s3?: Partial<S3Options> } = {},
): Promise<Faulty> {
  const directory = `scene-${scenes++}`
  const { s3: more, ...rest } = options
  const proxy = await FaultProxy.open([s3.port])
  t.after(async () => proxy[Symbol.asyncDispose]())
  const open = (given: Partial<S3Options>) => prefixed(s3Driver(s3.options('filestore', { ...given })), directory)
  const limits = { timeoutMs: 500, connectTimeoutMs: 500 }
  const through = open({ port: proxy.port, signPayload: true, ...limits, ...more })
  const direct = open({})
  t.after(async () => Promise.all([through.close(), direct.close()]))
  // As a URL opens it, but quicker.
  const cloud = remote(retrying(through, { attempts: 2, baseMs: 1 }))
  cloud.driver.deleteMany = async (keys, call) => through.deleteMany?.(keys, call)
  return { s: await scene(t, { remotes: { cloud }, ...rest }), proxy, direct }
}

const contents = new Map([
  ['empty', Buffer.alloc(0)],
  ['small', randomBytes(100)],
  ['d/blocks', randomBytes(700_000)],
  ['d/parts', randomBytes(9 << 20)],
])

async function fill(s: Scene) {
  for (const [key, bytes] of contents) await s.store.put(key, bytes)
}

async function assertServed(s: Scene) {
  for (const [key, bytes] of contents) assert.ok((await s.patiently(s.store.get(key))).equals(bytes), key)
}

/** All that is at the server is what was meant, and nothing else is there. */
async function assertStored(direct: Driver) {
  const found = new Map<string, Buffer>()
  for await (const { key } of direct.list(''))
    found.set(key, await collect((await direct.read(key)).body as AsyncIterable<Buffer>))
  assert.deepEqual([...found.keys()], [...contents.keys()].sort())
  for (const [key, bytes] of contents) assert.ok(found.get(key)?.equals(bytes), key)
}

/** Minutes pass until everything is uploaded. */
async function uploaded(s: Scene) {
  for (let minutes = 0; minutes < 60; minutes++) {
    await s.patiently(s.quiet())
    if ((await s.filestore.status()).local.files === 0) return
    await s.clock.advance(minute)
  }
  assert.fail(s.messages.join('\n'))
}

const troubles: Record<string, Fault> = {
  'that is down': { how: 'refuse' },
  'that resets connections': { how: 'reset on connect' },
  'that is silent': { how: 'silent' },
  'whose connections are cut on the way there': { how: 'reset', way: 'up', after: 20_000, times: Infinity },
  'whose connections are cut on the way back': { how: 'reset', way: 'down', after: 10, times: Infinity },
  'that ends in the middle': { how: 'end', way: 'up', after: 20_000, times: Infinity },
  'that stalls': { how: 'stall', way: 'up', after: 20_000, times: Infinity },
  'to which bits change': { how: 'flip', way: 'up', after: 20_000, times: Infinity },
}

function testFaults(s3: TestServer) {
  test('uploads, serves through its cache and deletes', async (t) => {
    const { s, direct } = await faulty(t, s3, { cache: {}, deleteAfterMs: 0 })
    await fill(s)
    await s.pass(10 * minute)
    await uploaded(s)
    await assertStored(direct)
    await assertServed(s)
    for (const key of contents.keys()) await s.cache?.drop('files', key)
    await assertServed(s)
    for (const key of contents.keys()) await s.store.delete(key)
    await s.quiet()
    assert.deepEqual(await Array.fromAsync(direct.list('')), [])
  })

  for (const [trouble, fault] of Object.entries(troubles)) {
    test(`to a server ${trouble} nothing is handed over; all is when it is well`, async (t) => {
      const { s, proxy, direct } = await faulty(t, s3)
      await fill(s)
      await proxy.set(fault)
      await s.clock.advance(10 * minute)
      await proxy.until('it has struck', ({ struck }) => struck > 0 || fault.how === 'refuse')
      await s.until(
        'that is known',
        async () => (await s.filestore.status()).troubles.length > 0 || s.told('failed').length > 0,
      )
      await assertServed(s)
      await proxy.set(undefined)
      await uploaded(s)
      await assertStored(direct)
      await assertServed(s)
    })

    if ('way' in fault && fault.how === 'flip') continue
    test(`what is only at a server ${trouble} is an error, never short or wrong, and is there again when it is well`, async (t) => {
      const { s, proxy } = await faulty(t, s3, { cache: {} })
      await fill(s)
      await s.pass(10 * minute)
      await uploaded(s)
      for (const key of contents.keys()) await s.cache?.drop('files', key)
      await proxy.set('after' in fault ? { ...fault, way: 'down', after: 100_000 } : fault)
      const got = await s.patiently(s.store.get('d/blocks')).catch((error: { code: string }) => error.code)
      // By and by, piece by piece, it may even come.
      if (Buffer.isBuffer(got)) assert.ok(got.equals(contents.get('d/blocks') ?? got))
      else assert.ok(['UNREACHABLE', 'TIMEOUT'].includes(String(got)), String(got))
      if (!('way' in fault)) assert.ok(!Buffer.isBuffer(got))
      await proxy.set(undefined)
      await assertServed(s)
    })
  }

  test('bits that change on the way back are found out, and asked for again', async (t) => {
    for (const times of [1, Infinity]) {
      const { s, proxy } = await faulty(t, s3, { cache: {} })
      await fill(s)
      await s.pass(10 * minute)
      await uploaded(s)
      for (const key of contents.keys()) await s.cache?.drop('files', key)
      await proxy.set({ how: 'flip', way: 'down', after: 400_000, times })
      const got = await s.patiently(s.store.get('d/blocks')).catch((error: { code: string }) => error.code)
      assert.ok(proxy.struck > 0)
      if (times === 1) assert.ok(Buffer.isBuffer(got) && got.equals(contents.get('d/blocks') ?? got))
      else assert.equal(got, 'CORRUPT')
      await proxy.set(undefined)
      await s.filestore.retry()
      await assertServed(s)
    }
  })

  test('with a wrong key nothing is sent and nothing is lost; with the right one it goes on', async (t) => {
    const { s, direct, proxy } = await faulty(t, s3, { s3: { secretAccessKey: 'wrong' }, cache: {} })
    await fill(s)
    await s.pass(10 * minute)
    await assertServed(s)
    const offload = (await s.filestore.status()).queues.find(({ queue }) => queue === 'offload')
    assert.equal(offload?.setAside, contents.size)
    assert.deepEqual(await Array.fromAsync(direct.list('')), [])
    const failed = s.events.flatMap(({ name, event }) =>
      name === 'failed' ? [(event.error as { code: string }).code] : [],
    )
    assert.deepEqual(new Set(failed), new Set(['DENIED']))
    assert.ok(!JSON.stringify([s.messages, s.events]).includes('wrong'))
    const right = remote(prefixed(s3Driver(s3.options('filestore', { port: proxy.port })), `scene-${scenes - 1}`))
    t.after(async () => right.inner.close())
    await s.reopen({ remotes: { cloud: right } })
    assert.equal(await s.filestore.retry(), contents.size)
    await uploaded(s)
    await assertStored(direct)
    // And back: what cannot be read now is remembered, and asked for again.
    await s.cache?.drop('files', 'small')
    await s.reopen({
      remotes: {
        cloud: remote(prefixed(s3Driver(s3.options('filestore', { secretAccessKey: 'wrong' })), `scene-${scenes - 1}`)),
      },
    })
    await s.cache?.drop('files', 'small')
    await assert.rejects(s.store.get('small'), { code: 'CORRUPT', message: /small cannot be had/ })
    await s.reopen({ remotes: { cloud: right } })
    await s.filestore.retry()
    await assertServed(s)
  })

  test('a server that is slow is waited for, and many who read share one fetch', async (t) => {
    const { s, proxy, direct } = await faulty(t, s3, { cache: {}, s3: { timeoutMs: 20_000 } })
    await proxy.set({ how: 'delay', way: 'down', ms: 5 })
    await fill(s)
    await s.pass(10 * minute)
    await uploaded(s)
    await assertStored(direct)
    await s.cache?.drop('files', 'd/blocks')
    const before = s.remote().asked('read').length
    const reads = Array.from({ length: 20 }, async () => s.store.get('d/blocks'))
    for (const each of await Promise.all(reads)) assert.ok(each.equals(contents.get('d/blocks') ?? each))
    assert.equal(s.remote().asked('read').length, before + 1)
  })

  test('moves everything to another bucket and back home while connections break', async (t) => {
    const { s, proxy } = await faulty(t, s3, { cache: {}, remote: 'cloud' })
    const spare = remote(prefixed(s3Driver(s3.options('filestore')), `spare-${scenes}`))
    t.after(async () => spare.inner.close())
    await s.reopen({ remotes: { ...s.remotes, spare }, remote: 'cloud' })
    await fill(s)
    await s.pass(10 * minute)
    await uploaded(s)
    for (const key of contents.keys()) await s.cache?.drop('files', key)
    await proxy.set({ how: 'reset', way: 'down', after: 300_000, times: 5 })
    await s.filestore.move({ kind: 'migrate', from: 'cloud', to: 'spare' })
    await s.patiently(s.until('it is done', async () => (await s.filestore.moving())?.state === 'done'))
    await s.patiently(s.quiet())
    assert.equal(proxy.struck, 5)
    await assertStored(spare.inner)
    await s.filestore.move({ kind: 'recall' })
    await s.patiently(s.until('it is done', async () => (await s.filestore.moving())?.state === 'done'))
    assert.ok([...contents.keys()].every((key) => s.isLocal(key)))
    await assertServed(s)
  })
}

const server = startS3()
if (server) await testServer(server)
else test('filestores over S3', { skip: 'the packages of the S3 server are not installed' }, () => {})
