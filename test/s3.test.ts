/** The S3 driver against a real S3 server, and what another client reads of it. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { after, describe, test } from 'node:test'
import { collect, toBody } from '../src/core/bytes.ts'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { copyParts } from '../src/drivers/s3/multipart.ts'
import { s3Driver, s3FromUrl } from '../src/drivers/s3/s3.ts'
import { prefixed } from '../src/store/wrappers/prefix.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { startS3, type TestServer } from './servers/rgw.ts'

const server = startS3()
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

/** How many uploads of a bucket were begun and neither completed nor taken back. */
async function unfinished(s3: TestServer, bucket: string): Promise<number> {
  const service = s3.service(bucket)
  const uploads = (await (await service.request({ method: 'GET', query: { uploads: '' } })).bytes()).toString()
  await service.close()
  return uploads.split('<UploadId>').length - 1
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
    assert.equal(await unfinished(s3, 'aborted'), 0)
  })

  test('a cancelled write ends although its body is silent, and leaves no unfinished upload', async () => {
    await using driver = closing(await s3.bucket('silent'))
    for (const size of [1000, 20 << 20]) {
      const controller = new AbortController()
      const body = async function* () {
        yield* pieces(randomBytes(size))
        controller.abort()
        await new Promise(() => {})
      }
      await assert.rejects(driver.write('never', body(), { signal: controller.signal }), { code: 'ABORTED' })
    }
    assert.equal(await unfinished(s3, 'silent'), 0)
  })

  test('a body that does not end is refused as soon as it is longer than announced', async () => {
    await using driver = closing(await s3.bucket('endless'))
    let isClosed = false
    const body = async function* () {
      try {
        for (;;) yield Buffer.alloc(1 << 20)
      } finally {
        isClosed = true
      }
    }
    await assert.rejects(driver.write('never', body(), { size: 40 << 20 }), { code: 'CORRUPT' })
    assert.ok(isClosed)
    assert.equal(await unfinished(s3, 'endless'), 0)
  })

  test('300 bodies that are dropped, read or not, cost no connection', async () => {
    await using driver = closing(await s3.bucket('left'))
    await driver.write('big', toBody(randomBytes(2 << 20)))
    for (let i = 0; i < 300; i++) {
      const { body } = await driver.read('big')
      if (i % 2 === 0) await body[Symbol.asyncIterator]().next()
      body.destroy()
    }
    assert.equal((await collect((await driver.read('big')).body)).byteLength, 2 << 20)
  })

  test('a copy in parts is the same object, of the version it began with', async () => {
    await using driver = closing(await s3.bucket('large-copies'))
    const bytes = randomBytes(13 << 20)
    const { etag } = await driver.write('from', pieces(bytes))
    const service = s3.service('large-copies')
    const target = { service, key: 'to', headers: { 'content-type': 'text/css' }, conditions: {} }
    const source = { bucket: s3.named('large-copies'), key: 'from', size: bytes.byteLength, etag: `"${etag}"` }
    await copyParts(target, source, 5 << 20, undefined)
    const { info, body } = await driver.read('to')
    assert.equal(info.contentType, 'text/css')
    assert.ok((await collect(body)).equals(bytes))
    await assert.rejects(copyParts(target, { ...source, key: 'absent' }, 5 << 20, undefined), { code: 'NOT_FOUND' })
    await service.close()
    assert.equal(await unfinished(s3, 'large-copies'), 0)
  })

  test('a long write with ifAbsent meets what is there, and a file can be copied onto itself', async () => {
    await using driver = closing(await s3.bucket('taken'))
    await driver.write('a', toBody('first'))
    await assert.rejects(driver.write('a', pieces(randomBytes(20 << 20)), { ifAbsent: true }), { code: 'EXISTS' })
    assert.equal((await driver.copy?.('a', 'a'))?.size, 5)
    assert.equal((await driver.write('b', pieces(randomBytes(20 << 20)), { ifAbsent: true })).size, 20 << 20)
    assert.equal(await unfinished(s3, 'taken'), 0)
  })

  test('keys with every awkward character are listed as they are, and what is no key is passed over', async () => {
    await using driver = closing(await s3.bucket('awkward'))
    const keys = ['a+b', 'a b', 'a%2Bb', 'a&amp;b', '<a>', '\'"', 'tab\t', '\x01', '\u2028', '~!*()']
    for (const key of keys) await driver.writeBytes?.(key, Buffer.from('x'))
    const service = s3.service('awkward')
    for (const key of ['folder/', 'a//b', '../up']) await (await service.request({ method: 'PUT', key })).bytes()
    await service.close()
    const listed = await Array.fromAsync(driver.list(''))
    assert.deepEqual(listed.map(({ key }) => key).sort(), keys.toSorted())
    await driver.deleteMany?.(keys)
    assert.deepEqual(await Array.fromAsync(driver.list('')), [])
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
    // All that are on their way when the first learns of it have to be sent again.
    const keys = Array.from({ length: 20 }, (_, i) => `f${i}`)
    await Promise.all(keys.map(async (key) => driver.write(key, toBody('x'))))
    for (const key of keys) assert.equal((await driver.stat(key)).size, 1)
    const url = (await driver.signedUrl?.('f1', { method: 'GET', expiresInSeconds: 60 })) ?? ''
    assert.equal((await fetch(url)).status, 200)
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
