import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { collect, toBody } from '../core/bytes.ts'
import type { Driver } from '../store/driver.ts'
import { testDriver } from '../testing/index.ts'
import { fileDriver } from './file.ts'
import { openDriver } from './index.ts'

function temporary(): string {
  return fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-file-'))
}

testDriver('file', async () => {
  const directory = temporary()
  return {
    driver: fileDriver({ directory }),
    close: async () => fs.rmSync(directory, { recursive: true }),
  }
})

test('no key leaves the root through a planted symbolic link', async (t) => {
  const base = temporary()
  t.after(() => fs.rmSync(base, { recursive: true }))
  fs.mkdirSync(path.join(base, 'root'))
  fs.mkdirSync(path.join(base, 'secret'))
  fs.writeFileSync(path.join(base, 'secret/file'), 'secret')
  fs.symlinkSync('../secret', path.join(base, 'root/link'))
  fs.symlinkSync('../secret/file', path.join(base, 'root/file'))
  const driver = fileDriver({ directory: path.join(base, 'root') })
  await assert.rejects(driver.read('link/file'), { code: 'DENIED' })
  await assert.rejects(driver.read('file'), { code: 'DENIED' })
  await assert.rejects(driver.write('link/file', toBody('x')), { code: 'DENIED' })
  await assert.rejects(driver.delete('link/file'), { code: 'DENIED' })
  assert.deepEqual(await Array.fromAsync(driver.list('')), [])
  assert.equal(fs.readFileSync(path.join(base, 'secret/file'), 'utf8'), 'secret')
})

test('a delete takes the directories it emptied with it, and no others', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const driver = fileDriver({ directory })
  await driver.write('a/b/c', toBody('x'))
  await driver.write('a/other', toBody('x'))
  await driver.delete('a/b/c')
  assert.deepEqual(fs.readdirSync(path.join(directory, 'a')), ['other'])
})

test('nothing temporary remains after a failed write', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const driver = fileDriver({ directory })
  await assert.rejects(driver.write('a', toBody('x'), { size: 2 }), { code: 'CORRUPT' })
  assert.deepEqual(fs.readdirSync(path.join(directory, '.stowage-tmp')), [])
})

test('what a dead process left unfinished is swept at the first write; what a living one has stays', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const left = path.join(directory, '.stowage-tmp')
  fs.mkdirSync(left)
  const dead = spawnSync('true').pid
  for (const name of [`${dead}-1-0`, '1-1-0', 'not ours']) fs.writeFileSync(path.join(left, name), 'x')
  const began = fs.readFileSync('/proc/1/stat', 'utf8').split(') ')[1]?.split(' ')[19]
  fs.writeFileSync(path.join(left, `1-${began}-0`), 'x')
  await fileDriver({ directory }).write('a', toBody('x'))
  assert.deepEqual(fs.readdirSync(left).sort(), [`1-${began}-0`, 'not ours'])
})

test('two drivers of one directory write the same key at once, and it is one of the two', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const drivers = [fileDriver({ directory }), fileDriver({ directory })]
  const writes = Array.from({ length: 40 }, async (_, i) =>
    drivers[i % 2]?.writeBytes?.('a/b', Buffer.alloc(10_000, i)),
  )
  const infos = await Promise.all(writes)
  const bytes = fs.readFileSync(path.join(directory, 'a/b'))
  assert.ok(bytes.equals(Buffer.alloc(10_000, bytes[0])))
  const { etag } = (await drivers[0]?.stat('a/b')) ?? {}
  assert.equal(infos.filter((info) => info?.etag === etag).length, 1)
})

test('writes and deletes in the same directories do not disturb one another', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const driver = fileDriver({ directory })
  const rounds = Array.from({ length: 8 }, async (_, writer) => {
    for (let round = 0; round < 40; round++) {
      const key = `a/b${round % 3}/c/${writer}`
      await driver.writeBytes?.(key, Buffer.from(key))
      await driver.delete(key)
      await driver.delete(key)
    }
  })
  await Promise.all(rounds)
  assert.deepEqual(
    fs.readdirSync(directory).filter((name) => name !== '.stowage-tmp'),
    [],
  )
})

test('of files that finish together, one that cannot have its name does not keep the others from theirs', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  fs.mkdirSync(path.join(directory, 'taken'))
  const driver = fileDriver({ directory })
  const results = await Promise.allSettled(
    ['a', 'taken', 'd/b'].map(async (key) => driver.writeBytes?.(key, Buffer.from('x'))),
  )
  assert.deepEqual(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  )
  assert.deepEqual(fs.readdirSync(path.join(directory, '.stowage-tmp')), [])
  assert.deepEqual(
    (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
    ['a', 'd/b'],
  )
})

test('a body that fails like a disk comes through as it is; the disk is not blamed', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const failure = Object.assign(new Error('the other disk is full'), { code: 'ENOSPC' })
  const failing = async function* () {
    yield Buffer.from('x')
    throw failure
  }
  await assert.rejects(fileDriver({ directory }).write('a', failing()), (error) => error === failure)
})

test('without fsync a file is stored all the same, and its time is kept', async (t) => {
  const directory = temporary()
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const driver = fileDriver({ directory, fsync: false })
  const modified = new Date('2001-02-03T04:05:06Z')
  await driver.writeBytes?.('small', Buffer.from('x'), { modified })
  await driver.write('streamed', toBody('x'), { modified })
  for (const key of ['small', 'streamed']) assert.deepEqual((await driver.stat(key)).modified, modified)
})

/** A root and a directory that links may lead into, side by side. */
function linked(t: TestContext) {
  const base = fs.realpathSync(temporary())
  t.after(() => fs.rmSync(base, { recursive: true }))
  const [root, site] = [path.join(base, 'root'), path.join(base, 'site')]
  for (const directory of [root, site, path.join(base, 'secret')]) fs.mkdirSync(directory)
  fs.writeFileSync(path.join(site, 'a'), 'one')
  fs.writeFileSync(path.join(base, 'secret/file'), 'secret')
  return { base, root, site, driver: fileDriver({ directory: root, linksInto: [site] }) }
}

const read = async (driver: Driver, key: string) => (await collect((await driver.read(key)).body)).toString()

for (const kind of ['symlink', 'hard'] as const)
  test(`${kind}: a link is read, listed, replaced and deleted like a file, and its original stays`, async (t) => {
    const { root, site, driver } = linked(t)
    const info = await driver.link?.('d/a', path.join(site, 'a'), kind)
    assert.deepEqual(info, await driver.stat('d/a'))
    assert.equal(await read(driver, 'd/a'), 'one')
    assert.deepEqual(
      (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
      ['d/a'],
    )
    await driver.link?.('d/a', path.join(site, 'a'), kind)
    fs.writeFileSync(path.join(site, 'b'), 'other')
    await driver.link?.('d/a', path.join(site, 'b'), kind)
    assert.equal(await read(driver, 'd/a'), 'other')
    await driver.write('d/a', toBody('a copy'))
    assert.equal(fs.readFileSync(path.join(site, 'b'), 'utf8'), 'other')
    assert.ok(fs.lstatSync(path.join(root, 'd/a')).isFile())
    await driver.link?.('d/a', path.join(site, 'b'), kind)
    await driver.delete('d/a')
    assert.equal(fs.readFileSync(path.join(site, 'b'), 'utf8'), 'other')
    assert.deepEqual(fs.readdirSync(root), ['.stowage-tmp'])
    assert.deepEqual(fs.readdirSync(path.join(root, '.stowage-tmp')), [])
  })

test('a link takes the place of what stands there in one step', async (t) => {
  const { site, driver } = linked(t)
  await driver.write('key', toBody('one'))
  let isDone = false
  const reader = (async () => {
    while (!isDone) {
      assert.equal(await read(driver, 'key'), 'one')
      assert.equal((await driver.stat('key')).size, 3)
    }
  })()
  for (let round = 0; round < 200; round++)
    await driver.link?.('key', path.join(site, 'a'), round % 2 === 0 ? 'symlink' : 'hard')
  isDone = true
  await reader
})

test('links that were planted are not followed, wherever they stand and lead', async (t) => {
  const { base, root, site, driver } = linked(t)
  fs.mkdirSync(path.join(site, 'd'))
  fs.writeFileSync(path.join(site, 'd/x'), 'x')
  fs.symlinkSync(path.join(base, 'secret'), path.join(site, 'way-out'))
  fs.symlinkSync(path.join(base, 'secret/file'), path.join(site, 'file-out'))
  const planted: Record<string, string> = {
    outside: path.join(base, 'secret/file'),
    dots: `${site}/../secret/file`,
    relative: '../site/a',
    'through a link': path.join(site, 'way-out/file'),
    'to a link': path.join(site, 'file-out'),
    'a name that only begins alike': `${site}-not/a`,
    'to the directory itself': site,
    nowhere: path.join(site, 'absent'),
  }
  for (const [key, target] of Object.entries(planted)) fs.symlinkSync(target, path.join(root, key))
  fs.symlinkSync(path.join(site, 'd'), path.join(root, 'directory'))
  for (const key of [...Object.keys(planted), 'directory', 'directory/x']) {
    await assert.rejects(driver.read(key), { name: 'StowageError' }, key)
    await assert.rejects(driver.stat(key), { name: 'StowageError' }, key)
  }
  assert.deepEqual(await Array.fromAsync(driver.list('')), [])
  await assert.rejects(Array.fromAsync(driver.list('directory')), { code: 'DENIED' })
  const strict = fileDriver({ directory: root })
  fs.symlinkSync(path.join(site, 'a'), path.join(root, 'fine'))
  assert.equal(await read(driver, 'fine'), 'one')
  await assert.rejects(read(strict, 'fine'), { code: 'DENIED' })
})

test('a link that belongs to a stranger is not followed', {
  skip: process.getuid?.() !== 0 && 'needs root',
}, async (t) => {
  const { root, site, driver } = linked(t)
  fs.symlinkSync(path.join(site, 'a'), path.join(root, 'a'))
  fs.lchownSync(path.join(root, 'a'), 65_534, 65_534)
  await assert.rejects(read(driver, 'a'), { code: 'DENIED' })
  fs.chownSync(root, 65_534, 65_534)
  assert.equal(await read(driver, 'a'), 'one')
})

test('what cannot be linked is refused as UNSUPPORTED, and nothing changes', async (t) => {
  const { base, root, site, driver } = linked(t)
  await driver.write('key', toBody('as before'))
  const link = async (file: string, kind: 'symlink' | 'hard') => driver.link?.('key', file, kind)
  await assert.rejects(link(path.join(base, 'secret/file'), 'symlink'), {
    code: 'UNSUPPORTED',
    message: /none of the directories/,
  })
  fs.symlinkSync(path.join(base, 'secret/file'), path.join(site, 'link'))
  for (const kind of ['symlink', 'hard'] as const)
    await assert.rejects(link(path.join(site, 'link'), kind), { code: 'UNSUPPORTED' })
  await assert.rejects(link(path.join(site, 'd'), 'symlink'), { name: 'StowageError' })
  if (fs.statSync('/proc/self').dev !== fs.statSync(root).dev)
    await assert.rejects(link('/proc/self/status', 'hard'), { code: 'UNSUPPORTED', message: /EXDEV|EPERM/ })
  assert.equal(await read(driver, 'key'), 'as before')
  assert.deepEqual(fs.readdirSync(path.join(root, '.stowage-tmp')), [])
})

test('links_into names directories in the URL, colons and percent signs included', async (t) => {
  const { base, root } = linked(t)
  const odd = path.join(base, 'o:d%d')
  fs.mkdirSync(odd)
  fs.writeFileSync(path.join(odd, 'x'), 'odd')
  const places = ['/nowhere', odd].map(encodeURIComponent).join(':')
  const driver = await openDriver(`file://${root}?links_into=${encodeURIComponent(places)}`)
  await driver.link?.('x', path.join(odd, 'x'), 'symlink')
  assert.equal(await read(driver, 'x'), 'odd')
})

test('a root below a file is said to be so', async (t) => {
  const base = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-file-'))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  fs.writeFileSync(path.join(base, 'file'), 'x')
  const driver = fileDriver({ directory: path.join(base, 'file/root') })
  await assert.rejects(driver.write('key', toBody('x')), { code: 'CONFLICT' })
  await assert.rejects(driver.stat('key'), { code: 'NOT_FOUND' })
})

test('a file that is moved keeps its version, and leaves no empty directory', async (t) => {
  const root = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-file-'))
  t.after(() => fs.rmSync(root, { recursive: true, force: true }))
  const driver = fileDriver({ directory: root })
  const { etag } = await driver.write('from/here', toBody('x'))
  const moved = await driver.move?.('from/here', 'to/there')
  assert.equal(moved?.etag, etag)
  assert.deepEqual(fs.readdirSync(root).sort(), ['.stowage-tmp', 'to'])
})
