/** The S3 driver against a real S3 server, and what another client reads of it. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { after, describe, test } from 'node:test'
import { collect, toBody } from '../src/core/bytes.ts'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { s3Driver, s3FromUrl } from '../src/drivers/s3/s3.ts'
import { prefixed } from '../src/store/wrappers/prefix.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { startServer, type TestServer } from './servers/rgw.ts'

const server = startServer()
if (server) testServer(server)
else
  test('S3', {
    skip: 'the Debian packages ceph-mon, ceph-osd, ceph-common, radosgw and openssl are not installed',
  }, () => {})

function testServer(s3: TestServer) {
  after(() => s3.stop())
  testDriver('s3', async () => ({ driver: await s3.bucket('suite') }))
  testDriver('s3 with signed payloads', async () => ({
    driver: await s3.bucket('suite-signed', { signPayload: true }),
  }))
  testDriver('s3 below a prefix, with retries', async () => ({
    driver: retrying(prefixed(await s3.bucket('suite-prefix'), 'a/b c')),
  }))
  testDriver('s3 over TLS, virtual-host style', async () => {
    const tls = { tls: true, port: s3.tlsPort, host: 's3.localhost', ca: s3.ca, pathStyle: false }
    return { driver: await s3.bucket('suite-tls', tls) }
  })
  describe('s3', () => testWhatIsSpecial(s3))
}

async function* pieces(bytes: Buffer, size = 1_000_003) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

function testWhatIsSpecial(s3: TestServer) {
  test('40 MiB of unknown length go in parts and come back as they were', async () => {
    await using driver = closing(await s3.bucket('parts'))
    const bytes = randomBytes(40 << 20)
    const info = await driver.write('big', pieces(bytes), { contentType: 'image/x-big', metadata: { origin: 'test' } })
    assert.equal(info.size, bytes.byteLength)
    const { info: read, body } = await driver.read('big')
    assert.ok((await collect(body)).equals(bytes))
    assert.deepEqual([read.contentType, read.metadata], ['image/x-big', { origin: 'test' }])
    const { body: part } = await driver.read('big', { range: { start: 16 << 20, end: (16 << 20) + 10 } })
    assert.ok((await collect(part)).equals(bytes.subarray(16 << 20, (16 << 20) + 10)))
  })

  test('a long body that fails leaves neither an object nor an unfinished upload', async () => {
    await using driver = closing(await s3.bucket('aborted'))
    const failing = async function* () {
      yield* pieces(randomBytes(36 << 20))
      throw new Error('the source broke')
    }
    await assert.rejects(driver.write('never', failing()), /the source broke/)
    await assert.rejects(driver.write('never', pieces(randomBytes(36 << 20)), { size: 1 }), { code: 'CORRUPT' })
    await assert.rejects(driver.stat('never'), { code: 'NOT_FOUND' })
    const service = s3.service('aborted')
    const uploads = (await (await service.request({ method: 'GET', query: { uploads: '' } })).bytes()).toString()
    await service.close()
    assert.ok(!uploads.includes('<UploadId>'), uploads)
  })

  test('2,500 files are listed page by page and deleted in batches', async () => {
    await using driver = closing(await s3.bucket('many'))
    const keys = Array.from({ length: 2500 }, (_, i) => `d/${i % 7}/f ${i}&<>`)
    await Promise.all(keys.map(async (key) => driver.writeBytes?.(key, Buffer.from('x'))))
    assert.equal((await Array.fromAsync(driver.list(''))).length, 2500)
    assert.equal((await Array.fromAsync(driver.list('d', { recursive: false }))).length, 7)
    await driver.deleteMany?.(['d/absent', 'with\x01control', ...keys])
    assert.deepEqual(await Array.fromAsync(driver.list('')), [])
  })

  test('a copy is made by the service and keeps type and metadata', async () => {
    await using driver = closing(await s3.bucket('copies'))
    await driver.write('a/from +', toBody('hello'), { contentType: 'text/css', metadata: { origin: 'x' } })
    await driver.copy?.('a/from +', 'to')
    const info = await driver.stat('to')
    assert.deepEqual([info.size, info.contentType, info.metadata], [5, 'text/css', { origin: 'x' }])
    await assert.rejects(async () => driver.copy?.('a/from +', 'to', { ifAbsent: true }), { code: 'EXISTS' })
    await assert.rejects(async () => driver.copy?.('absent', 'x'), { code: 'NOT_FOUND' })
  })

  test('signed URLs work without credentials, for reading and for writing', async () => {
    await using driver = closing(await s3.bucket('signed'))
    const put = (await driver.signedUrl?.('a b+c', { method: 'PUT', expiresInSeconds: 60 })) ?? ''
    assert.equal((await fetch(put, { method: 'PUT', body: 'hello' })).status, 200)
    const get = (await driver.signedUrl?.('a b+c', { method: 'GET', expiresInSeconds: 60 })) ?? ''
    assert.equal(await (await fetch(get)).text(), 'hello')
    assert.ok(!get.includes('testsecret'))
    assert.equal((await fetch(get.replace('a%20b', 'a%20c'))).status, 403)
  })

  test('a wrong secret and a foreign bucket are DENIED, a bucket that is not there is a mistake of the configuration', async () => {
    await using owner = closing(await s3.bucket('private'))
    await owner.write('a', toBody('x'))
    await using wrong = closing(s3Driver(s3.options('private', { secretAccessKey: 'wrong-but-secret' })))
    await assert.rejects(wrong.write('a', toBody('x')), (error: Error & { code: string }) => {
      assert.equal(error.code, 'DENIED')
      assert.ok(!error.message.includes('wrong-but-secret'))
      return true
    })
    await using other = closing(
      s3Driver(s3.options('private', { accessKeyId: 'otherkey', secretAccessKey: 'othersecret' })),
    )
    await assert.rejects(other.read('a'), { code: 'DENIED' })
    await assert.rejects(other.stat('a'), { code: 'DENIED' })
    await using nowhere = closing(s3Driver(s3.options('no-such-bucket')))
    await assert.rejects(nowhere.read('a'), { code: 'INVALID_CONFIG', message: /no-such-bucket/ })
  })

  test('rights on one prefix are enough for everything below it', async () => {
    await using owner = closing(await s3.bucket('shared'))
    const resource = [`arn:aws:s3:::${s3.named('shared')}/mine/*`]
    const principal = { AWS: ['arn:aws:iam:::user/other'] }
    const statements = [
      {
        Effect: 'Allow',
        Principal: principal,
        Action: ['s3:GetObject', 's3:PutObject', 's3:DeleteObject'],
        Resource: resource,
      },
      {
        Effect: 'Allow',
        Principal: principal,
        Action: ['s3:ListBucket'],
        Resource: [`arn:aws:s3:::${s3.named('shared')}`],
        Condition: { StringLike: { 's3:prefix': 'mine/*' } },
      },
    ]
    const service = s3.service('shared')
    const body = Buffer.from(JSON.stringify({ Version: '2012-10-17', Statement: statements }))
    await (await service.request({ method: 'PUT', query: { policy: '' }, body })).bytes()
    await service.close()
    const url = `s3://otherkey:othersecret@${s3.host}:${s3.port}/mine?s3_bucket=${s3.named('shared')}&use_ssl=false`
    await using driver = closing(s3FromUrl(parseStorageUrl(url)))
    await driver.write('deep/a', toBody('x'))
    await driver.write('deep/long', pieces(randomBytes(20 << 20)))
    assert.equal((await Array.fromAsync(driver.list('deep'))).length, 2)
    await driver.delete('deep/a')
    assert.equal((await driver.stat('deep/long')).size, 20 << 20)
    assert.deepEqual(
      (await Array.fromAsync(owner.list(''))).map(({ key }) => key),
      ['mine/deep/long'],
    )
    await assert.rejects(
      s3Driver(s3.options('shared', { accessKeyId: 'otherkey', secretAccessKey: 'othersecret' })).write(
        'theirs',
        toBody('x'),
      ),
      {
        code: 'DENIED',
      },
    )
  })

  test('a clock that is an hour off is corrected', async (t) => {
    await using driver = closing(await s3.bucket('skewed'))
    const { now } = Date
    Date.now = () => now() - 3_600_000
    t.after(() => {
      Date.now = now
    })
    await driver.write('a', toBody('x'))
    assert.equal((await driver.stat('a')).size, 1)
  })

  test('rclone reads what the driver wrote, whole and in parts', async (t) => {
    if (!process.env['CI'] && spawnSync('rclone', ['version']).status !== 0) return t.skip('rclone is not installed')
    await using driver = closing(await s3.bucket('rclone'))
    const [small, big] = [randomBytes(5000), randomBytes(33 << 20)]
    await driver.write('dir/small file', toBody(small))
    await driver.write('big', pieces(big))
    const { AWS_CA_BUNDLE: _, ...environment } = process.env
    const env = {
      ...environment,
      RCLONE_CONFIG_T_TYPE: 's3',
      RCLONE_CONFIG_T_PROVIDER: 'Ceph',
      RCLONE_CONFIG_T_ENDPOINT: `http://${s3.host}:${s3.port}`,
      RCLONE_CONFIG_T_ACCESS_KEY_ID: 'testkey',
      RCLONE_CONFIG_T_SECRET_ACCESS_KEY: 'testsecret',
    }
    const cat = (key: string) =>
      execFileSync('rclone', ['--config', '', 'cat', `t:${s3.named('rclone')}/${key}`], { env, maxBuffer: 64 << 20 })
    assert.ok(cat('dir/small file').equals(small))
    assert.ok(cat('big').equals(big))
    const listed = execFileSync('rclone', ['--config', '', 'lsf', '-R', '--files-only', `t:${s3.named('rclone')}`], {
      env,
      encoding: 'utf8',
    })
    assert.deepEqual(listed.trim().split('\n').sort(), ['big', 'dir/small file'])
  })
}

function closing<T extends { close(): Promise<void> }>(driver: T): T & AsyncDisposable {
  return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
}
