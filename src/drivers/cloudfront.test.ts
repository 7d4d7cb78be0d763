/** CloudFront through AWS's own client, against an endpoint that keeps what was sent. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createServer, type AddressInfo } from 'node:net'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { fakeCloudFront, type Refusal } from '../../test/servers/cloudfront.ts'
import { parseStorageUrl } from '../core/storage-url.ts'
import { fakeClock } from '../testing/fake-clock.ts'
import { CloudFront, cloudFrontUrl, type CloudFrontOptions } from './cloudfront.ts'
import { openDriver, openStore } from './index.ts'

const credentials = { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'very-secret' }
const made = {
  id: 'E3FERS845MCNLE',
  domainName: 'dqz4yxndo4z5z.cloudfront.net',
  origin: 'acme.s3.amazonaws.com',
  status: 'InProgress',
  comment: 'for tests',
}

async function scene(t: TestContext, answers: (Refusal | 'hang' | undefined)[] = [], options: CloudFrontOptions = {}) {
  const server = await fakeCloudFront(t, answers)
  const cloudFront = new CloudFront({ credentials, endpoint: server.endpoint, ...options })
  t.after(async () => cloudFront.close())
  return { server, cloudFront }
}

describe('cloudfront', { timeout: 60_000 }, () => {
  test('a distribution shows the bucket over HTTPS, and is asked for as AWS wants it', async (t) => {
    const { server, cloudFront } = await scene(t)
    const bucket = 'acme.s3.amazonaws.com'
    assert.deepEqual(await cloudFront.create({ bucket, comment: 'for <tests>', originAccessControl: 'EOAC' }), made)
    const [{ method, path: at, credential, body } = assert.fail()] = server.asked
    assert.deepEqual([method, at], ['POST', '/2020-05-31/distribution'])
    assert.deepEqual([credential[0], ...credential.slice(2)], ['AKIDEXAMPLE', 'us-east-1', 'cloudfront'])
    const { CallerReference, ...config } = body
    assert.match(CallerReference as string, /^[0-9a-f-]{36}$/)
    assert.deepEqual(config, {
      Comment: 'for <tests>',
      Enabled: 'true',
      HttpVersion: 'http2and3',
      Origins: {
        Quantity: '1',
        Items: {
          Origin: {
            Id: bucket,
            DomainName: bucket,
            S3OriginConfig: { OriginAccessIdentity: '' },
            OriginAccessControlId: 'EOAC',
          },
        },
      },
      DefaultCacheBehavior: {
        TargetOriginId: bucket,
        ViewerProtocolPolicy: 'redirect-to-https',
        Compress: 'true',
        CachePolicyId: '658327ea-f89d-4fab-a63d-7e88639e58f6',
      },
    })
  })

  test('waiting asks every five seconds until it is deployed, and ends at once when it is cancelled', async (t) => {
    const clock = fakeClock()
    const { server, cloudFront } = await scene(t, [], { clock })
    server.pollsUntilDeployed = 2
    const asleep = async () => {
      while (clock.sleeping === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    const statuses: string[] = []
    const deployed = cloudFront.deployed(made.id, { onPoll: ({ status }) => statuses.push(status) })
    for (let poll = 1; poll <= 2; poll++) {
      await asleep()
      await clock.advance(4999)
      assert.equal(server.asked.length, poll)
      await clock.advance(1)
    }
    assert.deepEqual(await deployed, { ...made, status: 'Deployed' })
    assert.deepEqual(statuses, ['InProgress', 'InProgress'])
    assert.deepEqual(server.asked[0]?.path, '/2020-05-31/distribution/E3FERS845MCNLE')
    const { server: slow, cloudFront: other } = await scene(t, [], { clock })
    slow.pollsUntilDeployed = 1
    const stop = new AbortController()
    const cancelled = assert.rejects(other.deployed(made.id, { signal: stop.signal }), { code: 'ABORTED' })
    await asleep()
    stop.abort()
    await cancelled
    assert.equal(clock.sleeping, 0)
  })

  test('paths are forgotten in one request, each once', async (t) => {
    const { server, cloudFront } = await scene(t)
    assert.deepEqual(await cloudFront.invalidate('E1', []), [])
    assert.equal(server.asked.length, 0)
    assert.deepEqual(await cloudFront.invalidate('E1', ['/b', '/a%20b.css', '/b']), ['I2J3'])
    const [{ path: at, body } = assert.fail()] = server.asked
    assert.equal(at, '/2020-05-31/distribution/E1/invalidation')
    assert.deepEqual(body['Paths'], { Quantity: '2', Items: { Path: ['/a%20b.css', '/b'] } })
    await cloudFront.invalidate('E1', ['/b'])
    assert.notEqual(server.asked[1]?.body['CallerReference'], body['CallerReference'])
  })

  test('of more than 3,000 paths the directory they share is forgotten', async (t) => {
    const { server, cloudFront } = await scene(t)
    const many = (count: number, prefix: string) => Array.from({ length: count }, (_, i) => `${prefix}${i}.png`)
    await cloudFront.invalidate('E1', many(3000, '/img/a'))
    await cloudFront.invalidate('E1', many(3001, '/img/a'))
    await cloudFront.invalidate('E1', [...many(3001, '/img/a'), '/css/x'])
    const sent = server.asked.map(({ body }) => body['Paths'] as { Quantity: string; Items: { Path: unknown } })
    assert.deepEqual(
      sent.map(({ Quantity }) => Quantity),
      ['3000', '1', '1'],
    )
    assert.deepEqual([sent[1]?.Items.Path, sent[2]?.Items.Path], ['/img/*', '/*'])
  })

  test('what AWS refuses is told by code and reason, and no secret is', async (t) => {
    const cases: [Refusal, string, boolean][] = [
      [{ status: 403, code: 'AccessDenied', message: 'User is not authorized' }, 'DENIED', false],
      [{ status: 403, code: 'SignatureDoesNotMatch' }, 'DENIED', false],
      [{ status: 404, code: 'NoSuchDistribution' }, 'NOT_FOUND', false],
      [{ status: 400, code: 'TooManyInvalidationsInProgress' }, 'THROTTLED', true],
      [
        { status: 400, code: 'InvalidArgument', message: 'Your request contains one or more invalid paths' },
        'INVALID_ARGUMENT',
        false,
      ],
      [{ status: 409, code: 'DistributionAlreadyExists' }, 'EXISTS', false],
    ]
    for (const [refusal, code, retryable] of cases) {
      const { cloudFront } = await scene(t, [refusal])
      await assert.rejects(
        cloudFront.invalidate('E1', ['/a']),
        (error: Error & { code: string; retryable: boolean }) => {
          assert.deepEqual([error.code, error.retryable], [code, retryable], error.message)
          assert.ok(error.message.includes(refusal.code) && error.message.includes(refusal.message ?? 'because'))
          assert.doesNotMatch(error.message, /very-secret/)
          return true
        },
      )
    }
  })

  test('a service in trouble, one that hangs and none at all are three different answers', async (t) => {
    const trouble = { status: 503, code: 'ServiceUnavailable' }
    const { server, cloudFront } = await scene(t, [trouble, trouble, trouble])
    await assert.rejects(cloudFront.invalidate('E1', ['/a']), { code: 'UNREACHABLE', retryable: true })
    assert.equal(
      new Set(server.asked.map(({ body }) => body['CallerReference'])).size,
      1,
      'what is sent again is one thing',
    )
    const { cloudFront: hanging } = await scene(t, ['hang'], { timeLimitMs: 100 })
    await assert.rejects(hanging.get('E1'), { code: 'TIMEOUT' })
    const { cloudFront: left } = await scene(t, ['hang'])
    await assert.rejects(left.get('E1', { signal: AbortSignal.timeout(100) }), { code: 'ABORTED' })
    const closed = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => closed.once('listening', resolve))
    const { port } = closed.address() as AddressInfo
    await new Promise((resolve) => closed.close(resolve))
    const nobody = new CloudFront({ credentials, endpoint: `http://127.0.0.1:${port}` })
    await assert.rejects(nobody.get('E1'), { code: 'UNREACHABLE', message: /ECONNREFUSED/ })
    await nobody.close()
  })

  test('without AWS’s client the error says how to install it', () => {
    const script = `
      import { registerHooks } from 'node:module'
      registerHooks({ resolve: (name, context, next) => {
        if (name === '@aws-sdk/client-cloudfront') throw Object.assign(new Error('absent'), { code: 'ERR_MODULE_NOT_FOUND' })
        return next(name, context)
      } })
      const { CloudFront } = await import(${JSON.stringify(path.resolve(import.meta.dirname, 'cloudfront.ts'))})
      await new CloudFront().get('E1').catch((error) => console.log(error.code, error.message))`
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
    assert.match(stdout, /^UNSUPPORTED .*npm install @aws-sdk\/client-cloudfront/)
  })

  test('the domain of a distribution in the URL of a bucket is the store’s public address, prefix included', async () => {
    const url = 's3://k:s@s3.amazonaws.com/media/x%20y?s3_bucket=acme&cloudfront_domain=dqz4yxndo4z5z.cloudfront.net'
    await using store = await openStore(url)
    assert.equal(store.url('a b.jpg'), 'https://dqz4yxndo4z5z.cloudfront.net/media/x%20y/a%20b.jpg')
    await using other = await openStore(url, { publicUrl: 'https://cdn.example.com' })
    assert.equal(other.url('a'), 'https://cdn.example.com/a')
    await using whole = await openStore(url.replace('/media/x%20y', ''))
    assert.equal(whole.url('a'), 'https://dqz4yxndo4z5z.cloudfront.net/a')
    await using near = await openStore(['memory:', url])
    assert.equal(near.url('a'), 'https://dqz4yxndo4z5z.cloudfront.net/media/x%20y/a')
    assert.equal(cloudFrontUrl(parseStorageUrl('s3://k:s@h/?s3_bucket=b')), undefined)
    for (const domain of ['https%3A%2F%2Fx.net', 'x.net%2Fy', 'user%40x.net', 'x', ''])
      await assert.rejects(openDriver(`s3://k:s@h/?s3_bucket=b&cloudfront_domain=${domain}`), {
        code: 'INVALID_ARGUMENT',
        message: /cloudfront_domain is not a domain name/,
      })
  })
})
