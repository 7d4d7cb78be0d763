import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import * as fs from 'node:fs'
import { describe, test } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { Queue } from '../state/queue.ts'
import { Store } from '../store/store.ts'
import { day, minute, remote, scene, type Scene } from '../../test/servers/filestore-scene.ts'
import { Filestore } from './filestore.ts'

/** What the counters must say, counted file by file. */
async function recounted(s: Scene) {
  const none = () => ({ files: 0, bytes: 0 })
  const counts = { media: none(), local: none(), cloud: none(), both: none(), lost: none(), deleted: none() }
  const rows = await s.database.query(`SELECT size, local, deleted_ms, EXISTS (SELECT 1 FROM replicas r WHERE
    r.store = f.store AND r.key = f.key AND r.version = f.version AND r.state = 'present') AS cloud FROM files f`)
  for (const { size, local, deleted_ms: deletedMs, cloud } of rows) {
    const [isLocal, isCloud] = [local !== null, cloud === 1]
    const kinds =
      deletedMs !== null
        ? ['deleted' as const]
        : ([
            'media',
            isLocal && 'local',
            isCloud && 'cloud',
            isLocal && isCloud && 'both',
            !isLocal && !isCloud && 'lost',
          ] as const)
    for (const kind of kinds) {
      if (!kind) continue
      counts[kind].files++
      counts[kind].bytes += Number(size)
    }
  }
  return counts
}

async function assertAddsUp(s: Scene, step: string) {
  const { media, local, cloud, both, lost, deleted } = await s.filestore.status()
  assert.deepEqual({ media, local, cloud, both, lost, deleted }, await recounted(s), step)
  for (const kind of ['files', 'bytes'] as const)
    assert.equal(media[kind], local[kind] + cloud[kind] - both[kind] + lost[kind], step)
}

describe('the status', () => {
  test('adds up after every step, whatever happens', async (t) => {
    const seed = Number(process.env['STOWAGE_SEED'] ?? randomInt(2 ** 31))
    t.diagnostic(`STOWAGE_SEED=${seed}`)
    const random = generator(seed)
    const s = await scene(t, {
      remotes: { one: remote(), two: remote() },
      remote: 'one',
      deleteAfterMs: day,
      cache: {},
    })
    const pick = <T>(items: readonly T[]) => items[Math.floor(random() * items.length)] as T
    const key = () => pick(['a', 'b', 'c/d', 'c/e', 'f'])
    const steps: Record<string, () => Promise<unknown>> = {
      put: async () => s.store.put(key(), 'x'.repeat(Math.floor(random() * 50))),
      delete: async () => s.store.delete(key()),
      restore: async () => s.filestore.restore(key()),
      move: async () => s.store.move(key(), key()),
      read: async () => s.store.get(key()),
      minutes: async () => s.clock.advance(10 * minute),
      day: async () => s.clock.advance(day),
      write: async () => fs.writeFileSync(s.file('b'), 'y'.repeat(Math.floor(random() * 50))),
      vanish: async () => fs.rmSync(s.file(key()), { force: true }),
      scan: async () => s.filestore.scan(),
      offload: async () => s.filestore.move({ kind: 'offload', prefix: pick(['', 'c/']) }),
      recall: async () => s.filestore.move({ kind: 'recall', prefix: pick(['', 'c/']), drop: random() < 0.5 }),
      migrate: async () => s.filestore.move({ kind: 'migrate', from: 'one', to: 'two', drop: random() < 0.5 }),
      back: async () => s.filestore.move({ kind: 'migrate', from: 'two', to: 'one' }),
      reopen: async () => s.reopen(),
      quiet: async () => s.patiently(s.quiet()),
      lose: async () => s.remote('one').inner.delete(key()),
      spoil: async () => s.filestore.retry(),
    }
    for (let count = 0; count < 150; count++) {
      const step = pick(Object.keys(steps))
      await steps[step]?.().catch((error: unknown) => assert.ok(error instanceof StowageError, String(error)))
      await assertAddsUp(s, `step ${count}: ${step}`)
    }
    await s.patiently(s.quiet())
    await assertAddsUp(s, 'in the end')
  })

  test('tells of each queue how much waits, runs and was set aside, and since when', async (t) => {
    const s = await scene(t, { isIdle: true })
    for (const key of ['a', 'b']) {
      await s.store.put(key, 'x')
      await s.clock.advance(minute)
    }
    await s.store.delete('a')
    const { queues } = await s.filestore.status()
    assert.deepEqual(queues, [
      { queue: 'offload', waiting: 1, running: 0, setAside: 0, oldestMs: s.clock.now() + 9 * minute },
      { queue: 'move', waiting: 0, running: 0, setAside: 0 },
      { queue: 'remove', waiting: 1, running: 0, setAside: 0, oldestMs: s.clock.now() + 35 * day },
    ])
  })
})

/** Mulberry32. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

describe('the events of a file', () => {
  test('come once each, in the order in which it happens', async (t) => {
    const s = await scene(t, {
      remotes: { one: remote(), two: remote() },
      remote: 'one',
      cache: { maxBytes: 1000 },
      deleteAfterMs: day,
    })
    const told: string[] = []
    const news = async (work: () => Promise<unknown>) => {
      await work()
      await s.quiet()
      const before = told.length
      for (const { name, event } of s.events.slice(told.length)) {
        const { key, ...rest } = event as { key: string; info?: unknown; error?: unknown; dueMs?: number }
        const details = Object.entries(rest).map(([detail, value]) => {
          if (detail === 'dueMs') return `in ${Number(value) - s.clock.now()}`
          return detail === 'info'
            ? `${(value as { size: number }).size}`
            : `${detail} ${detail === 'error' ? (value as StowageError).code : String(value)}`
        })
        told.push(`${name} ${key} ${details.join(', ')}`.trim())
      }
      return told.slice(before)
    }
    const until = async (count: number) => s.until(`${count} events`, () => s.events.length >= count)
    assert.deepEqual(await news(async () => s.store.put('a', 'x'.repeat(600))), [
      'stored a 600, isForeign false',
      'queued a remote one, in 600000',
    ])
    const foreign = async () => {
      fs.writeFileSync(s.file('b'), 'y'.repeat(600))
      fs.utimesSync(s.file('b'), 1, 1)
      await s.filestore.pause()
      await s.filestore.scan()
      await s.store.stat('b')
    }
    assert.deepEqual(await news(foreign), ['stored b 600, isForeign true', 'queued b remote one, in 0'])
    await s.filestore.resume()
    await until(told.length + 1)
    assert.deepEqual(await news(async () => undefined), ['uploaded b remote one, bytes 600'])
    await s.clock.advance(10 * minute)
    await until(told.length + 2)
    assert.deepEqual(await news(async () => undefined), ['evicted b bytes 600', 'uploaded a remote one, bytes 600'])
    assert.deepEqual(await news(async () => s.store.get('a')), [])
    assert.deepEqual((await news(async () => s.store.get('b'))).sort(), [
      'evicted a bytes 600',
      'fetched b remote one, bytes 600',
    ])
    const migrate = async () => {
      await s.filestore.move({ kind: 'migrate', from: 'one', to: 'two', prefix: 'a' })
      await until(told.length + 2)
    }
    assert.deepEqual(await news(migrate), ['fetched a remote one, bytes 600', 'uploaded a remote two, bytes 600'])
    const recall = async () => {
      await s.filestore.move({ kind: 'recall', prefix: 'a' })
      await s.until('it is home', () => s.isLocal('a'))
    }
    assert.deepEqual(await news(recall), ['fetched a remote two, bytes 600'])
    assert.deepEqual(await news(async () => s.store.delete('a')), ['deleted a isFinal false'])
    assert.deepEqual(await news(async () => s.filestore.restore('a')), [])
    assert.deepEqual(await news(async () => s.store.delete('a')), ['deleted a isFinal false'])
    await s.clock.advance(day)
    await until(told.length + 1)
    assert.deepEqual(await news(async () => undefined), ['deleted a isFinal true'])
    await s.remote('one').inner.delete('b')
    await s.cache?.drop('files', 'b')
    const failing = async () => assert.rejects(s.store.get('b'))
    assert.deepEqual(await news(failing), ['failed b operation fetch, error NOT_FOUND'])
  })

  test('are not those of others with whom it shares its cache', async (t) => {
    const s = await scene(t, { cache: { maxBytes: 1000 } })
    fs.writeFileSync(`${s.base}/other`, 'x'.repeat(600))
    await s.cache?.adopt('others', `${s.base}/other`, { key: 'a', size: 600, etag: '1' })
    await s.store.put('a', 'y'.repeat(600))
    await s.pass(10 * minute)
    assert.equal(s.cache?.has('others', 'a'), false)
    await s.until('it is uploaded', () => s.told('uploaded').length === 1)
    assert.deepEqual(s.told('evicted'), [])
  })

  test('a listener that throws disturbs nobody, and one that has left hears nothing', async (t) => {
    const s = await scene(t)
    const heard: string[] = []
    s.filestore.on('stored', () => {
      throw new Error('The listener fails (on purpose).')
    })
    const leave = s.filestore.on('stored', ({ key }) => heard.push(key))
    await s.store.put('a', 'x')
    leave()
    await s.store.put('b', 'x')
    assert.deepEqual([heard, s.told('stored')], [['a'], ['a', 'b']])
    assert.ok(s.messages.some((message) => /listener of stored failed/.test(message)))
  })
})

describe('two filestores on one remote', () => {
  test('never touch what the other has there, even under the same names', async (t) => {
    const s = await scene(t, { deleteAfterMs: 0 })
    const other = await Filestore.open({
      name: 'others',
      directory: `${s.base}/others`,
      remotes: new Map([['cloud', s.remote().driver]]),
      database: s.database,
      queue: new Queue(s.database, { clock: s.clock }),
      deleteAfterMs: 0,
      scanEveryMs: 0,
      watch: false,
      clock: s.clock,
    })
    await other.start()
    const store = new Store(other.driver)
    for (const key of ['a', 'b', 'c', 'd']) {
      await s.store.put(key, `ours ${key}`)
      await store.put(key, `theirs ${key}`)
    }
    await s.pass(10 * minute)
    const contents = async (of: Store) =>
      Promise.all(['a', 'b', 'c', 'd'].map(async (key) => (await of.exists(key)) && (await of.get(key)).toString()))
    assert.deepEqual(await contents(s.store), ['ours a', 'ours b', 'ours c', 'ours d'])
    assert.deepEqual(await contents(store), ['theirs a', 'theirs b', 'theirs c', 'theirs d'])
    assert.equal(Object.keys(await s.remote().contents()).length, 8)
    await s.store.delete('a')
    await store.delete('b')
    await s.store.put('c', 'changed')
    await other.move({ kind: 'recall', prefix: 'd', drop: true })
    await s.pass(10 * minute)
    for await (const orphan of s.filestore.gc({ delete: true })) assert.fail(JSON.stringify(orphan))
    assert.deepEqual(await contents(s.store), [false, 'ours b', 'changed', 'ours d'])
    assert.deepEqual(await contents(store), ['theirs a', false, 'theirs c', 'theirs d'])
    assert.deepEqual(Object.values(await s.remote().contents()).sort(), [
      'changed',
      'ours b',
      'ours d',
      'theirs a',
      'theirs c',
    ])
    assert.deepEqual([(await s.filestore.status()).cloud.files, (await other.status()).cloud.files], [3, 2])
    await other.close()
  })
})
