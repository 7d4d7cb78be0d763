/** `stowage filestore` as operators meet it: each test runs bin/stowage.js, with and without a daemon. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import type { FilestoreReport } from '../daemon/filestores.ts'

const bin = path.resolve(import.meta.dirname, '../../bin/stowage.js')

interface Result {
  status: number | null
  stdout: string
  stderr: string
}

/** A filestore of three files that offloads to `cold`, and how to run the program there. */
function place(t: TestContext, settings: object = {}, more: object = {}, others: object = {}) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-filestore-cli-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true, maxRetries: 5 }))
  const write = (name: string, content: string) => {
    const file = path.join(directory, name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, content)
  }
  write('up/a.txt', 'alpha')
  write('up/photos/b.txt', 'beta')
  write('up/photos/c.txt', 'gamma')
  const uploads = { filestore: { directory: 'up', remote: 'cold', remotes: ['warm'], coolDown: '1h', ...settings } }
  const stores = { cold: 'file:./cold', warm: 'file:./warm', uploads, ...others }
  write('stowage.config.json', JSON.stringify({ stores, ...more }))
  const start = (...args: string[]) => {
    const child = spawn(process.execPath, [bin, ...args], { cwd: directory, stdio: ['pipe', 'pipe', 'pipe'] })
    t.after(() => child.kill('SIGKILL'))
    return child
  }
  const run = async (...args: string[]) => finish(start(...args))
  const status = async () => {
    const { stdout } = await run('filestore', 'status', 'uploads', '--json')
    return (JSON.parse(stdout) as { filestores: [FilestoreReport] }).filestores[0]
  }
  const at = (name: string) => names(path.join(directory, name))
  return { directory, write, start, run, status, at }
}

async function finish(child: ChildProcess): Promise<Result> {
  const [out, err]: [Buffer[], Buffer[]] = [[], []]
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk))
  child.stdin?.end()
  await once(child, 'close')
  return { status: child.exitCode, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }
}

/** Waits for words on the standard error of a child. */
async function hear(child: ChildProcess, words: RegExp): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  let text = ''
  child.stderr?.on('data', (chunk: Buffer) => {
    text += String(chunk)
    if (words.test(text)) resolve()
  })
  child.once('close', () => reject(new Error(`It ended without ${words}: ${text}`)))
  return promise
}

/** A daemon that is ready. Returns how to end it. */
async function daemon({ start }: ReturnType<typeof place>): Promise<() => Promise<Result>> {
  const child = start('up')
  const ended = finish(child)
  await hear(child, /Watching/)
  return async () => {
    child.kill('SIGTERM')
    return ended
  }
}

/** The files below a directory that are no names of ours. */
function names(directory: string): string[] {
  if (!fs.existsSync(directory)) return []
  const entries = fs.readdirSync(directory, { recursive: true, withFileTypes: true })
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))
    .filter((name) => !name.startsWith('.stowage'))
    .sort()
}

const all = ['a.txt', 'photos/b.txt', 'photos/c.txt']

describe('a filestore at rest', { timeout: 180_000 }, () => {
  test('files are offloaded, read, called back, and brought to another remote', async (t) => {
    const { run, at, status } = place(t)
    const dry = await run('filestore', 'offload', '--dry-run')
    assert.deepEqual([dry.status, dry.stdout], [0, '3 files, 14 B, would be part of the offload.\n'])
    assert.deepEqual([at('up'), at('cold')], [all, []])

    assert.match((await run('filestore', 'offload', 'photos/')).stdout, /^Done: offload of photos\/, 2 files, 9 B in /)
    assert.deepEqual([at('up'), at('cold')], [['a.txt'], ['photos/b.txt', 'photos/c.txt']])
    assert.equal((await run('cat', 'uploads:photos/b.txt')).stdout, 'beta')
    assert.equal((await run('ls', '-r', 'uploads:')).stdout, `${all.join('\n')}\n`)

    const recalled = JSON.parse((await run('filestore', 'recall', 'uploads', 'photos/b', '--json')).stdout) as object
    assert.partialDeepStrictEqual(recalled, { state: 'done', done: { files: 1, bytes: 4 }, failed: 0 })
    assert.deepEqual(at('up'), ['a.txt', 'photos/b.txt'])

    const { stdout } = await run('filestore', 'migrate', '--from', 'cold', '--to', 'warm', '--keep')
    assert.match(stdout, /^Done: migrate from cold to warm, 2 files/)
    assert.deepEqual([at('warm'), at('cold')], [all.slice(1), all.slice(1)])
    const { media, local, cloud, both, lost } = await status()
    assert.deepEqual(
      [media, local, cloud, both, lost].map(({ files }) => files),
      [3, 2, 2, 1, 0],
    )
  })

  test('the storage verbs work on it, and what is deleted can be restored', async (t) => {
    const { run, at, directory } = place(t)
    assert.equal((await run('put', 'stowage.config.json', 'uploads:new/config.json')).status, 0)
    assert.ok(at('up').includes('new/config.json'))
    assert.match((await run('stat', 'uploads:a.txt')).stdout, /^size +5 bytes$/m)
    assert.equal((await run('get', 'uploads:a.txt', 'fetched.txt')).status, 0)
    assert.equal(fs.readFileSync(path.join(directory, 'fetched.txt'), 'utf8'), 'alpha')
    assert.equal((await run('cp', '-r', 'uploads:photos', 'file:./copy')).status, 0)
    assert.deepEqual(at('copy'), ['b.txt', 'c.txt'])

    assert.equal((await run('rm', '-r', '--yes', 'uploads:photos')).stdout, 'Deleted 2 files.\n')
    assert.equal((await run('rm', 'uploads:a.txt')).status, 0)
    assert.equal((await run('cat', 'uploads:a.txt')).status, 1)
    const list = (await run('filestore', 'restore', '--list', '--json')).stdout.trim().split('\n')
    const deleted = list.map((line) => JSON.parse(line) as { key: string; deletedMs: number; untilMs: number })
    assert.deepEqual(
      deleted.map(({ key }) => key),
      all,
    )
    for (const { deletedMs, untilMs } of deleted) assert.equal(untilMs - deletedMs, 5 * 7 * 86_400_000)
    assert.match((await run('filestore', 'restore', '--list', '--prefix', 'photos/b')).stdout, /\n1 file can be/)

    const some = await run('filestore', 'restore', 'a.txt', 'never.txt')
    assert.deepEqual([some.status, some.stdout], [3, 'restored a.txt\n1 file restored, 1 not.\n'])
    assert.match(some.stderr, /^stowage: There is no file never\.txt in uploads/)
    assert.equal((await run('filestore', 'restore', 'uploads', '--prefix', 'photos/')).status, 0)
    assert.deepEqual(at('up'), [...all.slice(0, 1), 'new/config.json', ...all.slice(1)])
    assert.equal((await run('filestore', 'restore', 'never.txt')).status, 1)
  })

  test('what cannot be offloaded is told with its reason, and tried again when that is gone', async (t) => {
    const { run, at, write, directory, status } = place(t)
    write('cold/a.txt/in-the-way', 'x')
    const failed = await run('filestore', 'offload')
    assert.equal(failed.status, 3)
    assert.match(failed.stdout, /2 files, 9 B in .*; 1 failed\.\n {2}a\.txt: .*\n.*stowage retry/)
    assert.deepEqual(
      (await status()).setAside.map(({ key }) => key),
      ['a.txt'],
    )
    assert.match((await run('filestore', 'status')).stdout, /set aside: a\.txt: /)
    assert.match((await run('status')).stdout, /set aside: a\.txt, /)
    fs.rmSync(path.join(directory, 'cold/a.txt'), { recursive: true })
    assert.match((await run('retry', 'photos/b.txt')).stdout, /^0 jobs wait/)
    assert.match((await run('retry')).stdout, /^1 job waits for another try\. They are done by the next/)
    const again = await run('filestore', 'offload')
    assert.equal(again.status, 0, again.stderr)
    assert.deepEqual([at('up'), at('cold')], [[], all])
  })

  test('verify finds what is missing and lost, and repairs what it can', async (t) => {
    const { run, directory, at } = place(t, { keepLocal: true })
    await run('filestore', 'offload')
    assert.deepEqual([at('up'), at('cold')], [all, all])
    const well = await run('filestore', 'verify', '--content')
    assert.deepEqual([well.status, well.stdout], [0, '3 files looked at and read, all is well.\n'])
    fs.rmSync(path.join(directory, 'up/a.txt'))
    fs.rmSync(path.join(directory, 'cold/photos/b.txt'))
    fs.writeFileSync(path.join(directory, 'cold/photos/c.txt'), 'gamme')
    const found = await run('filestore', 'verify', '--content')
    assert.equal(found.status, 3)
    for (const words of [
      /^a\.txt: missing at local$/m,
      /^photos\/b\.txt: missing at cold/m,
      /photos\/c\.txt: damaged at cold/,
    ])
      assert.match(found.stdout, words)
    assert.match(found.stdout, /3 faults, 0 repaired\.\nTo have done what can be done: --repair/)
    const repaired = await run('filestore', 'verify', 'uploads', 'photos/', '--content', '--repair', '--json')
    assert.equal(repaired.status, 0, repaired.stdout)
    assert.partialDeepStrictEqual(JSON.parse(repaired.stdout), { files: 2, repaired: 2 })
    await run('filestore', 'offload')
    assert.equal((await run('filestore', 'verify', 'photos/', '--content')).status, 0)
    fs.rmSync(path.join(directory, 'cold/a.txt'))
    fs.rmSync(path.join(directory, 'up/a.txt'), { force: true })
    const lost = await run('filestore', 'verify', '--repair')
    assert.equal(lost.status, 3)
    assert.match(lost.stdout, /^a\.txt: /m)
  })

  test('gc says what is left over, and removes of it what it is told to', async (t) => {
    const { run, write, directory, at } = place(t)
    await run('filestore', 'offload')
    write('cold/stranger.txt', 'whose?')
    const yesterday = new Date(Date.now() - 86_400_000)
    fs.utimesSync(path.join(directory, 'cold/stranger.txt'), yesterday, yesterday)
    const first = await run('filestore', 'gc', '--delete')
    assert.equal(
      first.stdout,
      '0 files left over, removed.\nAt cold the registry does not know 1 file. To see them: --unknown\n',
    )
    assert.equal(
      (await run('filestore', 'gc', '--unknown')).stdout,
      'cold: stranger.txt, unknown, 6 B\n1 file left over.\nTo remove them: --delete\n',
    )
    assert.ok(at('cold').includes('stranger.txt'))
    const { stdout } = await run('filestore', 'gc', '--unknown', '--delete', '--json')
    assert.partialDeepStrictEqual(JSON.parse(stdout), { orphans: [{ name: 'stranger.txt', isRemoved: true }] })
    assert.deepEqual(at('cold'), all)
  })

  for (const [name, others, store] of [
    ['there', {}, 'cold'],
    ['into a store it is mounted in', { all: { mounts: { c: 'cold' } } }, 'all'],
    ['to the same place by another name', { same: 'file:./cold/inner' }, 'same'],
  ] as const)
    test(`gc does not remove what rules deliver ${name}`, async (t) => {
      const site = { site: { directory: './site', settle: '0ms' } }
      const rules = [{ source: 'site', destinations: [{ store }] }]
      const { run } = place(t, {}, { sources: site, rules }, others)
      const { status, stderr } = await run('filestore', 'gc', '--unknown', '--delete')
      assert.equal(status, 2)
      assert.match(stderr, /^stowage: Rules deliver to cold too: that would be removed/)
      assert.equal((await run('filestore', 'gc', '--unknown')).status, 0)
    })

  test('explain says of a file where it is and what happens next', async (t) => {
    const { run } = place(t)
    assert.match((await run('explain', 'up/none.txt')).stdout, /filestore uploads knows of no file none\.txt/)
    await run('ls', 'uploads:')
    assert.match((await run('explain', 'up/a.txt')).stdout, /the file a\.txt of the filestore uploads: 5 B/)
    assert.match(
      (await run('explain', 'up/a.txt')).stdout,
      /It is local\.\n +It is offloaded in \d+ s, unless it changes/,
    )
    await run('filestore', 'offload')
    assert.match((await run('explain', 'up/a.txt')).stdout, /It is not local: .*\n +At cold, as a\.txt: there\.\n/)
    await run('rm', 'uploads:a.txt')
    assert.match((await run('explain', 'up/a.txt')).stdout, /It was deleted .*, and can be restored until /)
    assert.match((await run('explain', 'elsewhere.txt')).stdout, /It is in none of the sources/)
  })

  test('its remote can be saved, but not where it is itself', async (t) => {
    const { run, at, directory } = place(t, {}, {}, { cold: { saved: true }, all: { mounts: { u: 'uploads' } } })
    for (const [where, words] of [
      ['/up', /up and the directory of the filestore uploads overlap/],
      ['/up/inner', /overlap/],
      ['', /overlap/],
      ['/.stowage-cache/x', /and the cache overlap/],
    ] as const) {
      const { status, stderr } = await run('store', 'set', 'cold', `file://${directory}${where}`)
      assert.equal(status, 2, where)
      assert.match(stderr, words)
    }
    assert.equal((await run('store', 'set', 'cold', `file://${directory}/there`)).status, 0)
    const { stdout } = await run('store', 'list')
    assert.match(stdout, /^uploads: filestore:uploads \(fixed by the configuration\)$/m)
    assert.doesNotMatch(stdout, /✖/)
    assert.match((await run('store', 'test', 'uploads')).stderr, /is or holds a filestore/)
    assert.equal((await run('check')).status, 0)
    assert.equal((await run('filestore', 'offload')).status, 0)
    assert.deepEqual([at('up'), at('there')], [[], all])
    assert.equal((await run('cat', 'all:u/a.txt')).stdout, 'alpha')
  })

  test('Ctrl-C leaves a move that goes on the next time', async (t) => {
    const { run, start, at, status } = place(t)
    assert.match((await run('filestore', 'pause')).stdout, /^Nothing of uploads is sent to any remote until/)
    const child = start('filestore', 'offload')
    const ended = finish(child)
    await hear(child, /Nothing is sent anywhere until/)
    child.kill('SIGINT')
    const left = await ended
    assert.equal(left.status, 130)
    assert.match(left.stderr, /Left at 0 of 3 files.*\n.*when this is said again, or by `stowage up`/)
    const { move, paused } = await status()
    assert.deepEqual([move?.state, paused, at('cold')], ['running', ['*'], []])
    assert.match((await run('filestore', 'resume')).stdout, /^Nothing is paused/)
    const again = await run('filestore', 'offload')
    assert.equal(again.status, 0)
    assert.match(again.stderr, /This is under way already: 0 of 3 files/)
    assert.deepEqual(at('cold'), all)
    assert.equal((await status()).move?.id, move?.id)
  })

  test('one direction ends the other, and --stop ends only its own', async (t) => {
    const { run, status } = place(t)
    assert.match((await run('filestore', 'offload', '--no-wait')).stdout, /^Noted: offload, 3 files; .*`stowage up`/)
    const other = await run('filestore', 'recall', '--stop')
    assert.deepEqual([other.status, other.stdout], [0, 'No recall is under way, but an offload is.\n'])
    const recall = await run('filestore', 'recall')
    assert.equal(recall.status, 0)
    assert.match(recall.stderr, /^The offload, which was under way, has ended\.$/m)
    await run('filestore', 'offload', 'photos/', '--no-wait')
    assert.match((await run('filestore', 'offload', '--stop')).stdout, /^Ended: offload of photos\/, 0 of 2 files/)
    assert.equal((await status()).move?.state, 'stopped')
  })

  test('a rate goes with the move; the same move at another rate is another one', async (t) => {
    const { run, status, at } = place(t)
    await run('filestore', 'offload', '--no-wait', '--rate', '1MiB')
    assert.equal((await status()).move?.order.bytesPerSecond, 2 ** 20)
    const faster = await run('filestore', 'offload', '--rate', '10MB/s')
    assert.match(faster.stderr, /^The offload, which was under way, has ended\.$/m)
    assert.equal((await status()).move?.order.bytesPerSecond, 10_000_000)
    assert.deepEqual(at('cold'), all)
  })
})

describe('a filestore of a daemon', { timeout: 180_000 }, () => {
  test('everything can be asked of it while it runs, and a move goes on when who asked has left', async (t) => {
    const scene = place(t)
    const { run, start, at, status } = scene
    const stop = await daemon(scene)
    assert.match((await run('filestore', 'pause', '--remote', 'cold')).stdout, /sent to cold until/)
    const child = start('filestore', 'offload')
    const ended = finish(child)
    await hear(child, /Nothing is sent to cold until/)
    child.kill('SIGINT')
    const left = await ended
    assert.equal(left.status, 130)
    assert.match(left.stderr, /The daemon goes on with it\..*--stop/)
    assert.equal((await run('filestore', 'resume', '--remote', 'cold')).status, 0)
    const followed = await run('filestore', 'offload')
    assert.equal(followed.status, 0, followed.stderr)
    assert.deepEqual(at('cold'), all)

    assert.match((await run('status')).stdout, /^uploads: .*up, offloaded to cold, warm$/m)
    assert.equal((await run('filestore', 'verify', '--content')).status, 0)
    assert.equal((await run('filestore', 'gc')).stdout, '0 files left over.\n')
    assert.match((await run('filestore', 'restore', '--list')).stdout, /^0 files can be restored/)
    assert.equal((await run('filestore', 'restore', 'never.txt')).status, 1)
    assert.match((await run('retry')).stdout, /^0 jobs wait/)
    assert.equal(
      (await run('filestore', 'recall', '--dry-run')).stdout,
      '3 files, 14 B, would be part of the recall.\n',
    )
    assert.match((await run('filestore', 'recall', '--no-wait')).stdout, /^Noted: recall, 3 files; the daemon does it/)
    assert.equal((await run('filestore', 'recall')).status, 0)
    assert.deepEqual(at('up'), all)
    const bad = await run('filestore', 'migrate', '--from', 'cold', '--to', 'nowhere')
    assert.equal(bad.status, 2)
    assert.match(bad.stderr, /has no remote "nowhere". It has: cold, warm/)

    for (const args of [
      ['ls', 'uploads:'],
      ['cat', 'uploads:a.txt'],
      ['rm', 'uploads:a.txt'],
    ]) {
      const busy = await run(...args)
      assert.equal(busy.status, 1)
      assert.match(busy.stderr, /^stowage: uploads is in the hands of a daemon, which runs now\. .*stop it first/)
    }
    assert.equal((await run('ls', 'cold:')).status, 0)
    assert.equal((await stop()).status, 0)
    assert.equal((await status()).local.files, 3)
  })

  test('what is due is offloaded by it, and told with --verbose', async (t) => {
    const scene = place(t, { coolDown: 0 })
    const child = scene.start('up', '--verbose')
    const ended = finish(child)
    await hear(child, /uploads:photos\/c\.txt → cold/)
    child.kill('SIGTERM')
    assert.equal((await ended).status, 0)
    assert.ok(scene.at('cold').includes('photos/c.txt'))
  })
})

test('wrong usage has status 2, says what is wrong, and changes nothing', { timeout: 120_000 }, async (t) => {
  const { run, directory } = place(t)
  const two = path.join(directory, 'two.json')
  const filestore = (name: string) => ({ filestore: { directory: name, remote: 'cold' } })
  fs.writeFileSync(two, JSON.stringify({ stores: { cold: 'file:./cold', x: filestore('x'), y: filestore('y') } }))
  const none = path.join(directory, 'none.json')
  const site = { stores: { cold: 'file:./cold' }, sources: { site: { directory: 'site' } } }
  fs.writeFileSync(none, JSON.stringify({ ...site, rules: [{ source: 'site', destinations: [{ store: 'cold' }] }] }))
  const cases: [args: string[], words: RegExp][] = [
    [['filestore'], /missing required argument/],
    [['filestore', 'upload'], /"upload" is nothing to do\. There are: status, offload/],
    [['filestore', 'status', 'nope'], /There is no filestore "nope"\. There is: uploads/],
    [['filestore', 'status', '--drop'], /status has no option --drop/],
    [['filestore', 'verify', '--no-wait'], /verify has no option --no-wait/],
    [['filestore', 'offload', 'a', 'b'], /"b" is too much/],
    [['filestore', 'offload', '/photos'], /No key begins with "\/"/],
    [['filestore', 'offload', '--rate', '0'], /--rate must let something pass/],
    [['filestore', 'offload', '--rate', 'fast'], /"fast" is not a size/],
    [['filestore', 'migrate', '--from', 'cold'], /From where to where/],
    [['filestore', 'migrate', '--from', 'cold', '--to', 'cold'], /needs two remotes/],
    [['filestore', 'migrate', '--from', 'cold', '--to', 'uploads'], /has no remote "uploads"/],
    [['filestore', 'pause', '--remote', 'nope'], /has no remote "nope"/],
    [['filestore', 'restore'], /What is to be restored/],
    [['filestore', 'restore', 'a', '--prefix', 'b'], /What is to be restored/],
    [['filestore', 'restore', 'a', '--list'], /--list takes no keys/],
    [['filestore', 'status', '--config', none], /has no filestore\. Add for example/],
    [['filestore', 'offload', '--config', two], /Which filestore\? There are: x, y/],
    [['filestore', 'offload', 'z', '--config', two], /There is no filestore "z"\. There are: x, y/],
  ]
  for (const [args, words] of cases) {
    const { status, stdout, stderr } = await run(...args)
    assert.match(stderr, words, args.join(' '))
    assert.doesNotMatch(stderr, /\n\s+at /)
    assert.deepEqual([status, stdout], [2, ''], args.join(' '))
  }
  const both = await run('filestore', 'status', '--config', two)
  assert.equal(both.status, 0)
  assert.match(both.stdout, /^x: .*\n[^]*^y: /m)
  assert.deepEqual(names(path.join(directory, 'up')), all)
})
