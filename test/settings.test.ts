/** `stowage store` against a real S3 server: what is tried before it is saved, and where its secret does not get. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import * as os from 'node:os'
import * as path from 'node:path'
import { after, describe, test, type TestContext } from 'node:test'
import type { ListedStore, Trial } from '../src/daemon/saved-stores.ts'
import type { Driver } from '../src/store/driver.ts'
import { FakeDav } from './servers/fake-dav.ts'
import { FakeWeb } from './servers/fake-web.ts'
import { startS3, type TestServer } from './servers/rgw.ts'

const bin = path.resolve(import.meta.dirname, '../bin/stowage.js')
const secrets = ['testsecret', 'othersecret', 'wrong-but-secret']

interface Result {
  status: number | null
  stdout: string
  stderr: string
}

/** A configuration that leaves open where media is, and how to run the program there. Everything printed is kept. */
function scene(t: TestContext) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-settings-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  fs.mkdirSync(path.join(directory, 'site'))
  const printed: string[] = []
  fs.writeFileSync(
    path.join(directory, 'stowage.config.json'),
    JSON.stringify({
      state: 'state/stowage.db',
      stores: { media: { saved: true }, fixed: 'file:./fixed' },
      sources: { site: { directory: './site', settle: '0ms' } },
      rules: [{ source: 'site', destinations: [{ store: 'media' }] }],
    }),
  )
  const start = (args: string[], more: Record<string, string> = {}) => {
    const env = { ...process.env, DEBUG: '1', ...more }
    const child = spawn(process.execPath, [bin, ...args], { cwd: directory, env })
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => printed.push(String(chunk)))
    return child
  }
  const run = async (args: string[], input = '', env: Record<string, string> = {}) => finish(start(args, env), input)
  const set = async (url: string) => run(['store', 'set', 'media'], url)
  const list = async () => JSON.parse((await run(['store', 'list', '--json'])).stdout) as ListedStore[]
  const write = (name: string) => fs.writeFileSync(path.join(directory, 'site', name), name)
  return { directory, printed, start, run, set, list, write }
}

async function finish(child: ChildProcess, input = ''): Promise<Result> {
  const [out, err]: [string[], string[]] = [[], []]
  child.stdout?.on('data', (chunk: Buffer) => out.push(String(chunk)))
  child.stderr?.on('data', (chunk: Buffer) => err.push(String(chunk)))
  child.stdin?.on('error', () => {})
  child.stdin?.end(input)
  await once(child, 'close')
  return { status: child.exitCode, stdout: out.join(''), stderr: err.join('') }
}

/** Waits for words on standard error. */
async function hear(child: ChildProcess, words: RegExp): Promise<void> {
  let text = ''
  for await (const chunk of child.stderr?.iterator({ destroyOnReturn: false }) ?? []) {
    text += String(chunk)
    if (words.test(text)) return
  }
  assert.fail(`It ended without ${words}: ${text}`)
}

/** Every form in which a secret could have got somewhere. */
function formsOf(secret: string): Buffer[] {
  const bytes = Buffer.from(secret)
  // What base64 makes of a text depends on where in a group of three it begins; the ends are left off.
  const base64 = [0, 1, 2].map((shift) =>
    Buffer.concat([Buffer.alloc(shift), bytes])
      .toString('base64')
      .slice(shift === 0 ? 0 : 4)
      .replace(/.{0,3}=*$/, ''),
  )
  return [secret, bytes.toString('hex'), ...base64].map((text) => Buffer.from(text))
}

/** No file of the directory, nor anything that was printed, has a secret in it. */
function assertNoSecret(directory: string, printed: readonly string[]) {
  const names = fs.readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  const files = names.map(({ parentPath, name }) => path.join(parentPath, name))
  assert.ok(files.some((file) => file.endsWith('stowage.db')))
  for (const [place, bytes] of [
    ...files.map((file) => [file, fs.readFileSync(file)] as const),
    ['what was printed', Buffer.from(printed.join('\n'))] as const,
  ])
    for (const secret of secrets)
      for (const form of formsOf(secret))
        assert.ok(!bytes.includes(form), `${secret} is in ${place} as ${String(form)}`)
}

test('the search for secrets finds them in each form', () => {
  for (const text of [
    'testsecret',
    Buffer.from('testsecret').toString('hex'),
    ...['', 'x', 'xy', 'xyz'].map((before) => Buffer.from(`${before}testsecret!`).toString('base64')),
  ])
    assert.ok(
      formsOf('testsecret').some((form) => Buffer.from(text).includes(form)),
      text,
    )
})

const server = startS3()
if (server) describe('settings', () => testSettings(server))
else test('settings on S3', { skip: 'the Debian packages of Ceph are not installed' }, () => {})

function testSettings(s3: TestServer) {
  after(() => s3.stop())
  const urlOf = (bucket: string, { user = 'testkey:testsecret', port = s3.port, below = 'p' } = {}) =>
    `s3://${user}@${s3.host}:${port}/${below}?s3_bucket=${s3.named(bucket)}&use_ssl=false`
  const keysOf = async (driver: Driver) => Array.fromAsync(driver.list(''), ({ key }) => key)

  test('what does not work is said with its reason, and nothing is changed', async (t) => {
    await using good = closing(await s3.bucket('settings-good'))
    const { set, list, run, printed, directory } = scene(t)
    assert.equal((await set(urlOf('settings-good'))).status, 0)
    const before = await list()
    const port = await closedPort()
    const cases: [url: string, status: number, code: string, words: RegExp][] = [
      [
        urlOf('settings-good', { user: 'testkey:wrong-but-secret' }),
        1,
        'DENIED',
        /write fails at s3:.*signature|secret/i,
      ],
      [urlOf('settings-good', { user: 'otherkey:othersecret' }), 1, 'DENIED', /write fails/],
      [urlOf('settings-none'), 2, 'INVALID_CONFIG', /write fails.*settings-none.*bucket/],
      [urlOf('settings-good', { port }), 1, 'UNREACHABLE', /write fails.*ECONNREFUSED/],
      [urlOf('settings-good').replace('use_ssl', 'use_sl'), 2, 'INVALID_ARGUMENT', /use_sl\b/],
      ['s3://testkey:test/secret@host/p', 2, 'INVALID_ARGUMENT', /Percent-encode/],
      ['', 2, 'INVALID_ARGUMENT', /empty.*unset/],
      [`${urlOf('settings-good')}\nmemory:`, 2, 'INVALID_ARGUMENT', /several lines/],
    ]
    for (const [url, status, code, words] of cases) {
      const result = await run(['store', 'set', 'media', '--json'], url)
      const [line = ''] = result.stderr.split('\n')
      const { error } = JSON.parse(line) as { error: { code: string; message: string } }
      assert.deepEqual([error.code, result.status, result.stdout], [code, status, ''], error.message)
      assert.match(error.message, words)
    }
    assert.deepEqual(await list(), before)
    assert.equal((await run(['store', 'test', 'media'])).status, 0)
    assert.deepEqual(await keysOf(good), [])
    assertNoSecret(directory, printed)
  })

  test('who may not read or delete is refused, and told which file is left; who may not list is not', async (t) => {
    await using owner = closing(await s3.bucket('settings-rights'))
    const { set, list } = scene(t)
    const allowAllBut = async (...denied: string[]) => {
      const all = ['PutObject', 'GetObject', 'DeleteObject']
      const rules = [...all.map((action) => ['Allow', action]), ...denied.map((action) => ['Deny', action])]
      const statements = rules.map(([effect, action]) => ({
        Effect: effect,
        Principal: { AWS: ['arn:aws:iam:::user/other'] },
        Action: [`s3:${action}`],
        Resource: [`arn:aws:s3:::${s3.named('settings-rights')}/p/*`],
      }))
      const service = s3.service('settings-rights')
      const body = Buffer.from(JSON.stringify({ Version: '2012-10-17', Statement: statements }))
      await (await service.request({ method: 'PUT', query: { policy: '' }, body })).bytes()
      await service.close()
    }
    const url = urlOf('settings-rights', { user: 'otherkey:othersecret' })
    await allowAllBut('GetObject')
    assert.match((await set(url)).stderr, /read fails at s3:.*403/)
    assert.deepEqual(await keysOf(owner), [])
    await allowAllBut('DeleteObject')
    const refused = await set(url)
    assert.equal(refused.status, 1)
    const [left] = await keysOf(owner)
    assert.match(left ?? '', /^p\/stowage-check-/)
    assert.match(refused.stderr, new RegExp(`delete fails.*${path.basename(left ?? '')} is left there`))
    assert.equal((await list())[0]?.from, 'none')
    await owner.delete(left ?? '')
    await allowAllBut()
    const taken = await set(url)
    assert.equal(taken.status, 0, taken.stderr)
    assert.match(taken.stdout, /✖ list/)
    assert.deepEqual(await keysOf(owner), [])
  })

  test('what works is saved and used after a restart, and its secret is nowhere', async (t) => {
    await using driver = closing(await s3.bucket('settings-saved'))
    const { set, list, run, write, directory, printed } = scene(t)
    const saved = await set(`${urlOf('settings-saved')}\n`)
    assert.equal(saved.status, 0, saved.stderr)
    assert.match(saved.stdout, /✔ write.*\n.*✔ read[^]*✔ delete[^]*Saved: media is at s3:/)
    assert.deepEqual(await keysOf(driver), [])
    const [media] = await list()
    assert.deepEqual([media?.from, media?.problem], ['saved', undefined])
    assert.match(media?.location ?? '', new RegExp(s3.named('settings-saved')))
    write('a.txt')
    assert.equal((await run(['sync'])).status, 0)
    assert.deepEqual(await keysOf(driver), ['p/a.txt'])
    assert.equal((await run(['ls', 'media:'])).stdout, 'a.txt\n')
    assert.equal((await run(['cat', 'media:a.txt'])).stdout, 'a.txt')
    const [trial] = JSON.parse((await run(['store', 'test', 'media', '--json'])).stdout) as Trial[]
    assert.deepEqual([trial?.ok, trial?.findings.length], [true, 6])
    assert.equal(fs.statSync(path.join(directory, 'state/stowage.db.key')).mode & 0o777, 0o600)
    assertNoSecret(directory, printed)
    assert.equal((await run(['store', 'unset', 'media', '--json'])).stdout, '{"store":"media","removed":true}\n')
    assert.equal((await run(['ls', 'media:'])).status, 1)
    assertNoSecret(directory, printed)
  })

  test('a daemon that runs uses what is saved from then on, and its secret is in no log', async (t) => {
    await using one = closing(await s3.bucket('settings-one'))
    await using two = closing(await s3.bucket('settings-two'))
    const { set, list, run, write, start, directory, printed } = scene(t)
    const daemon = start(['up', '--json'])
    t.after(() => daemon.kill('SIGKILL'))
    await hear(daemon, /Watching/)
    for (const [bucket, name] of [
      ['settings-one', '1.txt'],
      ['settings-two', '2.txt'],
    ] as const) {
      const result = await set(urlOf(bucket))
      assert.match(result.stdout, /in use from now on/, result.stderr)
      const delivered = hear(daemon, new RegExp(`${name} →`))
      write(name)
      await delivered
      assert.equal((await run(['ls', 'media:'])).stdout, `${name}\n`)
    }
    const before = await list()
    const refused = await set(urlOf('settings-two', { user: 'testkey:wrong-but-secret' }))
    assert.deepEqual([refused.status, refused.stdout], [1, ''])
    assert.match(refused.stderr, /left as it is: write fails/)
    assert.deepEqual(await list(), before)
    const third = hear(daemon, /3\.txt →/)
    write('3.txt')
    await third
    assertNoSecret(directory, printed)
    const stopped = once(daemon, 'close')
    daemon.kill('SIGTERM')
    await stopped
    assert.deepEqual([await keysOf(one), await keysOf(two)], [['p/1.txt'], ['p/2.txt', 'p/3.txt']])
    assertNoSecret(directory, printed)
  })

  test('a secret is taken from the environment or a file, and refused as an argument', async (t) => {
    await using _ = closing(await s3.bucket('settings-argument'))
    const { run, list, directory, printed } = scene(t)
    const url = urlOf('settings-argument')
    const query = url.slice(url.indexOf('@') + 1)
    for (const argument of [url, `${url}&session_token=x`, `sftp://me@host/?private_key_pass=testsecret`]) {
      const { status, stderr } = await run(['store', 'set', 'media', argument])
      assert.equal(status, 2)
      assert.match(stderr, /holds a secret.*list of processes.*standard input/)
    }
    assert.equal((await list())[0]?.from, 'none')
    fs.writeFileSync(path.join(directory, 'url.txt'), `${url}\n`)
    const environment = { MEDIA_URL: url, KEY: 'testkey', SECRET: 'testsecret' }
    for (const argument of ['env:MEDIA_URL', 'file:url.txt', `s3://env:KEY:env:SECRET@${query}`]) {
      const { status, stderr } = await run(['store', 'set', 'media', argument], '', environment)
      assert.equal(status, 0, stderr)
      assert.equal((await run(['store', 'unset', 'media'])).status, 0)
    }
    fs.rmSync(path.join(directory, 'url.txt'))
    for (const [argument, words] of [
      ['env:NO_SUCH', /NO_SUCH is not set/],
      ['file:none.txt', /none\.txt.*ENOENT/],
      ['file:.', /EISDIR.*file:\/\/\/path/],
    ] as const)
      assert.match((await run(['store', 'set', 'media', argument])).stderr, words)
    assertNoSecret(directory, printed)
  })

  test('with the key of another state nothing starts, and what was saved can be forgotten', async (t) => {
    await using _ = closing(await s3.bucket('settings-key'))
    const { run, set, directory, printed } = scene(t)
    const [right, wrong] = ['1', '2'].map((digit) => ({ STOWAGE_KEY: digit.repeat(64) }))
    const url = urlOf('settings-key')
    assert.equal((await run(['store', 'set', 'media'], url, right)).status, 0)
    assert.deepEqual(fs.readdirSync(path.join(directory, 'state')), ['stowage.db'])
    assert.equal((await run(['sync'], '', right)).status, 0)
    for (const args of [['sync'], ['ls', 'media:'], ['store', 'test', 'media']]) {
      const { status, stderr } = await run(args, '', wrong)
      assert.equal(status, 2, args.join(' '))
      assert.match(stderr, /store:media was encrypted with another key than that of STOWAGE_KEY/)
    }
    assert.match((await run(['sync'])).stderr, /key of the saved secrets is missing/)
    assert.match((await run(['sync'], '', { STOWAGE_KEY: 'testsecret' })).stderr, /32 bytes/)
    assert.match((await run(['store', 'list'], '', wrong)).stdout, /media: s3:.*✖ .*another key/)
    // Stores that have nothing to do with it are not held up.
    assert.equal((await run(['ls', 'fixed:'], '', wrong)).status, 0)
    assert.equal((await run(['store', 'unset', 'media'], '', wrong)).status, 0)
    assert.equal((await set(url)).status, 0)
    assertNoSecret(directory, printed)
  })
}

test('a place that gives back other bytes is CORRUPT, and not saved', async (t) => {
  const dav = new FakeDav('1')
  await using fake = await FakeWeb.open((request) => {
    const told = dav.answer(request)
    if (request.method === 'GET' && Buffer.isBuffer(told.body)) told.body = Buffer.from(told.body).reverse()
    return told
  })
  const { set, list } = scene(t)
  const { status, stderr } = await set(`webdav://127.0.0.1:${fake.port}/`)
  assert.equal(status, 1)
  assert.match(stderr, /read fails.*other bytes/)
  assert.equal((await list())[0]?.from, 'none')
  assert.deepEqual([...dav.files.keys()], [])
})

/** A port of this machine where nobody listens. */
async function closedPort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

function closing<T extends { close(): Promise<void> }>(driver: T): T & AsyncDisposable {
  return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
}
