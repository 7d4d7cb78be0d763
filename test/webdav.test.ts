/** The webdav driver against two real servers that do the same in different ways, and against one that does as it is told. */
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { chmodSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from 'node:fs'
import { after, describe, test } from 'node:test'
import { collect, toBody } from '../src/core/bytes.ts'
import { compareKeys } from '../src/core/keys.ts'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { webdavDriver, webdavFromUrl, type WebdavOptions } from '../src/drivers/webdav/webdav.ts'
import type { Driver } from '../src/store/driver.ts'
import { Store } from '../src/store/store.ts'
import { prefixed } from '../src/store/wrappers/prefix.ts'
import { testDriver } from '../src/testing/index.ts'
import { FakeDav, multistatus, propfound } from './servers/fake-dav.ts'
import { FakeWeb, type Told } from './servers/fake-web.ts'
import { FaultProxy } from './servers/fault-proxy.ts'
import { startServer } from './servers/start.ts'

interface DavServer {
  host: string
  port: number
  tlsPort: number
  ca: string
  user: string
  password: string
  files: string
  dav: string
}

/** A folder of a real server, and where that is on the disk. */
interface Place {
  name: string
  server: DavServer
  folder: string
  disk: string
  /** What the driver is told besides the address. */
  options?: Partial<WebdavOptions>
}

const apache = startServer<DavServer>('dav', ['apache2', 'openssl'])
const nginx = startServer<DavServer>('web', ['nginx', 'openssl'])
after(() => {
  apache?.stop()
  nginx?.stop()
})
if (apache && nginx) testServers(apache, nginx)
else
  test('webdav', {
    skip: 'the Debian packages apache2, nginx-light, libnginx-mod-http-dav-ext and openssl are not installed',
  }, () => {})
describe('webdav of a server that does as it is told', testAnswers)

function testServers(apache: DavServer, nginx: DavServer) {
  const basic = { name: 'webdav', server: apache, folder: 'basic', disk: `${apache.files}/basic` }
  const digest = { name: 'webdav with Digest', server: apache, folder: 'digest', disk: `${apache.files}/digest` }
  const renaming: Place = {
    ...basic,
    name: 'webdav of a server that takes away what a rename replaces',
    options: { directPut: 'never' },
  }
  const other = { name: 'webdav of nginx', server: nginx, folder: 'dav', disk: nginx.dav }
  for (const place of [basic, digest, renaming]) testDriver(place.name, async () => ({ driver: opened(place) }))
  testDriver('webdavs by its URL', async () => {
    const { host, tlsPort, ca } = apache
    const url = `webdavs://${loginOf(apache)}@${host}:${tlsPort}/basic/${randomUUID()}/b c?ca=${ca}`
    return { driver: webdavFromUrl(parseStorageUrl(url)) }
  })
  testDriver(other.name, async () => {
    const driver = opened(other)
    const refuses = [{ pattern: /(^|\/)\./, reason: 'It lists no names that begin with a dot.' }]
    return { driver: { ...driver, supports: { ...driver.supports, refuses } } }
  })
  for (const place of [basic, digest, renaming, other]) describe(place.name, () => testBodies(place))
  for (const place of [basic, other]) describe(place.name, () => testWhatIsSpecial(place))
  describe('webdav of Apache', () => testApache(basic, digest))
  describe('webdav of nginx', () => testNginx(other))
}

function loginOf({ user, password }: DavServer): string {
  return `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
}

/** A folder of its own, which is not there yet unless it is given. */
function opened(place: Place, more: Partial<WebdavOptions> = {}, home = `${place.folder}/${randomUUID()}/b c`) {
  const { host, port, user, password } = place.server
  const options = { host, port, tls: false, login: { user, password }, home, ...place.options, ...more }
  return closing(prefixed(webdavDriver(options), home))
}

function closing(driver: Driver): Driver & AsyncDisposable {
  return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
}

async function bytesOf(driver: Driver, key: string): Promise<Buffer> {
  return collect((await driver.read(key)).body)
}

async function* pieces(bytes: Buffer, size = 100_003) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

async function keysOf(driver: Driver, directory = ''): Promise<string[]> {
  return (await Array.fromAsync(driver.list(directory))).map(({ key }) => key)
}

/** Long bodies, whole and not. */
function testBodies(place: Place) {
  const content = randomBytes(9_000_000)
  /** Every file of the place, temporary ones too. */
  const traces = (home: string) =>
    readdirSync(`${place.disk}/${home}`, { recursive: true, withFileTypes: true })
      // Apache removes its own when it has noticed that nothing more comes.
      .filter((entry) => entry.isFile() && !entry.name.startsWith('.davfs.tmp'))
      .map(({ name }) => name)
  const folder = () => {
    const home = randomUUID()
    return { home, driver: opened(place, {}, `${place.folder}/${home}`) }
  }

  test('a long body comes back as it was, whether or not its length was known, new or in place of another', async () => {
    await using driver = opened(place)
    for (const options of [{}, { size: content.byteLength }])
      for (const part of [content, content.subarray(0, 5_000_000)]) {
        const sized = 'size' in options ? { size: part.byteLength } : {}
        const written = await driver.write('a/long', pieces(part), sized)
        assert.deepEqual(written, await driver.stat('a/long'))
        assert.ok((await bytesOf(driver, 'a/long')).equals(part))
      }
  })

  test('a long body that fails, lies about its length or is cancelled leaves what was there, and no trace', async () => {
    const { home, driver } = folder()
    await using _closing = driver
    await driver.write('kept', toBody('old'))
    const failing = async function* () {
      yield* pieces(content)
      throw new Error('the source broke')
    }
    const controller = new AbortController()
    const silent = async function* () {
      yield* pieces(content.subarray(0, 1_000_000))
      controller.abort()
      await new Promise(() => {})
    }
    for (const key of ['kept', 'new']) {
      await assert.rejects(driver.write(key, failing()), /the source broke/)
      await assert.rejects(driver.write(key, failing(), { size: content.byteLength + 1 }), /the source broke/)
      await assert.rejects(driver.write(key, pieces(content), { size: 8_000_000 }), { code: 'CORRUPT' })
      await assert.rejects(driver.write(key, pieces(content), { size: 9_000_001 }), { code: 'CORRUPT' })
      await assert.rejects(driver.write(key, silent(), { signal: controller.signal }), { code: 'ABORTED' })
    }
    assert.equal((await bytesOf(driver, 'kept')).toString(), 'old')
    assert.deepEqual(await keysOf(driver), ['kept'])
    assert.deepEqual(traces(home), ['kept'])
  })

  test('a connection that is cut in the middle of a body stores nothing', async () => {
    const { host, port } = place.server
    await using proxy = await FaultProxy.open([port])
    const home = randomUUID()
    await using direct = opened(place, {}, `${place.folder}/${home}`)
    await direct.write('kept', toBody('old'))
    for (const how of ['reset', 'end'] as const)
      for (const options of [{}, { size: content.byteLength }]) {
        await using driver = opened(place, { host, port: proxy.port }, `${place.folder}/${home}`)
        await proxy.set({ how, way: 'up', after: 2_000_000 })
        await assert.rejects(driver.write('kept', pieces(content), options))
        assert.equal(proxy.struck, 1)
        await proxy.set(undefined)
      }
    assert.equal((await bytesOf(direct, 'kept')).toString(), 'old')
    assert.deepEqual(await keysOf(direct), ['kept'])
  })

  test('writers of files in the same new directories do not stand in one another’s way', async () => {
    await using driver = opened(place)
    const keys = Array.from({ length: 24 }, (_, i) => `a/b/c/d/${i % 3}/e/${i}`)
    await Promise.all(keys.map(async (key) => driver.write(key, toBody(key))))
    assert.deepEqual(await keysOf(driver), keys.toSorted(compareKeys))
  })
}

/** What the two servers have in common. */
function testWhatIsSpecial(place: Place) {
  test('a reader sees the old file or the new, whole, and never neither', async () => {
    await using driver = opened(place)
    const [a, b] = ['a', 'b'].map((letter) => Buffer.from(letter.repeat(300_000))) as [Buffer, Buffer]
    await driver.writeBytes?.('file', a)
    let isDone = false
    const writing = (async () => {
      for (let i = 0; i < 60; i++) await driver.writeBytes?.('file', i % 2 === 0 ? b : a)
      isDone = true
    })()
    let reads = 0
    for (; !isDone; reads++) {
      const found = await bytesOf(driver, 'file')
      assert.ok(found.equals(a) || found.equals(b))
    }
    await writing
    assert.ok(reads > 5)
  })

  test('a connection that is cut in the middle of an answer is told', async () => {
    await using proxy = await FaultProxy.open([place.server.port])
    const home = `${place.folder}/${randomUUID()}`
    await using driver = opened(place, { port: proxy.port }, home)
    await driver.write('long', pieces(randomBytes(9_000_000)))
    for (const how of ['reset', 'end'] as const) {
      await proxy.set({ how, way: 'down', after: 3_000_000 })
      await assert.rejects(bytesOf(driver, 'long'), { code: 'UNREACHABLE' })
    }
    await using impatient = opened(place, { port: proxy.port, timeoutMs: 100 }, home)
    for (const after of [20, 3_000_000]) {
      await proxy.set({ how: 'stall', way: 'down', after })
      await assert.rejects(bytesOf(impatient, 'long'), { code: 'TIMEOUT' })
    }
  })

  test('a directory is never deleted, replaced, moved or copied, and what is in it stays', async () => {
    await using driver = opened(place)
    await driver.write('tree/deep/file', toBody('x'))
    await driver.write('file', toBody('y'))
    await driver.delete('tree')
    await driver.delete('tree/deep')
    await assert.rejects(driver.write('tree', toBody('z')), { code: 'CONFLICT' })
    await assert.rejects(async () => driver.copy?.('file', 'tree'), { code: 'CONFLICT' })
    await assert.rejects(async () => driver.move?.('file', 'tree/deep'), { code: 'CONFLICT' })
    await assert.rejects(async () => driver.move?.('tree', 'other'), { code: 'NOT_FOUND' })
    await assert.rejects(async () => driver.copy?.('tree', 'other'), { code: 'NOT_FOUND' })
    assert.deepEqual(await keysOf(driver), ['file', 'tree/deep/file'])
  })

  test('a directory stays when its last file goes, and its name is taken', async () => {
    await using driver = opened(place)
    await driver.write('tree/file', toBody('x'))
    await driver.delete('tree/file')
    assert.deepEqual(await Array.fromAsync(driver.list('', { recursive: false })), [{ kind: 'directory', key: 'tree' }])
    assert.deepEqual(await keysOf(driver), [])
    await assert.rejects(driver.write('tree', toBody('x')), { code: 'CONFLICT' })
  })

  test('keys with every awkward character are what they are, in listings too', async () => {
    await using driver = opened(place)
    const names = ['a+b', 'a b', 'a%2Bb', 'a%', '%zz', 'a&amp;b', '<a>', '\'"', 'tab\t', 'new\nline', '\x01', '\u2028']
    const more = ['~!*()', 'a;b=c,d:e@f$g', '?', '#', '\u00e9', 'e\u0301', '\u{1f600}', '\\', '^|`{}[]', 'response>']
    const keys = [...names, ...more].map((name) => `${name}/${name}`)
    for (const key of keys) await driver.write(key, toBody(key))
    assert.deepEqual(await keysOf(driver), keys.toSorted(compareKeys))
    for (const key of keys) assert.equal((await bytesOf(driver, key)).toString(), key)
    for (const key of keys) await driver.move?.(key, `moved/${key}`)
    assert.deepEqual(await keysOf(driver, 'moved'), keys.map((key) => `moved/${key}`).toSorted(compareKeys))
    for (const key of keys) await driver.delete(`moved/${key}`)
    assert.deepEqual(await keysOf(driver), [])
  })

  test('a wrong password is DENIED, whatever is asked, and is not repeated', async () => {
    await using wrong = opened(place, { login: { user: place.server.user, password: 'wrong-but-secret' } })
    for (const [name, call] of Object.entries(callsOf(wrong)))
      await assert.rejects(call, (error: Error & { code: string }) => {
        assert.equal(error.code, 'DENIED', name)
        assert.doesNotMatch(error.message, /wrong-but-secret/)
        return true
      })
  })

  test('what is known of a file is the same, whoever asks', async () => {
    const home = randomUUID()
    mkdirSync(`${place.disk}/${home}`)
    writeFileSync(`${place.disk}/${home}/style.css`, 'a {}')
    utimesSync(`${place.disk}/${home}/style.css`, 1e9, 1e9)
    await using driver = opened(place, {}, `${place.folder}/${home}`)
    const { info, body } = await driver.read('style.css')
    body.destroy()
    assert.deepEqual([info.size, info.modified, typeof info.etag], [4, new Date(1e12), 'string'])
    const stat = await driver.stat('style.css')
    assert.deepEqual({ ...stat, contentType: 'text/css' }, info)
    assert.deepEqual(await Array.fromAsync(driver.list('')), [{ kind: 'file', ...stat }])
  })

  test('conditions that no server keeps without a race are refused', async () => {
    await using driver = opened(place)
    await driver.write('a', toBody('x'))
    const calls = [
      async () => driver.write('b', toBody('x'), { ifAbsent: true }),
      async () => driver.copy?.('a', 'b', { ifAbsent: true }),
      async () => driver.move?.('a', 'b', { ifAbsent: true }),
      async () => driver.write('a', pieces(randomBytes(1_000_000)), { ifMatch: 'x' }),
    ]
    for (const call of calls) await assert.rejects(call, { code: 'UNSUPPORTED' })
    assert.deepEqual(await keysOf(driver), ['a'])
  })

  test('the directory of temporary files is no key', async () => {
    await using driver = opened(place)
    for (const key of ['.stowage-tmp', '.stowage-tmp/x']) {
      await assert.rejects(driver.write(key, toBody('x')), { code: 'INVALID_KEY' })
      await assert.rejects(driver.stat(key), { code: 'INVALID_KEY' })
      await assert.rejects(driver.delete(key), { code: 'INVALID_KEY' })
      await assert.rejects(keysOf(driver, key), { code: 'INVALID_KEY' })
    }
  })
}

function callsOf(driver: Driver): Record<string, () => Promise<unknown>> {
  return {
    read: async () => driver.read('a'),
    stat: async () => driver.stat('a'),
    list: async () => keysOf(driver),
    write: async () => driver.write('a', toBody('x')),
    'long write': async () => driver.write('a', pieces(randomBytes(1_000_000))),
    delete: async () => driver.delete('a'),
    copy: async () => driver.copy?.('a', 'b'),
    move: async () => driver.move?.('a', 'b'),
  }
}

function testApache(basic: Place, digest: Place) {
  test('what somebody else has locked is a CONFLICT that may pass', async () => {
    const home = randomUUID()
    const { host, port } = basic.server
    await using driver = opened(basic, {}, `${basic.folder}/${home}`)
    await driver.write('locked', toBody('old'))
    const authorization = `Basic ${Buffer.from(`${basic.server.user}:${basic.server.password}`).toString('base64')}`
    const url = `http://${host}:${port}/${basic.folder}/${home}/locked`
    const body = '<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>'
    const lock = await fetch(url, { method: 'LOCK', headers: { authorization, timeout: 'Second-60' }, body })
    assert.equal(lock.status, 200)
    for (const call of [async () => driver.write('locked', toBody('new')), async () => driver.delete('locked')])
      await assert.rejects(call, { code: 'CONFLICT', retryable: true })
    const token = lock.headers.get('lock-token') ?? ''
    await fetch(url, { method: 'UNLOCK', headers: { authorization, 'lock-token': token } })
    await driver.write('locked', toBody('new'))
  })

  test('a directory that may not be read is DENIED, not empty', async () => {
    const home = randomUUID()
    mkdirSync(`${basic.disk}/${home}/closed`, { recursive: true })
    chmodSync(`${basic.disk}/${home}/closed`, 0)
    await using driver = opened(basic, {}, `${basic.folder}/${home}`)
    await assert.rejects(keysOf(driver), { code: 'DENIED' })
  })

  test('ten thousand files of one directory are listed, from any place on', async () => {
    const home = randomUUID()
    mkdirSync(`${basic.disk}/${home}/many`, { recursive: true })
    const names = Array.from({ length: 10_000 }, (_, i) => `file number ${i} & <more>`)
    for (const name of names) writeFileSync(`${basic.disk}/${home}/many/${name}`, '')
    await using driver = opened(basic, {}, `${basic.folder}/${home}`)
    const keys = names.map((name) => `many/${name}`).toSorted(compareKeys)
    assert.deepEqual(await keysOf(driver), keys)
    const rest = await Array.fromAsync(driver.list('many', { after: keys[7000] ?? '' }))
    assert.deepEqual(
      rest.map(({ key }) => key),
      keys.slice(7001),
    )
  })

  test('names that the server keeps for itself are refused', async () => {
    await using driver = opened(digest)
    for (const key of ['.DAV/x', 'a/.DAV', '.davfs.tmp0'])
      await assert.rejects(new Store(driver).put(key, 'x'), { code: 'INVALID_KEY' })
  })
}

function testNginx(place: Place) {
  test('a name that would not be listed is refused', async () => {
    await using driver = opened(place)
    await driver.write('a', toBody('x'))
    for (const call of [
      async () => driver.write('.hidden', toBody('x')),
      async () => driver.copy?.('a', 'b/.hidden/c'),
      async () => driver.move?.('a', '.b'),
    ])
      await assert.rejects(call, { code: 'INVALID_KEY' })
    assert.deepEqual(await keysOf(driver), ['a'])
  })

  test('a body larger than the server takes is told, however it is sent', async () => {
    await using driver = opened(place, {}, `small/${randomUUID()}`)
    await driver.write('a', toBody('x'))
    for (const [bytes, options] of [
      [200_000, {}],
      [9_000_000, {}],
      [9_000_000, { size: 9_000_000 }],
    ] as const)
      await assert.rejects(driver.write('a', pieces(randomBytes(bytes)), options), {
        code: 'INVALID_ARGUMENT',
        message: /larger than the server takes/,
      })
    const silent = async function* () {
      yield* pieces(randomBytes(1_000_000))
      await new Promise(() => {})
    }
    await assert.rejects(driver.write('a', silent(), { size: 9_000_000 }), { code: 'INVALID_ARGUMENT' })
    assert.equal((await bytesOf(driver, 'a')).toString(), 'x')
  })

  test('a place that does not speak WebDAV is a mistake of the configuration', async () => {
    await using driver = opened(place, {}, 'files')
    const { stat, list, write, delete: remove } = callsOf(driver)
    for (const call of [stat, list, write, remove])
      await assert.rejects(call as () => Promise<unknown>, {
        code: 'INVALID_CONFIG',
        message: /does not speak WebDAV/,
      })
  })
}

function driverOf(fake: FakeWeb, options: Partial<WebdavOptions> = {}) {
  return closing(webdavDriver({ host: '127.0.0.1', port: fake.port, tls: false, timeoutMs: 5000, ...options }))
}

async function listed(answer: Told, directory = 'dir'): Promise<string[]> {
  await using fake = await FakeWeb.open(() => answer)
  await using driver = driverOf(fake)
  return (await Array.fromAsync(driver.list(directory, { recursive: false }))).map(({ kind, key }) => `${kind} ${key}`)
}

function testAnswers() {
  const files = [{ href: '/dir/' }, { href: '/dir/a%20b', size: 1 }, { href: '/dir/sub/' }]
  const expected = ['file dir/a b', 'directory dir/sub']

  test('addresses may be whole or only paths, and servers differ in what they tell besides', async () => {
    assert.deepEqual(await listed(propfound(files)), expected)
    const whole = files.map((file) => ({ ...file, href: `http://somewhere:81${file.href}` }))
    assert.deepEqual(await listed(propfound(whole)), expected)
    const deeper = [...files, { href: '/dir/sub/deep', size: 3 }, { href: '/dir/caf%E9', size: 2 }]
    assert.deepEqual(await listed(propfound(deeper)), expected)
  })

  test('namespaces count, not how they are written', async () => {
    const body = `<multistatus xmlns="DAV:" xmlns:x="urn:other">
      <response><href>/dir</href><propstat><prop><resourcetype><collection/></resourcetype></prop>
        <status>HTTP/1.1 200 OK</status></propstat></response>
      <A:response xmlns:A="DAV:"><A:href>/dir/f</A:href><A:propstat><A:prop><A:resourcetype><A:collection/></A:resourcetype>
        </A:prop><A:status>HTTP/1.1 404 Not Found</A:status></A:propstat><A:propstat><A:prop>
        <x:getcontentlength>9</x:getcontentlength><B:getcontentlength xmlns:B="DAV:"> 5 </B:getcontentlength>
        <A:resourcetype><x:collection/></A:resourcetype></A:prop><A:status>HTTP/1.1 200 OK</A:status></A:propstat></A:response>
      <response><href>/dir/gone</href><status>HTTP/1.1 404 Not Found</status></response></multistatus>`
    await using fake = await FakeWeb.open(() => ({ status: 207, body }))
    await using driver = driverOf(fake)
    assert.deepEqual(await Array.fromAsync(driver.list('dir')), [{ kind: 'file', key: 'dir/f', size: 5 }])
  })

  test('what is not told whole is not taken for all there is', async () => {
    const many = [...files, ...Array.from({ length: 900 }, (_, i) => ({ href: `/dir/${i}`, size: i }))]
    const whole = propfound(many)
    assert.equal((await listed(whole)).length, 902)
    const body = String(whole.body)
    const cuts = [
      0,
      10,
      60,
      ...Array.from({ length: 20 }, (_, i) => Math.floor((body.length * i) / 20)),
      body.length - 1,
    ]
    const boundary = body.lastIndexOf('</d:response>', 70_000) + '</d:response>'.length
    for (const cut of [...cuts, boundary, body.length - '</d:multistatus>'.length])
      await assert.rejects(listed({ ...whole, body: body.slice(0, cut) }), { code: 'UNREACHABLE' }, `${cut}`)
    await assert.rejects(listed({ status: 207, body: '<html>Please log in</html>' }), { code: 'UNREACHABLE' })
    await assert.rejects(listed({ status: 200, body: '<html>Please log in</html>' }), { code: 'INVALID_CONFIG' })
  })

  test('a file that may not be looked at, or has no size, fails the listing rather than being left out', async () => {
    const denied = '<d:response><d:href>/dir/x</d:href><d:status>HTTP/1.1 403 Forbidden</d:status></d:response>'
    await assert.rejects(listed(multistatus(denied)), { code: 'DENIED' })
    await assert.rejects(listed(propfound([{ href: '/dir/x' }])), { code: 'UNSUPPORTED' })
    await assert.rejects(listed(propfound([{ href: '/elsewhere/x', size: 1 }])), { code: 'INVALID_CONFIG' })
  })

  test('entities of the sender are neither expanded nor fetched', async () => {
    await using other = await FakeWeb.open(() => ({ status: 200, body: '/dir/x' }))
    const doctypes = [
      '<!ENTITY e "/dir/x">',
      `<!ENTITY e SYSTEM "http://127.0.0.1:${other.port}/">`,
      `<!ENTITY a "${'x'.repeat(1000)}"><!ENTITY e "${'&a;'.repeat(1000)}">`,
    ]
    for (const doctype of doctypes) {
      const response = '<d:response><d:href>&e;</d:href></d:response>'
      const body = `<!DOCTYPE d:multistatus [${doctype}]><d:multistatus xmlns:d="DAV:">${response}</d:multistatus>`
      await assert.rejects(listed({ status: 207, body }), { code: 'UNREACHABLE' })
    }
    assert.deepEqual(other.heard, [])
  })

  test('neither a listing nor a write follows a redirection to another server', async () => {
    await using other = await FakeWeb.open(() => ({ status: 200 }))
    const location = `http://127.0.0.1:${other.port}/secret?token=1`
    for (const status of [301, 307]) {
      await using fake = await FakeWeb.open(() => ({ status, headers: { location } }))
      await using driver = driverOf(fake, { login: { user: 'me', password: 'secret' } })
      const { read: _followed, ...calls } = callsOf(driver)
      for (const [name, call] of Object.entries(calls))
        await assert.rejects(call, (error: Error & { code: string }) => {
          assert.equal(error.code, 'INVALID_CONFIG', name)
          assert.doesNotMatch(error.message, /token/)
          return true
        })
    }
    assert.deepEqual(other.heard, [])
  })

  for (const [status, code, retryable] of [
    [423, 'CONFLICT', true],
    [429, 'THROTTLED', true],
    [502, 'UNREACHABLE', true],
    [503, 'THROTTLED', true],
    [507, 'NO_SPACE', false],
  ] as const)
    test(`${status} to a write is ${code}`, async () => {
      const dav = new FakeDav('1')
      await using fake = await FakeWeb.open((request) => (request.method === 'PUT' ? { status } : dav.answer(request)))
      await using driver = driverOf(fake)
      await assert.rejects(driver.write('a', toBody('x')), { code, retryable })
      await assert.rejects(driver.write('a', pieces(randomBytes(1_000_000))), { code, retryable })
    })

  test('a long body is sent once, when the server already knows who we are', async () => {
    const dav = new FakeDav('1')
    const challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-256'
    await using fake = await FakeWeb.open((request) =>
      request.method === 'OPTIONS' || request.headers.authorization
        ? dav.answer(request)
        : { status: 401, headers: { 'www-authenticate': `Basic realm="r", ${challenge}` } },
    )
    await using driver = driverOf(fake, { login: { user: 'me', password: 'secret' } })
    const bytes = randomBytes(1_000_000)
    await driver.write('a', pieces(bytes))
    assert.ok(dav.files.get('/a')?.equals(bytes))
    assert.equal(fake.heard.filter(({ method }) => method === 'PUT').length, 1)
    const sent = fake.heard.map(({ headers }) => headers.authorization ?? '')
    assert.ok(sent.every((header) => header === '' || header.startsWith('Digest ')))
  })

  test('a directory in the place of a file is not replaced, although the server would', async () => {
    const dav = new FakeDav('1')
    await using fake = await FakeWeb.open((request) => dav.answer(request))
    await using driver = driverOf(fake)
    await driver.write('tree/file', toBody('x'))
    await driver.write('file', toBody('y'))
    for (const call of [
      async () => driver.write('tree', toBody('z')),
      async () => driver.copy?.('file', 'tree'),
      async () => driver.move?.('file', 'tree'),
    ])
      await assert.rejects(call, { code: 'CONFLICT' })
    assert.deepEqual([...dav.files.keys()].sort(), ['/file', '/tree/file'])
  })

  for (const told of [{ status: 412 }, { status: 301, headers: { location: '/a/' } }])
    test(`a file that became a directory between the look and the deletion stays (${told.status})`, async () => {
      let looks = 0
      await using fake = await FakeWeb.open(({ method, headers }) => {
        if (method === 'PROPFIND')
          return looks++ === 0 ? propfound([{ href: '/a', size: 1, etag: '"1"' }]) : propfound([{ href: '/a/' }])
        return headers['if-match'] === '"1"' ? told : { status: 204 }
      })
      await using driver = driverOf(fake)
      await driver.delete('a')
      assert.deepEqual(
        fake.heard.map(({ method }) => method),
        ['PROPFIND', 'DELETE', 'PROPFIND'],
      )
    })

  test('a server that cannot judge its own etags still deletes', async () => {
    await using fake = await FakeWeb.open(({ method, headers }) => {
      if (method === 'PROPFIND') return propfound([{ href: '/a', size: 1, etag: '"1"' }])
      return { status: headers['if-match'] === undefined ? 204 : 412 }
    })
    await using driver = driverOf(fake)
    await driver.delete('a')
    assert.equal(fake.heard.at(-1)?.headers['if-match'], undefined)
  })

  test('Nextcloud is sent what has a length straight to its key, and the rest by a temporary name', async () => {
    const dav = new FakeDav('1, 3, extended-mkcol, oc-resource-sharing')
    await using fake = await FakeWeb.open((request) => dav.answer(request))
    await using driver = driverOf(fake, { home: 'here' })
    const bytes = randomBytes(1_000_000)
    const put = async (size?: number) => {
      await driver.write('here/a', pieces(bytes), {
        modified: new Date(1e12 + 999),
        ...(size !== undefined && { size }),
      })
      return fake.heard.findLast(({ method }) => method === 'PUT')
    }
    const sized = await put(bytes.byteLength)
    assert.deepEqual([sized?.path, sized?.headers['x-oc-mtime']], ['/here/a', '1000000000'])
    assert.match((await put())?.path ?? '', /^\/here\/\.stowage-tmp\/[\w-]+$/)
    assert.deepEqual([...dav.files.keys()], ['/here/a'])
  })

  test('a server that only speaks of itself like Apache is not trusted like it', async () => {
    for (const [says, path] of [
      ['1,2, <http://apache.org/dav/propset/fs/1>', /^\/\.stowage-tmp\//],
      ['1,2, nextcloud-checksum-update', /^\/a$/],
    ] as const) {
      const dav = new FakeDav(says)
      await using fake = await FakeWeb.open((request) => dav.answer(request))
      await using driver = driverOf(fake)
      await driver.write('a', toBody('x'))
      assert.match(fake.heard.find(({ method }) => method === 'PUT')?.path ?? '', path)
    }
  })

  test('a long body and a rename are stored although nobody can be asked about them; a short body is sent again', async () => {
    const dav = new FakeDav('1')
    await using fake = await FakeWeb.open((request) => {
      const isLook = request.method === 'PROPFIND' && /^\/(a|b)$/.test(request.path) && dav.files.has(request.path)
      return isLook && fake.heard.at(-2)?.method === 'MOVE' ? { status: 503 } : dav.answer(request)
    })
    await using driver = driverOf(fake)
    const bytes = randomBytes(1_000_000)
    assert.deepEqual(await driver.write('a', pieces(bytes), { size: bytes.byteLength }), { key: 'a', size: 1_000_000 })
    assert.deepEqual(await driver.move?.('a', 'b'), { key: 'b', size: 1_000_000 })
    await assert.rejects(driver.write('a', toBody('x')), { code: 'THROTTLED', retryable: true })
    assert.deepEqual([...dav.files.keys()].sort(), ['/a', '/b'])
  })

  test('a busy server that closes connections just when they are used again fails no call', async () => {
    const dav = new FakeDav('1')
    await using fake = await FakeWeb.open((request) => (request.isLater ? 'nothing' : dav.answer(request)))
    await using driver = driverOf(fake)
    const { write, 'long write': writeLong, ...calls } = callsOf(driver)
    await write?.()
    await writeLong?.()
    for (const name of ['read', 'stat', 'list', 'copy', 'move', 'delete']) await calls[name]?.()
    assert.deepEqual([...dav.files.keys()], ['/b'])
    assert.ok(fake.heard.some(({ isLater, method }) => isLater && method === 'MOVE'))
  })

  test('a rename whose answer is lost has happened once, whoever repeats it', async () => {
    const dav = new FakeDav('1')
    let losses = 0
    await using fake = await FakeWeb.open((request) => {
      const told = dav.answer(request)
      return request.method === 'MOVE' && losses-- > 0 ? 'nothing' : told
    })
    await using driver = driverOf(fake)
    await driver.write('a', toBody('x'))
    losses = 1
    await driver.write('b', toBody('yy'))
    losses = 1
    assert.equal((await driver.move?.('a', 'c'))?.size, 1)
    assert.deepEqual([...dav.files.keys()].sort(), ['/b', '/c'])
  })

  test('a rename whose source somebody else took is not taken for one that has happened', async () => {
    const dav = new FakeDav('1')
    await using fake = await FakeWeb.open((request) => {
      if (request.method === 'MOVE' && request.path === '/a') dav.files.delete('/a')
      return dav.answer(request)
    })
    await using driver = driverOf(fake)
    for (const [key, content] of [
      ['a', 'x'],
      ['b', 'other'],
    ] as const)
      await driver.write(key, toBody(content))
    await assert.rejects(async () => driver.move?.('a', 'b'), { code: 'NOT_FOUND' })
    assert.deepEqual([...dav.files.values()].map(String), ['other'])
  })

  test('a server that drops bodies of unknown length is found out before anything is replaced', async () => {
    const dav = new FakeDav('1', true)
    await using fake = await FakeWeb.open((request) => dav.answer(request))
    await using driver = driverOf(fake)
    await driver.write('a', toBody('old'))
    await assert.rejects(driver.write('a', pieces(randomBytes(1_000_000))), { code: 'CORRUPT', message: /stored 0 of/ })
    assert.deepEqual([...dav.files], [['/a', Buffer.from('old')]])
  })

  test('temporary files of processes that died a week ago are removed, younger ones are not', async () => {
    const dav = new FakeDav('1')
    const name = (days: number) => `/.stowage-tmp/${(Date.now() - days * 86_400_000).toString(36)}-${randomUUID()}`
    dav.directories.add('/.stowage-tmp/')
    for (const path of [name(8), name(6), '/.stowage-tmp/strange']) dav.files.set(path, Buffer.from('x'))
    const [, young = ''] = [...dav.files.keys()]
    await using fake = await FakeWeb.open((request) => dav.answer(request))
    await using driver = driverOf(fake)
    await driver.write('a', toBody('x'))
    assert.deepEqual([...dav.files.keys()].sort(), ['/.stowage-tmp/strange', young, '/a'].sort())
  })

  test('a page about a directory is not taken for a file', async () => {
    const dav = new FakeDav('1')
    dav.files.set('/dir/file', Buffer.from('x'))
    await using fake = await FakeWeb.open((request) =>
      request.method === 'GET'
        ? { status: 200, headers: { 'content-length': '11' }, body: 'This is DAV' }
        : dav.answer(request),
    )
    await using driver = driverOf(fake)
    await assert.rejects(driver.read('dir'), { code: 'NOT_FOUND' })
  })

  test('a file that the server calls compressed is served as it is stored; what it compresses itself is refused', async () => {
    const body = 'as stored'
    for (const [size, isServed] of [
      [body.length, true],
      [500, false],
    ] as const) {
      await using fake = await FakeWeb.open(({ method }) =>
        method === 'GET'
          ? { status: 200, headers: { 'content-encoding': 'gzip', 'content-length': '9', etag: '"1"' }, body }
          : propfound([{ href: '/a.gz', size, etag: '"1"' }]),
      )
      await using driver = driverOf(fake)
      if (isServed) assert.equal((await bytesOf(driver, 'a.gz')).toString(), body)
      else await assert.rejects(driver.read('a.gz'), { code: 'UNSUPPORTED' })
    }
  })
}
