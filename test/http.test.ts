/** The http driver against a real web server, in good and in bad manners, and against one that lies. */
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdirSync, utimesSync, writeFileSync } from 'node:fs'
import { after, describe, test } from 'node:test'
import { collect, toBody } from '../src/core/bytes.ts'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { fileDriver } from '../src/drivers/file.ts'
import { httpDriver, httpFromUrl } from '../src/drivers/http/http.ts'
import type { Driver } from '../src/store/driver.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { FakeWeb, type Told } from './servers/fake-web.ts'
import { FaultProxy } from './servers/fault-proxy.ts'
import { startServer, type Started } from './servers/start.ts'

interface WebServer {
  host: string
  port: number
  tlsPort: number
  mutualPort: number
  expiredPort: number
  files: string
  ca: string
  expiredCa: string
  identity: string
  user: string
  password: string
}

const server = startServer<WebServer>('web', ['nginx', 'openssl'])
if (server) testServer(server)
else
  test('http', {
    skip: 'the Debian packages nginx-light, libnginx-mod-http-dav-ext and openssl are not installed',
  }, () => {})
describe('http of a server that lies', testLies)

function testServer(web: Started<WebServer>) {
  after(() => web.stop())
  const { host, port, tlsPort } = web
  const suite = (name: string, base: string, parameters = '') =>
    testDriver(name, async () => {
      const place = randomUUID()
      const writer = fileDriver({ directory: `${web.files}/${place}`, fsync: false })
      return { driver: opened(`${base}/${place}${parameters}`), writer }
    })
  suite('http', `http://${host}:${port}/files`)
  suite('https with a password', `https://${loginOf(web)}@${host}:${tlsPort}/private`, `?ca=${web.ca}`)
  suite('http without ranges', `http://${host}:${port}/no-ranges`)
  suite('http without sizes', `http://${host}:${port}/no-sizes`)
  suite('http without HEAD', `http://${host}:${port}/no-head`)
  suite('http without sizes and HEAD', `http://${host}:${port}/neither`)
  describe('http', () => testWhatIsSpecial(web))
  describe('http over TLS', () => testTls(web))
}

function opened(url: string): Driver & AsyncDisposable {
  return closing(httpFromUrl(parseStorageUrl(url)))
}

function closing(driver: Driver): Driver & AsyncDisposable {
  return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
}

function loginOf({ user, password }: WebServer): string {
  return `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
}

async function bytesOf(driver: Driver, key: string, range?: { start: number; end?: number }): Promise<Buffer> {
  return collect((await driver.read(key, range ? { range } : {})).body)
}

function testWhatIsSpecial(web: WebServer) {
  const { host, port, tlsPort, user } = web
  const base = `http://${host}:${port}`
  const content = randomBytes(3_000_000)
  const folder = `special-${randomUUID()}`
  mkdirSync(`${web.files}/${folder}`)
  const store = (key: string, bytes: string | Buffer, modified = new Date(1e12)) => {
    writeFileSync(`${web.files}/${folder}/${key}`, bytes)
    utimesSync(`${web.files}/${folder}/${key}`, modified, modified)
  }
  store('big', content)
  const place = (name: string, login = '') => opened(`http://${login}${host}:${port}/${name}/${folder}`)

  test('what is known of a file is the same whoever asks', async () => {
    await using driver = place('files')
    store('style.css', 'a {}')
    const info = await driver.stat('style.css')
    assert.deepEqual([info.size, info.contentType, info.modified], [4, 'text/css', new Date(1e12)])
    assert.ok(info.etag)
    for (const options of [{}, { range: { start: 1, end: 2 } }]) {
      const { info: read, body } = await driver.read('style.css', options)
      body.destroy()
      assert.deepEqual(read, info)
    }
    store('style.css', 'a { }')
    assert.notEqual((await driver.stat('style.css')).etag, info.etag)
  })

  test('an etag that another version could have in the same second is no version yet', async () => {
    await using driver = place('files')
    store('fresh', 'one', new Date())
    assert.equal((await driver.stat('fresh')).etag, undefined)
  })

  for (const name of ['files', 'no-ranges', 'no-sizes', 'neither'])
    test(`ranges of a long file from ${name} are just their bytes`, async () => {
      await using driver = place(name)
      for (const [start, end] of [
        [0, 1],
        [0, 3_000_000],
        [1_234_567, 1_234_568],
        [65_536, 2_000_000],
        [2_999_999, 9_000_000],
        [3_000_000, 3_000_001],
        [5_000_000, 6_000_000],
      ] as const)
        assert.ok(
          (await bytesOf(driver, 'big', { start, end })).equals(content.subarray(start, end)),
          `${start}-${end}`,
        )
    })

  for (const [name, count] of [
    ['files', 120],
    ['no-ranges', 120],
    ['no-sizes', 40],
  ] as const)
    test(`${count} bodies from ${name} that are dropped, read or not, cost no connection`, async () => {
      await using driver = place(name)
      for (let i = 0; i < count; i++) {
        const { body } = await driver.read('big', i % 3 === 0 ? {} : { range: { start: 10, end: 2_000_000 } })
        if (i % 2 === 0) await body[Symbol.asyncIterator]().next()
        body.destroy()
      }
      assert.equal((await bytesOf(driver, 'big')).byteLength, content.byteLength)
    })

  test('a password opens what is protected; without it, or with another, it is DENIED and not repeated', async () => {
    await using right = place('private', `${loginOf(web)}@`)
    assert.equal((await bytesOf(right, 'big')).byteLength, content.byteLength)
    await using none = place('private')
    await assert.rejects(none.stat('big'), { code: 'DENIED', message: /USER:PASSWORD@/ })
    await using wrong = place('private', `${encodeURIComponent(user)}:wrong-but-secret@`)
    for (const call of [async () => wrong.read('big'), async () => wrong.stat('big')])
      await assert.rejects(call, (error: Error & { code: string }) => {
        assert.equal(error.code, 'DENIED')
        assert.doesNotMatch(error.message + wrong.location, /wrong-but-secret/)
        return true
      })
    assert.throws(() => place('private', 'user@'), { code: 'INVALID_ARGUMENT' })
    assert.doesNotMatch(right.location, /se/)
  })

  test('redirections are followed, with the password to the same server only', async () => {
    for (const [name, login] of [
      ['moved', ''],
      ['moved-in-private', `${loginOf(web)}@`],
    ] as const) {
      await using driver = place(name, login)
      assert.equal((await driver.stat('big')).size, content.byteLength)
      assert.ok((await bytesOf(driver, 'big', { start: 5, end: 90 })).equals(content.subarray(5, 90)))
      await assert.rejects(driver.read('absent'), { code: 'NOT_FOUND' })
    }
    // The same server by another name: it would let us in if it were told the password.
    await using elsewhere = place('elsewhere', `${loginOf(web)}@`)
    await assert.rejects(elsewhere.read('big'), { code: 'DENIED', message: /redirects to http:\/\/localhost/ })
  })

  test('redirections go from http to https, never back, and not in circles', async () => {
    await using upgraded = opened(`${base}/upgraded/${folder}?ca=${web.ca}`)
    assert.ok((await bytesOf(upgraded, 'big')).equals(content))
    await using downgraded = opened(`https://${host}:${tlsPort}/downgraded/${folder}?ca=${web.ca}`)
    await assert.rejects(downgraded.read('big'), { code: 'INVALID_CONFIG', message: /from https to http/ })
    await using circle = place('circle')
    await assert.rejects(circle.read('big'), { code: 'INVALID_CONFIG', message: /circles/ })
  })

  test('what comes encoded although nobody asked is refused, not taken for the file', async () => {
    await using driver = place('encoded')
    await assert.rejects(driver.read('big'), { code: 'UNSUPPORTED', message: /gzip/ })
    await assert.rejects(driver.read('big', { range: { start: 1, end: 9 } }), { code: 'UNSUPPORTED' })
    await assert.rejects(driver.stat('big'), { code: 'UNSUPPORTED' })
  })

  for (const [status, code, retryable, retryAfterMs] of [
    [401, 'DENIED', false, undefined],
    [403, 'DENIED', false, undefined],
    [410, 'NOT_FOUND', false, undefined],
    [429, 'THROTTLED', true, 3000],
    [500, 'UNREACHABLE', true, undefined],
    [503, 'THROTTLED', true, 7000],
  ] as const)
    test(`${status} is ${code}`, async () => {
      await using driver = opened(`${base}/status/${status}`)
      await assert.rejects(driver.read('x'), { code, retryable, retryAfterMs })
      await assert.rejects(driver.stat('x'), { code, retryable, retryAfterMs })
    })

  test('a body that is cut is told, and resumed by whoever tries again', async () => {
    await using proxy = await FaultProxy.open([port])
    for (const how of ['reset', 'end'] as const) {
      await using driver = opened(`http://127.0.0.1:${proxy.port}/files/${folder}`)
      await proxy.set({ how, way: 'down', after: 1_000_000 })
      await assert.rejects(bytesOf(driver, 'big'), { code: 'UNREACHABLE' })
      await proxy.set({ how, way: 'down', after: 1_000_000, times: 2 })
      await using patient = closing(retrying(driver, { baseMs: 1 }))
      assert.ok((await bytesOf(patient, 'big')).equals(content))
      assert.equal(proxy.struck, 2)
    }
  })

  test('a body without a length that is cut is never taken for the whole', async () => {
    await using proxy = await FaultProxy.open([port])
    await using driver = opened(`http://127.0.0.1:${proxy.port}/no-sizes/${folder}`)
    await proxy.set({ how: 'end', way: 'down', after: 4_000_000 })
    await assert.rejects(bytesOf(driver, 'big'), { code: 'UNREACHABLE' })
  })

  test('a server that falls silent is left when its time is over, one that is gone is UNREACHABLE', async () => {
    await using proxy = await FaultProxy.open([port])
    const options = { host: '127.0.0.1', port: proxy.port, tls: false, timeoutMs: 100 }
    await using driver = closing(httpDriver(options))
    await proxy.set({ how: 'stall', way: 'down', after: 1_000_000 })
    await assert.rejects(bytesOf(driver, `files/${folder}/big`), { code: 'TIMEOUT' })
    await proxy.set({ how: 'silent' })
    await assert.rejects(driver.stat(`files/${folder}/big`), { code: 'TIMEOUT' })
    await proxy.set({ how: 'refuse' })
    await assert.rejects(driver.stat(`files/${folder}/big`), { code: 'UNREACHABLE', retryable: true })
  })

  test('a read that is cancelled half-way ends', async () => {
    await using driver = place('files')
    const controller = new AbortController()
    const { body } = await driver.read('big', { signal: controller.signal })
    const reading = (async () => {
      for await (const _ of body) controller.abort()
    })()
    await assert.rejects(reading, { code: 'ABORTED' })
  })
}

function testTls(web: WebServer) {
  const { host, tlsPort, mutualPort, expiredPort } = web
  writeFileSync(`${web.files}/tls`, 'x')
  const stat = async (url: string) => {
    await using driver = opened(url)
    return (await driver.stat('tls')).size
  }

  test('a certificate that nobody vouches for is refused, unless it is named or none is asked for', async () => {
    const url = `https://${host}:${tlsPort}/files`
    await assert.rejects(stat(url), { code: 'UNREACHABLE', message: /certificate is not to be trusted/ })
    assert.equal(await stat(`${url}?ca=${web.ca}`), 1)
    assert.equal(await stat(`${url}?verify=false`), 1)
  })

  test('a certificate that has expired, or is for another host, is refused', async () => {
    await assert.rejects(stat(`https://${host}:${expiredPort}/files?ca=${web.expiredCa}`), {
      code: 'UNREACHABLE',
      message: /CERT_HAS_EXPIRED/,
    })
    await assert.rejects(stat(`https://127.0.0.2:${tlsPort}/files?ca=${web.ca}`), { code: 'UNREACHABLE' })
  })

  test('a server that wants to see a certificate is shown one', async () => {
    const url = `https://${host}:${mutualPort}/files?ca=${web.ca}`
    await assert.rejects(stat(url), { code: 'INVALID_ARGUMENT' })
    assert.equal(await stat(`${url}&pki=${web.identity}`), 1)
    assert.throws(() => opened(`${url}&pki=/nowhere`), { code: 'INVALID_CONFIG', message: /nowhere/ })
  })

  test('parameters nobody knows and hosts that are none are refused', () => {
    assert.throws(() => opened('https://h/x?cert=1'), { code: 'INVALID_ARGUMENT', message: /unknown parameter cert/ })
    assert.throws(() => opened('https:///x'), { code: 'INVALID_ARGUMENT' })
  })
}

function testLies() {
  /** Reads bytes 10 to 20 of what a server says to be 100 bytes long. */
  const readFrom = async (answer: Told) => {
    await using fake = await FakeWeb.open(() => answer)
    await using driver = closing(httpDriver({ host: '127.0.0.1', port: fake.port, tls: false, timeoutMs: 2000 }))
    return (await bytesOf(driver, 'x', { start: 10, end: 20 })).toString()
  }
  const body = 'abcdefghijklmnopqrst'.repeat(5)
  const partly = (range: string, part: string): Told => ({
    status: 206,
    headers: { 'content-range': range },
    body: part,
  })

  test('a longer part than was asked for is cut', async () => {
    assert.equal(await readFrom(partly('bytes 10-29/100', body.slice(10, 30))), body.slice(10, 20))
    assert.equal(await readFrom(partly('bytes 5-99/100', body.slice(5))), body.slice(10, 20))
  })

  for (const [what, answer] of [
    ['another part', partly('bytes 30-39/100', body.slice(30, 40))],
    ['less than was asked for', partly('bytes 10-14/100', body.slice(10, 15))],
    ['less than it says', partly('bytes 5-19/100', body.slice(5, 10))],
    ['several parts', { status: 206, headers: { 'content-type': 'multipart/byteranges; boundary=x' }, body: '--x--' }],
    ['that the range is behind the end, which it is not', { status: 416, headers: { 'content-range': 'bytes */100' } }],
    ['nothing', { status: 204 }],
    ['what a proxy made of it', { status: 203, body }],
  ] satisfies [string, Told][])
    test(`${what} is not taken for the part`, async () => {
      await assert.rejects(readFrom(answer), (error: Error & { code: string }) =>
        ['UNSUPPORTED', 'UNREACHABLE'].includes(error.code),
      )
    })

  test('a file that changes while its size is asked for is opened anew, or not at all', async () => {
    let count = 0
    await using fake = await FakeWeb.open(({ method }) => {
      const headers = { etag: `"${count++}"`, ...(method === 'HEAD' ? { 'content-length': '100' } : {}) }
      return {
        status: 200,
        headers: method === 'HEAD' ? headers : { ...headers, 'transfer-encoding': 'chunked' },
        body,
      }
    })
    await using driver = closing(httpDriver({ host: '127.0.0.1', port: fake.port, tls: false }))
    await assert.rejects(driver.read('x'), { code: 'CONFLICT', retryable: true })
  })

  test('a body that is longer or shorter than the size that was told fails', async () => {
    for (const size of [99, 101]) {
      await using fake = await FakeWeb.open(({ method }) => ({
        status: 200,
        headers: { ...(method === 'HEAD' && { 'content-length': `${size}` }) },
        body,
      }))
      await using driver = closing(httpDriver({ host: '127.0.0.1', port: fake.port, tls: false }))
      await assert.rejects(bytesOf(driver, 'x'), { code: 'UNREACHABLE' })
    }
  })

  test('an encoded body is not taken for the file, even if its length is the one that HEAD told', async () => {
    await using fake = await FakeWeb.open(({ method }) => ({
      status: 200,
      headers: { 'content-length': '100', ...(method === 'GET' && { 'content-encoding': 'gzip' }) },
      body,
    }))
    await using driver = closing(httpDriver({ host: '127.0.0.1', port: fake.port, tls: false }))
    await assert.rejects(driver.read('x'), { code: 'UNSUPPORTED' })
  })

  test('five redirections are followed, a sixth is not', async () => {
    for (const count of [5, 6]) {
      await using fake = await FakeWeb.open(({ path }): Told => {
        const at = Number(path.slice(1))
        if (at < count) return { status: 302, headers: { location: `${at + 1}` } }
        return { status: 200, headers: { 'content-length': '100' }, body }
      })
      await using driver = closing(httpDriver({ host: '127.0.0.1', port: fake.port, tls: false }))
      if (count === 5) assert.equal((await bytesOf(driver, '0')).toString(), body)
      else await assert.rejects(driver.read('0'), { code: 'INVALID_CONFIG' })
    }
  })

  test('another host is not told the password', async () => {
    await using other = await FakeWeb.open(() => ({ status: 200, headers: { 'content-length': '100' }, body }))
    await using fake = await FakeWeb.open(({ headers }): Told => {
      if (headers.authorization === undefined)
        return { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } }
      return { status: 307, headers: { location: `http://127.0.0.1:${other.port}/y?signed=1` } }
    })
    const login = { user: 'me', password: 'secret' }
    await using driver = closing(httpDriver({ host: '127.0.0.1', port: fake.port, tls: false, login }))
    assert.equal((await bytesOf(driver, 'x')).toString(), body)
    assert.deepEqual(
      other.heard.map(({ path, headers }) => [path, headers.authorization]),
      [['/y?signed=1', undefined]],
    )
    assert.equal(fake.heard.at(-1)?.headers.authorization, `Basic ${Buffer.from('me:secret').toString('base64')}`)
    await assert.rejects(driver.write('x', toBody('y')), { code: 'READ_ONLY' })
  })
}
