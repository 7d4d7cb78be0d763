/** Asset URLs from end to end: the program delivers, the application looks up. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { AssetUrls } from '../conveyor/assets.ts'

const bin = path.resolve(import.meta.dirname, '../../bin/stowage.js')

function place(t: TestContext, more: object = { assets: { source: 'site', store: 'public' } }) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-cli-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  const write = (name: string, content: string) => {
    fs.mkdirSync(path.dirname(path.join(directory, name)), { recursive: true })
    fs.writeFileSync(path.join(directory, name), content)
  }
  write('site/css/main.css', 'body {}')
  write(
    'stowage.config.json',
    JSON.stringify({
      stores: { public: { url: 'file:./public', publicUrl: 'https://cdn.example.com/' } },
      sources: { site: { directory: './site', settle: '0ms' } },
      rules: [{ source: 'site', processors: ['unique-filename.md5'], destinations: [{ store: 'public' }] }],
      ...more,
    }),
  )
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [bin, ...args], { cwd: directory, encoding: 'utf8', timeout: 60_000 })
  return { directory, write, run, manifest: path.join(directory, 'assets.json') }
}

const address = /^https:\/\/cdn\.example\.com\/css\/main_[0-9a-f]{32}\.css$/

test('after a sync the application has the addresses, and the verb prints them', async (t) => {
  const { run, write, directory, manifest } = place(t)
  assert.equal(run('sync').status, 0)
  await using urls = await AssetUrls.open({ manifest })
  const first = urls.assetUrl('css/main.css')
  assert.match(first, address)
  assert.equal(urls.assetUrl('css/other.css'), 'https://cdn.example.com/css/other.css')
  const json = run('assets', '--json')
  assert.equal(json.status, 0, json.stderr)
  assert.deepEqual(JSON.parse(json.stdout), JSON.parse(fs.readFileSync(manifest, 'utf8')))
  assert.equal(run('assets').stdout, `default: https://cdn.example.com/\n  css/main.css → ${first}\n`)
  write('site/css/main.css', 'body { color: red }')
  assert.equal(run('sync').status, 0)
  await using again = await AssetUrls.open({ manifest })
  assert.match(again.assetUrl('css/main.css'), address)
  assert.notEqual(again.assetUrl('css/main.css'), first)
  // Pages made before this moment refer to the former file.
  assert.equal(fs.readdirSync(path.join(directory, 'public/css')).length, 2)
})

test('an application beside a running daemon sees what is delivered', { timeout: 60_000 }, async (t) => {
  const { run, write, directory, manifest } = place(t)
  const daemon = spawn(process.execPath, [bin, 'up'], { cwd: directory, stdio: ['ignore', 'ignore', 'pipe'] })
  t.after(() => daemon.kill('SIGKILL'))
  const { promise: watching, resolve } = Promise.withResolvers<void>()
  daemon.stderr.on('data', (chunk) => String(chunk).includes('Watching') && resolve())
  await watching
  const urls = await AssetUrls.open({ manifest, domains: { default: 'https://plain.example.com' } })
  write('site/css/main.css', 'body { color: blue }')
  write('site/new.css', 'a {}')
  const isThere = () => urls.assetUrl('new.css') !== 'https://plain.example.com/new.css'
  for (let tries = 0; tries < 600 && !isThere(); tries++) await new Promise((resolve) => setTimeout(resolve, 50))
  assert.match(urls.assetUrl('new.css'), /^https:\/\/cdn\.example\.com\/new_[0-9a-f]{32}\.css$/)
  assert.match(run('assets').stdout, /new\.css → https:/)
  daemon.kill('SIGTERM')
  await once(daemon, 'exit')
})

test('without assets in the configuration the verb says how to have some', (t) => {
  const { run } = place(t, {})
  const { status, stderr } = run('assets')
  assert.equal(status, 2)
  assert.match(stderr, /no assets.*assets: \{ source/)
})

test('what was delivered as a symbolic link is a file for every verb, and goes with its original', (t) => {
  const destinations = [{ store: 'public', link: 'symlink' }]
  const { run, directory } = place(t, { rules: [{ source: 'site', destinations }] })
  assert.equal(run('sync').status, 0)
  const delivered = path.join(directory, 'public/css/main.css')
  assert.equal(fs.readlinkSync(delivered), path.join(directory, 'site/css/main.css'))
  assert.equal(run('ls', '-r', 'public:').stdout, 'css/main.css\n')
  assert.equal(run('cat', 'public:css/main.css').stdout, 'body {}')
  assert.equal(
    run('cat', `file://${delivered}`).status,
    1,
    'without the configuration nobody says where links may lead',
  )
  fs.rmSync(path.join(directory, 'site/css/main.css'))
  assert.equal(run('sync').status, 0)
  assert.equal(fs.lstatSync(delivered, { throwIfNoEntry: false }), undefined)
})
