/** Disks that are full, really: small ones are mounted. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { minute, remote, scene, type Scene, type SceneOptions } from '../../test/servers/filestore-scene.ts'

/** Everything below a directory that is no directory itself. */
function filesIn(directory: string): string[] {
  const entries = fs.readdirSync(directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => !entry.isDirectory())
  return files.map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name))).sort()
}

async function* pieces(bytes: Buffer) {
  for (let at = 0; at < bytes.byteLength; at += 50_000) yield bytes.subarray(at, at + 50_000)
}

const kilobytes = (count: number) => randomBytes(count * 1024)

const isSkipped = process.getuid?.() !== 0 && !process.env['CI'] && 'only root may mount a small disk'
describe('a disk that is full', { skip: isSkipped }, () => {
  /** A filestore one of whose directories is a disk of 1 MiB, `more` being options of its mount. */
  async function small(
    t: TestContext,
    which: 'files' | 'cache',
    options: SceneOptions = {},
    more = '',
  ): Promise<Scene> {
    const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-space-'))
    const directory = path.join(base, which)
    fs.mkdirSync(directory)
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=1m${more}`, 'tmpfs', directory])
    t.after(() => {
      execFileSync('umount', ['-l', directory])
      fs.rmSync(base, { recursive: true, force: true })
    })
    return scene(t, { base, ...options })
  }

  test('refuses a put with NO_SPACE, and nothing is left of it', async (t) => {
    const s = await small(t, 'files')
    const first = kilobytes(700)
    await s.store.put('a', first)
    const before = [filesIn(s.file('')), await s.filestore.status()]
    const [second, third] = [kilobytes(700), kilobytes(600)]
    await assert.rejects(s.store.put('d/b', second), { code: 'NO_SPACE' })
    await assert.rejects(s.store.put('d/b', pieces(second)), { code: 'NO_SPACE' })
    await assert.rejects(s.store.put('a', third), { code: 'NO_SPACE' })
    assert.deepEqual([filesIn(s.file('')), await s.filestore.status()], before)
    assert.ok((await s.store.get('a')).equals(first))
    // Small files have a way of their own.
    const fill = async () => {
      for (let count = 0; ; count++) await s.store.put(`small/${count}`, kilobytes(20))
    }
    await assert.rejects(fill(), { code: 'NO_SPACE' })
    const stored = (await s.filestore.status()).local.files
    assert.equal(filesIn(s.file('')).filter((file) => !file.startsWith('.stowage')).length, stored)
    assert.deepEqual(fs.readdirSync(s.file('.stowage-tmp')), [])
    await s.filestore.scan()
    assert.equal((await s.filestore.status()).local.files, stored)
  })

  for (const [what, more, bytes] of [
    ['of bytes', '', 100_000],
    ['of files', ',nr_inodes=20', 10],
  ] as const)
    test(`${what} is made room on by offloading`, async (t) => {
      const s = await small(t, 'files', { cache: {} }, more)
      const contents = new Map<string, Buffer>()
      const put = async () => {
        for (let count = 0; ; count++) {
          const content = randomBytes(bytes)
          await s.store.put(`${count}`, content)
          contents.set(`${count}`, content)
        }
      }
      await assert.rejects(put(), { code: 'NO_SPACE' })
      assert.ok(contents.size > 5)
      await s.pass(10 * minute)
      assert.ok([...contents.keys()].every((key) => !s.isLocal(key)))
      for (const [key, content] of contents) assert.ok((await s.store.get(key)).equals(content), key)
      await s.until('there is room', () => filesIn(s.file('')).length === 1)
      await s.store.put('new', 'x')
    })

  test('lets a recall wait, and serves the file meanwhile', async (t) => {
    for (const cache of [undefined, {}]) {
      const s = await small(t, 'files', { ...(cache && { cache }) })
      const [bytes, other] = [kilobytes(700), kilobytes(600)]
      await s.store.put('a', bytes)
      await s.pass(10 * minute)
      await s.until('there is room', () => filesIn(s.file('')).length === 1)
      await s.store.put('b', other)
      await s.filestore.move({ kind: 'recall', prefix: 'a' })
      for (let minutes = 0; minutes < 20; minutes++) {
        await s.pass(minute / 4)
        assert.ok((await s.store.get('a')).equals(bytes))
      }
      assert.deepEqual([s.isLocal('a'), (await s.filestore.moving())?.state], [false, 'running'])
      assert.deepEqual(filesIn(s.file('')), ['.stowage-directory', 'b'])
      const failed = s.events.find(({ name }) => name === 'failed')?.event as { operation: string; error: StowageError }
      assert.deepEqual([failed.operation, failed.error.code], ['recall', 'NO_SPACE'])
      // There is room again.
      await s.pass(5 * minute)
      assert.equal(s.isLocal('b'), false)
      await s.pass(10 * minute)
      assert.deepEqual([s.isLocal('a'), (await s.filestore.moving())?.state], [true, 'done'])
      assert.ok((await s.store.get('a')).equals(bytes))
      await s.close()
    }
  })

  test('of the cache is in nobody’s way: files are handed over, and read past it', async (t) => {
    const s = await small(t, 'cache', { cache: { maxBytes: 100 << 20 } })
    const contents = new Map(Array.from({ length: 5 }, (_, index) => [`${index}`, kilobytes(500)]))
    contents.set('large', kilobytes(3000))
    for (const [key, bytes] of contents) await s.store.put(key, bytes)
    await s.pass(10 * minute)
    assert.ok([...contents.keys()].every((key) => !s.isLocal(key)))
    for (const round of [1, 2])
      for (const [key, bytes] of contents) {
        assert.ok((await s.store.get(key)).equals(bytes), `${key} in round ${round}`)
        const range = { start: 300_000, end: 400_000 }
        assert.ok((await s.store.get(key, { range })).equals(bytes.subarray(range.start, range.end)))
      }
    await s.store.put('new', kilobytes(500))
    await s.pass(10 * minute)
    assert.equal(s.isLocal('new'), false)
    await s.reopen()
    for (const [key, bytes] of contents) assert.ok((await s.store.get(key)).equals(bytes), key)
  })
})

describe('a remote that is full', () => {
  test('gets its files when it has room again; until then they stay, and others go elsewhere', async (t) => {
    const s = await scene(t, {
      remotes: { full: remote(), well: remote() },
      remote: ({ key }) => key.slice(0, key.indexOf('/')),
    })
    s.remote('full').before = ({ operation }) => {
      if (operation === 'write') throw new StowageError('NO_SPACE', 'The quota is used up (on purpose).')
    }
    for (const key of ['full/a', 'full/b', 'well/a']) await s.store.put(key, key)
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote('well').contents(), { 'well/a': 'well/a' })
    for (let hours = 0; hours < 24; hours++) await s.pass(60 * minute)
    const { queues, troubles } = await s.filestore.status()
    assert.deepEqual([queues[0]?.waiting, queues[0]?.setAside], [2, 0])
    assert.match(s.messages.join('\n'), /The quota is used up/)
    assert.ok(troubles.every(({ reason }) => /quota/.test(reason)))
    assert.deepEqual([s.isLocal('full/a'), s.isLocal('full/b')], [true, true])
    s.remote('full').before = undefined
    await s.pass(10 * minute)
    assert.deepEqual(await s.remote('full').contents(), { 'full/a': 'full/a', 'full/b': 'full/b' })
  })
})
