/** The README tells the truth: its program runs, its commands exist. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { pathToFileURL } from 'node:url'

const root = path.resolve(import.meta.dirname, '..')
const readme = readFileSync(path.join(root, 'README.md'), 'utf8')

/** Programs of the documentation that are whole: they begin with an import. */
const programs = ['README.md', ...globSync('docs/**/*.md', { cwd: root })].flatMap((file) => {
  const text = readFileSync(path.join(root, file), 'utf8')
  return [...text.matchAll(/```ts\n(import [^]*?)```/g)].map(([, program = '']) => ({ file, program }))
})

for (const [index, { file, program }] of programs.entries())
  test(`program ${index + 1}, of ${file}, runs`, (t) => {
    const directory = mkdtempSync(path.join(tmpdir(), 'stowage-readme-'))
    t.after(() => rmSync(directory, { recursive: true, force: true }))
    const library = pathToFileURL(path.join(root, 'src/index.ts')).href
    const whole = program.replace("'stowage'", `'${library}'`).replaceAll('/tmp/stowage-', `${directory}/`)
    const script = path.join(directory, 'program.ts')
    writeFileSync(script, whole)
    const { stdout, stderr, status } = spawnSync(process.execPath, [script], {
      cwd: directory,
      encoding: 'utf8',
      timeout: 30_000,
    })
    assert.equal(status, 0, stderr)
    if (file === 'README.md') assert.match(stdout, /photos\/cat\.jpg[^]*not really a cat/)
  })

test('every npm script, verb and file it names exists', () => {
  const { scripts } = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  for (const [, name = ''] of readme.matchAll(/npm run (\w+)/g)) assert.ok(scripts[name], `npm run ${name}`)
  const help = spawnSync(process.execPath, [path.join(root, 'bin/stowage.js'), '--help'], { encoding: 'utf8' }).stdout
  const verbs = [...readme.matchAll(/stowage (init|sync|up|explain)\b/g)].map(([, verb]) => verb ?? '')
  for (const verb of [...verbs, ...'status retry check repair ls cat cp put get rm stat url'.split(' ')])
    assert.match(help, new RegExp(`^ +${verb} `, 'm'))
  for (const [, link = ''] of readme.matchAll(/\]\(([^)]+)\)/g)) assert.ok(existsSync(path.join(root, link)), link)
})
