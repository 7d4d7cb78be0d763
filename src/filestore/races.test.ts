/** What happens when two things happen to one file at once, or the process is killed between two steps of one thing. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as path from 'node:path'
import { describe, test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { gate, minute, remote, scene, type Call, type Scene } from '../../test/servers/filestore-scene.ts'
import { collect, toBody } from '../core/bytes.ts'
import { StowageError } from '../core/errors.ts'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { Queue } from '../state/queue.ts'
import type { MoveOrder } from './mover.ts'

/** The first call of a kind waits until it is let go on. */
function stopFirst(s: Scene, operation: Call['operation'], name?: string) {
  const stopped = gate()
  let isFirst = true
  s.remote(name).before = async (call) => {
    if (call.operation !== operation || !isFirst) return
    isFirst = false
    await stopped.pass()
  }
  return stopped
}

/** Moves files, and waits until that is done. */
async function move(s: Scene, order: MoveOrder) {
  await s.filestore.move(order)
  await s.patiently(s.until('it has ended', async () => (await s.filestore.moving())?.state === 'done'))
  await s.quiet()
}

/** A remote whose first write has all bytes, and takes its time then. */
function slowRemote() {
  const stopped = gate()
  const inner = memoryDriver()
  let isFirst = true
  const write: typeof inner.write = async (key, body, options) => {
    const bytes = await collect(body)
    const isSlow = isFirst
    isFirst = false
    if (isSlow) await stopped.pass()
    return inner.write(key, toBody(bytes), options)
  }
  return { stopped, remotes: { cloud: remote({ ...inner, write }) } }
}

describe('one name at a remote', () => {
  test('of a file that is renamed and overwritten while it is uploaded has the newest in the end', async (t) => {
    const { stopped, remotes } = slowRemote()
    const s = await scene(t, { coolDownMs: 0, remotes })
    await s.store.put('a', 'first')
    await stopped.reached
    await s.store.move('a', 'b')
    await s.store.put('b', 'second')
    // Whoever does not wait is done before.
    for (let turns = 0; turns < 5000; turns++) await setImmediate()
    stopped.open()
    await s.patiently(s.until('it is there', () => s.told('uploaded').includes('b') && !s.isLocal('b')))
    await s.quiet()
    assert.deepEqual(await s.contents(), { b: 'second' })
    assert.deepEqual(Object.values(await s.remote().contents()), ['second'])
  })

  test('of a file that is deleted for good while it is uploaded has nothing in the end', async (t) => {
    const { stopped, remotes } = slowRemote()
    const s = await scene(t, { coolDownMs: 0, deleteAfterMs: 0, remotes })
    await s.store.put('a', 'x')
    await stopped.reached
    await s.store.delete('a')
    for (let turns = 0; turns < 5000; turns++) await setImmediate()
    stopped.open()
    await s.patiently(s.until('it is forgotten', async () => (await s.filestore.status()).deleted.files === 0))
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), {})
    assert.deepEqual(await s.database.query('SELECT * FROM replicas'), [])
  })

  test('that is being removed is waited for, by nobody else', async (t) => {
    const s = await scene(t, { coolDownMs: 0, deleteAfterMs: 0 })
    await s.store.put('a', 'first')
    await s.quiet()
    const stopped = stopFirst(s, 'delete')
    await s.store.delete('a')
    await stopped.reached
    await s.store.put('a', 'second')
    await s.until('it was tried', () => s.told('failed').includes('a'))
    await s.store.put('b', 'another')
    await s.until('another is there', () => s.told('uploaded').includes('b'))
    assert.deepEqual((await s.filestore.status()).troubles, [])
    stopped.open()
    await s.pass(minute)
    assert.deepEqual(await s.remote().contents(), { a: 'second', b: 'another' })
  })

  test('that is being removed when its file is deleted again does not wait for five weeks', async (t) => {
    const s = await scene(t, { coolDownMs: 0, remotes: { one: remote(), two: remote() }, remote: 'one' })
    await s.store.put('a', 'first')
    await s.quiet()
    const stopped = gate()
    s.remote('one').before = async ({ operation }) => {
      if (operation !== 'delete') return
      await stopped.pass()
      s.remote('one').before = undefined
      throw new StowageError('UNREACHABLE', 'It broke off.')
    }
    await s.filestore.move({ kind: 'migrate', from: 'one', to: 'two' })
    await stopped.reached
    await s.store.delete('a')
    stopped.open()
    await s.pass(minute)
    await s.store.put('a', 'second')
    await s.pass(minute)
    assert.deepEqual(await s.remote('one').contents(), { a: 'second' })
  })

  test('is given up for another where no file can be below one', async (t) => {
    const s = await scene(t, { coolDownMs: 0 })
    s.remotes['cloud'] = remote(fileDriver({ directory: path.join(s.base, 'cloud'), fsync: false }))
    await s.reopen({ remotes: s.remotes })
    const long = `${'o'.repeat(250)}.jpg`
    for (const key of ['a', 'b/c', long]) await s.store.put(key, key)
    await s.quiet()
    for (const [from, to] of [
      ['a', 'x'],
      ['b/c', 'y'],
      [long, 'z'],
    ] as const)
      await s.store.move(from, to)
    for (const key of ['a/d', 'b', long]) await s.store.put(key, `new ${key}`)
    await s.quiet()
    assert.deepEqual((await s.filestore.status()).local.files, 0)
    const contents = { 'a/d': 'new a/d', b: 'new b', [long]: `new ${long}`, x: 'a', y: 'b/c', z: long }
    assert.deepEqual(await s.contents(), contents)
  })
})

describe('a copy that was given up', () => {
  test('is removed to the end, also when the process was killed and its file needs copies again', async (t) => {
    const s = await scene(t, { coolDownMs: 0 })
    await s.store.put('a', 'x')
    await s.quiet()
    await move(s, { kind: 'recall' })
    await s.database.transaction(async (tx) => {
      await tx.run(`UPDATE replicas SET state = 'deleting'`)
      await tx.run('UPDATE files SET cloud = 0')
      await new Queue(s.database, { clock: s.clock }).add(
        { queue: 'remove:files', key: 'cloud:a', group: 'cloud', payload: { remote: 'cloud', remoteKey: 'a' } },
        tx,
      )
    })
    await s.reopen()
    await s.quiet()
    assert.deepEqual(await s.remote().contents(), {})
    await move(s, { kind: 'offload' })
    assert.equal(s.isLocal('a'), false)
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })

  test('at the last moment is nothing a local file is handed over to', async (t) => {
    const s = await scene(t, { coolDownMs: 0, cache: {} })
    await s.store.put('a', 'x')
    await s.quiet()
    await move(s, { kind: 'recall' })
    const { cache } = s
    assert.ok(cache)
    const adopt = cache.adopt.bind(cache)
    cache.adopt = async (...given) => {
      await s.database.transaction(async (tx) => {
        await tx.run(`UPDATE replicas SET state = 'deleting'`)
        await tx.run('UPDATE files SET cloud = 0')
      })
      return adopt(...given)
    }
    await move(s, { kind: 'offload' })
    assert.equal(s.isLocal('a'), true)
    assert.equal((await s.filestore.status()).local.files, 1)
  })
})

describe('a file that is called back', () => {
  test('never takes the place of what somebody wrote a moment ago', async (t) => {
    const s = await scene(t, { coolDownMs: 0 })
    await s.store.put('a', 'first')
    await s.quiet()
    const stopped = stopFirst(s, 'read')
    await s.filestore.move({ kind: 'recall' })
    await stopped.reached
    fs.writeFileSync(s.file('a'), 'second')
    await s.filestore.pause()
    stopped.open()
    await s.quiet()
    assert.equal(fs.readFileSync(s.file('a'), 'utf8'), 'second')
    await s.filestore.scan()
    await s.filestore.resume()
    await s.pass(minute)
    assert.deepEqual(await s.contents(), { a: 'second' })
    assert.deepEqual(await s.remote().contents(), { a: 'second' })
  })
})

describe('a file that takes the place of another', () => {
  test('is that one, also when it is only in the cloud and the other is here', async (t) => {
    const s = await scene(t, { coolDownMs: 0 })
    await s.store.put('a', 'moved')
    await s.quiet()
    await s.filestore.pause()
    await s.store.put('b', 'replaced')
    await s.store.move('a', 'b')
    await s.filestore.scan()
    assert.deepEqual(await s.contents(), { b: 'moved' })
    await s.reopen()
    assert.deepEqual(await s.contents(), { b: 'moved' })
  })

  for (const isLocal of [true, false])
    test(`has done so, or not, when the process was killed (${isLocal ? 'here' : 'only in the cloud'})`, async (t) => {
      const s = await scene(t, { coolDownMs: isLocal ? minute : 0 })
      await s.store.put('a', 'moved')
      await s.quiet()
      await s.filestore.pause()
      await s.store.put('b', 'replaced')
      const [row] = await s.database.query(`SELECT local FROM files WHERE key = 'b'`)
      const [moved] = await s.database.query(`SELECT local FROM files WHERE key = 'a'`)
      const note = { from: 'a', to: 'b', state: moved?.['local'] ?? undefined, replaced: row?.['local'] }
      const begin = async () =>
        s.database.transaction(async (tx) =>
          tx.run('INSERT INTO settings VALUES (?, ?)', 'filestore:files:move:a', JSON.stringify(note)),
        )
      await begin()
      await s.reopen()
      assert.deepEqual(await s.contents(), { a: 'moved', b: 'replaced' })
      await begin()
      if (isLocal) fs.renameSync(s.file('a'), s.file('b'))
      else fs.rmSync(s.file('b'))
      await s.reopen()
      assert.deepEqual(await s.contents(), { b: 'moved' })
    })
})

describe('what was moved aside when the process was killed', () => {
  /** As a process that has died since would have left it. */
  const leave = (s: Scene, key: string, state: string, name = '999999999-0-1') => {
    const directory = s.file('.stowage-trash/removing')
    fs.mkdirSync(directory, { recursive: true })
    fs.renameSync(s.file(key), path.join(directory, `${name}-${state}-${encodeURIComponent(key)}`))
  }

  test('is put back when it is not what was to be removed, unless there is something newer', async (t) => {
    const s = await scene(t, { coolDownMs: 0 })
    for (const key of ['d/ä b', 'newer']) await s.store.put(key, 'old')
    await s.quiet()
    await s.close()
    for (const key of ['d/ä b', 'newer']) {
      fs.mkdirSync(path.dirname(s.file(key)), { recursive: true })
      fs.writeFileSync(s.file(key), 'of somebody else')
      leave(s, key, 'no-such-state')
    }
    fs.writeFileSync(s.file('newer'), 'even newer')
    await s.reopen()
    assert.deepEqual(await s.contents(), { 'd/ä b': 'of somebody else', newer: 'even newer' })
    assert.ok(!fs.readdirSync(s.file('.stowage-trash/removing')).some((name) => name.startsWith('999999999')))
  })

  test('is removed when it was handed over, and can be restored when it was deleted', async (t) => {
    const s = await scene(t, { coolDownMs: minute })
    for (const key of ['a', 'b']) await s.store.put(key, key)
    await s.pass(minute)
    await move(s, { kind: 'recall', prefix: 'a' })
    await s.store.put('c', 'c')
    const states = await s.database.query('SELECT key, local FROM files WHERE local IS NOT NULL')
    const stateOf = (key: string) => String(states.find((row) => row['key'] === key)?.['local'])
    await s.database.transaction(async (tx) => {
      await tx.run(`UPDATE files SET former = local, local = NULL WHERE key = 'a'`)
      await tx.run(`UPDATE files SET former = local, deleted_ms = ? WHERE key = 'c'`, s.clock.now())
    })
    await s.close()
    for (const key of ['a', 'c']) leave(s, key, stateOf(key))
    await s.reopen()
    assert.deepEqual(await s.contents(), { a: 'a', b: 'b' })
    assert.equal(s.isLocal('a'), false)
    await s.filestore.restore('c')
    assert.deepEqual(await s.contents(), { a: 'a', b: 'b', c: 'c' })
  })
})

describe('a file that was deleted when the process was killed', () => {
  test('does not come back when it is forgotten before the directory is looked through', async (t) => {
    const s = await scene(t, { coolDownMs: minute, deleteAfterMs: 0, isIdle: true })
    for (const key of ['a', 'b']) await s.store.put(key, key)
    const saved = fs.mkdtempSync(path.join(s.base, 'saved-'))
    for (const key of ['a', 'b']) fs.linkSync(s.file(key), path.join(saved, key))
    for (const key of ['a', 'b']) await s.store.delete(key)
    await s.close()
    // It had not come so far as to move them.
    for (const version of fs.readdirSync(s.file('.stowage-trash')))
      if (version !== 'removing') fs.rmSync(s.file(`.stowage-trash/${version}`))
    for (const key of ['a', 'b']) fs.renameSync(path.join(saved, key), s.file(key))
    await s.reopen({ isIdle: false, coolDownMs: minute, deleteAfterMs: 0 })
    await s.quiet()
    await s.filestore.scan()
    assert.deepEqual(await s.contents(), {})
    assert.equal((await s.filestore.status()).deleted.files, 0)
  })
})

describe('a copy that was begun and never finished', () => {
  test('is collected when there is a good one elsewhere, and not while it is on its way', async (t) => {
    const s = await scene(t, { coolDownMs: 0, remotes: { one: remote(), two: remote() }, remote: 'one' })
    const stopped = stopFirst(s, 'stat', 'one')
    await s.store.put('a', 'x')
    await stopped.reached
    assert.deepEqual(await Array.fromAsync(s.filestore.gc({ delete: true })), [])
    stopped.open()
    await s.quiet()
    // A copy at another remote that is given up half-way.
    const half = stopFirst(s, 'stat', 'two')
    await s.filestore.move({ kind: 'migrate', from: 'one', to: 'two' })
    await half.reached
    s.remote('two').before = () => {
      throw new Error('It is full.')
    }
    await s.filestore.stopMoving()
    half.open()
    await s.quiet()
    await s.database.transaction(async (tx) => {
      await tx.run(`UPDATE replicas SET state = 'pending' WHERE remote = 'two'`)
      await tx.run(`DELETE FROM jobs`)
    })
    s.remote('two').before = undefined
    const found = await Array.fromAsync(s.filestore.gc({ delete: true }))
    assert.deepEqual(
      found.map(({ where, name, kind }) => `${where} ${name} ${kind}`),
      ['two a obsolete'],
    )
    assert.deepEqual(await s.remote('two').contents(), {})
    assert.deepEqual(await s.contents(), { a: 'x' })
  })
})
