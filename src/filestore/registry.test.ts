import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../core/clock.ts'
import { openDatabase, type Database, type Row, type Transaction } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import { Registry, type FileRow, type Which } from './registry.ts'

const kinds: Which[] = ['there', 'deleted', 'all', 'local', 'local only', 'away', 'lost', { at: 'cloud' }]

const file = (key: string, more: Partial<FileRow> = {}): FileRow => ({
  key,
  version: 'v',
  size: 3,
  modifiedMs: 1,
  changedMs: 1,
  cloud: false,
  ...more,
})
const replica = (key: string) =>
  ({ remote: 'cloud', remoteKey: key, key, location: 'memory:', version: 'v', state: 'present' }) as const

/** Passes everything on, and notes the SQL. */
function listening(database: Database, heard: Set<string>): Database {
  const hear = async <T>(sql: string, answer: Promise<T>) => {
    heard.add(sql)
    return answer
  }
  return {
    transaction: async (work) =>
      database.transaction(async (tx) => {
        const listener: Transaction = {
          all: async (sql, ...values) => hear(sql, tx.all(sql, ...values)),
          run: async (sql, ...values) => hear(sql, tx.run(sql, ...values)),
        }
        return work(listener)
      }),
    query: async (sql, ...values) => hear(sql, database.query(sql, ...values)),
    close: async () => database.close(),
  }
}

test('nothing that is asked of registry and queue reads all there is', async () => {
  const database = await openDatabase(':memory:')
  const heard = new Set<string>()
  const ear = listening(database, heard)
  const registry = new Registry(ear, 'files')
  const queue = new Queue(ear, { clock: systemClock })
  await registry.transaction(async (tx) => {
    await registry.put(file('a/b', { local: 'x' }), tx)
    await registry.putReplica(replica('a/b'), tx)
    await registry.confirmReplica(replica('a/b'), tx)
    await registry.setDigest('a/b', 'v', { sha256: '', checksums: '' }, tx)
    await registry.setLocal('a/b', 'v', undefined, tx)
    await registry.rename('a/b', 'a/c', tx)
    await registry.set('name', 1, tx)
    await registry.dropReplica(replica('a/b'), tx)
    await registry.remove('a/c', tx)
  })
  for (const which of kinds) {
    await registry.measure('a/', which)
    await registry.page({ after: 'a', which, limit: 1 })
    await registry.page({ from: 'a', before: 'b', which, limit: 1 })
  }
  await registry.find('a')
  await registry.blocking('a/b/c')
  await registry.replicas('a')
  await registry.replicaAt('cloud', 'a')
  await registry.remotes()
  for await (const _ of registry.recordedAt('cloud')) assert.fail('there is none')
  await registry.setFailure(replica('a'), undefined)
  await registry.resetFailures('')
  await registry.counts()
  await registry.setting('name')
  await registry.settings('')
  await queue.recover()
  for (const key of ['a', 'a', 'b', 'c']) await queue.add({ queue: 'q', key, group: 'g' })
  const [first, second, third] = await queue.take('q', 3, { excludeGroups: ['other'] })
  assert.ok(first && second && third)
  await queue.finish(first)
  await queue.fail(second, new Error('no'))
  await queue.postpone(third, 1)
  await queue.counts({ excludeGroups: ['other'] })
  await queue.groups('q')
  await queue.setAside()
  await queue.find('q', 'a')
  await queue.nextDueMs('q', { excludeGroups: ['other'] })
  for (const filter of [{}, { queue: 'q' }, { key: 'a' }, { queue: 'q', key: 'a' }]) await queue.retry(filter)
  await queue.cancel('q', { key: 'a' })
  await queue.cancel('q', { prefix: 'a' })

  const plans = new Map<string, string>()
  for (const sql of heard) {
    const plan = await database.query(`EXPLAIN QUERY PLAN ${sql}`)
    plans.set(sql, plan.map((row: Row) => String(row['detail'])).join('; '))
  }
  const readsAll = /SCAN (?!job_counts|json_each)|SEARCH \w+ USING PRIMARY KEY \((store|queue|remote)=\?\)/
  const isAboutCounts = /FROM (job|file)_counts/
  assert.deepEqual(
    [...plans].filter(([sql, plan]) => readsAll.test(plan) && !isAboutCounts.test(sql)),
    [],
  )
  const ofFew = [...plans].filter(([sql]) => /^SELECT.*AND (deleted_ms|local) IS NOT NULL/s.test(sql))
  assert.equal(ofFew.length, 9)
  for (const [, plan] of ofFew) assert.match(plan, /USING INDEX files_(local|deleted) /)
  await database.close()
})

test('files of each kind are counted and paged, however many there are', async () => {
  const database = await openDatabase(':memory:')
  const registry = new Registry(database, 'files')
  const states: Partial<FileRow>[] = [
    { local: 'x' },
    { local: 'x', cloud: true },
    { cloud: true },
    { cloud: true, deletedMs: 1 },
    {},
  ]
  const each = 5000
  await registry.transaction(async (tx) => {
    for (const [index, { cloud, ...state }] of states.entries())
      for (let i = 0; i < each; i++) {
        const key = `d/${i}-${index}`
        await registry.put(file(key, state), tx)
        if (cloud) await registry.putReplica(replica(key), tx)
      }
    await registry.put(file('e', { local: 'x' }), tx)
  })
  const expected = { there: 3, deleted: 1, all: 5, local: 2, 'local only': 1, away: 1, lost: 1 }
  for (const which of kinds) {
    const factor = typeof which === 'string' ? expected[which] : 2
    const count = { files: factor * each, bytes: 3 * factor * each }
    assert.deepEqual(await registry.measure('d/', which), count, `measured ${JSON.stringify(which)}`)
    const keys = new Set<string>()
    for await (const { key } of registry.walk('d/', { which })) keys.add(key)
    assert.equal(keys.size, count.files, `walked ${JSON.stringify(which)}`)
  }
  assert.deepEqual(await registry.measure('none/', 'all'), { files: 0, bytes: 0 })
  await database.close()
})

test('a file is in the way of what would be below it, and of what it would be below', async () => {
  const database = await openDatabase(':memory:')
  const registry = new Registry(database, 'files')
  await registry.transaction(async (tx) => {
    for (const key of ['a/b', 'c', 'd/e/f']) await registry.put(file(key, { local: 'x' }), tx)
    await registry.put(file('g', { deletedMs: 1 }), tx)
  })
  const found = async (key: string) => registry.blocking(key)
  assert.deepEqual(await Promise.all(['a/b/c/d', 'c/d', 'd/e', 'd', 'a', 'a/c', 'a/b0', 'ab', 'g/h', 'x'].map(found)), [
    'a/b',
    'c',
    'd/e/f',
    'd/e/f',
    'a/b',
    undefined,
    undefined,
    undefined,
    undefined,
    undefined,
  ])
  await database.close()
})
