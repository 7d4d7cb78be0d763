import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { testProcessor } from '../../testing/index.ts'
import { runChain } from '../chain.ts'
import { lookAt, type Original } from '../original.ts'
import type { Processor } from '../processor.ts'
import { loadProcessor } from './index.ts'

const directory = mkdtempSync(path.join(tmpdir(), 'stowage-processors-'))
after(() => rmSync(directory, { recursive: true, force: true }))
writeFileSync(path.join(directory, 'a big file.tar.css'), 'content')
utimesSync(path.join(directory, 'a big file.tar.css'), 1_700_000_000, 1_700_000_000)
const original = lookAt(directory, 'a big file.tar.css') as Original

const run = async (...processors: Processor[]) =>
  runChain(processors, original, {
    workDirectory: async () => directory,
    timeLimitMs: 10_000,
    signal: new AbortController().signal,
  })

const samples = ['plain.css', 'with some spaces.png', 'no extension'].map((name) => ({
  name,
  content: Buffer.from(name),
}))
for (const use of [
  'filename.spacesToUnderscores',
  'filename.spacesToDashes',
  'unique-filename.mtime',
  'unique-filename.md5',
])
  testProcessor(use, {
    make: async () => loadProcessor(use, directory),
    samples,
    check: (output, input) => assert.ok(output.content.equals(input.content)),
  })

test('spaces become underscores or dashes', async () => {
  assert.equal((await run(await loadProcessor('filename.spacesToUnderscores', directory))).name, 'a_big_file.tar.css')
  assert.equal((await run(await loadProcessor('filename.spacesToDashes', directory))).name, 'a-big-file.tar.css')
})

test('a version goes before the extension: the time in seconds, or the digest of the original', async () => {
  const { name: byTime, file } = await run(await loadProcessor('unique-filename.mtime', directory))
  assert.equal(byTime, 'a big file.tar_1700000000.css')
  assert.equal(file, original.file)
  const { name: byDigest } = await run(await loadProcessor('unique-filename.md5', directory))
  assert.equal(byDigest, 'a big file.tar_9a0364b9e99bb480dd25e1f0284c8555.css')
})

test('names compose, each processor seeing what the one before made', async () => {
  const chain = [
    await loadProcessor('filename.spacesToDashes', directory),
    await loadProcessor('unique-filename.mtime', directory),
  ]
  assert.equal((await run(...chain)).name, 'a-big-file.tar_1700000000.css')
})

test('processors of other packages and of files beside the configuration are found by name', async () => {
  const module = `export const loud = (options) => ({ name: 'loud', version: '1', process: async ({ name }) => ({ name: name.toUpperCase() + (options.suffix ?? '') }) })`
  mkdirSync(path.join(directory, 'node_modules/some-package'), { recursive: true })
  writeFileSync(
    path.join(directory, 'node_modules/some-package/package.json'),
    '{ "type": "module", "exports": "./index.js" }',
  )
  writeFileSync(path.join(directory, 'node_modules/some-package/index.js'), module)
  writeFileSync(path.join(directory, 'mine.mjs'), module)
  assert.equal((await run(await loadProcessor('some-package.loud', directory))).name, 'A BIG FILE.TAR.CSS')
  const mine = await loadProcessor({ use: './mine.mjs.loud', suffix: '!' }, directory)
  assert.equal((await run(mine)).name, 'A BIG FILE.TAR.CSS!')
  assert.notEqual(mine.version, (await loadProcessor('./mine.mjs.loud', directory)).version)
})

test('what cannot be found is a mistake of the configuration that says what there is', async () => {
  await assert.rejects(loadProcessor('filename.spacesToDots', directory), {
    code: 'INVALID_CONFIG',
    message: /spacesToUnderscores/,
  })
  await assert.rejects(loadProcessor('no-such-package.thing', directory), {
    code: 'INVALID_CONFIG',
    message: /unique-filename/,
  })
})

test('a name that is no base name is refused, and so is nothing', async () => {
  for (const name of ['', '..', 'a/b']) {
    const processor: Processor = { name: 'bad', version: '1', process: async () => ({ name }) }
    await assert.rejects(run(processor), /not a base name/)
  }
})
