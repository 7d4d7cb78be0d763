/** Places of stores that are kept in the state: who may change them, what is in use, what is told. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { silentLog } from '../core/log.ts'
import { openPlace, openStores } from '../drivers/stores.ts'
import { openDatabase } from '../state/database.ts'
import { Vault } from '../state/vault.ts'
import { checkConfig } from './config.ts'
import { startDaemon } from './daemon.ts'
import { SavedStores, savedRows, withSaved } from './saved-stores.ts'

const stores = {
  media: { saved: true },
  usual: { saved: true, url: 'file:./usual', publicUrl: 'https://cdn.example.com/' },
  fixed: 'file:./fixed',
  tree: { mounts: { m: 'media', '': 'fixed' } },
}

/** What is stored in a directory. */
function files(directory: string): string[] {
  return fs.readdirSync(directory).filter((name) => name !== '.stowage-tmp')
}

/** A configuration in a directory of its own, the stores that are saved in its state, and what was put into use. */
async function scene(t: TestContext, vault?: Vault) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-saved-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  fs.mkdirSync(path.join(directory, 'site'))
  const config = checkConfig(
    {
      stores,
      sources: { site: { directory: './site', settle: '0ms' } },
      rules: [{ source: 'site', destinations: [{ store: 'media' }] }],
    },
    directory,
  )
  const used: string[] = []
  const open = async () => {
    const database = await openDatabase(config.state)
    const saved = new SavedStores({
      config,
      database,
      ...(vault && { vault }),
      onChange: (name, place) => {
        used.push(`${name} ${place.driver.location}`)
        void place.driver.close()
      },
    })
    const close = async () => {
      await saved.close()
      await database.close()
    }
    return { saved, database, [Symbol.asyncDispose]: close }
  }
  const url = (name: string) => `file://${directory}/${name}`
  return { directory, config, used, open, url }
}

test('a place is tried, saved, put into use and read back; what is unset is where the configuration says', async (t) => {
  const { open, url, used, directory, config } = await scene(t)
  await using first = await open()
  assert.deepEqual(await first.saved.list(), [
    { name: 'media', from: 'none' },
    { name: 'usual', from: 'default', location: url('usual') },
    { name: 'fixed', from: 'configuration', location: url('fixed') },
    { name: 'tree', from: 'configuration', location: `/m/ = no place yet, / = ${url('fixed')}` },
  ])
  const trial = await first.saved.save('media', { url: ` ${url('a')}?fsync=false\n` })
  assert.deepEqual([trial.store, trial.location, trial.ok], ['media', url('a'), true])
  assert.deepEqual(files(path.join(directory, 'a')), [])
  await first.saved.save('usual', { url: 'file:./relative' })
  await first[Symbol.asyncDispose]()

  await using again = await open()
  const settings = await again.saved.settings()
  assert.deepEqual(
    [settings['media']?.url, settings['usual']?.url, settings['fixed']?.url],
    [`${url('a')}?fsync=false`, url('relative'), url('fixed')],
  )
  const [media, usual] = await again.saved.list()
  assert.deepEqual([media?.from, media?.location, usual?.from], ['saved', url('a'), 'saved'])
  assert.ok(Date.parse(media?.savedAt ?? '') > 0)
  assert.deepEqual(
    (await again.saved.test('tree')).map(({ ok }) => ok),
    [true],
  )
  assert.equal(await again.saved.remove('media'), true)
  assert.equal(await again.saved.remove('media'), false)
  assert.equal(await again.saved.remove('usual'), true)
  assert.deepEqual(await again.saved.settings(), config.stores)
  assert.deepEqual(used, [
    `media ${url('a')}`,
    `usual ${url('relative')}`,
    'media no place yet',
    `usual ${url('usual')}`,
  ])
})

test('a store that is not saved cannot be changed, nor one that is not there, and nothing is written', async (t) => {
  const { open, url, directory } = await scene(t)
  await using opened = await open()
  const { saved } = opened
  await assert.rejects(saved.save('fixed', { url: url('a') }), { code: 'INVALID_ARGUMENT', message: /saved: true/ })
  for (const name of ['nobody', 'constructor', '__proto__'])
    for (const call of [
      async () => saved.save(name, { url: url('a') }),
      async () => saved.remove(name),
      async () => saved.test(name),
    ])
      await assert.rejects(call, { code: 'INVALID_ARGUMENT', message: /It has: media, usual, fixed, tree/ })
  assert.deepEqual(await saved.rows(), {})
  assert.deepEqual(fs.readdirSync(directory).sort(), ['site', 'stowage.db', 'stowage.db-wal'])
})

test('what was saved for a store that is fixed or gone meanwhile is told, not used, and can be forgotten', async (t) => {
  const { open, url, config } = await scene(t)
  {
    await using opened = await open()
    for (const name of ['media', 'usual']) await opened.saved.save(name, { url: url(name) })
  }
  const { media: _, usual, ...rest } = config.stores
  config.stores = { ...rest, usual: { ...usual, saved: false, url: url('other') }, tree: { url: url('tree') } }
  await using opened = await open()
  const { saved } = opened
  const listed = (await saved.list()).map(({ name, from, location, savedAt }) => [
    name,
    from,
    location,
    savedAt !== undefined,
  ])
  assert.deepEqual(listed, [
    ['fixed', 'configuration', url('fixed'), false],
    ['tree', 'configuration', url('tree'), false],
    ['usual', 'configuration', url('other'), true],
    ['media', 'nowhere', url('media'), true],
  ])
  assert.deepEqual(await saved.settings(), config.stores)
  for (const name of ['media', 'usual']) assert.equal(await saved.remove(name), true)
  assert.deepEqual(await saved.rows(), {})
})

test('malformed URLs, read-only places and places in a source are refused, and nothing is changed', async (t) => {
  const { open, url, used, directory } = await scene(t)
  await using opened = await open()
  await opened.saved.save('media', { url: url('good') })
  const before = await opened.saved.rows()
  const site = path.join(directory, 'site')
  fs.symlinkSync(site, path.join(directory, 'way-in'))
  const cases: [url: string, code: string, words: RegExp][] = [
    ['', 'INVALID_ARGUMENT', /not a storage URL/],
    ['s3://KEY:TOP/SECRET@host/x?s3_bucket=b', 'INVALID_ARGUMENT', /Percent-encode/],
    ['s3://KEY:TOPSECRET@host/x?s3_bucket=b&nonsense=TOPSECRET', 'INVALID_ARGUMENT', /unknown parameter nonsense/],
    ['file:%zz', 'INVALID_ARGUMENT', /malformed/],
    ['gopher://host/TOPSECRET', 'INVALID_ARGUMENT', /no kind of store/],
    ['s3://env:NO_SUCH:env:NO_SUCH@host/x?s3_bucket=b', 'INVALID_CONFIG', /NO_SUCH/],
    [`${url('ro')}?read_only=true`, 'INVALID_CONFIG', /left as it is: write fails.*It only gives/],
    [`file://${site}`, 'INVALID_ARGUMENT', /source site/],
    [`file://${directory}/way-in/deep`, 'INVALID_ARGUMENT', /source site/],
  ]
  for (const [wrong, code, words] of cases)
    await assert.rejects(opened.saved.save('media', { url: wrong }), (error: Error & { code?: string }) => {
      assert.deepEqual([error.code, wrong], [code, wrong])
      assert.match(error.message, words)
      assert.doesNotMatch(error.message, /TOP.?SECRET/)
      return true
    })
  assert.deepEqual(await opened.saved.rows(), before)
  assert.deepEqual(used, [`media ${url('good')}`])
})

test('of changes made at once, the last is what is saved and what is in use', async (t) => {
  const { open, url, used } = await scene(t)
  await using opened = await open()
  const names = ['a', 'b', 'c', 'd']
  await Promise.all(names.map(async (name) => opened.saved.save('media', { url: url(name) })))
  assert.equal((await opened.saved.settings())['media']?.url, url('d'))
  assert.deepEqual(
    used,
    names.map((name) => `media ${url(name)}`),
  )
})

test('a trial at a server that is silent ends with its caller and with the daemon, and nothing is saved', async (t) => {
  const { open } = await scene(t)
  const sockets = new Set<net.Socket>()
  const server = net.createServer((socket) => void sockets.add(socket)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as net.AddressInfo
  const url = `s3://KEY:SECRET@127.0.0.1:${port}/?s3_bucket=b&use_ssl=false`
  await using opened = await open()
  const caller = new AbortController()
  const cancelled = opened.saved.save('media', { url }, { signal: caller.signal })
  await once(server, 'connection')
  caller.abort()
  await assert.rejects(cancelled, { code: 'ABORTED' })
  const cut = opened.saved.save('media', { url })
  cut.catch(() => undefined)
  await once(server, 'connection')
  await opened.saved.close()
  await assert.rejects(cut, { code: 'ABORTED' })
  assert.deepEqual(await opened.saved.rows(), {})
})

test('without the right key nothing is opened, and what is saved can still be listed and forgotten', async (t) => {
  const key = (digit: string) => new Vault('/nowhere', { STOWAGE_KEY: digit.repeat(64) })
  const { open, url, config } = await scene(t, key('1'))
  {
    await using opened = await open()
    await opened.saved.save('media', { url: url('a') })
    const rows = await opened.saved.rows()
    // A value that is moved under another name does not open there.
    const moved = { usual: rows['media'] as NonNullable<(typeof rows)['media']> }
    assert.throws(() => withSaved(config.stores, moved, key('1')), { code: 'CORRUPT' })
    assert.throws(() => withSaved(config.stores, rows, key('2')), { code: 'INVALID_CONFIG', message: /store:media/ })
  }
  // Stowage itself looks for the key beside the state, where there is none.
  const missing = { code: 'INVALID_CONFIG', message: /missing.*stowage\.db\.key.*STOWAGE_KEY/ }
  await assert.rejects(startDaemon({ config, log: silentLog }), missing)
  const database = await openDatabase(config.state)
  t.after(async () => database.close())
  const saved = new SavedStores({ config, database })
  const [media] = await saved.list()
  assert.deepEqual([media?.from, media?.location], ['saved', url('a')])
  assert.match(media?.problem ?? '', missing.message)
  await assert.rejects(saved.test('media'), missing)
  assert.equal((await saved.test('fixed'))[0]?.ok, true)
  assert.equal(await saved.remove('media'), true)
  assert.deepEqual(await saved.rows(), {})
})

test('a state that is not there has nothing saved, and is not made', async (t) => {
  const { config } = await scene(t)
  assert.deepEqual(await savedRows(config), {})
  assert.equal(fs.existsSync(config.state), false)
})

test('a daemon delivers to each place that is saved, without a restart and after one', async (t) => {
  const { config, directory, url } = await scene(t)
  const start = async () => {
    const daemon = await startDaemon({ config, log: silentLog })
    const delivered = async (name: string) => {
      const heard = Promise.withResolvers<void>()
      const stop = daemon.onDelivered((event) => event.path === name && heard.resolve())
      fs.writeFileSync(path.join(directory, 'site', name), name)
      await heard.promise
      stop()
    }
    await daemon.up()
    return { daemon, delivered }
  }
  {
    const { daemon, delivered } = await start()
    await using _ = daemon
    // Whatever is noticed before there is a place has to wait for it.
    const first = delivered('1.txt')
    await daemon.savedStores.save('media', { url: url('a') })
    await first
    await daemon.savedStores.save('media', { url: url('b') })
    await delivered('2.txt')
  }
  const { daemon, delivered } = await start()
  await using _ = daemon
  await delivered('3.txt')
  assert.deepEqual(files(path.join(directory, 'a')), ['1.txt'])
  assert.deepEqual(files(path.join(directory, 'b')), ['2.txt', '3.txt'])
})

test('a store without a place waits for one; its public address is that of its present place', async () => {
  await using stores = await openStores({
    media: { saved: true },
    tree: { mounts: { '': 'media' } },
    fixed: { url: 'memory:' },
  })
  const [media, tree] = [stores.get('media'), stores.get('tree')]
  for (const call of [async () => media.put('a', 'x'), async () => Array.fromAsync(tree.list())])
    await assert.rejects(call, { code: 'UNREACHABLE', retryable: true, message: /no place yet.*store set media/ })
  assert.throws(() => media.url('a'), { code: 'NO_PUBLIC_URL' })
  const s3 = 's3://KEY:SECRET@127.0.0.1/p?s3_bucket=b&cloudfront_domain=cdn.example.com'
  await stores.replace('media', await openPlace('media', s3))
  assert.equal(media.url('a'), 'https://cdn.example.com/p/a')
  assert.deepEqual([tree.location, tree.supports.metadata], ['/ = s3://127.0.0.1/b/p', true])
  await stores.replace('media', await openPlace('media', 'memory:'))
  await tree.put('a', 'x')
  assert.equal((await media.get('a')).toString(), 'x')
  for (const name of ['fixed', 'tree', 'nobody'])
    await assert.rejects(stores.replace(name, await openPlace(name, 'memory:')), { code: 'INVALID_ARGUMENT' })
})
