/** The demo does what it says: every file arrives, byte by byte, and a touched file arrives again. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { globSync, mkdtempSync, readFileSync, rmSync, utimesSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { createInterface } from 'node:readline'
import { before, after, test } from 'node:test'

const base = mkdtempSync(path.join(tmpdir(), 'stowage-demo-'))
const demo = path.resolve(import.meta.dirname, '../examples/demo/demo.ts')
const env = { ...process.env, STOWAGE_DEMO_DIR: base }
let output = ''

before(() => {
  const result = spawnSync(process.execPath, [demo, '--once'], { env, encoding: 'utf8', timeout: 120_000 })
  output = result.stdout + result.stderr
  assert.equal(result.status, 0, output)
})
after(() => rmSync(base, { recursive: true, force: true }))

function files(directory: string): string[] {
  return globSync('**/*', { cwd: path.join(base, directory), withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(path.join(base, directory), path.join(entry.parentPath, entry.name)))
    .sort()
}

const read = (directory: string, file: string) => readFileSync(path.join(base, directory, file))

test('the site is real: at least 2,000 files and 20 MB of seven kinds', () => {
  const site = files('site')
  const bytes = site.reduce((sum, file) => sum + read('site', file).byteLength, 0)
  assert.ok(site.length >= 2000, `${site.length} files`)
  assert.ok(bytes >= 20_000_000, `${bytes} bytes`)
  for (const kind of ['css', 'js', 'woff2', 'svg', 'png', 'jpg', 'gif'])
    assert.ok(
      site.some((file) => file.endsWith(`.${kind}`)),
      `no ${kind}`,
    )
})

test('the mirror equals the site', () => {
  assert.deepEqual(files('mirror'), files('site'))
  for (const file of files('site')) assert.ok(read('mirror', file).equals(read('site', file)), file)
})

test('every file of the second rule is there under its versioned name', () => {
  const kinds = new Set(['css', 'js', 'svg', 'png', 'jpg', 'jpeg', 'gif', 'woff', 'woff2', 'html'])
  const expected = files('site').flatMap((file) => {
    const { dir, name, ext } = path.posix.parse(file)
    if (!kinds.has(ext.slice(1).toLowerCase())) return []
    const digest = createHash('md5').update(read('site', file)).digest('hex')
    return [path.posix.join('static', dir, `${name.replaceAll(' ', '-')}_${digest}${ext}`)]
  })
  assert.deepEqual(files('cdn'), expected.sort())
})

test('while it watches, a touched file is delivered again, and Ctrl-C ends it well', { timeout: 60_000 }, async () => {
  const child = spawn(process.execPath, [demo], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  const exit = new Promise<number | null>((resolve) => child.once('exit', resolve))
  const seen: string[] = []
  for await (const line of createInterface({ input: child.stdout })) {
    seen.push(line)
    if (line.startsWith('Watching.')) utimesSync(path.join(base, 'site/my page.html'), new Date(), new Date())
    if (line.startsWith('my page.html → mirror')) child.kill('SIGINT')
  }
  assert.equal(await exit, 0)
  assert.ok(
    seen.some((line) => line.startsWith('0 ') === false && line.includes(' 0 deliveries')),
    seen.join('\n'),
  )
  assert.ok(seen.includes('Stopping.'))
})
