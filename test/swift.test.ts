/** The Swift driver against OpenStack Swift with either way to log in, and against Ceph's; and what other clients make of it. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { hash, randomBytes, randomInt } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { readFileSync } from 'node:fs'
import * as http from 'node:http'
import * as net from 'node:net'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, before, describe, test, type TestContext } from 'node:test'
import * as tls from 'node:tls'
import { collect, toBody } from '../src/core/bytes.ts'
import { codeOf } from '../src/core/errors.ts'
import { compareKeys } from '../src/core/keys.ts'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { Auth, type Login } from '../src/drivers/swift/auth.ts'
import { Service, type ServiceOptions } from '../src/drivers/swift/service.ts'
import { swiftDriver, swiftFromUrl, type SwiftOptions } from '../src/drivers/swift/swift.ts'
import type { Driver, FileInfo } from '../src/store/driver.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { FaultProxy } from './servers/fault-proxy.ts'
import { startServer, type Started } from './servers/start.ts'

/** What swift.sh says. */
interface Found {
  host: string
  port: number
  tlsPort: number
  keystonePort: number
  memcachedPort: number
  ca: string
  application: string
}

const run = randomBytes(4).toString('hex')
const v1 = { version: 1, user: 'test:tester', key: 'testing' } as const
const programs = ['swift-proxy-server', 'swift-object-server', 'memcached', 'keystone-manage', 'curl', 'openssl']
const swift = startServer<Found>('swift', programs)
if (swift) testSwift(swift)
else
  test('Swift', {
    skip: 'the Debian packages swift-proxy, swift-account, swift-container, swift-object, memcached, python3-keystone, python3-keystonemiddleware, curl and openssl are not installed',
  }, () => {})

const ceph = startServer<Pick<Found, 'host' | 'port' | 'tlsPort' | 'ca'>>('rgw', ['radosgw', 'ceph-mon', 'ceph-osd'])
if (ceph) {
  after(() => ceph.stop())
  const options = (container: string): SwiftOptions => {
    const login: Login = { version: 1, path: '/auth/v1', user: 'owner:swift', key: 'swiftsecret' }
    const { host, port } = ceph
    return { host, port, tls: false, login, container, segmentSize: 1 << 16, tempUrlKey: 'a key' }
  }
  before(() => {
    const conf = path.join(path.dirname(ceph.ca), 'ceph.conf')
    const subuser = [
      '--uid=owner',
      '--subuser=owner:swift',
      '--access=full',
      '--key-type=swift',
      '--secret=swiftsecret',
    ]
    execFileSync('radosgw-admin', ['-c', conf, 'subuser', 'create', ...subuser], { stdio: 'ignore' })
  })
  testDriver("swift of Ceph's gateway", async () => ({ driver: await made(options('suite')) }))
  describe("swift of Ceph's gateway", () => testCeph(options))
}

/** It lists large objects with the size of their manifest, so it is not given any. */
function testCeph(options: (container: string) => SwiftOptions) {
  test('a long body goes there as one object, and one that fails leaves the former', async () => {
    await using driver = closing(await made(options('whole')))
    const bytes = randomBytes(3_000_000)
    for (const size of [undefined, bytes.byteLength]) {
      await driver.write('a', pieces(bytes), size === undefined ? {} : { size })
      assert.ok((await contentOf(driver, 'a')).equals(bytes))
      const failing = async function* () {
        yield* pieces(randomBytes(2_000_000))
        throw new Error('the source broke')
      }
      await assert.rejects(driver.write('a', failing(), size === undefined ? {} : { size }), /the source broke/)
      assert.ok((await contentOf(driver, 'a')).equals(bytes))
    }
    const [listed, ...others] = await Array.fromAsync(driver.list('', { recursive: false }))
    assert.deepEqual([(listed as FileInfo).size, others], [bytes.byteLength, []])
  })

  test('a large object of another client is read and copied whole', async () => {
    await using driver = closing(await made(options('theirs')))
    const container = `theirs-${run}`
    for (const key of ['part-1', 'part-2']) await driver.write(key, toBody(key))
    const lines = ['part-1', 'part-2'].map((key) => ({
      path: `/${container}/${key}`,
      etag: hash('md5', key),
      size_bytes: 6,
    }))
    const body = Buffer.from(JSON.stringify(lines))
    await asked(options(container), {
      method: 'PUT',
      path: `/${container}/a`,
      query: { 'multipart-manifest': 'put' },
      body,
    })
    await driver.copy?.('a', 'b')
    await driver.delete('a')
    assert.equal((await contentOf(driver, 'b')).toString(), 'part-1part-2')
    assert.equal((await contentOf(driver, 'part-1')).toString(), 'part-1')
  })

  test('temporary URLs are signed as it knows them', async () => {
    await using driver = closing(await made(options('signed')))
    await driver.write('a b+c', toBody('hello'))
    const headers = { 'x-account-meta-temp-url-key': 'a key' }
    await asked(options('c'), { method: 'POST', path: '', headers })
    const url = (await driver.signedUrl?.('a b+c', { method: 'GET', expiresInSeconds: 60 })) ?? ''
    assert.equal(await (await fetch(url)).text(), 'hello')
  })
}

test('a URL says how to log in', () => {
  const open = (rest: string, who = 'u:k@') => swiftFromUrl(parseStorageUrl(`swift://${who}host${rest}`))
  for (const fine of [
    '/a/b?container=c',
    '?container=c&project=p&domain=d&region=r&interface=internal',
    ':5000?container=c&auth_path=identity/v3&project=p',
    '?container=c&auth_version=1&auth_path=/auth/v1&use_ssl=false&segments_container=s&segment_size=1000&temp_url_key=k',
  ])
    assert.match(open(fine).location, /^swift:\/\/host(:5000)?\/c/)
  assert.ok(open('?container=c&application_credential_id=i&application_credential_secret=s', ''))
  for (const [wrong, who] of [
    [''],
    ['?container=a/b'],
    ['?container=c', ''],
    ['?container=c', 'u@'],
    ['?container=c&auth_version=2&project=p'],
    ['?container=c&auth_version=4'],
    ['?container=c&auth_version=1&project=p'],
    ['?container=c&auth_version=3'],
    ['?container=c&auth_path=/v3'],
    ['?container=c&project=p&interface=admin'],
    ['?container=c&application_credential_id=i'],
    ['?container=c&segment_size=0'],
    ['?container=c&unknown=1'],
  ] as const)
    assert.throws(() => open(wrong, who), { code: 'INVALID_ARGUMENT' }, wrong)
})

/** Opens a container of this run after making it. */
async function made(options: SwiftOptions): Promise<Driver> {
  const named = { ...options, container: `${options.container}-${run}` }
  await asked(named, { method: 'PUT', path: `/${named.container}` })
  return swiftDriver(named)
}

/** Asks the service for something that the driver never does. */
async function asked(options: ServiceOptions, request: Parameters<Service['request']>[0]): Promise<Buffer> {
  const service = new Service(options)
  try {
    return await (await service.request(request)).bytes()
  } finally {
    await service.close()
  }
}

function testSwift(found: Started<Found>) {
  const { host, port } = found
  after(() => found.stop())
  const options = (container: string, more: Partial<SwiftOptions> = {}): SwiftOptions => ({
    host,
    port,
    tls: false,
    login: v1,
    container,
    ...more,
  })
  testDriver('swift', async () => ({ driver: await made(options('suite', { tempUrlKey: 'a key' })) }))
  testDriver('swift over TLS, in segments', async () => {
    const secure = { port: found.tlsPort, tls: true, ca: readFileSync(found.ca, 'utf8') }
    return { driver: await made(options('suite-tls', { ...secure, segmentSize: 1 << 16, tempUrlKey: 'a key' })) }
  })
  testDriver('swift with Keystone, below a prefix, with retries', async () => {
    await (await made(keyed(found, 'suite-keyed'))).close()
    const parameters = `container=suite-keyed-${run}&project=admin&region=one&use_ssl=false&temp_url_key=k`
    const url = `swift://admin:secret@${host}:${found.keystonePort}/a/b c?${parameters}`
    return { driver: retrying(swiftFromUrl(parseStorageUrl(url))) }
  })
  describe('swift', () => {
    testLogins(found, options)
    testLargeObjects(options)
    testOthersObjects(found, options)
    testFaults(options)
    testWhatIsSpecial(options)
  })
}

type OptionsOf = (container: string, more?: Partial<SwiftOptions>) => SwiftOptions

function keyed({ host, keystonePort }: Found, container: string, more: Partial<Login> = {}): SwiftOptions {
  const proof = { user: 'admin', password: 'secret', project: 'admin', userDomain: 'Default' }
  const login = { version: 3, region: 'one', proof, ...more } as Login
  return { host, port: keystonePort, tls: false, login, container }
}

function testLogins(found: Found, options: OptionsOf) {
  test('a token that has been taken back is renewed once, however many calls meet that', async (t) => {
    let logins = 0
    const relay = await relaying(t, found.port, (url) => {
      if (url.startsWith('/auth/')) logins++
      return url
    })
    await using driver = closing(await made(options('renewed', { port: relay })))
    logins = 0
    const keys = Array.from({ length: 20 }, (_, i) => `f${i}`)
    await Promise.all(keys.map(async (key) => driver.write(key, toBody(key))))
    assert.equal(logins, 1)
    await forgetTokens(found.memcachedPort)
    await Promise.all(keys.map(async (key) => driver.write(key, toBody('new'))))
    assert.equal(logins, 2)
  })

  test('a token is renewed before it ends, and used to its end while that fails', async (t) => {
    const logins: string[] = []
    let isDown = false
    const relay = await relaying(
      t,
      found.port,
      (url) => {
        if (!url.startsWith('/auth/')) return url
        logins.push(isDown ? 'failed' : 'done')
        return isDown ? undefined : url
      },
      (headers) => headers['x-auth-token-expires'] && (headers['x-auth-token-expires'] = '1000'),
    )
    await using driver = closing(await made(options('ending', { port: relay })))
    const { now } = Date
    let ahead = 0
    Date.now = () => now() + ahead * 1000
    t.after(() => {
      Date.now = now
    })
    const at = async (seconds: number) => {
      ahead = seconds
      return driver.list('')[Symbol.asyncIterator]().next()
    }
    logins.length = 0
    await at(0)
    await at(750)
    assert.deepEqual(logins, ['done'])
    isDown = true
    await at(850)
    await at(950)
    await assert.rejects(at(1050), { code: 'UNREACHABLE' })
    assert.deepEqual(new Set(logins.slice(1)), new Set(['failed']))
    isDown = false
    await at(1050)
    assert.equal(logins.at(-1), 'done')
  })

  test('wrong secrets, users and projects are DENIED, and no secret is told', async () => {
    const proof = { user: 'admin', password: 'secret', project: 'admin' }
    for (const wrong of [
      options('c', { login: { ...v1, key: 'wrong-but-secret' } }),
      options('c', { login: { ...v1, user: 'test:nobody' } }),
      keyed(found, 'c', { proof: { ...proof, password: 'wrong-but-secret' } }),
      keyed(found, 'c', { proof: { ...proof, project: 'nowhere' } }),
      keyed(found, 'c', { proof: { ...proof, userDomain: 'nowhere' } }),
      keyed(found, 'c', {
        proof: { applicationCredentialId: found.application, applicationCredentialSecret: 'wrong-but-secret' },
      }),
      keyed(found, 'c', { proof: { applicationCredentialId: 'x', applicationCredentialSecret: 'wrong-but-secret' } }),
    ]) {
      await using driver = closing(swiftDriver(wrong))
      await assert.rejects(driver.write('a', toBody('x')), (error: Error & { code: string }) => {
        assert.equal(error.code, 'DENIED')
        assert.ok(!JSON.stringify([error, error.message, error.cause, driver.location]).includes('wrong-but-secret'))
        return true
      })
    }
  })

  test('who may not write is DENIED, and so is who has no business here', async () => {
    await using owner = closing(await made(options('private')))
    await owner.write('a', toBody('x'))
    const container = `private-${run}`
    await using reader = closing(
      swiftDriver(options(container, { login: { ...v1, user: 'test:reader', key: 'reading' } })),
    )
    await assert.rejects(reader.write('a', toBody('y')), { code: 'DENIED' })
    await assert.rejects(reader.read('a'), { code: 'DENIED' })
    await asked(options(container), {
      method: 'POST',
      path: `/${container}`,
      headers: { 'x-container-read': 'test:reader' },
    })
    assert.equal((await collect((await reader.read('a')).body)).toString(), 'x')
    await assert.rejects(reader.stat('absent'), { code: 'NOT_FOUND' })
    await assert.rejects(reader.delete('a'), { code: 'DENIED' })
    await assert.rejects(async () => reader.deleteMany?.(['a', 'b']), { code: 'DENIED' })
    assert.equal((await owner.stat('a')).size, 1)
  })

  test('an application credential logs in, and an internal address is used when it is asked for', async () => {
    const proof = { applicationCredentialId: found.application, applicationCredentialSecret: 'applied' }
    await using driver = closing(await made(keyed(found, 'applied', { proof })))
    await driver.write('a', toBody('x'))
    const container = `applied-${run}`
    await using inside = closing(swiftDriver(keyed(found, container, { interface: 'internal' })))
    assert.equal((await inside.stat('a')).size, 1)
  })

  test('which region is meant is not guessed', async () => {
    const { region: _, ...anywhere } = keyed(found, 'c').login as Extract<Login, { version: 3 }>
    for (const [login, message] of [
      [anywhere, /more than one public object-store.*one of: .*one/],
      [{ ...anywhere, region: 'three' }, /no public object-store in the region three/],
    ] as const) {
      await using driver = closing(swiftDriver({ ...keyed(found, 'c'), login }))
      await assert.rejects(driver.stat('a'), { code: 'INVALID_CONFIG', message })
    }
  })

  test('a token is not sent in the clear when the login was not', async (t) => {
    const [cert, key] = await Promise.all(
      ['cert.pem', 'key.pem'].map(async (name) => readFile(path.join(path.dirname(found.ca), name))),
    )
    const front = tls.createServer({ cert, key }, (socket) => {
      const back = net.connect(found.port, found.host)
      for (const end of [socket, back]) end.on('error', () => socket.destroy())
      socket.pipe(back).pipe(socket)
    })
    await once(front.listen(0, found.host), 'listening')
    t.after(() => front.close())
    const { port } = front.address() as net.AddressInfo
    await using driver = closing(swiftDriver(options('c', { port, tls: true, ca: readFileSync(found.ca, 'utf8') })))
    await assert.rejects(driver.stat('a'), { code: 'INVALID_CONFIG', message: /in the clear/ })
  })

  test('what is no Swift at all is told from one that cannot be reached', async () => {
    await using wrong = closing(swiftDriver(options('c', { login: { ...v1, path: '/elsewhere' } })))
    await assert.rejects(wrong.stat('a'), { code: 'INVALID_CONFIG', message: /auth_path/ })
    await using nobody = closing(swiftDriver(options('c', { port: 9 })))
    await assert.rejects(nobody.stat('a'), { code: 'UNREACHABLE' })
  })

  test('a container that is not there is a mistake of the configuration, for every call', async () => {
    await using driver = closing(swiftDriver(options('no-such-container')))
    const absent = { code: 'INVALID_CONFIG', message: /no-such-container/ }
    await assert.rejects(driver.read('a'), absent)
    await assert.rejects(driver.stat('a'), absent)
    await assert.rejects(driver.write('a', toBody('x')), absent)
    await assert.rejects(driver.delete('a'), absent)
    await assert.rejects(async () => driver.deleteMany?.(['a', 'b']), absent)
    await assert.rejects(async () => driver.copy?.('a', 'b'), absent)
    await assert.rejects(Array.fromAsync(driver.list('')), absent)
  })
}

const mebibyte = 1 << 20

/** Every segment that the container has. */
async function segmentsOf(options: SwiftOptions, container = options.container): Promise<string[]> {
  const query = { prefix: container === options.container ? '.file-segments/' : '' }
  return (await asked(options, { method: 'GET', path: `/${container}`, query })).toString().split('\n').filter(Boolean)
}

async function* pieces(bytes: Buffer, size = 1_000_003) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

async function contentOf(driver: Driver, key: string): Promise<Buffer> {
  return collect((await driver.read(key)).body)
}

function testLargeObjects(options: OptionsOf) {
  /** A container that takes segments of the size, and a look at how many it has. */
  async function segmented(name: string, segmentSize: number, more: Partial<SwiftOptions> = {}) {
    const driver = closing(await made(options(name, { segmentSize, ...more })))
    const count = async () => (await segmentsOf(options(`${name}-${run}`))).length
    return { driver, count }
  }

  test('30 MiB in segments of 5 MiB come back as they were, and as any part', async () => {
    const { driver, count } = await segmented('large', 5 * mebibyte)
    await using _ = driver
    const bytes = randomBytes(30 * mebibyte)
    const modified = new Date('2020-02-02T02:02:02.020Z')
    const options = { contentType: 'image/x-big', metadata: { origin: 'test' }, modified }
    const written = await driver.write('big', pieces(bytes), options)
    assert.equal(await count(), 6)
    const { info, body } = await driver.read('big')
    assert.ok((await collect(body)).equals(bytes))
    assert.deepEqual(
      [info.size, info.contentType, info.metadata],
      [bytes.byteLength, 'image/x-big', { origin: 'test' }],
    )
    assert.deepEqual([info.modified, info.etag, info.digests], [modified, written.etag, undefined])
    const range = { start: 5 * mebibyte - 10, end: 5 * mebibyte + 10 }
    assert.ok(
      (await collect((await driver.read('big', { range })).body)).equals(bytes.subarray(range.start, range.end)),
    )
    const [listed, ...others] = await Array.fromAsync(driver.list('', { recursive: false }))
    assert.deepEqual([listed?.key, (listed as typeof info).size, others], ['big', bytes.byteLength, []])
    assert.equal((listed as typeof info).etag, written.etag)
    await driver.delete('big')
    assert.equal(await count(), 0)
  })

  test('whatever takes the place of a large object takes its segments away', async () => {
    const { driver, count } = await segmented('replaced', 1000)
    await using _ = driver
    const large = async (key: string, size = 5000) => driver.write(key, toBody(randomBytes(size)))
    await large('a')
    await large('a', 7000)
    assert.equal(await count(), 7)
    await driver.write('a', toBody('small'))
    assert.equal(await count(), 0)
    await large('a')
    await driver.writeBytes?.('a', Buffer.from('small'))
    assert.equal(await count(), 0)
    await large('a')
    await driver.write('b', toBody('small'))
    await driver.copy?.('b', 'a')
    assert.deepEqual([(await contentOf(driver, 'a')).toString(), await count()], ['small', 0])
    await Promise.all(['a', 'b', 'c'].map(async (key) => large(key)))
    await driver.deleteMany?.(['a', 'b', 'c', 'absent'])
    assert.deepEqual([await Array.fromAsync(driver.list('')), await count()], [[], 0])
  })

  test('a long body that fails leaves the former object, and no segments', async () => {
    const { driver, count } = await segmented('failed', mebibyte)
    await using _ = driver
    await driver.write('kept', toBody('old'))
    const failing = async function* () {
      yield* pieces(randomBytes(7 * mebibyte))
      throw new Error('the source broke')
    }
    await assert.rejects(driver.write('kept', failing()), /the source broke/)
    await assert.rejects(driver.write('kept', pieces(randomBytes(7 * mebibyte)), { size: 1 }), { code: 'CORRUPT' })
    await assert.rejects(driver.write('kept', pieces(randomBytes(7 * mebibyte)), { size: 8 * mebibyte }), {
      code: 'CORRUPT',
    })
    const stop = new AbortController()
    const silent = async function* () {
      yield* pieces(randomBytes(3 * mebibyte))
      stop.abort()
      await new Promise(() => {})
    }
    await assert.rejects(driver.write('kept', silent(), { signal: stop.signal }), { code: 'ABORTED' })
    assert.deepEqual([(await contentOf(driver, 'kept')).toString(), await count()], ['old', 0])
  })

  test('more segments than a manifest may name go into manifests of manifests', async () => {
    const { driver, count } = await segmented('deep', 1000, { manifestSegments: 4 })
    await using _ = driver
    const bytes = randomBytes(30_500)
    const { etag } = await driver.write('a', toBody(bytes), { metadata: { origin: 'test' } })
    // 31 segments in 8 manifests in 2.
    assert.equal(await count(), 31 + 8 + 2)
    assert.deepEqual([(await driver.stat('a')).size, (await driver.stat('a')).etag], [30_500, etag])
    await driver.copy?.('a', 'b')
    assert.equal(await count(), 2 * (31 + 8 + 2))
    await driver.delete('a')
    assert.ok((await contentOf(driver, 'b')).equals(bytes))
    assert.deepEqual((await driver.stat('b')).metadata, { origin: 'test' })
    await driver.delete('b')
    assert.equal(await count(), 0)
  })

  test('segments can have a container of their own', async () => {
    await (await made(options('aside-parts'))).close()
    const segmentsContainer = `aside-parts-${run}`
    const { driver, count } = await segmented('aside', 1000, { segmentsContainer })
    await using _ = driver
    const inside = async () => (await segmentsOf(options(`aside-${run}`), segmentsContainer)).length
    const bytes = randomBytes(4500)
    await driver.write('a', toBody(bytes))
    assert.deepEqual([await count(), await inside()], [0, 5])
    assert.ok((await contentOf(driver, 'a')).equals(bytes))
    await driver.delete('a')
    assert.equal(await inside(), 0)
    await using nowhere = closing(
      swiftDriver(options(`aside-${run}`, { segmentSize: 1000, segmentsContainer: 'no-such-container' })),
    )
    await assert.rejects(nowhere.write('a', toBody(bytes)), { code: 'INVALID_CONFIG', message: /no-such-container/ })
  })

  test('a service without large objects is not given a manifest for a file: the file goes there as one object', async (t) => {
    const relay = await relaying(t, options('').port, (url) => url.replace('multipart-manifest=put', ''))
    const { driver, count } = await segmented('unable', 1000, { port: relay })
    await using _ = driver
    for (const size of [undefined, 5000]) {
      const bytes = randomBytes(5000)
      const { digests } = await driver
        .write('a', pieces(bytes, 700), size === undefined ? {} : { size })
        .then(async () => driver.stat('a'))
      assert.ok((await contentOf(driver, 'a')).equals(bytes))
      assert.deepEqual([digests, await count()], [{ md5: hash('md5', bytes) }, 0])
      await assert.rejects(driver.write('a', pieces(bytes, 700), { size: 5001 }), { code: 'CORRUPT' })
      await assert.rejects(driver.write('a', pieces(bytes, 700), { size: 4999 }), { code: 'CORRUPT' })
      assert.ok((await contentOf(driver, 'a')).equals(bytes))
    }
  })

  test('a large object that has lost a segment is CORRUPT, or breaks off; it is never shorter', async () => {
    const { driver } = await segmented('damaged', 1000)
    await using _ = driver
    await driver.write('a', toBody(randomBytes(3000)))
    const all = await segmentsOf(options(`damaged-${run}`))
    await asked(options('c'), { method: 'DELETE', path: `/damaged-${run}/${all[1]}` })
    await assert.rejects(contentOf(driver, 'a'), { code: 'UNREACHABLE' })
    await asked(options('c'), { method: 'DELETE', path: `/damaged-${run}/${all[0]}` })
    await assert.rejects(contentOf(driver, 'a'), { code: 'CORRUPT' })
  })

  test('segments are out of sight, and no file can be stored among them', async () => {
    const { driver } = await segmented('hidden', 1000)
    await using _ = driver
    for (const key of ['.file', '.file-segments-not', 'a']) await driver.write(key, toBody(randomBytes(2000)))
    const expected = ['.file', '.file-segments-not', 'a']
    for (const recursive of [true, false])
      assert.deepEqual(
        (await Array.fromAsync(driver.list('', { recursive }))).map(({ key }) => key),
        expected,
      )
    assert.deepEqual(await Array.fromAsync(driver.list('.file-segments')), [])
    await assert.rejects(driver.write('.file-segments/a', toBody('x')), { code: 'INVALID_KEY' })
    await assert.rejects(driver.write('.file-segments', toBody('x')), { code: 'INVALID_KEY' })
  })
}

function testOthersObjects(found: Found, options: OptionsOf) {
  test("others' large objects are read, copied and deleted, and what they are made of is left alone", async () => {
    await using driver = closing(await made(options('foreign')))
    const container = `foreign-${run}`
    const there = options(container)
    for (const key of ['part/1', 'part/2']) await driver.write(key, toBody(key))
    const lines = [{ path: `/${container}/part/1` }, { path: `/${container}/part/2`, range: '5-5' }]
    const body = Buffer.from(JSON.stringify(lines))
    await asked(there, { method: 'PUT', path: `/${container}/static`, query: { 'multipart-manifest': 'put' }, body })
    const headers = { 'x-object-manifest': `${container}/part/` }
    await asked(there, { method: 'PUT', path: `/${container}/dynamic`, headers })
    for (const [key, content] of [
      ['static', 'part/12'],
      ['dynamic', 'part/1part/2'],
    ] as const) {
      assert.equal((await contentOf(driver, key)).toString(), content)
      assert.equal((await driver.copy?.(key, `${key}-copy`))?.size, content.length)
      await driver.delete(key)
      assert.equal((await contentOf(driver, `${key}-copy`)).toString(), content)
    }
    assert.deepEqual(
      (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
      ['dynamic-copy', 'part/1', 'part/2', 'static-copy'],
    )
  })

  test('what is no key is passed over, and so are markers of directories', async () => {
    await using driver = closing(await made(options('odd')))
    const container = `odd-${run}`
    for (const name of ['folder/', 'a//b', '../up', '/abs'])
      await asked(options(container), { method: 'PUT', path: `/${container}/${name}` })
    const marker = { 'content-type': 'application/directory' }
    await asked(options(container), { method: 'PUT', path: `/${container}/photos`, headers: marker })
    await driver.write('photos/1', toBody('x'))
    assert.deepEqual(
      (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
      ['photos/1'],
    )
    assert.deepEqual(
      (await Array.fromAsync(driver.list('', { recursive: false }))).map(({ kind, key }) => [kind, key]),
      [
        ['directory', 'a'],
        ['directory', 'folder'],
        ['directory', 'photos'],
      ],
    )
  })

  test('rclone reads what the driver wrote, whole and in segments, with its time, and sees no segments', async (t) => {
    if (!process.env['CI'] && spawnSync('rclone', ['version']).status !== 0) return t.skip('rclone is not installed')
    await using driver = closing(await made(options('rclone', { segmentSize: mebibyte })))
    const [small, big] = [randomBytes(5000), randomBytes(3_300_000)]
    const modified = new Date('2021-03-04T05:06:07.089Z')
    await driver.write('dir/small file', toBody(small), { modified })
    await driver.write('big', pieces(big), { modified })
    const env = {
      ...process.env,
      RCLONE_CONFIG_T_TYPE: 'swift',
      RCLONE_CONFIG_T_USER: 'test:tester',
      RCLONE_CONFIG_T_KEY: 'testing',
      RCLONE_CONFIG_T_AUTH: `http://${found.host}:${found.port}/auth/v1.0`,
    }
    const rclone = (...args: string[]) => execFileSync('rclone', ['--config', '', ...args], { env, maxBuffer: 1 << 24 })
    assert.ok(rclone('cat', `t:rclone-${run}/dir/small file`).equals(small))
    assert.ok(rclone('cat', `t:rclone-${run}/big`).equals(big))
    const listed = JSON.parse(rclone('lsjson', '-R', '--files-only', `t:rclone-${run}/dir`).toString())
    assert.deepEqual(
      [listed[0].Path, listed[0].ModTime.slice(0, 23)],
      ['small file', modified.toISOString().slice(0, 23)],
    )
  })

  test('what the client of OpenStack uploaded in segments is read, and deleted with them', async (t) => {
    if (!process.env['CI'] && spawnSync('swift', ['--version']).status !== 0) return t.skip('swift is not installed')
    await using driver = closing(await made(options('client', { segmentSize: 100_000 })))
    const directory = await mkdtemp(path.join(tmpdir(), 'stowage-swift-'))
    t.after(async () => rm(directory, { recursive: true }))
    const bytes = randomBytes(250_000)
    await writeFile(path.join(directory, 'theirs'), bytes)
    const client = (...args: string[]) =>
      execFileSync(
        'swift',
        ['-A', `http://${found.host}:${found.port}/auth/v1.0`, '-U', 'test:tester', '-K', 'testing', ...args],
        { cwd: directory, stdio: 'pipe' },
      )
    client('upload', '--use-slo', '-S', '100000', `client-${run}`, 'theirs')
    assert.ok((await contentOf(driver, 'theirs')).equals(bytes))
    await driver.delete('theirs')
    assert.deepEqual(await segmentsOf(options(`client-${run}`), `client-${run}_segments`), [])
    await driver.write('ours', toBody(bytes))
    client('download', `client-${run}`, 'ours') // checks size and etag
    assert.ok((await readFile(path.join(directory, 'ours'))).equals(bytes))
    client('delete', `client-${run}`, 'ours')
    assert.deepEqual(await segmentsOf(options(`client-${run}`)), [])
  })
}

function testFaults(options: OptionsOf) {
  async function faulty(name: string, more: Partial<SwiftOptions> = {}) {
    await (await made(options(name))).close()
    const proxy = await FaultProxy.open([options('').port])
    const driver = closing(swiftDriver(options(`${name}-${run}`, { port: proxy.port, ...more })))
    await driver.list('')[Symbol.asyncIterator]().next() // logs in
    return { proxy, driver }
  }

  test('wherever the connection is cut, a file is the old one or the new one, whole', async (t) => {
    const { proxy, driver } = await faulty('cut', { segmentSize: 1000, manifestSegments: 3 })
    await using _ = proxy
    await using __ = driver
    await using direct = closing(swiftDriver(options(`cut-${run}`)))
    let held: Buffer = randomBytes(4500)
    await direct.write('a', toBody(held))
    const outcomes = { stored: 0, failed: 0 }
    for (let i = 0; i < 40; i++) {
      const [after, times, size] = [randomInt(i % 2 === 0 ? 14_000 : 6000), randomInt(1, 12), randomInt(9000)]
      // A request that ends in order in the middle of its first line is one of HTTP/0.9, and answered.
      const fault = { how: i % 4 === 1 ? 'end' : 'reset', way: i % 2 === 0 ? 'up' : 'down', after, times } as const
      await proxy.set(fault)
      const next = randomBytes(size)
      const outcome = await driver.write('a', toBody(next)).then(
        () => 'stored' as const,
        (error: unknown) => {
          assert.equal(codeOf(error), 'UNREACHABLE', String(error))
          return 'failed' as const
        },
      )
      outcomes[outcome]++
      await proxy.set(undefined)
      const now = await contentOf(direct, 'a')
      const what = `${outcome} ${size} bytes with ${JSON.stringify(fault)}`
      assert.ok(now.equals(next) || (outcome === 'failed' && now.equals(held)), what)
      held = now
    }
    t.diagnostic(JSON.stringify(outcomes))
    assert.ok(outcomes.stored > 0 && outcomes.failed > 0)
  })

  test('a bit that turns over on its way up is noticed by the service', async () => {
    const { proxy, driver } = await faulty('flipped', { segmentSize: 100_000 })
    await using _ = proxy
    await using __ = driver
    await driver.write('a', toBody('old'))
    const bytes = randomBytes(90_000)
    await proxy.set({ how: 'flip', way: 'up', after: 50_000 })
    await assert.rejects(async () => driver.writeBytes?.('a', bytes), { code: 'CORRUPT', retryable: true })
    assert.equal((await contentOf(driver, 'a')).toString(), 'old')
    // What was streamed is in memory, and sent again: as one object, and as a segment.
    for (const content of [bytes, randomBytes(250_000)]) {
      await proxy.set({ how: 'flip', way: 'up', after: 50_000 })
      await driver.write('a', pieces(content, 10_000))
      assert.equal(proxy.struck, 1)
      assert.ok((await contentOf(driver, 'a')).equals(content))
    }
  })

  test('a body that breaks off on its way down is not taken for the whole', async () => {
    const { proxy, driver } = await faulty('broken')
    await using _ = proxy
    await using __ = driver
    await driver.write('a', toBody(randomBytes(500_000)))
    for (const how of ['end', 'reset'] as const) {
      await proxy.set({ how, way: 'down', after: 200_000 })
      await assert.rejects(contentOf(driver, 'a'), { code: 'UNREACHABLE' })
    }
  })

  test('a service that falls silent is given up when the time is over', async () => {
    const { proxy, driver } = await faulty('silent', { timeoutMs: 500, segmentSize: 100_000 })
    await using _ = proxy
    await using __ = driver
    await driver.write('a', toBody(randomBytes(50_000)))
    for (const [way, call] of [
      ['down', async () => contentOf(driver, 'a')],
      ['up', async () => driver.writeBytes?.('a', randomBytes(90_000))],
    ] as const) {
      await proxy.set({ how: 'stall', way, after: 20_000 })
      await assert.rejects(call, { code: 'TIMEOUT', retryable: true })
    }
  })

  test('a service that is away is UNREACHABLE, and found again', async () => {
    const { proxy, driver } = await faulty('away')
    await using _ = proxy
    await using __ = driver
    await proxy.set({ how: 'refuse' })
    await assert.rejects(driver.stat('a'), { code: 'UNREACHABLE' })
    await proxy.set(undefined)
    await assert.rejects(driver.stat('a'), { code: 'NOT_FOUND' })
  })
}

function testWhatIsSpecial(options: OptionsOf) {
  test('Swift tells two writers that each was the first, so ifAbsent is refused', async () => {
    await using driver = closing(await made(options('conditions')))
    await driver.write('a', toBody('x'))
    await assert.rejects(driver.write('a', toBody('y'), { ifAbsent: true }), { code: 'UNSUPPORTED' })
    await assert.rejects(async () => driver.copy?.('a', 'b', { ifAbsent: true }), { code: 'UNSUPPORTED' })
    assert.equal((await contentOf(driver, 'a')).toString(), 'x')
    const auth = new Auth(options(''), v1)
    const { storageUrl, token } = await auth.session()
    await auth.close()
    const headers = { 'x-auth-token': token, 'if-none-match': '*', 'content-length': 1, expect: '100-continue' }
    const url = `${storageUrl.href}/conditions-${run}/b`
    const writers = ['1', '2'].map((body) => ({ body, request: http.request(url, { method: 'PUT', headers }) }))
    // It has looked what is there before it wants to have the body.
    await Promise.all(
      writers.map(async ({ request }) => {
        request.flushHeaders()
        await once(request, 'continue')
      }),
    )
    const statuses = writers.map(async ({ body, request }) => {
      request.end(body)
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      response.resume()
      return response.statusCode
    })
    assert.deepEqual(await Promise.all(statuses), [201, 201])
  })

  test('keys with every awkward character are kept apart and listed in order', async () => {
    await using driver = closing(await made(options('awkward')))
    const plain = [
      'a+b',
      'a b',
      'a%2Bb',
      '%',
      '#',
      '?',
      '&=;',
      '<a>',
      '\'"`',
      'back\\slash',
      ' a ',
      '.a.',
      '*!()~',
      'a:b',
    ]
    const odd = [
      '\t',
      'line\nbreak',
      '\r',
      '\x01',
      '\x7f',
      '\u00e9',
      'e\u0301',
      '\u2028',
      '\ufeff',
      '\uffee',
      '\u{1f600}',
    ]
    const long = ['x'.repeat(1024), `${'ü'.repeat(511)}/y`, `${'a/'.repeat(511)}zz`]
    const keys = [...plain, ...odd, ...long]
    await Promise.all(keys.map(async (key) => driver.write(key, toBody(key))))
    assert.deepEqual(
      (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
      keys.toSorted(compareKeys),
    )
    for (const key of keys) {
      assert.equal((await contentOf(driver, key)).toString(), key)
      assert.equal((await driver.copy?.(key, 'copy'))?.size, Buffer.byteLength(key))
    }
    await driver.deleteMany?.([...keys, 'copy'])
    assert.deepEqual(await Array.fromAsync(driver.list('')), [])
  })

  test('1,200 files are listed page by page and deleted in batches', async () => {
    await using driver = closing(await made(options('many')))
    const keys = Array.from({ length: 1200 }, (_, i) => `d/${i % 7}/f ${i}&<>`)
    await Promise.all(keys.map(async (key) => driver.writeBytes?.(key, Buffer.from('x'))))
    assert.deepEqual(
      (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
      keys.toSorted(compareKeys),
    )
    assert.equal((await Array.fromAsync(driver.list('d', { recursive: false }))).length, 7)
    // None of the absent ones leaves anything behind that would disturb the next answer on its connection.
    const absent = await Promise.allSettled(keys.map(async (key) => driver.stat(`${key} absent`)))
    assert.deepEqual(
      new Set(absent.map((each) => codeOf((each as PromiseRejectedResult).reason))),
      new Set(['NOT_FOUND']),
    )
    await driver.deleteMany?.(['d/absent', ...keys])
    assert.deepEqual(await Array.fromAsync(driver.list('')), [])
  })

  test('a service that cannot delete in bulk is asked one by one', async (t) => {
    const relay = await relaying(t, options('').port, (url) => url.replace('bulk-delete', ''))
    await using driver = closing(await made(options('single', { port: relay })))
    const keys = Array.from({ length: 20 }, (_, i) => `f${i}`)
    await Promise.all(keys.map(async (key) => driver.write(key, toBody(key))))
    await driver.deleteMany?.(keys)
    assert.deepEqual(await Array.fromAsync(driver.list('')), [])
  })

  test('one file of many that cannot be deleted keeps no other, and is told', async (t) => {
    const relay = await relaying(t, options('').port, (url) => (url.endsWith('/stuck') ? undefined : url))
    await using direct = closing(await made(options('stuck', { segmentSize: 1000 })))
    await using driver = closing(swiftDriver(options(`stuck-${run}`, { port: relay })))
    const keys = ['a', 'large', 'stuck', 'z']
    for (const key of keys) await direct.write(key, toBody(randomBytes(key === 'large' ? 3000 : 10)))
    await assert.rejects(async () => driver.deleteMany?.(keys), { code: 'UNREACHABLE', message: /stuck/ })
    const left = (await Array.fromAsync(direct.list(''))).map(({ key }) => key)
    assert.deepEqual([left, await segmentsOf(options(`stuck-${run}`))], [['stuck'], []])
  })

  test('temporary URLs work without a token, for reading and for writing, with a key of ours or of the account', async () => {
    const other: Partial<SwiftOptions> = { login: { version: 1, user: 'other:tester', key: 'testing2' } }
    await using driver = closing(await made(options('signed', other)))
    const url = async (method: 'GET' | 'PUT') =>
      (await driver.signedUrl?.('a b+c', { method, expiresInSeconds: 60 })) ?? ''
    const keep = async (key: string) =>
      asked(options('c', other), { method: 'POST', path: '', headers: { 'x-account-meta-temp-url-key': key } })
    await keep('')
    await assert.rejects(url('GET'), { code: 'UNSUPPORTED', message: /Temp-URL-Key/ })
    await keep('a key')
    assert.equal((await fetch(await url('PUT'), { method: 'PUT', body: 'hello' })).status, 201)
    const get = await url('GET')
    assert.equal(await (await fetch(get)).text(), 'hello')
    assert.equal((await fetch(get.replace('a%20b', 'a%20c'))).status, 401)
    assert.match(get, /temp_url_sig=[0-9a-f]{64}&/)
    for (const [tempUrlKey, status] of [
      ['a key', 200],
      ['another', 401],
    ] as const) {
      await using keyed = closing(swiftDriver(options(`signed-${run}`, { ...other, tempUrlKey })))
      const signed = (await keyed.signedUrl?.('a b+c', { method: 'GET', expiresInSeconds: 60 })) ?? ''
      assert.equal((await fetch(signed)).status, status)
    }
  })

  test('what is known of a file is kept, with its digest', async () => {
    await using driver = closing(await made(options('known')))
    const modified = new Date('2020-02-02T02:02:02.020Z')
    const metadata = { origin: 'here', 'two-words': 'a  b' }
    await driver.write('a', toBody('hello'), { contentType: 'text/css', metadata, modified, cacheControl: 'no-cache' })
    await driver.copy?.('a', 'b')
    for (const key of ['a', 'b']) {
      const info = await driver.stat(key)
      assert.deepEqual([info.contentType, info.metadata, info.modified], ['text/css', metadata, modified])
      assert.deepEqual(info.digests, { md5: '5d41402abc4b2a76b9719d911017c592' })
    }
    await assert.rejects(driver.write('c', toBody('x'), { metadata: { name: 'ü' } }), { code: 'INVALID_ARGUMENT' })
  })

  test('a full quota is NO_SPACE', async () => {
    await using driver = closing(await made(options('quota')))
    const container = `quota-${run}`
    const headers = { 'x-container-meta-quota-bytes': '10' }
    await asked(options(container), { method: 'POST', path: `/${container}`, headers })
    await assert.rejects(driver.write('a', toBody('more than ten bytes')), { code: 'NO_SPACE', message: /quota/ })
  })
}

/**
 * Stands in front of Swift's port. `rewrite` may send a request elsewhere, or nowhere, which is answered with 503; `edit`
 * may change headers of answers.
 */
async function relaying(
  t: TestContext,
  port: number,
  rewrite: (url: string) => string | undefined,
  edit: (headers: http.IncomingHttpHeaders) => void = () => {},
): Promise<number> {
  const server = http.createServer((request, response) => {
    const target = rewrite(request.url ?? '')
    if (target === undefined) return void response.writeHead(503).end()
    const { method, headers } = request
    const back = http.request({ host: '127.0.0.1', port, method, path: target, headers }, (answer) => {
      edit(answer.headers)
      response.writeHead(answer.statusCode ?? 502, answer.headers)
      if (method === 'HEAD') response.end()
      else answer.pipe(response)
    })
    // After some answers to HEAD comes the end of a body that none of them has.
    request.pipe(back.on('error', () => response.writableEnded || response.destroy()))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as net.AddressInfo).port
}

/** TempAuth keeps its tokens in memcached. */
async function forgetTokens(port: number) {
  const socket = net.connect(port, '127.0.0.1')
  socket.write('flush_all\r\n')
  const [answer] = await once(socket, 'data')
  assert.equal(String(answer), 'OK\r\n')
  socket.destroy()
}

function closing<T extends { close(): Promise<void> }>(driver: T): T & AsyncDisposable {
  return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
}
