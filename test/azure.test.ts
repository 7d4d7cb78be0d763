/** The Azure driver against Azurite, Microsoft's emulator. */
import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import * as path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { BlobServiceClient, StorageSharedKeyCredential } from '@azure/storage-blob'
import { collect, toBody } from '../src/core/bytes.ts'
import type { StowageError } from '../src/core/errors.ts'
import { azureDriver, type AzureOptions } from '../src/drivers/azure/azure.ts'
import { openDriver } from '../src/drivers/index.ts'
import { Store } from '../src/store/store.ts'
import { prefixed } from '../src/store/wrappers/prefix.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { FaultProxy } from './servers/fault-proxy.ts'
import { startServer, type Started } from './servers/start.ts'

interface Server {
  host: string
  port: number
  account: string
  key: string
}

const isInstalled = existsSync(path.resolve(import.meta.dirname, '../node_modules/azurite'))
const server = isInstalled ? startServer<Server>('azurite', ['node']) : undefined
if (server) testServer(server)
else test('Azure', { skip: 'the package azurite is not installed' }, () => {})

function testServer(azurite: Started<Server>) {
  after(() => azurite.stop())
  const { host, port, account, key } = azurite
  const endpoint = `http://${host}:${port}/${account}`
  const service = new BlobServiceClient(endpoint, new StorageSharedKeyCredential(account, key))
  const container = async (access?: 'blob') => {
    const name = `test-${randomUUID()}`
    await service.createContainer(name, access ? { access } : {})
    return name
  }
  const options = async (more: Partial<AzureOptions> = {}): Promise<AzureOptions> => ({
    account,
    endpoint,
    container: more.container ?? (await container()),
    login: { kind: 'key', key },
    ...more,
  })
  const opened = async (more?: Partial<AzureOptions>) => {
    const driver = azureDriver(await options(more))
    return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
  }

  testDriver('azure', async () => ({ driver: azureDriver(await options()) }))
  testDriver('azure below a prefix, with retries', async () => ({
    driver: retrying(prefixed(azureDriver(await options()), 'a/b c')),
  }))

  describe('azure', () => {
    let name = ''
    before(async () => {
      name = await container()
    })

    test('URLs say who we are in one way, and the key may have its plus', async () => {
      const base = `azure://${host}:${port}/${name}/below?use_ssl=false&account=${account}`
      for (const given of [encodeURIComponent(key), key]) {
        await using store = new Store(await openDriver(`${base}&access_key=${given}`))
        await store.put('a', 'x')
        assert.equal((await store.get('a')).toString(), 'x')
        assert.equal(store.location, `azure://${host}:${port}/${account}/${name}/below`)
      }
      for (const wrong of ['&tenant_id=a&client_id=b', '&access_key=a&sas_token=b', '&unknown=1'])
        await assert.rejects(openDriver(base + wrong), { code: 'INVALID_ARGUMENT' })
      await assert.rejects(openDriver('azure://acme.blob.core.windows.net/?access_key=x'), /container/)
      await assert.rejects(openDriver('azure://user:secret@acme.blob.core.windows.net/c'), { code: 'INVALID_ARGUMENT' })
      const usual = await openDriver(`azure://acme.blob.core.windows.net/c/p?access_key=${encodeURIComponent(key)}`)
      assert.equal(usual.location, 'azure://acme.blob.core.windows.net/c/p')
      for (const ours of ['', '?tenant_id=a&client_id=b&client_secret=c', '?anonymous=true', '?sas_token=sv%3D1'])
        assert.equal((await openDriver(`azure://acme.blob.core.windows.net/c${ours}`)).supports.write, true)
    })

    test('40 MiB of unknown length go in blocks and come back, with what is known of them', async () => {
      await using driver = await opened()
      const bytes = randomBytes((40 << 20) + 5)
      const modified = new Date(1_700_000_000_000)
      const settings = { contentType: 'image/x-big', metadata: { origin: 'test' }, modified }
      assert.equal((await driver.write('big', pieces(bytes), settings)).size, bytes.byteLength)
      const { info, body } = await driver.read('big')
      assert.ok((await collect(body)).equals(bytes))
      assert.deepEqual([info.contentType, info.metadata, info.modified], ['image/x-big', { origin: 'test' }, modified])
      const { body: part } = await driver.read('big', { range: { start: 8_388_600, end: 8_388_700 } })
      assert.ok((await collect(part)).equals(bytes.subarray(8_388_600, 8_388_700)))
    })

    test('a long body that fails, or is cancelled while it is silent, stores nothing', async () => {
      await using driver = await opened()
      await driver.write('kept', toBody('old'))
      const failing = async function* () {
        yield* pieces(randomBytes(20 << 20))
        throw new Error('the source broke')
      }
      await assert.rejects(driver.write('kept', failing()), /the source broke/)
      await assert.rejects(driver.write('kept', pieces(randomBytes(20 << 20)), { size: 1 }), { code: 'CORRUPT' })
      const controller = new AbortController()
      const silent = async function* () {
        yield* pieces(randomBytes(20 << 20))
        controller.abort()
        await new Promise(() => {})
      }
      await assert.rejects(driver.write('kept', silent(), { signal: controller.signal }), { code: 'ABORTED' })
      assert.equal((await collect((await driver.read('kept')).body)).toString(), 'old')
    })

    test('no more blocks are in memory than are on their way', async () => {
      await using proxy = await FaultProxy.open([port])
      await using driver = await opened({ endpoint: `http://${host}:${proxy.port}/${account}` })
      let [given, most] = [0, 0]
      const counted = async function* () {
        for (let i = 0; i < 64; i++) {
          yield Buffer.alloc(1 << 20, i)
          given += 1 << 20
          most = Math.max(most, given - proxy.bytes.up)
        }
      }
      await driver.write('a', counted())
      assert.ok(most <= 8 * (8 << 20), `${most} bytes were taken and not yet sent`)
    })

    test('a long write with ifAbsent, or of a version that has gone, changes nothing', async () => {
      await using driver = await opened()
      const { etag } = await driver.write('a', toBody('first'))
      const long = () => pieces(randomBytes(20 << 20))
      await assert.rejects(driver.write('a', long(), { ifAbsent: true }), { code: 'EXISTS' })
      await driver.write('a', toBody('second'))
      await assert.rejects(driver.write('a', long(), { ifMatch: etag }), { code: 'CONFLICT' })
      assert.equal((await driver.stat('a')).size, 6)
    })

    test('signed URLs read and write, without credentials', async () => {
      await using driver = await opened()
      const put = (await driver.signedUrl?.('d/a b+c', { method: 'PUT', expiresInSeconds: 60 })) ?? ''
      const stored = await fetch(put, { method: 'PUT', body: 'x', headers: { 'x-ms-blob-type': 'BlockBlob' } })
      assert.equal(stored.status, 201)
      const get = (await driver.signedUrl?.('d/a b+c', { method: 'GET', expiresInSeconds: 60 })) ?? ''
      assert.equal(await (await fetch(get)).text(), 'x')
      assert.equal(
        (await fetch(get, { method: 'PUT', body: 'y', headers: { 'x-ms-blob-type': 'BlockBlob' } })).status,
        403,
      )
      assert.equal((await fetch(get.replace('a%20b', 'a%20c'))).status, 403)
      await using unsigned = await opened({ login: { kind: 'anonymous' } })
      await assert.rejects(async () => unsigned.signedUrl?.('a', { method: 'GET', expiresInSeconds: 60 }), {
        code: 'UNSUPPORTED',
      })
    })

    test('who may only read, or only part, is told so; a public container is read by anybody', async () => {
      const open = await container('blob')
      await using writer = await opened({ container: open })
      await writer.write('a', toBody('x'))
      await using anybody = await opened({ container: open, login: { kind: 'anonymous' } })
      assert.equal((await collect((await anybody.read('a')).body)).toString(), 'x')
      await assert.rejects(anybody.write('b', toBody('x')), { code: 'DENIED' })
      const secret = Buffer.from('not the key').toString('base64')
      await using wrong = await opened({ login: { kind: 'key', key: secret } })
      await assert.rejects(wrong.stat('a'), (error: StowageError) => {
        assert.deepEqual([error.code, error.retryable], ['DENIED', false])
        assert.ok(!JSON.stringify(error).includes(secret) && !String(error.stack).includes(secret))
        return true
      })
      const url = new URL((await writer.signedUrl?.('a', { method: 'GET', expiresInSeconds: 60 })) ?? '')
      await using guest = await opened({ container: open, login: { kind: 'sas', token: url.search.slice(1) } })
      assert.equal((await guest.stat('a')).size, 1)
      await assert.rejects(guest.write('a', toBody('y')), (error: StowageError) => {
        assert.equal(error.code, 'DENIED')
        assert.ok(!error.message.includes(url.searchParams.get('sig') ?? 'no signature'))
        return true
      })
    })

    test('a container that is not there is a mistake of the configuration', async () => {
      await using driver = await opened({ container: 'not-there' })
      for (const call of [
        async () => driver.stat('a'),
        async () => driver.read('a'),
        async () => driver.write('a', toBody('x')),
        async () => Array.fromAsync(driver.list('')),
      ])
        await assert.rejects(call, { code: 'INVALID_CONFIG' })
    })

    test('keys with every awkward character are listed as they are, in pages, and what is no key is passed over', async () => {
      const odd = await container()
      await using driver = await opened({ container: odd })
      const keys = ['a+b', 'a b', 'a%2Bb', 'a&amp;b', '<a>', '\'"', 'tab\t', '~!*()', 'a#b?c', 'e\u0301', '\u00e9']
      for (const each of keys) await driver.write(each, toBody('x'))
      for (const each of ['folder/', 'a//b'])
        await service.getContainerClient(odd).getBlockBlobClient(each).upload('', 0)
      assert.deepEqual((await Array.fromAsync(driver.list(''), (entry) => entry.key)).toSorted(), keys.toSorted())
    })

    test('a bit that turns over on its way up is noticed by the service, in small files and in blocks', async () => {
      await using proxy = await FaultProxy.open([port])
      await using driver = await opened({ endpoint: `http://${host}:${proxy.port}/${account}` })
      await driver.write('a', toBody('old'))
      for (const size of [300_000, 20 << 20]) {
        await proxy.set({ how: 'flip', way: 'up', after: 150_000, times: 1 })
        await assert.rejects(driver.write('a', pieces(randomBytes(size))), { code: 'CORRUPT' })
        await proxy.set(undefined)
        assert.equal((await collect((await driver.read('a')).body)).toString(), 'old')
      }
    })

    test('connections that break fail what was under way, and what is silent is left', async () => {
      await using proxy = await FaultProxy.open([port])
      await using driver = await opened({ endpoint: `http://${host}:${proxy.port}/${account}`, timeoutMs: 2000 })
      const bytes = randomBytes(4_000_000)
      await driver.write('a', toBody(bytes))
      await proxy.set({ how: 'reset', way: 'up', after: 1_000_000 })
      await assert.rejects(driver.write('a', toBody(randomBytes(4_000_000))), { code: 'UNREACHABLE' })
      await proxy.set({ how: 'reset', way: 'down', after: 1_000_000 })
      await assert.rejects(async () => collect((await driver.read('a')).body), { code: 'UNREACHABLE' })
      await proxy.set({ how: 'stall', way: 'down', after: 1_000_000 })
      await assert.rejects(async () => collect((await driver.read('a')).body), { code: 'TIMEOUT' })
      await proxy.set({ how: 'silent' })
      await assert.rejects(driver.stat('a'), { code: 'TIMEOUT' })
      await proxy.set(undefined)
      assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
    })
  })
}

async function* pieces(bytes: Buffer, size = 1_000_003) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}
