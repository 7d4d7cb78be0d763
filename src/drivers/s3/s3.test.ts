/**
 * The S3 driver and answers that the real server of test/s3.test.ts never gives: those of AWS itself, of services that
 * know less, and of services in trouble. Each test scripts a server with what AWS's reference documents.
 */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import * as http from 'node:http'
import type { AddressInfo } from 'node:net'
import { test, type TestContext } from 'node:test'
import { collect, toBody } from '../../core/bytes.ts'
import { parseStorageUrl } from '../../core/storage-url.ts'
import type { WriteOptions } from '../../store/driver.ts'
import { s3FromUrl } from './s3.ts'
import { checksumOf } from './service.ts'

interface Heard {
  method: string
  url: URL
  headers: http.IncomingHttpHeaders
  body: Buffer
}

interface Answer {
  status?: number
  headers?: Record<string, string>
  body?: string
}

/** A driver for a server that answers as it is told, and all that this server has heard. */
async function scripted(t: TestContext, answer: (request: Heard, count: number) => Answer, parameters = '') {
  const heard: Heard[] = []
  const respond = async (request: http.IncomingMessage, response: http.ServerResponse) => {
    const { method = '', headers } = request
    const body = Buffer.concat(await request.toArray())
    const one = { method, url: new URL(request.url ?? '', 'http://x'), headers, body }
    const { status = 200, headers: more = {}, body: text = '' } = answer(one, heard.push(one))
    response.writeHead(status, more).end(text)
  }
  const server = http.createServer((request, response) => {
    respond(request, response).catch(() => response.destroy()) // whoever asked has gone
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const url = `s3://key:secret@127.0.0.1:${port}/?s3_bucket=bucket&use_ssl=false${parameters}`
  const driver = s3FromUrl(parseStorageUrl(url))
  t.after(async () => {
    await driver.close()
    server.closeAllConnections()
    server.close()
  })
  return { driver, heard, port }
}

function refusal(code: string, more = ''): string {
  return `<?xml version="1.0"?><Error><Code>${code}</Code><Message>no</Message>${more}</Error>`
}

async function* large() {
  for (let i = 0; i < 20; i++) yield Buffer.alloc(1 << 20, i)
}

const md5 = (bytes: Uint8Array) => `"${createHash('md5').update(bytes).digest('hex')}"`

/** An upload in parts as AWS plays it; `change` alters answers. */
function multipart(change: (request: Heard, count: number) => Answer | undefined, hasChecksums = true) {
  return (request: Heard, count: number): Answer => {
    const changed = change(request, count)
    if (changed) return changed
    const { method, url, body } = request
    if (method === 'POST' && url.searchParams.has('uploads'))
      return {
        headers: hasChecksums ? { 'x-amz-checksum-algorithm': 'CRC32' } : {},
        body: '<InitiateMultipartUploadResult><UploadId>an id</UploadId></InitiateMultipartUploadResult>',
      }
    if (method === 'PUT') return { headers: { etag: md5(body) } }
    return { body: '<CompleteMultipartUploadResult><ETag>"e-2"</ETag></CompleteMultipartUploadResult>' }
  }
}

test('parts carry the checksums that the upload was begun with, and only the list at its end repeats them', async (t) => {
  const { driver, heard } = await scripted(
    t,
    multipart(() => undefined),
  )
  assert.equal((await driver.write('a', large())).etag, 'e-2')
  const [begin, ...rest] = heard
  const parts = rest.filter(({ method }) => method === 'PUT')
  const complete = heard.at(-1)
  assert.equal(begin?.headers['x-amz-checksum-algorithm'], 'CRC32')
  assert.equal(parts.length, 2)
  for (const { headers, body, url } of parts) {
    assert.equal(headers['x-amz-checksum-crc32'], checksumOf(body))
    const number = url.searchParams.get('partNumber')
    const line = `<PartNumber>${number}</PartNumber><ETag>&#34;${md5(body).slice(1, -1)}&#34;</ETag><ChecksumCRC32>${checksumOf(body)}<`
    assert.ok(complete?.body.toString().includes(line), complete?.body.toString())
  }
  // There the header would be the checksum of the whole object.
  assert.equal(complete?.headers['x-amz-checksum-crc32'], undefined)
  const signed = createHash('sha256')
    .update(complete?.body ?? '')
    .digest('hex')
  assert.equal(complete?.headers['x-amz-content-sha256'], signed)
})

test('a service that agrees to no checksums is sent none with the parts', async (t) => {
  const { driver, heard } = await scripted(
    t,
    multipart(() => undefined, false),
  )
  await driver.write('a', large())
  assert.ok(heard.slice(1).every(({ headers }) => headers['x-amz-checksum-crc32'] === undefined))
  assert.ok(!heard.at(-1)?.body.includes('Checksum'))
})

test('parts and the end of an upload are tried again, also when the failure comes after a 200', async (t) => {
  let parts = 0
  let ends = 0
  const { driver, heard } = await scripted(
    t,
    multipart(({ method, url }) => {
      if (method === 'PUT' && ++parts === 1) return { status: 503, body: refusal('SlowDown') }
      if (method === 'POST' && url.searchParams.has('uploadId') && ++ends === 1)
        return { body: refusal('InternalError') }
      return undefined
    }),
  )
  assert.equal((await driver.write('a', large())).size, 20 << 20)
  assert.deepEqual([parts, ends], [3, 2])
  assert.ok(heard.every(({ method }) => method !== 'DELETE'))
})

test('an end whose answer was lost is recognised by the object that is there', async (t) => {
  let ends = 0
  const { driver } = await scripted(
    t,
    multipart(({ method, url }) => {
      if (method === 'HEAD') return { headers: { etag: '"abc-2"', 'content-length': String(20 << 20) } }
      if (method !== 'POST' || !url.searchParams.has('uploadId')) return undefined
      return ++ends === 1
        ? { status: 500, body: refusal('InternalError') }
        : { status: 404, body: refusal('NoSuchUpload') }
    }),
  )
  const { size, etag } = await driver.write('a', large())
  assert.deepEqual([size, etag], [20 << 20, 'abc-2'])
})

test('an upload that is refused is taken back, and its first failure is the one that is told', async (t) => {
  const { driver, heard } = await scripted(
    t,
    multipart(({ method }) =>
      method === 'PUT'
        ? { status: 403, body: refusal('AccessDenied') }
        : method === 'DELETE'
          ? { status: 500, body: refusal('InternalError') }
          : undefined,
    ),
  )
  await assert.rejects(driver.write('a', large()), { code: 'DENIED' })
  assert.ok(heard.some(({ method, url }) => method === 'DELETE' && url.searchParams.get('uploadId') === 'an id'))
})

test('a copy that fails after its 200 has failed', async (t) => {
  const { driver } = await scripted(t, ({ method }) =>
    method === 'HEAD' ? { headers: { 'content-length': '5' } } : { body: refusal('InternalError') },
  )
  await assert.rejects(async () => driver.copy?.('a', 'b'), { code: 'UNREACHABLE', retryable: true })
})

test('a bucket in another region is found there, by all requests on their way, with one detour each', async (t) => {
  const { driver, heard } = await scripted(t, ({ headers }) =>
    headers.authorization?.includes('/eu-north-1/s3/')
      ? {}
      : { status: 400, body: refusal('AuthorizationHeaderMalformed', '<Region>eu-north-1</Region>') },
  )
  await Promise.all(['a', 'b', 'c'].map(async (key) => driver.writeBytes?.(key, Buffer.from(key))))
  assert.equal(heard.length, 6)
  await driver.writeBytes?.('d', Buffer.from('d'))
  assert.equal(heard.length, 7)
})

test('a wrong region that no answer puts right is a mistake of the configuration', async (t) => {
  const { driver, heard } = await scripted(t, () => ({ status: 301, body: refusal('PermanentRedirect') }))
  await assert.rejects(driver.read('a'), { code: 'INVALID_CONFIG', retryable: false, message: /aws_region/ })
  assert.equal(heard.length, 1)
})

test('a service that asks for patience says how much: in seconds, or until when', async (t) => {
  const until = new Date(Date.now() + 100_000).toUTCString()
  for (const [header, least, most] of [
    ['7', 7000, 7000],
    [until, 90_000, 100_000],
    ['soon', undefined, undefined],
  ] as const) {
    const { driver } = await scripted(t, () => ({
      status: 503,
      headers: { 'retry-after': header },
      body: refusal('SlowDown'),
    }))
    await assert.rejects(driver.stat('a'), ({ code, retryable, retryAfterMs }) => {
      assert.deepEqual([code, retryable], ['THROTTLED', true])
      if (least === undefined) assert.equal(retryAfterMs, undefined)
      else assert.ok(retryAfterMs >= least && retryAfterMs <= most, `${retryAfterMs}`)
      return true
    })
  }
})

for (const [status, body, code, retryable] of [
  [500, refusal('InternalError'), 'UNREACHABLE', true],
  [502, '<html><code>oops</code></html>', 'UNREACHABLE', true],
  [429, '', 'THROTTLED', true],
  [403, refusal('SignatureDoesNotMatch'), 'DENIED', false],
  [400, refusal('ExpiredToken'), 'DENIED', false],
  [404, refusal('NoSuchKey'), 'NOT_FOUND', false],
  [404, refusal('NoSuchBucket'), 'INVALID_CONFIG', false],
  [409, refusal('OperationAborted'), 'UNREACHABLE', true],
  [400, refusal('BadDigest'), 'CORRUPT', true],
  [507, '', 'UNREACHABLE', true],
  [418, '', 'UNKNOWN', false],
] as const)
  test(`${status} ${/<Code>(\w+)/.exec(body)?.[1] ?? ''} is ${code}`, async (t) => {
    const { driver } = await scripted(t, () => ({ status, body }))
    await assert.rejects(driver.read('a'), (error: Error & { code: string; retryable: boolean }) => {
      assert.deepEqual([error.code, error.retryable], [code, retryable])
      assert.ok(!error.message.includes('secret@') && error.message.includes(String(status)))
      return true
    })
  })

test('two writers that met are told to come again; only one who came too late is told that it EXISTS', async (t) => {
  const { driver } = await scripted(t, ({ url }) =>
    url.pathname === '/bucket/met'
      ? { status: 409, body: refusal('ConditionalRequestConflict') }
      : { status: 412, body: refusal('PreconditionFailed') },
  )
  const write = async (key: string) => driver.writeBytes?.(key, Buffer.from('x'), { ifAbsent: true })
  await assert.rejects(write('met'), { code: 'CONFLICT', retryable: true })
  await assert.rejects(write('late'), { code: 'EXISTS', retryable: false })
})

test('a service without batch deletion is asked file by file', async (t) => {
  const { driver, heard } = await scripted(t, ({ method }) =>
    method === 'POST' ? { status: 501, body: refusal('NotImplemented') } : { status: 204 },
  )
  await driver.deleteMany?.(['a', 'b', 'c'])
  assert.deepEqual(
    heard.slice(1).map(({ method, url }) => `${method} ${url.pathname}`),
    ['DELETE /bucket/a', 'DELETE /bucket/b', 'DELETE /bucket/c'],
  )
})

test('a batch that was deleted in part says what was not, and why', async (t) => {
  const { driver, heard } = await scripted(t, () => ({
    body: '<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>',
  }))
  await assert.rejects(async () => driver.deleteMany?.(['a', 'b']), { code: 'DENIED', message: /1 of 2 .* b: Acc/ })
  const { headers, body } = heard[0] as Heard
  assert.equal(headers['content-md5'], createHash('md5').update(body).digest('base64'))
})

test('what arrived as something else is CORRUPT, by its checksum or its MD5', async (t) => {
  const bytes = Buffer.from('hello')
  const wrong = md5(Buffer.from('hellp'))
  const answers: [Record<string, string>, boolean][] = [
    [{ etag: md5(bytes) }, true],
    [{ etag: wrong }, false],
    [{ etag: '"no md5 at all"' }, true],
    [{ etag: wrong, 'x-amz-server-side-encryption': 'aws:kms' }, true],
    [{ etag: wrong, 'x-amz-server-side-encryption': 'AES256' }, false],
    [{ etag: wrong, 'x-amz-checksum-crc32': checksumOf(bytes) }, true],
    [{ etag: md5(bytes), 'x-amz-checksum-crc32': 'AAAAAA==' }, false],
  ]
  for (const [headers, isGood] of answers) {
    const { driver } = await scripted(t, () => ({ headers }))
    const written = async () => driver.writeBytes?.('a', bytes)
    if (isGood) assert.equal((await written())?.size, 5)
    else await assert.rejects(written, { code: 'CORRUPT', retryable: true })
  }
})

test('a body of no known length is not read: nobody could tell it from one that was cut', async (t) => {
  const { driver } = await scripted(t, () => ({ body: 'hello' }))
  await assert.rejects(driver.read('a'), { code: 'UNSUPPORTED', message: /how long a is/ })
})

test('a service that ignores ranges is found out', async (t) => {
  const { driver } = await scripted(t, () => ({ headers: { 'content-length': '10' }, body: '0123456789' }))
  await assert.rejects(driver.read('a', { range: { start: 2, end: 5 } }), { code: 'UNSUPPORTED' })
  assert.equal((await collect((await driver.read('a')).body)).toString(), '0123456789')
})

test('a small body of a stream is sent again after a failure that may pass', async (t) => {
  const { driver, heard } = await scripted(t, (_, count) =>
    count === 1 ? { status: 503, body: refusal('SlowDown') } : {},
  )
  assert.equal((await driver.write('a', toBody('hello'))).size, 5)
  assert.deepEqual(
    heard.map(({ body }) => body.toString()),
    ['hello', 'hello'],
  )
})

test('headers that would say more than they should are refused', async (t) => {
  const { driver, heard } = await scripted(t, () => ({}))
  const bad = 'a\r\nx-amz-acl: public-read'
  const wrong: WriteOptions[] = [
    { contentType: bad },
    { cacheControl: bad },
    { metadata: { a: bad } },
    { metadata: { [bad]: '' } },
  ]
  for (const options of wrong)
    await assert.rejects(async () => driver.writeBytes?.('a', Buffer.from('x'), options), { code: 'INVALID_ARGUMENT' })
  assert.equal(heard.length, 0)
})

test('listings of services that do not encode keys are read as they are', async (t) => {
  const { driver } = await scripted(t, () => ({
    body: '<ListBucketResult><Contents><Key>a%41+b</Key><Size>1</Size></Contents></ListBucketResult>',
  }))
  assert.deepEqual(
    (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
    ['a%41+b'],
  )
})

test('URLs say what is missing, and locations say no secrets', () => {
  const open = (url: string) => s3FromUrl(parseStorageUrl(url))
  assert.throws(() => open('s3://k:s3cret@host/'), { code: 'INVALID_ARGUMENT', message: /s3_bucket/ })
  assert.throws(() => open('s3://k@host/?s3_bucket=b'), { code: 'INVALID_ARGUMENT', message: /secret/ })
  assert.throws(() => open('s3://k:s3cret@host/?s3_bucket=b&regoin=x'), /regoin/)
  assert.throws(() => open('s3://k:s3cret@host/?s3_bucket=b&ca=/no/such/file'), { code: 'INVALID_CONFIG' })
  assert.equal(open('s3://k:s3cret@host/p/q?s3_bucket=b').location, 's3://host/b/p/q')
  assert.equal(open('s3://k:s3cret@host:9000/?s3_bucket=b').location, 's3://host:9000/b')
})

test('on AWS the bucket is part of the host, which is that of its region', async () => {
  const sign = async (url: string) => {
    const driver = s3FromUrl(parseStorageUrl(url))
    const signed = new URL((await driver.signedUrl?.('a b', { method: 'GET', expiresInSeconds: 60 })) ?? '')
    await driver.close()
    return signed.origin + signed.pathname
  }
  const aws = 's3://k:s@s3.amazonaws.com/p?s3_bucket'
  assert.equal(await sign(`${aws}=b`), 'https://b.s3.amazonaws.com/p/a%20b')
  assert.equal(await sign(`${aws}=b&aws_region=eu-west-1`), 'https://b.s3.eu-west-1.amazonaws.com/p/a%20b')
  assert.equal(await sign(`${aws}=b.c&aws_region=eu-west-1`), 'https://s3.eu-west-1.amazonaws.com/b.c/p/a%20b')
  assert.equal(await sign('s3://k:s@minio.test:9000/p?s3_bucket=b&use_ssl=0'), 'http://minio.test:9000/b/p/a%20b')
})
