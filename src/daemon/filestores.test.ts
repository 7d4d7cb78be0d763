/** Filestores as a part of the daemon: with conveyor, mounts, control socket and a configuration that changes. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { codeOf, StowageError } from '../core/errors.ts'
import { silentLog } from '../core/log.ts'
import { Registry } from '../filestore/registry.ts'
import { openDatabase } from '../state/database.ts'
import { openAtRest } from './all-stores.ts'
import { checkConfig, type ConfigInput } from './config.ts'
import { askDaemon } from './control.ts'
import { startDaemon } from './daemon.ts'
import type { Deleted } from './filestores.ts'
import type { TaskReport } from './tasks.ts'

/** A configuration of one filestore and what is given besides, in a directory of its own. */
function scene(t: TestContext, settings: object = {}, more: Partial<ConfigInput> = {}) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-filestores-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  const config = (changed: object = {}) =>
    checkConfig(
      {
        ...more,
        stores: {
          cold: 'file:./cold',
          warm: 'file:./warm',
          uploads: { filestore: { directory: 'up', remote: 'cold', coolDown: '1h', ...settings, ...changed } },
          ...more.stores,
        },
      },
      directory,
    )
  const write = (name: string, content: string) => {
    const file = path.join(directory, name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, content)
  }
  const start = async (changed: object = {}) => startDaemon({ config: config(changed), log: silentLog })
  return { directory, config, write, start, at: (name: string) => fs.existsSync(path.join(directory, name)) }
}

const site = { sources: { site: { directory: './site', settle: 0 } } }
const toUploads = { ...site, rules: [{ source: 'site', destinations: [{ store: 'uploads', path: 'in' }] }] }

test('a conveyor delivers into a filestore; a sync neither waits for its uploads nor counts them as failed', {
  timeout: 120_000,
}, async (t) => {
  const { write, start, at } = scene(t, {}, toUploads)
  write('site/a.txt', 'alpha')
  await using daemon = await start()
  const summary = await daemon.sync()
  assert.deepEqual([summary.delivered, summary.failed, summary.setAside], [1, 0, []])
  assert.ok(at('up/in/a.txt'))
  const [report] = (await daemon.status()).filestores
  assert.deepEqual([report?.name, report?.local.files, report?.cloud.files], ['uploads', 1, 0])
  assert.equal(report?.queues.find(({ queue }) => queue === 'offload')?.waiting, 1)
})

test('what is up looks through the directory and offloads what has rested', { timeout: 120_000 }, async (t) => {
  const { write, start, at, directory } = scene(t, { coolDown: 0 }, toUploads)
  write('up/old.txt', 'old')
  write('site/a.txt', 'alpha')
  await using daemon = await start()
  await daemon.up()
  await daemon.idle()
  await daemon.filestores.get('uploads').idle()
  assert.deepEqual(
    [at('cold/old.txt'), at('cold/in/a.txt'), at('up/old.txt'), at('up/in/a.txt')],
    [true, true, false, false],
  )
  assert.equal(String(await daemon.filestores.stores.get('uploads')?.get('in/a.txt')), 'alpha')
  assert.ok(fs.existsSync(path.join(directory, '.stowage-cache')))
})

test('a filestore can be mounted beside its remote', { timeout: 120_000 }, async (t) => {
  const all = { all: { mounts: { u: 'uploads', '': 'warm' } } }
  const rules = [{ source: 'site', destinations: [{ store: 'all', path: 'u/site' }] }]
  const { write, start, at, config } = scene(t, {}, { stores: all, ...site, rules })
  write('site/a.txt', 'alpha')
  {
    await using daemon = await start()
    assert.equal((await daemon.sync()).delivered, 1)
  }
  assert.ok(at('up/site/a.txt'))
  await using opened = await openAtRest(config())
  assert.equal(String(await opened.stores.get('all')?.get('u/site/a.txt')), 'alpha')
  await assert.rejects(openAtRest(config()), { code: 'BUSY' })
})

test('files that went to another remote before can still be read; nothing but the last owner opens the state', {
  timeout: 120_000,
}, async (t) => {
  const { write, start, at } = scene(t)
  write('up/a.txt', 'alpha')
  {
    await using daemon = await start()
    const filestore = daemon.filestores.get('uploads')
    await filestore.start()
    await filestore.move({ kind: 'offload' })
    await filestore.idle()
    assert.ok(at('cold/a.txt') && !at('up/a.txt'))
  }
  await using daemon = await start({ remote: 'warm' })
  const store = daemon.filestores.stores.get('uploads')
  assert.equal(String(await store?.get('a.txt')), 'alpha')
  await assert.rejects(start(), { code: 'BUSY' })
})

test('files are not called back to a disk that cannot hold them', { timeout: 120_000 }, async (t) => {
  const { config, start } = scene(t)
  fs.mkdirSync(path.join(config().directory, 'up'))
  const database = await openDatabase(config().state)
  const registry = new Registry(database, 'uploads')
  const huge = { key: 'huge', version: 'v', size: 2 ** 52, modifiedMs: 0, changedMs: 0, cloud: false }
  await registry.transaction(async (tx) => {
    await registry.put(huge, tx)
    const replica = { remote: 'cold', remoteKey: 'huge', key: 'huge', location: 'x', version: 'v' }
    await registry.putReplica({ ...replica, state: 'present' }, tx)
  })
  await database.close()
  await using daemon = await start()
  const recall = async (prefix: string) =>
    daemon.filestores.move({ name: 'uploads', order: { kind: 'recall', prefix } })
  await assert.rejects(
    recall(''),
    (error) => codeOf(error) === 'NO_SPACE' && /4096\.0 TiB do not fit/.test(String(error)),
  )
  assert.equal((await recall('other/')).move.total.files, 0)
})

test('over the control socket: moves, pauses, and what takes its time in several answers', {
  timeout: 120_000,
}, async (t) => {
  const { start, config } = scene(t)
  await using daemon = await start()
  const ask = async (method: string, more: object = {}) =>
    askDaemon(`${config().state}.sock`, `filestore.${method}`, { name: 'uploads', ...more })
  const store = daemon.filestores.stores.get('uploads')
  const keys = Array.from({ length: 1100 }, (_, index) => `f/${String(index).padStart(4, '0')}`)
  await Promise.all(keys.map(async (key) => store?.put(key, key)))
  const moved = await ask('move', { order: { kind: 'offload', prefix: 'f/' } })
  assert.partialDeepStrictEqual(moved, { isKnown: false, move: { state: 'running', total: { files: 1100 } } })
  assert.partialDeepStrictEqual(await ask('move', { order: { prefix: 'f/', kind: 'offload' } }), { isKnown: true })
  assert.partialDeepStrictEqual(await ask('move', { order: { kind: 'offload' } }), { stopped: { state: 'running' } })
  assert.equal(await ask('stop'), true)
  assert.equal(await ask('stop'), false)
  await assert.rejects(ask('pause', { remote: 'warm' }), { code: 'INVALID_ARGUMENT', message: /It has: cold/ })
  await assert.rejects(
    ask('status', { name: 'x' }).then(() => ask('stop', { name: 'x' })),
    {
      code: 'INVALID_ARGUMENT',
      message: /no filestore "x"\. There are: uploads/,
    },
  )
  await ask('pause', { remote: 'cold' })
  assert.partialDeepStrictEqual(await ask('status'), [{ paused: ['cold'] }])

  await store?.deleteDirectory('f', { recursive: true })
  const all = async <T>(method: string, more: object) => {
    const id = (await ask(method, more)) as string
    const items: T[] = []
    for (;;) {
      const report = (await askDaemon(`${config().state}.sock`, 'task.report', { id })) as TaskReport
      items.push(...(report.items as T[]))
      if (report.error) throw new StowageError(report.error.code, report.error.message)
      if (report.isEnded) return items
    }
  }
  const deleted = await all<Deleted>('deleted', { prefix: 'f/' })
  assert.deepEqual(
    deleted.map(({ key }) => key),
    keys,
  )
  const restored = await all<{ key: string; error?: { code: string } }>('restore', {
    keys: [...keys.slice(0, 2), 'none'],
  })
  assert.deepEqual(
    restored.map(({ key, error }) => [key, error?.code]),
    [...keys.slice(0, 2).map((key) => [key, undefined]), ['none', 'NOT_FOUND']],
  )
  assert.equal((await all('restore', { prefix: 'f/' })).length, 1098)
  assert.deepEqual(await all('verify', {}), [])
})
