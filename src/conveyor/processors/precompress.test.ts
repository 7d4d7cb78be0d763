import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from 'node:zlib'
import { testProcessor, type NamedContent } from '../../testing/index.ts'
import { runChain, type Processed } from '../chain.ts'
import { lookAt, type Original } from '../original.ts'
import type { Processor } from '../processor.ts'
import { loadProcessor } from './index.ts'
import { sharedPool } from './pool.ts'
import precompress from './precompress.ts'

const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage-precompress-'))
after(async () => {
  await sharedPool.close()
  fs.rmSync(directory, { recursive: true, force: true })
})

const sheet = fs.readFileSync('node_modules/bootstrap/dist/css/bootstrap.css')
const open: Record<string, (bytes: Buffer) => Buffer> = {
  '.gz': gunzipSync,
  '.br': brotliDecompressSync,
  '.zst': zstdDecompressSync,
}
const check = (output: NamedContent, input: NamedContent) => {
  assert.ok(output.content.equals(input.content))
  for (const { name, content } of output.variants ?? [])
    assert.ok(open[path.extname(name)]?.(content).equals(input.content))
}

testProcessor('precompress', {
  make: () => precompress({ encodings: ['gzip', 'brotli', 'zstd'] }),
  samples: [
    { name: 'sheet.css', content: sheet.subarray(0, 50_000) },
    { name: 'icons.SVG', content: fs.readFileSync('node_modules/bootstrap-icons/icons/bug.svg') },
    { name: 'short.txt', content: Buffer.from('short') },
  ],
  check,
})

const run = async (name: string, content: Buffer, ...processors: Processor[]): Promise<Processed> => {
  fs.writeFileSync(path.join(directory, name), content)
  return runChain(processors, lookAt(directory, name) as Original, {
    workDirectory: async () => directory,
    timeLimitMs: 60_000,
    signal: new AbortController().signal,
  })
}
const suffixesOf = ({ variants }: Processed) => variants.map(({ suffix }) => suffix)

test('variants of gzip and brotli lie beside the file, and are smaller than it', async () => {
  const result = await run('sheet.css', sheet, precompress())
  assert.equal(result.file, path.join(directory, 'sheet.css'))
  assert.deepEqual(suffixesOf(result), ['.gz', '.br'])
  for (const { file, suffix } of result.variants) {
    assert.ok(fs.statSync(file).size < sheet.length / 4)
    assert.ok(open[suffix]?.(fs.readFileSync(file)).equals(sheet))
  }
})

test('files that are short, long or compressed already have none', async () => {
  assert.deepEqual(suffixesOf(await run('short.css', Buffer.from('a{}'), precompress())), [])
  assert.deepEqual(suffixesOf(await run('long.css', sheet, precompress({ maximum: '10KB' }))), [])
  assert.deepEqual(suffixesOf(await run('sheet.png', sheet, precompress())), [])
  const { randomBytes } = await import('node:crypto')
  assert.deepEqual(suffixesOf(await run('random.txt', randomBytes(5000), precompress())), [])
})

test('a new name keeps variants, and new content drops them', async () => {
  const rename: Processor = { name: 'rename', version: '1', process: async () => ({ name: 'other.css' }) }
  const rewrite: Processor = { name: 'rewrite', version: '1', process: async ({ file }) => ({ file: `${file}` }) }
  const renamed = await run('sheet.css', sheet, precompress(), rename)
  assert.deepEqual([renamed.name, ...suffixesOf(renamed)], ['other.css', '.gz', '.br'])
  assert.deepEqual(suffixesOf(await run('sheet.css', sheet, precompress(), rewrite)), [])
})

test('a suffix that makes no base name is refused', async () => {
  for (const suffix of ['', '/x'])
    await assert.rejects(
      run('sheet.css', sheet, {
        name: 'bad',
        version: '1',
        process: async ({ file }) => ({ variants: [{ file, suffix }] }),
      }),
      /not a base name/,
    )
})

test('options are checked', async () => {
  const load = loadProcessor({ use: 'precompress', encodings: ['zip'] }, directory)
  await assert.rejects(load, { code: 'INVALID_CONFIG', message: /encodings/ })
})
