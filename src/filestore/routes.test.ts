import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { describe, test } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { memoryDriver } from '../drivers/memory.ts'
import type { Driver } from '../store/driver.ts'
import { day, minute, remote, scene } from '../../test/servers/filestore-scene.ts'
import { Routes, shortened } from './routes.ts'

describe('the route of a file', () => {
  const remotes = () => ({ cold: remote(), images: remote(), large: remote(), rest: remote() })

  test('by prefix, size and content type is the first rule that fits; what none fits stays here', async (t) => {
    const s = await scene(t, {
      remotes: remotes(),
      remote: [
        { prefix: 'private/', maxSize: 3, remote: 'cold' },
        { contentType: 'image/*', remote: 'images' },
        { contentType: 'text/x-test', remote: 'images' },
        { minSize: 10, maxSize: 20, remote: 'large' },
        { prefix: 'rest/', remote: 'rest' },
      ],
    })
    await s.store.put('private/a', 'abc')
    await s.store.put('private/b', 'abcd')
    await s.store.put('photo', 'x', { contentType: 'IMAGE/png; q=1' })
    await s.store.put('typed', 'x', { contentType: 'text/x-test' })
    await s.store.put('photo.png', 'x')
    await s.store.put('nine', '123456789')
    await s.store.put('ten', '1234567890')
    await s.store.put('twenty', '12345678901234567890')
    await s.store.put('more', '123456789012345678901')
    await s.store.put('rest/ten', '1234567890')
    await s.store.put('rest/b', 'x')
    await s.pass(10 * minute)
    const sent = await Promise.all(
      Object.entries(s.remotes).map(async ([name, each]) => [name, Object.keys(await each.contents())] as const),
    )
    assert.deepEqual(Object.fromEntries(sent), {
      cold: ['private/a'],
      images: ['photo', 'photo.png', 'typed'],
      large: ['rest/ten', 'ten', 'twenty'],
      rest: ['rest/b'],
    })
    const stayed = ['more', 'nine', 'private/b']
    assert.deepEqual(
      Object.keys(await s.contents()).filter((key) => s.isLocal(key)),
      stayed,
    )
    await s.pass(day)
    assert.ok(stayed.every((key) => s.isLocal(key)))
  })

  test('by age is taken when the file is that old, counted from its last change', async (t) => {
    const s = await scene(t, {
      remotes: remotes(),
      remote: [
        { minAgeMs: 30 * day, remote: 'cold' },
        { prefix: 'quick/', remote: 'rest' },
      ],
    })
    await s.store.put('a', 'x', { modified: new Date(s.clock.now()) })
    await s.store.put('quick/b', 'x', { modified: new Date(s.clock.now()) })
    await s.store.put('old', 'x', { modified: new Date(s.clock.now() - 40 * day) })
    const due = s.events.flatMap(({ name, event }) => (name === 'queued' ? [event.dueMs - s.clock.now()] : []))
    assert.deepEqual(due, [30 * day, 10 * minute, 10 * minute])
    await s.pass(10 * minute)
    assert.deepEqual(
      [await s.remote('cold').contents(), await s.remote('rest').contents()],
      [{ old: 'x' }, { 'quick/b': 'x' }],
    )
    await s.pass(30 * day - 11 * minute)
    assert.equal(s.isLocal('a'), true)
    await s.pass(60 * minute)
    assert.deepEqual(await s.remote('cold').contents(), { a: 'x', old: 'x' })
  })

  test('by a function may come from anywhere, with remotes that are looked up by their names', async (t) => {
    const places = new Map<string, Driver>()
    const opened: string[] = []
    const s = await scene(t, {
      remote: async ({ key, size }) => (size === 0 ? undefined : `tenant-${key.split('/')[0]}`),
      lookUp: async (name) => {
        opened.push(name)
        if (name === 'tenant-none') return undefined
        if (!places.has(name)) places.set(name, memoryDriver())
        return places.get(name)
      },
    })
    for (const key of ['a/1', 'b/1', 'none/1']) await s.store.put(key, key)
    await s.store.put('empty', '')
    await s.pass(10 * minute)
    assert.deepEqual([...places.keys()].sort(), ['tenant-a', 'tenant-b'])
    assert.deepEqual([...new Set(opened)].sort(), ['tenant-a', 'tenant-b', 'tenant-none'])
    assert.deepEqual(await s.contents(), { 'a/1': 'a/1', 'b/1': 'b/1', empty: '', 'none/1': 'none/1' })
    const { queues } = await s.filestore.status()
    assert.equal(queues.find(({ queue }) => queue === 'offload')?.setAside, 1)
    assert.ok(s.messages.some((message) => /There is no remote "tenant-none"/.test(message)))
  })

  test('that cannot be told now is asked again', async (t) => {
    let fails = true
    const route = async () => {
      if (fails) throw new StowageError('UNREACHABLE', 'The directory of tenants is down (on purpose).')
      return 'cloud'
    }
    const s = await scene(t, { remote: route })
    await s.store.put('a', 'x')
    assert.deepEqual(await s.contents(), { a: 'x' })
    await s.pass(60 * minute)
    assert.equal(s.isLocal('a'), true)
    fails = false
    await s.pass(6 * minute)
    assert.deepEqual(await s.remote().contents(), { a: 'x' })
  })

  test('to a remote that is not known is told at once', () => {
    const known = { remotes: new Map([['a', memoryDriver()]]), now: Date.now }
    const named = { code: 'INVALID_CONFIG', message: /no remote "b".*There are: a/ }
    assert.throws(() => new Routes({ ...known, route: 'b' }), named)
    assert.throws(() => new Routes({ ...known, route: [{ remote: 'a' }, { remote: 'b' }] }), named)
  })
})

describe('names at a remote', () => {
  const sha1 = (text: string) => createHash('sha1').update(text).digest('hex')
  const long = 'x'.repeat(65)
  const names: [key: string, name: string, why: string][] = [
    ['a/b c/plain-Name_1.txt', 'a/b c/plain-Name_1.txt', 'plain and short'],
    [`${'x'.repeat(60)}.txt`, `${'x'.repeat(60)}.txt`, '64 bytes'],
    [`d/${'x'.repeat(61)}.txt`, `d/${'x'.repeat(32)}-${sha1(`${'x'.repeat(61)}.txt`)}.txt`, '65 bytes'],
    ['d/a b.txt', `d/a-b-${sha1('a b.txt')}.txt`, 'a space'],
    ['grüße.txt', `gr--e-${sha1('grüße.txt')}.txt`, 'not ASCII'],
    ['🙂.txt', `--${sha1('🙂.txt')}.txt`, 'beyond the first plane'],
    [`${long}.markdown`, `${'x'.repeat(32)}-${sha1(`${long}.markdown`)}.markdown`, 'an extension of 9 bytes'],
    [`${long}.extension`, `${'x'.repeat(32)}-${sha1(`${long}.extension`)}`, 'an extension of 10 bytes'],
    ['a b.extension', `a-b.extension-${sha1('a b.extension')}`, 'short, with a long extension'],
    [
      `${'x'.repeat(30)} .extension`,
      `${'x'.repeat(30)}-.-${sha1(`${'x'.repeat(30)} .extension`)}`,
      'cut in the extension',
    ],
    [long, `${'x'.repeat(32)}-${sha1(long)}`, 'no extension'],
    ['.hidden file', `.hidden-file-${sha1('.hidden file')}`, 'a dot at the front'],
    [`${long}.tar.gz`, `${'x'.repeat(32)}-${sha1(`${long}.tar.gz`)}.gz`, 'two extensions'],
  ]
  for (const [key, name, why] of names)
    test(`are shortened as they always were: ${why}`, () => {
      assert.equal(shortened(key), name)
    })

  test('that are shortened, or made by a function, lead back to their files', async (t) => {
    for (const remoteNames of ['shorten', (key: string) => `media/${key.replaceAll('/', '-')}`] as const) {
      const s = await scene(t, { remoteNames })
      const keys = ['d/a b.txt', 'd/a-b.txt', 'd/a/b.txt', 'd-a/b.txt', `d/${'x'.repeat(200)}.txt`]
      for (const key of keys) await s.store.put(key, key)
      await s.pass(10 * minute)
      assert.deepEqual(await s.contents(), Object.fromEntries(keys.map((key) => [key, key])))
      // However names are made, no file takes another's.
      assert.deepEqual(Object.values(await s.remote().contents()).sort(), [...keys].sort())
      await s.reopen()
      for (const key of keys) await s.store.delete(key)
      await s.pass(40 * day)
      assert.deepEqual(await s.remote().contents(), {})
      await s.close()
    }
  })

  test('of files that were renamed, and of those that took their keys, do not meet', async (t) => {
    const s = await scene(t)
    await s.store.put('a', 'first')
    await s.pass(10 * minute)
    await s.store.move('a', 'b')
    await s.store.put('a', 'second')
    await s.pass(10 * minute)
    await s.store.move('a', 'c')
    await s.store.put('a', 'third')
    await s.pass(10 * minute)
    assert.deepEqual(await s.contents(), { a: 'third', b: 'first', c: 'second' })
    assert.deepEqual(Object.values(await s.remote().contents()).sort(), ['first', 'second', 'third'])
    for (const key of ['b', 'c']) await s.store.delete(key)
    await s.pass(40 * day)
    assert.deepEqual([await s.contents(), Object.values(await s.remote().contents())], [{ a: 'third' }, ['third']])
  })
})
