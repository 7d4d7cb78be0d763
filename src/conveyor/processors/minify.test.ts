import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { Script } from 'node:vm'
import { testProcessor } from '../../testing/index.ts'
import { runChain } from '../chain.ts'
import { lookAt, type Original } from '../original.ts'
import { loadProcessor, type ProcessorSpec } from './index.ts'

const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage-minify-'))
after(() => fs.rmSync(directory, { recursive: true, force: true }))
const require = path.resolve(import.meta.dirname, '../../../node_modules')

/** What a processor makes of a file, and what it warns of. */
async function run(spec: ProcessorSpec, name: string, content: string | Buffer, timeLimitMs = 60_000) {
  fs.writeFileSync(path.join(directory, name), content)
  const bench = fs.mkdtempSync(path.join(directory, 'bench-'))
  const warnings: string[] = []
  const original = lookAt(directory, name) as Original
  const made = await runChain([await loadProcessor(spec, directory)], original, {
    workDirectory: async () => bench,
    timeLimitMs,
    signal: new AbortController().signal,
    warn: (message) => void warnings.push(message),
  })
  const isSame = made.file === original.file
  return { ...made, text: fs.readFileSync(made.file, 'utf8'), isSame, warnings }
}

const packaged = (name: string) => ({
  name: path.basename(name),
  content: fs.readFileSync(path.join(require, name)),
})
const samples = {
  css: ['bootstrap/dist/css/bootstrap.css', 'leaflet/dist/leaflet.css', 'jquery-ui-dist/jquery-ui.min.css'],
  js: ['leaflet/dist/leaflet-src.js', 'bootstrap/dist/js/bootstrap.js', 'lightbox2/dist/js/lightbox.min.js'],
}
const broken = { css: 'a { content: "open\n; color: red }', js: 'var a = ;' }
for (const kind of ['css', 'js'] as const)
  testProcessor(`minify.${kind}`, {
    make: async ({ strict }) =>
      loadProcessor({ use: `minify.${kind}`, ...(strict ? { onError: 'fail' } : {}) }, directory),
    samples: samples[kind].map(packaged),
    broken: [
      { name: `a.${kind}`, content: Buffer.from(broken[kind]) },
      { name: `b.${kind}`, content: Buffer.from([0x61, 0xff]) },
    ],
    check: async ({ content }, input) => {
      if (kind === 'js') return void new Script(content.toString())
      // Whatever is minified until it changes no more says the same.
      assert.ok((await canonical(content)) === (await canonical(input.content)), `${input.name} says something else`)
    },
  })

async function canonical(css: Buffer): Promise<string> {
  const { transform } = await import('esbuild')
  let code = css.toString()
  for (let round = 0; round < 3; round++) code = (await transform(code, { loader: 'css', minify: true })).code
  return code
}

test('style sheets and scripts become smaller and stay what they are', async () => {
  const css = await run(
    'minify.css',
    'a.css',
    '/* x */ a { color: red; *zoom: 1; --x: url( a.png ) }\n@unknown b { c: d }',
  )
  assert.equal(css.text, 'a{color:red;*zoom: 1;--x: url(a.png) }@unknown b{c: d}\n')
  const js = await run('minify.js', 'a.js', '/*! keep */ function f(long) { return long + 1 } // away\nvar g = f(1)')
  assert.equal(js.text, '/*! keep */function f(n){return n+1}var g=f(1);\n')
  assert.equal((await run('minify.js', 'a.mjs', 'export const a  =  1')).text, 'export const a=1;\n')
})

test('what is minified again, is small already, or is empty is not written anew', async () => {
  for (const name of ['bootstrap/dist/css/bootstrap.css', 'leaflet/dist/leaflet-src.js']) {
    const spec = `minify.${path.extname(name).slice(1)}`
    const once = await run(spec, path.basename(name), fs.readFileSync(path.join(require, name)))
    assert.ok(!once.isSame)
    const twice = await run(spec, path.basename(name), once.text)
    assert.ok(twice.isSame)
  }
  assert.ok((await run('minify.css', 'empty.css', '')).isSame)
})

test('a script runs the same after it was minified', async () => {
  const script = `'use strict'; const words = ['é', "\\u2028", \`\${1 + 1}\`]; let found; for (const each of words) { found ??= each }
    class A { #x = 1; get x() { return this.#x } }; console.log(JSON.stringify([words, found, new A().x, typeof undefined, 0.1 + 0.2]))`
  const { file, isSame } = await run('minify.js', 'run.js', script)
  assert.ok(!isSame)
  const say = (path: string) => spawnSync(process.execPath, ['-e', fs.readFileSync(path, 'utf8')], { encoding: 'utf8' })
  assert.equal(say(file).stdout, say(path.join(directory, 'run.js')).stdout)
  assert.match(say(file).stdout, /é/)
})

test('with syntax errors a file is delivered as it is with a warning, or held back, as configured', async () => {
  const broken = { 'a.js': 'var a = ;', 'b.css': 'a { content: "open\n; color: red }', 'c.css': 'a { color: red' }
  for (const [name, content] of Object.entries(broken)) {
    const use = `minify.${path.extname(name).slice(1)}`
    const { isSame, warnings } = await run(use, name, content)
    assert.ok(isSame)
    assert.match(warnings.join(), /Line 1, column \d+: .* It is delivered as it is/)
    await assert.rejects(run({ use, onError: 'fail' }, name, content), { code: 'CORRUPT', message: /Line 1/ })
  }
  const latin = Buffer.from('a { content: "\xe9" }', 'latin1')
  assert.match((await run('minify.css', 'latin.css', latin)).warnings.join(), /not UTF-8/)
})

test('a source map is added when it is asked for', async () => {
  const { text } = await run({ use: 'minify.js', sourceMap: true }, 'mapped.js', 'let answer  =  42')
  const [, map = ''] = /sourceMappingURL=data:application\/json;base64,(\S+)/.exec(text) ?? []
  const { sources, sourcesContent } = JSON.parse(Buffer.from(map, 'base64').toString())
  assert.deepEqual([sources, sourcesContent], [['mapped.js'], ['let answer  =  42']])
})

test('the result is for those who are named as target', async () => {
  const css = 'a { top: 0; right: 0; bottom: 0; left: 0; color: #11223344 }'
  assert.match((await run('minify.css', 'a.css', css)).text, /inset:0/)
  const old = await run({ use: 'minify.css', target: ['chrome58', 'safari11'] }, 'a.css', css)
  assert.match(old.text, /top:0;right:0;bottom:0;left:0/)
})

test('options that are not known, or wrong, are mistakes of the configuration', async () => {
  await assert.rejects(loadProcessor({ use: 'minify.css', onEror: 'fail' }, directory), { code: 'INVALID_CONFIG' })
  await assert.rejects(loadProcessor({ use: 'minify.js', onError: 'maybe' }, directory), { code: 'INVALID_CONFIG' })
  await assert.rejects(loadProcessor('command', directory), { code: 'INVALID_CONFIG', message: /command/ })
})

test('without esbuild it is said what to run', () => {
  const script = `
    import { registerHooks } from 'node:module'
    registerHooks({
      resolve(specifier, context, next) {
        if (specifier !== 'esbuild') return next(specifier, context)
        throw Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' })
      },
    })
    const { css } = await import(${JSON.stringify(path.resolve(import.meta.dirname, 'minify.ts'))})
    await css().process({ file: ${JSON.stringify(path.join(directory, 'a.css'))}, warn() {} }).catch((error) => console.log(error.message))`
  fs.writeFileSync(path.join(directory, 'a.css'), 'a{}')
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
  assert.match(stdout, /npm install esbuild/, stderr)
})

test('the names of File Conveyor are known', async () => {
  const names = {
    'filename.SpacesToUnderscores': 'filename.spacesToUnderscores',
    'filename.SpacesToDashes': 'filename.spacesToDashes',
    'unique_filename.Mtime': 'unique-filename.mtime',
    'unique_filename.MD5': 'unique-filename.md5',
    'image_optimizer.Max': 'image-optimizer.max',
    'image_optimizer.KeepMetadata': 'image-optimizer.keepMetadata',
    'image_optimizer.KeepFilename': 'image-optimizer.keepFilename',
    'image_optimizer.KeepMetadataAndFilename': 'image-optimizer.keepMetadataAndFilename',
    'yui_compressor.YUICompressor': 'yui-compressor',
    'google_closure_compiler.GoogleClosureCompiler': 'google-closure-compiler',
    'link_updater.CSSURLUpdater': 'css-links',
  }
  for (const [former, name] of Object.entries(names)) assert.equal((await loadProcessor(former, directory)).name, name)
})
