/** The suite itself: each way in which a processor can break its promises is noticed, by the test that is about it. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'

const directory = mkdtempSync(path.join(tmpdir(), 'stowage-suite-'))
after(() => rmSync(directory, { recursive: true, force: true }))

/** What each bad processor does, as the body of its `process`, and the test that must fail. */
const bad: Record<string, { body: string; fails: RegExp; extensions?: string }> = {
  'does nothing': { body: 'return undefined', fails: /changes something/ },
  'makes it larger': { body: 'return make(text + text)', fails: /comes out valid/ },
  'makes nonsense': { body: `return make('?')`, fails: /comes out valid/ },
  'loses the author': {
    body: `return make(text.replace('author', '').trim())`,
    fails: /the metadata that is promised/,
  },
  'is never content': { body: 'return make(text.slice(0, -1))', fails: /not changed any more/ },
  'is not the same twice': { body: 'return make(text.trim(), String(count++))', fails: /however often/ },
  'writes into the original': {
    body: 'writeFileSync(input.file, text.trim()); return {}',
    fails: /the original .* stays/,
  },
  'leaves its output beside the original': {
    body: `writeFileSync(input.file + 'x', text.trim()); return { file: input.file + 'x' }`,
    fails: /the original .* stays/,
  },
  'goes by the name of the original': {
    body: `return make(text.trim(), basename(input.sourceFile))`,
    fails: /names compose/,
  },
  'uses a shell': {
    body: 'return make(execSync(`cat "${input.file}"`, { encoding: "utf8" }).trim())',
    fails: /the name .* means nothing/,
  },
  'takes one name for all': {
    body: `const file = join(await input.workDirectory(), 'out')
      writeFileSync(file, text.trim())
      await new Promise((resolve) => setTimeout(resolve, 5))
      return { file }`,
    fails: /many at once/,
  },
  'remembers being cancelled': {
    body: `const file = await make(text.trim())
      await new Promise((resolve) => setTimeout(resolve, 20))
      if (input.signal.aborted) isSpoilt = true
      return isSpoilt ? undefined : file`,
    fails: /is cancelled/,
  },
  'passes broken files silently': {
    body: `return text.startsWith('broken') ? undefined : make(text.trim())`,
    fails: /is passed on as it is, with a warning/,
  },
  'mends broken files': {
    body: `if (text.startsWith('broken')) input.warn('It is broken.'); return make(text.trim())`,
    fails: /is passed on as it is, with a warning/,
  },
  'never holds back': {
    body: `if (text.startsWith('broken')) return input.warn('It is broken.'); return make(text.trim())`,
    fails: /is held back/,
  },
  'throws anything': { body: `if (!text) throw new Error('empty'); return make(text.trim())`, fails: /an empty/ },
  'cannot match': { body: 'return make(text.trim())', fails: /extensions that can match/, extensions: `['.TXT']` },
}

const prelude = `
import { execSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { randomUUID } from 'node:crypto'
import { testProcessor } from ${JSON.stringify(new URL('./index.ts', import.meta.url).href)}
const samples = ['  some text by its author  ', '  other text, author unknown  '].map((text, index) => ({
  name: 'sample ' + index + '.txt', content: Buffer.from(text),
}))
const broken = [{ name: 'x.txt', content: Buffer.from('broken   ') }]
const check = (output, input) => {
  if (output.content.toString().replace('author', '').trim() !== input.content.toString().replace('author', '').trim()) throw new Error('It is something else.')
}
const metadata = ({ content }) => content.includes('author')
let [count, isSpoilt] = [0, false]
const declare = (name, extensions, work) => testProcessor(name, {
  samples, broken, check, metadata,
  make: () => ({ name, version: '1', extensions, process: async (input) => {
    const text = readFileSync(input.file, 'utf8')
    const make = async (result, name = input.name) => {
      const file = join(await input.workDirectory(), randomUUID())
      writeFileSync(file, result)
      return { file, name }
    }
    return work(input, text, make)
  } }),
})
`

test('each way to break a promise is noticed by its test', () => {
  const declarations = Object.entries(bad).map(
    ([name, { body, extensions = `['txt']` }]) =>
      `declare(${JSON.stringify(name)}, ${extensions}, async (input, text, make) => { ${body} })`,
  )
  const file = path.join(directory, 'bad.test.mjs')
  writeFileSync(file, [prelude, ...declarations].join('\n'))
  const { NODE_TEST_CONTEXT: _, ...environment } = process.env
  const { stdout } = spawnSync(process.execPath, ['--test-reporter=tap', file], {
    cwd: path.dirname(file),
    encoding: 'utf8',
    env: environment,
  })
  const unnoticed = Object.entries(bad).filter(([name, { fails }]) => {
    const [, report = ''] = stdout.split(`# Subtest: processor ${name}\n`)
    const [own = ''] = report.split('\n# Subtest: processor ')
    return !own.split('\n').some((line) => /^ +not ok /.test(line) && fails.test(line))
  })
  assert.deepEqual(
    unnoticed.map(([name]) => name),
    [],
  )
})
