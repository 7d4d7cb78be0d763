import assert from 'node:assert/strict'
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
