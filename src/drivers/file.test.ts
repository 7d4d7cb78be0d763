import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { testDriver } from '../testing/index.ts'
import { fileDriver } from './file.ts'

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
