import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { testProcessor } from '../../testing/index.ts'
import { runChain, type ChainOptions } from '../chain.ts'
import { lookAt, type Original } from '../original.ts'
import { loadProcessor, type ProcessorSpec } from './index.ts'
import { findProgram } from './program.ts'

const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage command-'))
after(() => fs.rmSync(directory, { recursive: true, force: true }))

/** What a processor makes of a file, and what it warns of. */
async function run(spec: ProcessorSpec, name: string, content: string, more: Partial<ChainOptions> = {}) {
  fs.writeFileSync(path.join(directory, name), content)
  const bench = fs.mkdtempSync(path.join(directory, 'bench-'))
  const warnings: string[] = []
  const original = lookAt(directory, name) as Original
  const made = await runChain([await loadProcessor(spec, directory)], original, {
    workDirectory: async () => bench,
    timeLimitMs: 60_000,
    signal: new AbortController().signal,
    warn: (message) => void warnings.push(message),
    ...more,
  })
  return { ...made, bench, text: fs.readFileSync(made.file, 'utf8'), isSame: made.file === original.file, warnings }
}

/** A program of a few lines of JavaScript, called as any other. */
const script = (code: string, ...args: string[]) => [process.execPath, '-e', code, '--', ...args]

testProcessor('command', {
  make: async ({ strict }) => {
    // Takes the spaces away, and refuses what has an exclamation mark.
    const strip = `const text = fs.readFileSync(process.argv[1], 'utf8'); if (text.includes('!')) process.exit(1)
      fs.writeFileSync(process.argv[2], text.replaceAll(' ', ''))`
    const command = script(strip, '{input}', '{output}')
    return loadProcessor({ use: 'command', command, onError: strict ? 'fail' : 'pass' }, directory)
  },
  samples: [{ name: 'a.txt', content: Buffer.from('some words') }],
  broken: [{ name: 'b.txt', content: Buffer.from('stop!') }],
  check: ({ content }) => assert.equal(content.toString(), 'somewords'),
})

test('a program gets the paths of its input and output, whatever is in a name, and no shell sees them', async () => {
  const copy = script('fs.copyFileSync(process.argv[1], process.argv[2])', '{input}', '{output}')
  const name = `-a $(touch hacked) "b'; c.txt`
  const { text, isSame, name: same } = await run({ use: 'command', command: copy }, name, 'content')
  assert.deepEqual([text, isSame, same], ['content', false, name])
  const args = await run(
    { use: 'command', command: script('console.log(process.argv.slice(1).join())', '{name}', '$HOME *') },
    name,
    'x',
  )
  assert.equal(args.text, `${name},$HOME *\n`)
})

test('without placeholders it is a filter', async () => {
  const upper = script(
    'process.stdin.setEncoding("utf8").on("data", (text) => process.stdout.write(text.toUpperCase()))',
  )
  assert.equal((await run({ use: 'command', command: upper }, 'a.txt', 'shout')).text, 'SHOUT')
})

test('the name gets the extension of what was made, and only files of the given extensions are touched', async () => {
  const command = script('fs.writeFileSync(process.argv[1], process.argv[1])', '{output}')
  const spec = { use: 'command', command, extensions: ['MOV'], extension: 'mp4' }
  const { name, text } = await run(spec, 'film.mov', 'x')
  assert.equal(name, 'film.mp4')
  assert.match(text, /\.mp4$/)
  assert.ok((await run(spec, 'film.txt', 'x')).isSame)
})

test('a program sees little of the environment: nothing that is not named', async () => {
  process.env['STOWAGE_SECRET'] = 'secret'
  process.env['STOWAGE_WANTED'] = 'wanted'
  const command = script('console.log(JSON.stringify({ ...process.env, cwd: process.cwd() }))')
  const { text, bench } = await run({ use: 'command', command, environment: ['STOWAGE_WANTED'] }, 'a', 'x')
  const { STOWAGE_SECRET, STOWAGE_WANTED, PATH, HOME, TMPDIR, cwd } = JSON.parse(text)
  assert.deepEqual([STOWAGE_SECRET, STOWAGE_WANTED, PATH], [undefined, 'wanted', process.env['PATH']])
  assert.deepEqual([HOME, TMPDIR, cwd], [bench, bench, fs.realpathSync(bench)])
})

test('a failure is told with what the program said, and the file held back or delivered as it is, as configured', async () => {
  const failing = script('console.error("it smells"); process.exit(3)', '{output}')
  const failed = { code: 'CORRUPT', message: /ended with status 3: it smells/ }
  await assert.rejects(run({ use: 'command', command: failing }, 'a', 'x'), failed)
  const { isSame, warnings } = await run({ use: 'command', command: failing, onError: 'pass' }, 'a', 'x')
  assert.ok(isSame)
  assert.match(warnings.join(), /it smells.* It is delivered as it is/)
  const lazy = script('', '{output}')
  await assert.rejects(run({ use: 'command', command: lazy }, 'a', 'x'), { code: 'CORRUPT', message: /made nothing/ })
  const absent = { code: 'INVALID_CONFIG', message: /no-such-program is not installed/ }
  await assert.rejects(run({ use: 'command', command: ['no-such-program'], onError: 'pass' }, 'a', 'x'), absent)
})

test('a program that never ends, and all it started, is ended by the time limit', async () => {
  const pidFile = path.join(directory, 'pid')
  const endless = `require('child_process').spawn(process.execPath, ['-e', 'setInterval(() => 0, 1000)'], { stdio: 'ignore' }).once('spawn',
    function () { fs.writeFileSync(process.argv[1], String(this.pid)) }); setInterval(() => 0, 1000)`
  const spec = { use: 'command', command: script(endless, pidFile, '{output}') }
  const abort = new AbortController()
  const running = run(spec, 'a', 'x', { signal: abort.signal })
  while (!fs.existsSync(pidFile) || fs.readFileSync(pidFile, 'utf8') === '')
    await new Promise((next) => setTimeout(next, 20))
  const pid = Number(fs.readFileSync(pidFile, 'utf8'))
  assert.ok(isAlive(pid))
  abort.abort()
  await assert.rejects(running, { code: 'ABORTED' })
  while (isAlive(pid)) await new Promise((next) => setTimeout(next, 20))
  await assert.rejects(run(spec, 'a', 'x', { timeLimitMs: 50 }), { code: 'TIMEOUT' })
})

test('a program that makes too much is ended', async () => {
  const flood = script('setInterval(() => fs.appendFileSync(process.argv[1], "x".repeat(100000)), 1)', '{output}')
  const tooMuch = { code: 'CORRUPT', message: /made more than 1.0 MiB/ }
  await assert.rejects(run({ use: 'command', command: flood, maxOutput: '1MiB' }, 'a', 'x'), tooMuch)
  const quick = script('process.stdout.write("x".repeat(2 * 1024 * 1024))')
  await assert.rejects(run({ use: 'command', command: quick, maxOutput: '1MiB' }, 'a', 'x'), tooMuch)
})

test('no more run at once than are allowed, and waiting for a turn costs no time limit', async () => {
  const log = path.join(directory, 'log')
  const noting = script(
    'fs.appendFileSync(process.argv[1], "begin\\n"); setTimeout(() => { fs.appendFileSync(process.argv[1], "end\\n"); console.log(1) }, 100)',
    log,
  )
  const processor = await loadProcessor({ use: 'command', command: noting, concurrency: 1 }, directory)
  fs.writeFileSync(path.join(directory, 'a'), 'x')
  const bench = fs.mkdtempSync(path.join(directory, 'bench-'))
  const options = { workDirectory: async () => bench, timeLimitMs: 60_000, signal: new AbortController().signal }
  const original = lookAt(directory, 'a') as Original
  await Promise.all([1, 2, 3].map(async () => runChain([processor], original, options)))
  assert.equal(fs.readFileSync(log, 'utf8'), 'begin\nend\n'.repeat(3))
})

test('YUI Compressor and Closure Compiler are run as programs, and fail and pass as such', async () => {
  // Both as they are called: one with names, the other as a filter.
  const strip = `const [output, input] = process.argv.slice(-2)
    const isFilter = process.argv.includes('QUIET')
    const text = fs.readFileSync(isFilter ? 0 : input, 'utf8').replace(/\\s+/g, ' ')
    if (text.includes('= ;')) { console.error('[ERROR] 1:9:syntax error'); process.exit(2) }
    if (isFilter) process.stdout.write(text); else fs.writeFileSync(output, text)
    fs.writeFileSync('arguments', process.argv.slice(1).join(' '))`
  const yui = { use: 'yui-compressor', command: script(strip), arguments: ['--line-break', '80'] }
  const made = await run(yui, 'a.css', 'a {\n\n\n b: c }')
  assert.equal(made.text, 'a { b: c }')
  const said = fs.readFileSync(path.join(made.bench, 'arguments'), 'utf8')
  const name = path.basename(made.file)
  assert.equal(said, `--line-break 80 --type css --charset utf-8 -o ${name} ${path.join(directory, 'a.css')}`)
  const closure = { use: 'google_closure_compiler.GoogleClosureCompiler', command: script(strip) }
  assert.equal((await run(closure, 'a.js', 'let  a')).text, 'let a')
  const { isSame, warnings } = await run(yui, 'a.js', 'var a = ;')
  assert.ok(isSame)
  assert.match(warnings.join(), /syntax error/)
  await assert.rejects(run({ ...yui, onError: 'fail' }, 'a.js', 'var a = ;'), { code: 'CORRUPT' })
})

const adding = '// Adds.\nfunction add(first, second) {\n  return first + second;\n}\nconsole.log(add(1, 2));\n'
for (const [use, programs] of [
  ['yui-compressor', ['yui-compressor', 'yuicompressor']],
  ['google-closure-compiler', ['google-closure-compiler', 'closure-compiler']],
] as const)
  if (isInstalled(programs))
    testProcessor(use, {
      make: async ({ strict }) => loadProcessor({ use, onError: strict ? 'fail' : 'pass' }, directory),
      samples: [{ name: 'adding.js', content: Buffer.from(adding) }],
      broken: [{ name: 'broken.js', content: Buffer.from('var a = ;') }],
    })
  else test(`${use} as it is`, { skip: 'it is not installed' }, () => undefined)

test('YUI Compressor and Closure Compiler that are not installed are asked for', async () => {
  const { PATH } = process.env
  process.env['PATH'] = directory
  const yui = await run('yui_compressor.YUICompressor', 'a.css', 'a {}').catch((error: unknown) => error)
  const closure = await run('google-closure-compiler', 'a.js', 'a').catch((error: unknown) => error)
  process.env['PATH'] = PATH
  for (const error of [yui, closure]) assert.match((error as Error).message, /in the PATH.* npm install --global/)
})

function isInstalled(programs: readonly string[]): boolean {
  try {
    return findProgram(programs, '') !== ''
  } catch {
    return false
  }
}

function isAlive(pid: number): boolean {
  try {
    // What has ended but was not yet asked for is no longer alive.
    return !/^\d+ \(.*\) Z/.test(fs.readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}
