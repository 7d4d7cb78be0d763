/** Asset URLs: what an application reads, and what the conveyor writes for it. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { silentLog, type Log } from '../core/log.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase, type Database } from '../state/database.ts'
import { Store } from '../store/store.ts'
import { fakeClock } from '../testing/fake-clock.ts'
import { makeManifest, ManifestKeeper, type AssetSettings, type ManifestContext } from './asset-manifest.ts'
import { AssetUrls } from './assets.ts'
import { forget, intend, record, type LedgerKey } from './ledger.ts'
import type { Rule } from './rules.ts'

function place(t: TestContext): string {
  const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage-assets-'))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Replaces the manifest in one step, as the daemon does. */
function publish(file: string, domains: unknown, format = 1) {
  fs.writeFileSync(`${file}.new`, JSON.stringify({ format, domains }))
  fs.renameSync(`${file}.new`, file)
}

const base = 'https://static.example.com'
const delivered = 'https://cdn.example.com/css/x_abc.css'
const usual = { default: { url: base, assets: { 'css/x.css': delivered } } }

test('an asset has the address it was delivered at, any other the plain one', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  publish(manifest, usual)
  const { assetUrl } = await AssetUrls.open({ manifest })
  assert.equal(assetUrl('css/x.css'), delivered)
  assert.equal(assetUrl('/css/x.css'), delivered)
  assert.equal(assetUrl('//a b/ü#?%.css'), `${base}/a%20b/%C3%BC%23%3F%25.css`)
  assert.throws(() => assetUrl('../x.css'), { code: 'INVALID_KEY' })
  assert.throws(() => assetUrl(''), { code: 'INVALID_KEY' })
})

test('slashes at the end of a base do not count, and a base may be a path', async () => {
  const domains = { default: 'https://a.example///', sub: 'https://a.example/sub/', here: '/static', root: '/' }
  const { assetUrl } = await AssetUrls.open({ domains })
  assert.equal(assetUrl('x'), 'https://a.example/x')
  assert.equal(assetUrl('x', { domain: 'sub' }), 'https://a.example/sub/x')
  assert.equal(assetUrl('x', { domain: 'here' }), '/static/x')
  assert.equal(assetUrl('x', { domain: 'root' }), '/x')
  await assert.rejects(AssetUrls.open({ domains: { default: 'https://a b/' } }), { code: 'INVALID_ARGUMENT' })
})

test('a domain that is not known is an error that names the known ones', async (t) => {
  const { assetUrl } = await AssetUrls.open({ domains: { default: base, theme: `${base}/theme` } })
  const message = /no domain "thme".*There are: default, theme/
  assert.throws(() => assetUrl('x', { domain: 'thme' }), { code: 'INVALID_ARGUMENT', message })
  assert.throws(() => assetUrl('x', { domain: 'toString' }), { code: 'INVALID_ARGUMENT' })
  const absent = await AssetUrls.open({ manifest: path.join(place(t), 'assets.json') })
  assert.throws(() => absent.assetUrl('x'), { code: 'INVALID_ARGUMENT', message: /let the daemon write/ })
})

test('names that objects have by themselves are names like any other', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  fs.writeFileSync(
    manifest,
    `{"format":1,"domains":{"default":{"url":"${base}","assets":{"__proto__":"https://cdn/p"}}}}`,
  )
  const { assetUrl } = await AssetUrls.open({ manifest })
  assert.equal(assetUrl('__proto__'), 'https://cdn/p')
  assert.equal(assetUrl('constructor'), `${base}/constructor`)
})

test('each domain has its own deliveries; given base URLs win over written ones', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  publish(manifest, { ...usual, theme: { url: `${base}/theme`, assets: {} } })
  const { assetUrl } = await AssetUrls.open({ manifest, domains: { default: 'http://localhost:1' } })
  assert.equal(assetUrl('css/x.css', { domain: 'theme' }), `${base}/theme/css/x.css`)
  assert.equal(assetUrl('css/x.css'), delivered)
  assert.equal(assetUrl('y.css'), 'http://localhost:1/y.css')
})

test('a changed manifest is read within a second, and the file is left alone in between', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  const clock = fakeClock(1_000_000)
  const urls = await AssetUrls.open({ manifest, domains: { default: base }, clock })
  assert.equal(urls.assetUrl('css/x.css'), `${base}/css/x.css`)
  publish(manifest, usual)
  assert.equal(urls.assetUrl('css/x.css'), `${base}/css/x.css`)
  await clock.advance(1000)
  assert.equal(urls.assetUrl('css/x.css'), delivered)
  publish(manifest, { default: { url: base, assets: { 'css/x.css': 'https://cdn/2' } } })
  await clock.advance(999)
  assert.equal(urls.assetUrl('css/x.css'), delivered)
  await clock.advance(1)
  assert.equal(urls.assetUrl('css/x.css'), 'https://cdn/2')
})

test('a clock that is set back does not keep an old manifest for long', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  let now = 1_000_000_000
  const clock = { ...fakeClock(), now: () => now }
  const urls = await AssetUrls.open({ manifest, domains: { default: base }, clock })
  publish(manifest, usual)
  now -= 3_600_000
  assert.equal(urls.assetUrl('css/x.css'), delivered)
})

test('what cannot be read at the start is an error; later, what was known still holds and the log is told once', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  const clock = fakeClock()
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (message) => void warnings.push(message) }
  for (const text of ['', '{', '[]', 'null', '{"format":1}x', '{"format":0,"domains":{}}', '{"domains":{}}']) {
    fs.writeFileSync(manifest, text)
    await assert.rejects(AssetUrls.open({ manifest }), { code: 'CORRUPT', message: /is not an asset manifest/ })
  }
  publish(manifest, { default: { url: base, assets: { a: 1 } } })
  await assert.rejects(AssetUrls.open({ manifest }), { code: 'CORRUPT' })
  publish(manifest, usual, 2)
  await assert.rejects(AssetUrls.open({ manifest }), { code: 'UNSUPPORTED' })
  await assert.rejects(AssetUrls.open({ manifest: path.dirname(manifest) }), { code: 'CORRUPT' })
  publish(manifest, usual)
  const urls = await AssetUrls.open({ manifest, log, clock })
  fs.writeFileSync(manifest, '{')
  for (let second = 0; second < 3; second++) {
    await clock.advance(1000)
    assert.equal(urls.assetUrl('css/x.css'), delivered)
  }
  assert.equal(warnings.length, 1)
  fs.rmSync(manifest)
  await clock.advance(1000)
  assert.equal(urls.assetUrl('css/x.css'), delivered)
  publish(manifest, { default: { url: base, assets: {} } })
  await clock.advance(1000)
  assert.equal(urls.assetUrl('css/x.css'), `${base}/css/x.css`)
})

test('the path of a plain address leads to the delivered one, by the domain that is nearest', async (t) => {
  const manifest = path.join(place(t), 'assets.json')
  const assets = { 'x.css': 'https://cdn/x', 'theme/x.css': 'https://cdn/of-default' }
  publish(manifest, {
    default: { url: 'https://a.example/st%C3%A4tic/', assets },
    theme: { url: '/stätic/theme/', assets: { 'x.css': 'https://cdn/of-theme' } },
  })
  const urls = await AssetUrls.open({ manifest })
  assert.equal(urls.delivered('/stätic/x.css'), 'https://cdn/x')
  assert.equal(urls.delivered('/stätic/theme/x.css'), 'https://cdn/of-theme')
  assert.equal(urls.delivered('/x.css'), undefined)
  assert.equal(urls.delivered('/stätic/y.css'), undefined)
})

test('after close every call is refused', async () => {
  const urls = await AssetUrls.open({ domains: { default: base } })
  await urls.close()
  assert.throws(() => urls.assetUrl('x'), { code: 'CLOSED' })
})

interface Scene extends ManifestContext {
  directory: string
  /** Records a delivery. */
  deliver(row: Partial<LedgerKey> & { variant?: string }, deliveredMs?: number): Promise<void>
  assets(domain?: string): Promise<Record<string, string> | undefined>
}

async function scene(t: TestContext, more: { settings?: Partial<AssetSettings>; rules?: Partial<Rule>[] } = {}) {
  const directory = place(t)
  const database = await openDatabase(path.join(directory, 'state.db'))
  t.after(async () => database.close())
  const settings: AssetSettings = {
    store: 'out',
    manifest: path.join(directory, 'web/assets.json'),
    domains: { default: { source: 'site' } },
    ...more.settings,
  }
  const rules = (more.rules ?? [{}]).map((rule) => ruleOf(rule))
  const store = new Store(memoryDriver(), { publicUrl: 'https://cdn.example.com' })
  const context = { settings, rules, store, database }
  const made: Scene = {
    ...context,
    directory,
    deliver: async (row, deliveredMs = 1) => deliver(database, row, deliveredMs),
    assets: async (domain = 'default') => (await makeManifest(context)).domains[domain]?.assets,
  }
  return made
}

function ruleOf(rule: Partial<Rule>): Rule {
  const destinations = [{ store: 'out', path: '' }]
  const usualRule = { label: 'all', source: 'site', filter: {}, processors: [], destinations }
  return { ...usualRule, supersededAfterMs: 0, timeLimitMs: 1000, ...rule }
}

const rowOf = (row: Partial<LedgerKey>): LedgerKey => {
  const file = row.path ?? 'x.css'
  return { source: 'site', path: file, rule: 'all', destination: 'out', key: file, ...row }
}

async function deliver(database: Database, row: Partial<LedgerKey> & { variant?: string }, deliveredMs: number) {
  const source = { sourceSize: 1, sourceMtimeNs: 1n, sourceInode: 1n }
  await database.transaction(async (tx) => {
    await intend(tx, rowOf(row))
    await record(tx, rowOf(row), { size: 1, digest: 'd', ...source, fingerprint: '', deliveredMs })
  })
}

test('the manifest has what was delivered, in key order, with its address', async (t) => {
  const s = await scene(t)
  await s.deliver({ path: 'b ü.css', key: 'b ü_1.css' })
  await s.deliver({ path: 'a.css', key: 'a_1.css' })
  await s.deliver({ path: 'elsewhere', destination: 'other' })
  await s.deliver({ path: 'foreign', source: 'another' })
  const assets = await s.assets()
  assert.deepEqual(Object.entries(assets ?? {}), [
    ['a.css', 'https://cdn.example.com/a_1.css'],
    ['b ü.css', 'https://cdn.example.com/b%20%C3%BC_1.css'],
  ])
})

test('a ledger of any length is read whole, each file with its best delivery', async (t) => {
  const s = await scene(t, { rules: [{ label: 'first' }, { label: 'second' }] })
  const rules = ['second', 'first']
  await s.database.transaction(async (tx) => {
    for (let i = 0; i < 4000; i++)
      for (const rule of i % 3 === 0 ? rules : ['second'])
        await tx.run(
          `INSERT INTO ledger (source, path, rule, destination, key, digest, delivered_ms) VALUES ('site', ?, ?, 'out', ?, 'd', 1)`,
          `f${i}`,
          rule,
          `f${i}-${rule}`,
        )
  })
  const expected = Array.from({ length: 4000 }, (_, i) => [
    `f${i}`,
    `https://cdn.example.com/f${i}-${i % 3 === 0 ? 'first' : 'second'}`,
  ])
  assert.deepEqual(await s.assets(), Object.fromEntries(expected))
})

test('what is only intended has no address; what is delivered anew keeps its own', async (t) => {
  const s = await scene(t)
  await s.deliver({ path: 'a.css' })
  await s.database.transaction(async (tx) => {
    await intend(tx, rowOf({ path: 'a.css' }))
    await intend(tx, rowOf({ path: 'new.css' }))
  })
  assert.deepEqual(await s.assets(), { 'a.css': 'https://cdn.example.com/a.css' })
})

test('of several deliveries of a file the first rule’s counts, then the first destination’s, then the latest', async (t) => {
  const destinations = [
    { store: 'other', path: '' },
    { store: 'out', path: 'main' },
    { store: 'out', path: 'copy' },
  ]
  const s = await scene(t, { rules: [{ label: 'first', destinations }, { label: 'second' }] })
  await s.deliver({ rule: 'gone', key: 'of-a-former-rule' }, 9)
  assert.equal((await s.assets())?.['x.css'], 'https://cdn.example.com/of-a-former-rule')
  await s.deliver({ rule: 'second', key: 'x.css' }, 8)
  assert.equal((await s.assets())?.['x.css'], 'https://cdn.example.com/x.css')
  await s.deliver({ rule: 'first', key: 'copy/x_2.css' }, 7)
  assert.equal((await s.assets())?.['x.css'], 'https://cdn.example.com/copy/x_2.css')
  await s.deliver({ rule: 'first', key: 'main/x_1.css' }, 2)
  await s.deliver({ rule: 'first', key: 'main/x_2.css' }, 3)
  assert.equal((await s.assets())?.['x.css'], 'https://cdn.example.com/main/x_2.css')
})

test('the address is that of the file, not of a variant that was delivered later', async (t) => {
  const s = await scene(t)
  await s.deliver({ key: 'x.css' }, 1)
  await s.deliver({ key: 'x.css.gz', variant: '.gz' }, 2)
  assert.deepEqual(await s.assets(), { 'x.css': 'https://cdn.example.com/x.css' })
})

test('a destination’s own URL wins over the store’s', async (t) => {
  const destinations = [{ store: 'out', path: 'static', url: 'https://assets.example.com/v1' }]
  const s = await scene(t, { rules: [{ destinations }] })
  await s.deliver({ key: 'static/x.css' })
  assert.deepEqual(await s.assets(), { 'x.css': 'https://assets.example.com/v1/static/x.css' })
})

test('a domain may show a directory of a source, another source, or nothing delivered at all', async (t) => {
  const domains = {
    default: { source: 'site' },
    theme: { source: 'site', path: 'themes/dark', url: 'https://t.example.com' },
    plugin: { source: 'plugins' },
    plain: { url: '/plain' },
  }
  const s = await scene(t, { settings: { domains } })
  await s.deliver({ path: 'themes/dark/x.css', key: 'k1' })
  await s.deliver({ path: 'themes/darker/x.css', key: 'k2' })
  await s.deliver({ path: 'p.css', source: 'plugins', key: 'k3' })
  assert.deepEqual(await s.assets('theme'), { 'x.css': 'https://cdn.example.com/k1' })
  assert.deepEqual(await s.assets('plugin'), { 'p.css': 'https://cdn.example.com/k3' })
  assert.deepEqual(await s.assets('plain'), {})
  const { domains: made } = await makeManifest(s)
  assert.deepEqual(
    Object.values(made).map(({ url }) => url),
    ['https://cdn.example.com/', 'https://t.example.com/', 'https://cdn.example.com/', '/plain/'],
  )
})

test('many changes are written once, whole, and read back by the application', async (t) => {
  const s = await scene(t, { settings: { key: 'meta/assets.json' } })
  const clock = fakeClock()
  let puts = 0
  const inner = s.store.driver
  const counting = {
    ...inner,
    writeBytes: undefined,
    write: async (...given: Parameters<typeof inner.write>) => (puts++, inner.write(...given)),
  }
  const store = new Store(counting as never, { publicUrl: 'https://cdn.example.com' })
  const keeper = new ManifestKeeper({ ...s, store, clock, log: silentLog })
  for (let i = 0; i < 50; i++) {
    await s.deliver({ path: `f${i}`, key: `f${i}_1` })
    keeper.changed()
  }
  assert.equal(fs.existsSync(s.settings.manifest), false)
  await clock.advance(250)
  await keeper.flush()
  assert.equal(puts, 1)
  const urls = await AssetUrls.open({ manifest: s.settings.manifest })
  assert.equal(urls.assetUrl('f49'), 'https://cdn.example.com/f49_1')
  assert.equal((await s.store.get('meta/assets.json')).toString(), fs.readFileSync(s.settings.manifest, 'utf8'))
  assert.equal((await s.store.stat('meta/assets.json')).contentType, 'application/json')
  const { ino } = fs.statSync(s.settings.manifest)
  keeper.changed()
  await keeper.flush()
  assert.equal(fs.statSync(s.settings.manifest).ino, ino, 'what has not changed is not written again')
  assert.equal(puts, 1)
  await s.database.transaction(async (tx) => forget(tx, rowOf({ path: 'f49', key: 'f49_1' })))
  keeper.changed()
  await keeper.close()
  assert.equal(clock.sleeping, 0)
  assert.doesNotMatch(fs.readFileSync(s.settings.manifest, 'utf8'), /f49/)
  assert.deepEqual(fs.readdirSync(path.dirname(s.settings.manifest)), ['assets.json'])
})

test('a manifest that cannot be written is told and tried again; nothing half-written remains', async (t) => {
  const s = await scene(t)
  const clock = fakeClock()
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (message) => void warnings.push(message) }
  fs.mkdirSync(s.settings.manifest, { recursive: true })
  const keeper = new ManifestKeeper({ ...s, clock, log })
  keeper.changed()
  await keeper.flush()
  assert.match(warnings.join('\n'), /Cannot write .*assets\.json: EISDIR/)
  fs.rmdirSync(s.settings.manifest)
  await clock.advance(30_000)
  await keeper.flush()
  assert.deepEqual(fs.readdirSync(path.dirname(s.settings.manifest)), ['assets.json'])
  assert.equal(warnings.length, 1)
  await keeper.close()
})

test('a key that a rule delivers to is not overwritten by the manifest', async (t) => {
  const s = await scene(t, { settings: { key: 'x.css' } })
  await s.deliver({ key: 'x.css' })
  const warnings: string[] = []
  const log: Log = { ...silentLog, warn: (message) => void warnings.push(message) }
  const keeper = new ManifestKeeper({ ...s, clock: fakeClock(), log })
  keeper.changed()
  await keeper.close()
  assert.match(warnings.join('\n'), /x\.css in out is x\.css, which a rule delivers there/)
  assert.equal(await s.store.exists('x.css'), false)
})

test('a store without a public address is an error, not a wrong one', async (t) => {
  const s = await scene(t)
  const store = new Store(memoryDriver())
  await assert.rejects(
    makeManifest({ ...s, store }),
    (error) => error instanceof StowageError && error.code === 'NO_PUBLIC_URL',
  )
})
