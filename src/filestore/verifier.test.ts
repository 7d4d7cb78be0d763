import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { fileDriver } from '../drivers/file.ts'
import { Store } from '../store/store.ts'
import { openFilestore, type OpenFilestoreOptions } from './open.ts'

/** A filestore that offloads at once to a directory, with files in it that are in the cloud. */
async function scene(t: TestContext, options: Partial<OpenFilestoreOptions> = {}) {
  const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-verify-'))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const cloud = fileDriver({ directory: path.join(base, 'cloud') })
  const spare = fileDriver({ directory: path.join(base, 'spare') })
  const filestore = await openFilestore({
    state: path.join(base, 'state.db'),
    directory: path.join(base, 'files'),
    remotes: { cloud, spare },
    remote: 'cloud',
    coolDownMs: 0,
    scanEveryMs: 0,
    watch: false, // what tests do to files is not to be noticed half-way
    ...options,
  })
  t.after(async () => filestore.close())
  const store = new Store(filestore.driver)
  const contents = new Map(['a', 'd/b', 'd/c'].map((key) => [key, randomBytes(300_000)]))
  for (const [key, bytes] of contents) await store.put(key, bytes)
  if (options.coolDownMs === undefined) await filestore.idle()
  const areRight = async () => {
    for (const [key, bytes] of contents) assert.ok((await store.get(key)).equals(bytes), key)
  }
  const faults = async (verify: { repair?: boolean; content?: boolean } = {}) =>
    (await Array.fromAsync(filestore.verify(verify))).map(
      ({ key, where, problem, repaired }) => `${key} ${where} ${problem}${repaired ? `: ${repaired}` : ''}`,
    )
  return {
    base,
    cloud,
    spare,
    filestore,
    store,
    contents,
    areRight,
    faults,
    file: (key: string) => path.join(base, key),
  }
}

/** Changes a byte of a file as a failing disk does: nothing else about the file tells. */
function damage(file: string) {
  execFileSync('touch', ['-r', file, `${file}.time`])
  const bytes = fs.readFileSync(file)
  bytes[150_000] = (bytes[150_000] ?? 0) ^ 1
  fs.writeFileSync(file, bytes)
  execFileSync('touch', ['-r', `${file}.time`, file])
  fs.rmSync(`${file}.time`)
}

describe('verify', () => {
  test('finds nothing where everything is right, however closely it looks', async (t) => {
    const { faults, areRight } = await scene(t)
    assert.deepEqual(await faults(), [])
    assert.deepEqual(await faults({ content: true }), [])
    await areRight()
  })

  test('tells of copies that are gone, cut or changed; the content only where it is read', async (t) => {
    const { faults, file } = await scene(t)
    fs.rmSync(file('cloud/a'))
    fs.truncateSync(file('cloud/d/b'), 100)
    damage(file('cloud/d/c'))
    assert.deepEqual(await faults(), ['a cloud missing', 'd/b cloud damaged'])
    assert.deepEqual(await faults({ content: true }), ['a cloud missing', 'd/b cloud damaged', 'd/c cloud damaged'])
  })

  test('a repair uploads again what is here, and brings back nothing that is not right', async (t) => {
    const { faults, file, filestore, areRight } = await scene(t, { keepLocal: true })
    fs.rmSync(file('cloud/a'))
    fs.writeFileSync(file('cloud/d/b'), randomBytes(300_000))
    assert.deepEqual(await faults({ repair: true }), [
      'a cloud missing: queued for upload',
      'd/b cloud damaged: queued for upload',
    ])
    await filestore.idle()
    assert.deepEqual(await faults({ content: true }), [])
    await areRight()
  })

  test('a local file that was damaged is replaced by a good copy; one that has vanished is brought back', async (t) => {
    const { faults, file, areRight } = await scene(t, { keepLocal: true })
    damage(file('files/a'))
    fs.rmSync(file('files/d/b'))
    assert.deepEqual(await faults({ content: true, repair: true }), [
      'a local damaged: brought back',
      'd/b local missing: brought back',
    ])
    assert.deepEqual(await faults({ content: true }), [])
    await areRight()
  })

  test('a file whose last copy is gone is called lost, and is got back from the cache if that has it', async (t) => {
    const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-cache-'))
    t.after(() => fs.rmSync(base, { recursive: true, force: true }))
    const { faults, file, filestore, areRight } = await scene(t, { cache: { directory: base } })
    await filestore.pause()
    fs.rmSync(file('cloud'), { recursive: true })
    assert.deepEqual(await faults(), ['a cloud missing', 'd/b cloud missing', 'd/c cloud missing'])
    assert.deepEqual(await faults({ repair: true }), [
      'a cloud missing: queued for upload',
      'd/b cloud missing: queued for upload',
      'd/c cloud missing: queued for upload',
    ])
    await filestore.resume()
    await filestore.idle()
    assert.deepEqual(await faults({ content: true }), [])
    await areRight()
  })

  test('a place that cannot be asked is said so, and nothing is done about it', async (t) => {
    const { faults, cloud } = await scene(t)
    await cloud.close()
    assert.deepEqual(await faults({ repair: true }), [
      'a cloud unchecked',
      'd/b cloud unchecked',
      'd/c cloud unchecked',
    ])
  })
})

describe('a directory that is not the one it was', () => {
  test('takes no writes while it has files that are nowhere else, and none of them is called lost', async (t) => {
    const { filestore, store, file, faults, areRight, contents } = await scene(t, { coolDownMs: 3_600_000 })
    fs.renameSync(file('files'), file('away'))
    fs.mkdirSync(file('files'))
    await assert.rejects(store.get('a'), { code: 'UNREACHABLE', message: /Mount its disk/ })
    await assert.rejects(store.put('new', 'x'), { code: 'UNREACHABLE' })
    assert.deepEqual(await filestore.scan(), { files: 0, changed: 0 })
    assert.deepEqual(await faults(), ['a local unchecked', 'd/b local unchecked', 'd/c local unchecked'])
    assert.equal((await filestore.status()).local.files, contents.size)
    fs.rmdirSync(file('files'))
    fs.renameSync(file('away'), file('files'))
    await areRight()
    await store.put('new', 'x')
  })

  test('is made anew when everything is in the cloud, or when its files are given up', async (t) => {
    const { filestore, store, file, faults, areRight } = await scene(t, { keepLocal: true })
    fs.rmSync(file('files'), { recursive: true })
    await areRight()
    await store.put('new', 'x')
    assert.equal((await store.get('new')).toString(), 'x')
    await filestore.pause()
    await store.put('only here', 'x')
    fs.rmSync(file('files'), { recursive: true })
    await assert.rejects(store.put('newer', 'x'), { code: 'UNREACHABLE' })
    assert.ok((await faults({ repair: true })).includes('only here local lost'))
    await store.put('newer', 'x')
    await assert.rejects(store.get('only here'), { code: 'NOT_FOUND' })
    assert.equal((await filestore.status()).lost.files, 1)
    await areRight()
  })

  test('is not left through links in it', async (t) => {
    const { base, store, file, filestore } = await scene(t)
    fs.mkdirSync(path.join(base, 'secrets'))
    fs.writeFileSync(path.join(base, 'secrets/key'), 'secret')
    fs.symlinkSync(path.join(base, 'secrets'), file('files/link'))
    fs.symlinkSync(path.join(base, 'secrets/key'), file('files/direct'))
    for (const key of ['link/key', 'direct']) await assert.rejects(store.stat(key), { code: 'NOT_FOUND' })
    await filestore.scan()
    await filestore.idle()
    assert.equal((await filestore.status()).media.files, 3)
  })
})

describe('gc', () => {
  test('finds nothing where nothing is left over', async (t) => {
    const { filestore, areRight } = await scene(t)
    assert.deepEqual(await Array.fromAsync(filestore.gc({ delete: true, unknown: true })), [])
    await areRight()
  })

  test('tells what is left over, removes it when told to, and what it does not know only when told so twice', async (t) => {
    const { filestore, cloud, base, areRight } = await scene(t)
    const old = new Date(Date.now() - 86_400_000)
    await cloud.write('stranger', toBody('not ours'), { modified: old })
    await cloud.write('just-now', toBody('somebody is writing this'))
    fs.mkdirSync(path.join(base, 'files/.stowage-trash'), { recursive: true })
    fs.writeFileSync(path.join(base, 'files/.stowage-trash/of-no-version'), 'x')
    const found = async (options: Parameters<typeof filestore.gc>[0]) =>
      (await Array.fromAsync(filestore.gc(options))).map(
        ({ where, name, kind, isRemoved }) => `${where} ${name} ${kind} ${isRemoved}`,
      )
    const both = (trash: boolean, unknown: boolean) => [
      `local of-no-version discarded ${trash}`,
      `cloud stranger unknown ${unknown}`,
    ]
    assert.deepEqual(await found({}), both(false, false))
    assert.deepEqual(await found({ delete: true }), both(true, false))
    assert.deepEqual(await found({ delete: true, unknown: true }), both(true, true).slice(1))
    assert.deepEqual(await found({}), [])
    assert.equal((await cloud.stat('just-now')).size, 24)
    await areRight()
  })

  test('bytes of deleted files are kept as long as they can be restored', async (t) => {
    const { filestore, store, contents, areRight } = await scene(t, { coolDownMs: 3_600_000 })
    await store.delete('a')
    await assert.rejects(store.get('a'), { code: 'NOT_FOUND' })
    assert.deepEqual(await Array.fromAsync(filestore.gc({ delete: true })), [])
    await filestore.restore('a')
    assert.equal(contents.size, 3)
    await areRight()
  })
})
