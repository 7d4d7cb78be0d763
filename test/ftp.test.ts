/** The FTP driver against a real server, ProFTPD, in the clear and with TLS. */
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { after, describe, test } from 'node:test'
import { collect, toBody } from '../src/core/bytes.ts'
import type { StowageError } from '../src/core/errors.ts'
import { ftpDriver, type FtpOptions } from '../src/drivers/ftp/ftp.ts'
import { openDriver } from '../src/drivers/index.ts'
import { Store } from '../src/store/store.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { FaultProxy } from './servers/fault-proxy.ts'
import { startServer, type Started } from './servers/start.ts'

interface Server {
  host: string
  port: number
  implicit: number
  required: number
  expired: number
  hasty: number
  few: number
  ca: string
  home: string
}

const password = 'se"cret'
const server = startServer<Server>('ftp', ['proftpd', 'openssl'])
if (server) testServer(server)
else test('FTP', { skip: 'the Debian package proftpd-core is not installed' }, () => {})

function testServer(ftp: Started<Server>) {
  after(() => ftp.stop())
  const { host, port, home } = ftp
  const ca = readFileSync(ftp.ca, 'utf8')
  /** A directory of its own. */
  const options = (more: Partial<FtpOptions> = {}): FtpOptions => ({
    host,
    port,
    user: 'ftp',
    password,
    directory: `/${randomUUID()}`,
    ...more,
  })
  const opened = async (more?: Partial<FtpOptions>) => {
    const driver = ftpDriver(options(more))
    return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
  }
  const url = (scheme: string, at: number, parameters = '') =>
    `${scheme}://ftp:${encodeURIComponent(password)}@${host}:${at}/${randomUUID()}/${parameters}`

  testDriver('ftp', async () => ({ driver: ftpDriver(options()) }))
  testDriver('ftps, implicit', async () => ({
    driver: ftpDriver(options({ port: ftp.implicit, tls: 'implicit', ca })),
  }))

  describe('ftp', () => {
    test('ftp with use_tls and ftps are explicit TLS by their URLs; a server that wants it refuses the clear', async () => {
      for (const address of [
        url('ftps', ftp.required, `?ca=${ftp.ca}`),
        url('ftp', ftp.required, `?use_tls=true&ca=${ftp.ca}`),
      ]) {
        await using store = new Store(await openDriver(address))
        await store.put('a', 'x')
        assert.equal((await store.get('a')).toString(), 'x')
      }
      await using clear = await opened({ port: ftp.required })
      await assert.rejects(clear.stat('a'), (error: StowageError) => !error.retryable)
    })

    test('a certificate that is not known, or has expired, is refused, unless nobody looks', async () => {
      for (const tls of [
        { port: ftp.required },
        { port: ftp.expired, ca: readFileSync(path.join(path.dirname(ftp.ca), 'expired.pem'), 'utf8') },
      ]) {
        await using driver = await opened({ ...tls, tls: 'explicit' })
        await assert.rejects(driver.stat('a'), (error: StowageError) => {
          assert.deepEqual([error.code, error.retryable], ['UNREACHABLE', false])
          assert.match(error.message, /certificate.*(SELF_SIGNED|EXPIRED)/)
          return true
        })
        await using blind = await opened({ ...tls, tls: 'explicit', verify: false })
        await assert.rejects(blind.stat('a'), { code: 'NOT_FOUND' })
      }
    })

    test('a wrong password is DENIED, and is not in the error; keys belong to sftp', async () => {
      await using driver = await opened({ password: 'not-it' })
      await assert.rejects(driver.stat('a'), (error: StowageError) => {
        assert.equal(error.code, 'DENIED')
        assert.ok(!String(error.stack).includes('not-it'))
        return true
      })
      for (const parameter of ['private_key=x', 'key=x'])
        await assert.rejects(openDriver(url('ftp', port, `?${parameter}`)), {
          code: 'INVALID_ARGUMENT',
          message: /sftp:/,
        })
    })

    test('large files go and come whole, and any part of them, with their times', async () => {
      await using driver = await opened()
      const bytes = randomBytes(9_000_003)
      const modified = new Date(1_700_000_000_000)
      await driver.write('big', pieces(bytes), { modified })
      const { info, body } = await driver.read('big')
      assert.deepEqual([info.size, info.modified], [bytes.byteLength, modified])
      assert.ok((await collect(body)).equals(bytes))
      for (const [start, end] of [
        [0, 1],
        [65_535, 65_537],
        [1_000_000, 3_000_001],
        [8_999_999, 20_000_000],
      ] as const)
        assert.ok(
          (await collect((await driver.read('big', { range: { start, end } })).body)).equals(
            bytes.subarray(start, end),
          ),
        )
    })

    test('more calls than connections take turns, and reads that are dropped give theirs back', async () => {
      await using driver = await opened({ connections: 2 })
      const bytes = randomBytes(1_000_000)
      await driver.write('a', toBody(bytes))
      for (let i = 0; i < 20; i++) {
        const { body } = await driver.read('a')
        if (i % 2 === 0) await body[Symbol.asyncIterator]().next()
        body.destroy()
      }
      const names = Array.from({ length: 50 }, (_, i) => `d/${i}`)
      await Promise.all(names.map(async (name) => driver.write(name, toBody(name))))
      const read = await Promise.all(
        names.map(async (name) => (await collect((await driver.read(name)).body)).toString()),
      )
      assert.deepEqual(read, names)
      const controller = new AbortController()
      const busy = [await driver.read('a'), await driver.read('a')]
      const waiting = driver.stat('a', { signal: controller.signal })
      controller.abort()
      await assert.rejects(waiting, { code: 'ABORTED' })
      for (const { body } of busy) body.destroy()
    })

    test('a server that lets in only a few gets no more, and all work is done', async () => {
      await using driver = await opened({ port: ftp.few, connections: 8 })
      const names = Array.from({ length: 30 }, (_, i) => `d/${i}`)
      await Promise.all(names.map(async (name) => driver.write(name, toBody(name))))
      assert.equal((await Array.fromAsync(driver.list('d'))).length, 30)
    })

    test('a connection the server has ended for being idle is made anew', async () => {
      await using proxy = await FaultProxy.open([ftp.hasty])
      // The server tells its own port for data, so only the control connection goes by the proxy.
      await using driver = await opened({ port: proxy.port })
      await driver.write('a', toBody('x'))
      await proxy.until('the server has hung up', ({ live }) => live === 0)
      assert.equal((await driver.stat('a')).size, 1)
    })

    test('a control connection that breaks fails what is under way, and nothing half is left', async () => {
      await using proxy = await FaultProxy.open([port])
      const directory = `/${randomUUID()}`
      await using driver = await opened({ port: proxy.port, directory })
      const bytes = randomBytes(5_000_000)
      await driver.write('a', toBody(bytes))
      const breaking = async function* () {
        yield bytes.subarray(0, 1_000_000)
        await cut(proxy)
        yield bytes.subarray(1_000_000)
      }
      await assert.rejects(driver.write('a', breaking()), { code: 'UNREACHABLE' })
      assert.ok((await collect((await retrying(driver).read('a')).body)).equals(bytes))
      const { body } = await driver.read('a')
      await body[Symbol.asyncIterator]().next()
      await cut(proxy)
      await assert.rejects(collect(body), { code: 'UNREACHABLE' })
      assert.deepEqual(await Array.fromAsync(retrying(driver).list(''), ({ key }) => key), ['a'])
    })

    test('a server that says nothing is a TIMEOUT, nobody listening is UNREACHABLE', async () => {
      await using proxy = await FaultProxy.open([port])
      await proxy.set({ how: 'silent' })
      await using silent = await opened({ port: proxy.port, timeoutMs: 100 })
      await assert.rejects(silent.stat('a'), { code: 'TIMEOUT' })
      await using nobody = await opened({ port: 1 })
      await assert.rejects(nobody.stat('a'), { code: 'UNREACHABLE' })
    })

    test('a line that ends in the middle of the last command is not a write that was done', async () => {
      const directory = `/${randomUUID()}`
      await using direct = await opened({ directory })
      const passive = Array.from({ length: 200 }, (_, i) => port + 1000 + i)
      const struck = new Set<number>()
      for (let after = 300_200; after < 300_520; after += 16) {
        await using proxy = await FaultProxy.open([port, ...passive], '127.3.0.1')
        await using driver = await opened({ host: '127.3.0.1', directory, timeoutMs: 5000 })
        await direct.write('a', toBody('old'))
        await driver.write('b', toBody('x'))
        await proxy.set({ how: 'end', way: 'up', after, times: 1 })
        const isDone = await driver.write('a', pieces(Buffer.alloc(300_000), 100_000)).then(
          () => true,
          () => false,
        )
        struck.add(proxy.struck)
        const { size } = await direct.stat('a').catch(() => ({ size: undefined }))
        assert.ok(isDone ? size === 300_000 : true, `it was called done at ${after}, but has ${size} bytes`)
      }
      assert.ok(struck.has(1))
    })

    test('a server that falls silent is left when its time is over, and its answer when the call is cancelled', async () => {
      await using proxy = await FaultProxy.open([port])
      await using driver = await opened({ port: proxy.port, timeoutMs: 500 })
      await driver.write('a', toBody('x'))
      for (const way of ['up', 'down'] as const) {
        await proxy.set({ how: 'stall', way, after: 0 })
        await assert.rejects(driver.stat('a'), { code: 'TIMEOUT' })
        await proxy.set(undefined)
        assert.equal((await driver.stat('a')).size, 1)
      }
      await proxy.set({ how: 'stall', way: 'down', after: 0 })
      const controller = new AbortController()
      const asking = driver.stat('a', { signal: controller.signal })
      await proxy.until('the answer has stalled', (now) => now.struck > 0)
      controller.abort()
      await assert.rejects(asking, { code: 'ABORTED' })
    })

    test('ten thousand files in a directory are listed, and names that cannot be said are refused', async () => {
      const directory = randomUUID()
      mkdirSync(path.join(home, directory, 'many'), { recursive: true })
      for (let i = 0; i < 10_000; i++) writeFileSync(path.join(home, directory, 'many', `${i}.txt`), '')
      await using driver = await opened({ directory: `/${directory}` })
      assert.equal((await Array.fromAsync(driver.list('many'))).length, 10_000)
      await assert.rejects(new Store(driver).put('a\nDELE b', 'x'), { code: 'INVALID_KEY' })
    })
  })
}

async function* pieces(bytes: Buffer, size = 1_000_003) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

/** Ends what is open; new connections are as good as any. */
async function cut(proxy: FaultProxy) {
  await proxy.set({ how: 'reset on connect' })
  await proxy.set(undefined)
}
