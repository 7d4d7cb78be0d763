/** What the configuration promises: every mistake at once, each with its place; paths and units resolved; no secret repeated. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { checkConfig, configNames, defineConfig, loadConfig, type ConfigInput } from './config.ts'

const least = {
  stores: { public: 'file:///srv/public' },
  sources: { site: { directory: '/srv/site' } },
  rules: [{ source: 'site', destinations: [{ store: 'public' }] }],
} satisfies ConfigInput

function directoryOf(t: TestContext): string {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-config-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** The lines of what is wrong with a configuration. */
function mistakes(input: unknown, directory = '/etc/acme'): string[] {
  try {
    checkConfig(input, directory)
    return []
  } catch (error) {
    assert.ok(error instanceof StowageError)
    assert.equal(error.code, 'INVALID_CONFIG')
    return error.message
      .split('\n')
      .slice(1)
      .map((line) => line.trim())
  }
}

test('the least configuration is completed with the defaults', () => {
  const config = checkConfig(least, '/etc/acme')
  assert.equal(config.directory, '/etc/acme')
  assert.equal(config.state, '/etc/acme/stowage.db')
  assert.equal(config.workDirectory, '/etc/acme/.stowage-work')
  assert.equal(config.sources['site']?.settleMs, 500)
  assert.equal(config.sources['site']?.pollingMs, undefined)
  assert.ok(config.sources['site']?.ignore.includes('.git'))
  const [rule] = config.rules
  assert.equal(rule?.label, 'rule 1')
  assert.equal(rule?.timeLimitMs, 600_000)
  assert.equal(rule?.supersededAfterMs, 0)
  assert.equal(rule?.deleteSourceAfterMs, undefined)
  assert.deepEqual(rule?.processors, [])
  assert.deepEqual(rule?.destinations, [{ store: 'public', path: '' }])
})

test('units are resolved, patterns compiled, and paths start at the configuration', () => {
  const config = checkConfig(
    {
      state: '../state/a.db',
      workDirectory: 'work',
      stores: { near: ['file:./out%20here?fsync=false', 'file:///far'], plain: { url: 'memory:', readOnly: true } },
      sources: { site: { directory: './site', settle: '2s', polling: '5m' }, b: { directory: 'b', polling: false } },
      rules: [
        {
          source: 'site',
          filter: { pattern: '^a/.*\\.css$', size: { minimum: 1, maximum: '2MiB' } },
          destinations: [{ store: 'near', path: '/a/b/', maxConnections: 3 }],
          deleteSourceAfter: '1d',
          supersededAfter: '1h',
          timeLimit: 1000,
        },
      ],
    },
    '/etc/acme',
  )
  assert.equal(config.state, '/etc/state/a.db')
  assert.equal(config.workDirectory, '/etc/acme/work')
  assert.deepEqual(config.stores['near']?.url, ['file:///etc/acme/out%20here?fsync=false', 'file:///far'])
  assert.equal(config.stores['plain']?.readOnly, true)
  assert.equal(config.sources['site']?.directory, '/etc/acme/site')
  assert.equal(config.sources['site']?.settleMs, 2000)
  assert.equal(config.sources['site']?.pollingMs, 300_000)
  assert.equal(config.sources['b']?.pollingMs, undefined)
  const [rule] = config.rules
  assert.ok(rule?.filter.pattern?.test('a/x.css'))
  assert.deepEqual(rule?.filter.size, { minimum: 1, maximum: 2 * 2 ** 20 })
  assert.deepEqual(rule?.destinations, [{ store: 'near', path: 'a/b', maxConnections: 3 }])
  assert.equal(rule?.deleteSourceAfterMs, 86_400_000)
  assert.equal(rule?.supersededAfterMs, 3_600_000)
  assert.equal(rule?.timeLimitMs, 1000)
})

test('every mistake is told at once, each with its place and what to do', () => {
  const lines = mistakes({
    stat: 'x.db',
    stores: { public: 'file:///srv/public', 'not a name': 'memory:', empty: [], odd: { url: 'memory:', publicURL: 1 } },
    sources: { site: { directory: 5, settle: 'soon', setle: 1 } },
    rules: [
      { source: 'sites', destination: [], destinations: [{ store: 'pubic' }] },
      { source: 'site', filter: { pattern: '(', extension: [] }, destinations: [] },
      { source: 'site', destinations: [{ store: 'public', maxConnections: 0 }], timeLimit: '10 parsecs' },
    ],
  })
  const expected: [place: string, words: RegExp][] = [
    ['stat', /Did you mean "state"/],
    ['stores.not a name', /not a name/],
    ['stores.empty', /./],
    ['stores.odd.publicURL', /Did you mean "publicUrl"/],
    ['sources.site.directory', /string/],
    ['sources.site.settle', /500ms, 10s/],
    ['sources.site.setle', /Did you mean "settle"/],
    ['rules[0].source', /no source "sites".*Did you mean "site"/],
    ['rules[0].destination', /Did you mean "destinations"/],
    ['rules[0].destinations[0].store', /no store "pubic".*Did you mean "public"/],
    ['rules[1].filter.pattern', /regular expression/],
    ['rules[1].filter.extension', /Did you mean "extensions"/],
    ['rules[1].destinations', /at least one/],
    ['rules[2].destinations[0].maxConnections', /1/],
    ['rules[2].timeLimit', /duration/],
  ]
  for (const [place, words] of expected) {
    const found = lines.filter((line) => line.startsWith(`${place}: `))
    assert.equal(found.length, 1, `${place} in:\n${lines.join('\n')}`)
    assert.match(found[0] ?? '', words)
  }
  assert.equal(lines.length, expected.length, lines.join('\n'))
})

test('a store that is saved has one place that takes writes, or none yet', () => {
  const store = (settings: object, to: object = {}) =>
    mistakes({
      ...least,
      stores: { public: settings, other: 'memory:' },
      rules: [{ source: 'site', destinations: [{ store: 'public', ...to }] }],
    })
  assert.deepEqual(store({ saved: true }), [])
  assert.deepEqual(store({ saved: true, url: 'memory:', publicUrl: 'https://cdn.example.com/' }), [])
  assert.deepEqual(store({ saved: true, url: ['memory:'] }), [])
  assert.match(store({ saved: false }).join(), /^stores\.public: needs one of url, mounts and filestore/)
  assert.match(store({ saved: true, url: ['memory:', 'memory:'] }).join(), /^stores\.public\.saved: .*one place/)
  assert.match(store({ saved: true, mounts: { a: 'other' } }).join(), /^stores\.public\.saved: .*no mounts/)
  assert.match(store({ saved: true, readOnly: true }).join('\n'), /^stores\.public\.saved: .*cannot be readOnly/m)
  assert.match(store({ saved: true, url: 'file:./out' }, { link: 'symlink' }).join(), /\.link: .*not one directory/)
})

test('what is no configuration at all is said in one line', () => {
  for (const input of [undefined, null, 'text', 5, [], () => ({})])
    assert.equal(mistakes(input).length, 1, String(input))
  assert.deepEqual(
    mistakes({}).map((line) => line.split(':')[0]),
    ['stores', 'sources', 'rules'],
  )
  for (const place of ['stores', 'sources', 'rules'])
    assert.match(mistakes({ ...least, [place]: 'text' }).join('\n'), new RegExp(`^${place}: `, 'm'))
})

test('directories that would feed themselves are refused', () => {
  const inside = (directory: string, stores: ConfigInput['stores'], to: object = {}) =>
    mistakes({
      stores,
      sources: { site: { directory } },
      rules: [{ source: 'site', destinations: [{ store: 'public', ...to }] }],
    })
  assert.match(inside('site', { public: 'file:./site/out' }).join(), /rules\[0\]\.destinations\[0\]\.store: .*within/)
  assert.match(inside('site', { public: ['memory:', 'file:site'] }).join(), /within/)
  assert.match(inside('site', { public: 'file:.' }, { path: 'site/x' }).join(), /within/)
  assert.deepEqual(inside('site', { public: 'file:./site-out' }), [])
  assert.deepEqual(inside('site', { public: 'file:.' }), [])
  assert.match(inside('.', { public: 'file:///out' }).join('\n'), /^state: .*within the source/m)
  const own = (more: object) => mistakes({ ...least, sources: { site: { directory: '.', ignore: ['.own'] } }, ...more })
  assert.match(own({ state: '/s.db', workDirectory: './work' }).join(), /^workDirectory: .*within the source site/)
  assert.deepEqual(own({ state: '.own/s.db', workDirectory: '.own', stores: { public: 'file:a/.own/x' } }), [])
})

test('one source may feed another, but not in a circle', () => {
  const chain = (second: string) =>
    mistakes({
      stores: { b: 'file:///srv/b', out: second },
      sources: { a: { directory: '/srv/a' }, b: { directory: '/srv/b' } },
      rules: [
        { source: 'a', destinations: [{ store: 'b' }] },
        { source: 'b', destinations: [{ store: 'out' }] },
      ],
    })
  assert.deepEqual(chain('file:///srv/out'), [])
  assert.match(chain('file:///srv/a/x').join(), /within the source a/)
})

test('a symbolic link does not hide that directories overlap', (t) => {
  const base = directoryOf(t)
  fs.mkdirSync(path.join(base, 'real'))
  fs.symlinkSync(path.join(base, 'real'), path.join(base, 'link'))
  const lines = mistakes(
    { ...least, sources: { site: { directory: 'link' } }, stores: { public: 'file:real/out' } },
    base,
  )
  assert.match(lines.join(), /within the source site/)
})

test('two sources do not overlap', () => {
  const overlap = (a: string, b: string) =>
    mistakes({ ...least, stores: { public: 'memory:' }, sources: { site: { directory: a }, other: { directory: b } } })
      .length
  assert.equal(overlap('/srv/site', '/srv/site/sub'), 1)
  assert.equal(overlap('/srv/site', '/srv'), 1)
  assert.equal(overlap('/srv/site', '/srv/site/'), 1)
  assert.equal(overlap('/srv/site', '/srv/site2'), 0)
})

test('a rule does not deliver to a store that is read only, nor share its label', () => {
  const rule = { label: 'a', source: 'site', destinations: [{ store: 'old' }] }
  const lines = mistakes({ ...least, stores: { old: { url: 'memory:', readOnly: true } }, rules: [rule, rule] })
  assert.match(lines.join('\n'), /^rules\[0\]\.destinations\[0\]\.store: .*read only/m)
  assert.match(lines.join('\n'), /^rules\[1\]\.label: .*"a"/m)
})

test('a store is not called like a kind of URL', () => {
  assert.match(mistakes({ ...least, stores: { ...least.stores, s3: 'memory:' } }).join(), /^stores\.s3: .*URL/)
})

test('wrong URLs are named by their place, and no secret is repeated', () => {
  const urls = [
    's3://KEY:sec/ret@host/p?s3_bucket=b',
    's3://KEY:sec%ret@host/',
    'sec ret',
    's3://KEY:sec#ret@host/',
    's3://a:secret@b:secret@host/',
  ]
  for (const url of urls)
    for (const value of [url, [url], { url }, { url: [url] }, { url, wrong: 1 }]) {
      const lines = mistakes({ ...least, stores: { ...least.stores, cloud: value } })
      assert.ok(lines.length > 0 && lines.every((line) => line.startsWith('stores.cloud')), `${lines.join()} ${url}`)
      assert.doesNotMatch(lines.join(), /\bsec\b|\bret\b|:secret|@b/)
    }
})

test('a secret whose variable is not set is a mistake, unless nothing will be opened', () => {
  const input = { ...least, stores: { ...least.stores, cloud: 's3://env:STOWAGE_TEST_NO:env:STOWAGE_TEST_NOT@host/' } }
  assert.match(mistakes(input).join(), /^stores\.cloud: .*STOWAGE_TEST_NO/)
  assert.ok(checkConfig(input, '/etc/acme', 'it', { secrets: false }).stores['cloud'])
})

test('all formats mean the same', async (t) => {
  const directory = directoryOf(t)
  const texts: Record<string, string> = {
    ts: `import { defineConfig } from 'stowage'\nconst name: string = 'public'\nexport default defineConfig({ ...${JSON.stringify(least)}, rules: [{ source: 'site', destinations: [{ store: name }] }] })`,
    js: `export default ${JSON.stringify(least)}`,
    json: JSON.stringify(least),
    yaml: `stores:\n  public: file:///srv/public\nsources: { site: { directory: /srv/site } }\nrules:\n  - source: site\n    destinations: [{ store: public }]\n`,
  }
  texts['yml'] = texts['yaml'] ?? ''
  const expected = checkConfig(least, directory)
  for (const [format, text] of Object.entries(texts)) {
    const file = path.join(directory, `stowage.config.${format}`)
    fs.writeFileSync(file, text)
    assert.deepEqual(await loadConfig(undefined, directory), expected, format)
    fs.rmSync(file)
  }
  assert.equal(defineConfig(least), least)
})

test('the first of the names is taken, and a relative --config is relative to where one is', async (t) => {
  const directory = directoryOf(t)
  await assert.rejects(loadConfig(undefined, directory), { code: 'INVALID_CONFIG', message: /stowage init/ })
  await assert.rejects(loadConfig('no.json', directory), { code: 'INVALID_CONFIG', message: /no\.json/ })
  fs.mkdirSync(path.join(directory, 'sub'))
  fs.writeFileSync(path.join(directory, 'sub/acme.yaml'), JSON.stringify({ ...least, state: 'x.db' }))
  assert.equal((await loadConfig('sub/acme.yaml', directory)).state, path.join(directory, 'sub/x.db'))
  for (const name of configNames.toReversed())
    fs.writeFileSync(path.join(directory, name), name.endsWith('s') ? 'export default 1' : '1')
  await assert.rejects(loadConfig(undefined, directory), { message: /stowage\.config\.ts/ })
})

test('a changed configuration is read anew', async (t) => {
  const directory = directoryOf(t)
  const file = path.join(directory, 'stowage.config.ts')
  for (const state of ['one.db', 'another.db']) {
    fs.writeFileSync(file, `export default ${JSON.stringify({ ...least, state })}`)
    assert.equal((await loadConfig(undefined, directory)).state, path.join(directory, state))
  }
})

test('mistakes of syntax are named with line and column, without quoting the file', async (t) => {
  const directory = directoryOf(t)
  const cases: [file: string, text: string, where: RegExp][] = [
    ['a.json', '{\n  "secret": "a",\n  "b": @\n}', /line 3, column 8/],
    ['b.json', '{\n  "secret": 1,\n}', /line 3, column 1/],
    ['c.json', '{"secret": "unfinished', /line 1, column 23/],
    ['d.json', '', /line 1, column 1/],
    ['e.json', "{\n\n  'secret': 1 }", /line 3, column 3/],
    ['a.yaml', 'secret: [1\nb: {', /line \d, column \d/],
    ['b.yaml', 'a: 1\nb: "secret', /line 2, column \d/],
    ['c.yaml', 'stores: secret\nstores: 2\n', /line 2, column 1/],
    ['a.ts', 'export default {\n  secret: ]\n}', /line 2/],
    ['b.js', 'export const secret = 1', /export default/],
  ]
  for (const [name, text, where] of cases) {
    fs.writeFileSync(path.join(directory, name), text)
    await assert.rejects(loadConfig(name, directory), (error: StowageError) => {
      assert.equal(error.code, 'INVALID_CONFIG', name)
      assert.match(error.message, where, name)
      assert.ok(error.message.includes(name))
      assert.doesNotMatch(error.message, /secret/)
      return true
    })
  }
})

test('a configuration that throws tells why', async (t) => {
  const directory = directoryOf(t)
  fs.writeFileSync(path.join(directory, 'a.ts'), "throw new Error('no luck')")
  await assert.rejects(loadConfig('a.ts', directory), { code: 'INVALID_CONFIG', message: /a\.ts.*no luck/ })
})

test('assets need a source, a store with a public address, and a manifest that nobody watches', () => {
  const stores = { public: { url: 'file:///srv/public', publicUrl: 'https://cdn.example.com' }, plain: 'memory:' }
  const given = (assets: object) => ({ ...least, stores, assets })
  assert.deepEqual(mistakes(given({ source: 'site', store: 'public' })), [])
  assert.deepEqual(mistakes(given({ source: 'sites', store: 'pulbic' })), [
    'assets.source: there is no source "sites". Did you mean "site"?',
    'assets.store: there is no store "pulbic". Did you mean "public"?',
  ])
  assert.deepEqual(mistakes(given({ source: 'site', store: 'plain' })), [
    'assets.store: plain has no public address. Give it a publicUrl.',
  ])
  assert.deepEqual(mistakes(given({ source: 'site', store: 'public', manifest: '/srv/site/assets.json' })), [
    'assets.manifest: it lies within the source site, which would see it change. Put it elsewhere.',
  ])
  assert.deepEqual(mistakes(given({ source: 'site', store: 'public', domains: { theme: 'example.com' } })), [
    'assets.domains.theme: is neither a URL nor a path from /.',
  ])
  assert.deepEqual(mistakes(given({ source: 'site', store: 'public', domains: { theme: { sourc: 'x' } } })), [
    'assets.domains.theme.sourc: is not known here. Did you mean "source"?',
  ])
})

test('assets are completed, and files that have addresses are kept a while when they are superseded', () => {
  const stores = { public: { url: 'file:///srv/public', publicUrl: 'https://cdn.example.com' }, plain: 'memory:' }
  const domains = { default: 'https://static.example.com/', theme: { path: '/dark/' }, plain: '/plain' }
  const rules = [
    { source: 'site', destinations: [{ store: 'public', url: 'https://other.example.com' }] },
    { source: 'site', destinations: [{ store: 'plain' }] },
    { source: 'site', destinations: [{ store: 'public' }], supersededAfter: '0s' },
  ].map((rule, index) => ({ ...rule, label: `${index}` }))
  const config = checkConfig(
    { ...least, stores, rules, assets: { source: 'site', store: 'public', domains } },
    '/etc/acme',
  )
  assert.deepEqual(config.assets, {
    store: 'public',
    manifest: '/etc/acme/assets.json',
    domains: {
      default: { url: 'https://static.example.com/', source: 'site', path: '' },
      theme: { source: 'site', path: 'dark' },
      plain: { url: '/plain' },
    },
  })
  assert.deepEqual(
    config.rules.map(({ supersededAfterMs }) => supersededAfterMs),
    [3_600_000, 0, 0],
  )
  assert.equal(config.rules[0]?.destinations[0]?.url, 'https://other.example.com')
})

test('a destination says how it keeps files; links need one directory of this machine, and their originals', () => {
  const stores = { public: 'file:///srv/public', many: ['file:///a', 'file:///b'], elsewhere: 's3://h/x?s3_bucket=b' }
  const given = (to: object, rule: object = {}) => ({
    ...least,
    stores,
    rules: [{ source: 'site', destinations: [{ store: 'public', ...to }], ...rule }],
  })
  assert.deepEqual(mistakes(given({ link: 'symlink', cacheControl: 'no-cache' })), [])
  assert.deepEqual(mistakes(given({ cacheControl: { versioned: '', other: 'max-age=60' } })), [])
  assert.deepEqual(mistakes(given({ link: 'soft' })), ['rules[0].destinations[0].link: must be "symlink" or "hard".'])
  for (const store of ['many', 'elsewhere'])
    assert.deepEqual(mistakes(given({ link: 'hard', store })), [
      `rules[0].destinations[0].link: ${store} is not one directory of this machine, where links could be.`,
    ])
  assert.equal(mistakes(given({ cacheControl: 'a\r\nSet-Cookie: b' })).length, 1)
  assert.deepEqual(mistakes(given({ link: 'hard' }, { deleteSourceAfter: '1d' })), [])
  assert.deepEqual(mistakes(given({ invalidate: 'E1' })), [
    'rules[0].destinations[0].invalidate: public has no public address. Give it cloudfront_domain or a publicUrl.',
  ])
  assert.deepEqual(mistakes(given({ invalidate: 'E1', url: 'https://cdn.example.com' })), [])
  assert.deepEqual(mistakes(given({ invalidate: 'arn:aws', url: 'https://cdn.example.com' })), [
    'rules[0].destinations[0].invalidate: is not the id of a distribution, such as E1A2B3C4D5E6F7.',
  ])
  const two = given({ link: 'symlink' })
  two.rules.push({
    ...two.rules[0],
    label: 'other',
    destinations: [{ store: 'public' }],
    deleteSourceAfter: '1d',
  } as never)
  assert.deepEqual(mistakes(two), [
    'rules[1].deleteSourceAfter: links (link: symlink) lead to the originals of this source, so they cannot be deleted.',
  ])
})

test('a store that gets links reads them back: its URL names their sources', (t) => {
  const directory = directoryOf(t)
  fs.mkdirSync(path.join(directory, 'site'))
  fs.symlinkSync('site', path.join(directory, 'alias'))
  const given = (url: string, link?: 'symlink' | 'hard') =>
    checkConfig(
      {
        stores: { out: url },
        sources: { site: { directory: 'alias' }, other: { directory: 'other' } },
        rules: [
          { source: 'site', destinations: [{ store: 'out', link }] },
          { source: 'other', destinations: [{ store: 'out' }] },
        ],
      },
      directory,
    ).stores['out']?.url
  const encoded = encodeURIComponent(encodeURIComponent(path.join(directory, 'site')))
  assert.equal(given('file:///out', 'symlink'), `file:///out?links_into=${encoded}`)
  assert.equal(given('file:///out?fsync=false', 'symlink'), `file:///out?fsync=false&links_into=${encoded}`)
  assert.equal(given('file:///out?links_into=/srv', 'symlink'), 'file:///out?links_into=/srv')
  assert.equal(given('file:///out', 'hard'), 'file:///out')
  assert.equal(given('file:///out'), 'file:///out')
})

/** A configuration of one filestore and nothing else. */
const filestore = (settings: object = {}, more: object = {}) => ({
  stores: { cold: 'file:///srv/cold', uploads: { filestore: { directory: 'uploads', remote: 'cold', ...settings } } },
  ...more,
})

test('where a site has its root is told as an absolute path', () => {
  const sources = { site: { directory: './site', documentRoot: '.', basePath: '/shop/' } }
  const rules = [{ source: 'site', destinations: [{ store: 'out' }] }]
  const { site } = checkConfig({ stores: { out: 'memory:' }, sources, rules }, '/etc/acme').sources
  assert.deepEqual([site?.documentRoot, site?.basePath], ['/etc/acme', '/shop/'])
  const wrong = { ...sources, site: { ...sources.site, basePath: 'shop' } }
  assert.throws(() => checkConfig({ stores: { out: 'memory:' }, sources: wrong, rules }), /basePath.*slash/)
})

test('a filestore needs neither sources nor rules, and is completed apart from the other stores', () => {
  const config = checkConfig(filestore(), '/etc/acme')
  assert.deepEqual(Object.keys(config.stores), ['cold'])
  assert.deepEqual(config.filestores, {
    uploads: { directory: '/etc/acme/uploads', remote: 'cold', remotes: ['cold'] },
  })
  assert.deepEqual(config.cache, { directory: '/etc/acme/.stowage-cache' })
  assert.deepEqual([config.sources, config.rules], [{}, []])
  const given = {
    coolDown: '1m',
    keepLocal: true,
    deleteAfter: 'never',
    remoteNames: 'shorten',
    watch: false,
    scanEvery: 0,
    remotes: ['warm'],
    remote: [{ prefix: 'a/', minSize: '1MiB', minAge: '30d', contentType: 'image/*', remote: 'cold' }],
  }
  const { stores } = filestore(given)
  const full = checkConfig(
    {
      stores: { ...stores, warm: 'memory:', uploads: { ...stores.uploads, publicUrl: 'https://example.com/' } },
      cache: { directory: '/var/cache/x', maxBytes: '1GiB' },
    },
    '/etc/acme',
  )
  assert.deepEqual(full.filestores['uploads'], {
    directory: '/etc/acme/uploads',
    remote: [{ prefix: 'a/', minSize: 2 ** 20, minAgeMs: 30 * 86_400_000, contentType: 'image/*', remote: 'cold' }],
    remotes: ['cold', 'warm'],
    coolDownMs: 60_000,
    keepLocal: true,
    deleteAfterMs: Infinity,
    remoteNames: 'shorten',
    watch: false,
    scanEveryMs: 0,
    publicUrl: 'https://example.com/',
  })
  assert.deepEqual(full.cache, { directory: '/var/cache/x', maxBytes: 2 ** 30 })
  const remote = () => 'cold'
  assert.equal(checkConfig(filestore({ remote, remotes: ['cold'] })).filestores['uploads']?.remote, remote)
})

test('the mistakes of a filestore are told at once, each with its place', () => {
  const lines = mistakes({
    stores: {
      cold: 'file:///srv/cold',
      old: { url: 'memory:', readOnly: true },
      both: { mounts: { a: 'uploads', '': 'cold' } },
      uploads: { filestore: { directory: '/srv/uploads', remote: 'uploads', coolDwn: 1, deleteAfter: 'soon' } },
      inner: { filestore: { directory: '/srv/uploads/inner', remote: 'clod' } },
      rules: {
        filestore: { directory: '/srv/rules', remote: [{ remote: 'old' }, { remote: 'both', contentType: 'images' }] },
      },
      chosen: { filestore: { directory: '/srv/chosen', remote: () => 'cold' } },
      near: { filestore: { directory: '/srv/cold/near', remote: 'cold', remotes: ['uploads', 'nowhere'] } },
      mixed: { url: 'memory:', filestore: { directory: '/srv/mixed', remote: 'cold' } },
      empty: { filestore: { directory: '/srv/empty', remote: [] }, saved: true },
    },
    state: '/srv/uploads/stowage.db',
    cache: { directory: '/srv/rules/cache', maxBites: 1 },
    sources: { site: { directory: '/srv/chosen/site' } },
  })
  const expected: [place: string, words: RegExp][] = [
    ['stores.uploads.filestore.remote', /its own remote/],
    ['stores.uploads.filestore.coolDwn', /Did you mean "coolDown"/],
    ['stores.uploads.filestore.deleteAfter', /5w/],
    ['stores.inner.filestore.remote', /no store "clod".*"cold"/],
    ['stores.inner.filestore.directory', /overlaps with that of uploads/],
    ['stores.rules.filestore.remote[0].remote', /read only/],
    ['stores.rules.filestore.remote[1].remote', /holds a filestore/],
    ['stores.rules.filestore.remote[1].contentType', /image\/\*/],
    ['stores.chosen.filestore.remotes', /is missing/],
    ['stores.chosen.filestore.directory', /source site/],
    ['stores.near.filestore.remote', /cold and the directory of near overlap/],
    ['stores.near.filestore.remotes[0]', /is or holds a filestore/],
    ['stores.near.filestore.remotes[1]', /no store "nowhere"/],
    ['stores.mixed', /needs one of url, mounts and filestore/],
    ['stores.empty.filestore.remote', /at least one rule/],
    ['stores.empty.saved', /its remotes can be saved/],
    ['state', /within the directory of the filestore uploads/],
    ['cache.directory', /within the directory of the filestore rules/],
    ['cache.maxBites', /Did you mean "maxBytes"/],
    ['rules', /is missing/],
  ]
  for (const [place, words] of expected) {
    const found = lines.filter((line) => line.startsWith(`${place}: `))
    assert.equal(found.length, 1, `${place} in:\n${lines.join('\n')}`)
    assert.match(found[0] ?? '', words)
  }
  assert.equal(lines.length, expected.length, lines.join('\n'))
})

test('the cache, which empties its directory, has one of its own', () => {
  const cached = (directory: string, more: object = {}) => mistakes(filestore({}, { cache: { directory }, ...more }))
  assert.deepEqual(cached('/var/cache/acme'), [])
  assert.match(cached('.').join(), /this configuration and state and .*would be in it/)
  assert.match(cached('/srv').join(), /the store cold would be in it/)
  const site = { sources: { site: { directory: '/var/site' } }, rules: least.rules.map((rule) => ({ ...rule })) }
  const rules = [{ source: 'site', destinations: [{ store: 'uploads' }] }]
  assert.match(cached('/var', { ...site, rules }).join(), /the source site would be in it/)
  assert.match(cached('/var/site/cache', { ...site, rules }).join(), /within the source site, which would see it/)
  assert.deepEqual(mistakes({ ...least, cache: { directory: '.' } }), [])
})
