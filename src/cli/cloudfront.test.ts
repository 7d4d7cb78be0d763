/** `stowage cloudfront` and what the daemon tells CloudFront, as AWS would get it. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { fakeCloudFront, type Refusal } from '../../test/servers/cloudfront.ts'
import { checkConfig } from '../daemon/config.ts'
import { Distributions } from '../daemon/distributions.ts'

const bin = path.resolve(import.meta.dirname, '../../bin/stowage.js')
const keys = { AWS_ACCESS_KEY_ID: 'AKIDEXAMPLE', AWS_SECRET_ACCESS_KEY: 'very-secret' }

async function scene(t: TestContext, answers: (Refusal | undefined)[] = []) {
  const server = await fakeCloudFront(t, answers)
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-cli-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  const env = { ...process.env, ...keys, AWS_ENDPOINT_URL_CLOUDFRONT: server.endpoint }
  const start = (...args: string[]) => spawn(process.execPath, [bin, ...args], { cwd: directory, env })
  const run = async (...args: string[]) => ended(start(...args))
  return { server, directory, start, run }
}

async function ended(child: ReturnType<typeof spawn>) {
  const texts = { stdout: '', stderr: '' }
  child.stdout?.on('data', (chunk) => (texts.stdout += String(chunk)))
  child.stderr?.on('data', (chunk) => (texts.stderr += String(chunk)))
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, ...texts }
}

const create = ['cloudfront', 'create', '--bucket', 'acme.s3.amazonaws.com']
const made = {
  id: 'E3FERS845MCNLE',
  domainName: 'dqz4yxndo4z5z.cloudfront.net',
  origin: 'acme.s3.amazonaws.com',
  status: 'InProgress',
  comment: 'for tests',
}

describe('stowage cloudfront', { timeout: 120_000 }, () => {
  test('create prints what was made, for people and for programs', async (t) => {
    const { run, server } = await scene(t)
    const { status, stdout } = await run(...create, '--comment', 'for tests')
    assert.equal(status, 0)
    assert.deepEqual(stdout.split('\n'), [
      'Created distribution',
      '  domain name: dqz4yxndo4z5z.cloudfront.net',
      '  origin: acme.s3.amazonaws.com',
      '  status: InProgress',
      '  comment: for tests',
      '  id: E3FERS845MCNLE',
      '',
    ])
    assert.equal(server.asked[0]?.body['Comment'], 'for tests')
    assert.deepEqual(JSON.parse((await run(...create, '--json')).stdout), made)
    assert.equal(server.asked.length, 2)
  })

  test('create --wait ends when it is deployed', async (t) => {
    const { run, server } = await scene(t)
    const { status, stdout } = await run(...create, '--wait')
    assert.equal(status, 0)
    assert.match(stdout, /id: E3FERS845MCNLE\nThe distribution has been deployed\.\n$/)
    assert.deepEqual(JSON.parse((await run(...create, '--wait', '--json')).stdout), { ...made, status: 'Deployed' })
    assert.equal(server.asked.length, 4)
  })

  test('Ctrl-C ends the waiting, not the distribution, whose id is told', async (t) => {
    const { start, server } = await scene(t)
    server.pollsUntilDeployed = Number.POSITIVE_INFINITY
    const child = start(...create, '--wait', '--json')
    const end = ended(child)
    while (server.asked.length < 2) await new Promise((resolve) => setImmediate(resolve))
    child.kill('SIGINT')
    const { status, stdout, stderr } = await end
    assert.equal(status, 130)
    assert.deepEqual(JSON.parse(stdout), made)
    assert.match(stderr, /E3FERS845MCNLE is there, and goes on being deployed/)
  })

  test('what fails while waiting does not lose the id either', async (t) => {
    const { run } = await scene(t, [undefined, { status: 403, code: 'AccessDenied' }])
    const { status, stdout, stderr } = await run(...create, '--wait', '--json')
    assert.equal(status, 1)
    assert.deepEqual(JSON.parse(stdout), made)
    assert.match(stderr, /AccessDenied/)
    assert.doesNotMatch(stderr, /very-secret/)
  })

  test('invalidate takes keys and wildcards, as they stand in URLs', async (t) => {
    const { run, server } = await scene(t)
    const { status, stdout } = await run('cloudfront', 'invalidate', 'E1', '/a b.css', 'img/*')
    assert.equal(status, 0)
    assert.equal(stdout, 'E1 forgets 2 paths (invalidation I2J3).\n')
    assert.deepEqual(server.asked[0]?.body['Paths'], { Quantity: '2', Items: { Path: ['/a%20b.css', '/img/*'] } })
  })

  test('wrong usage asks AWS nothing', async (t) => {
    const { run, server } = await scene(t)
    for (const args of [
      ['create'],
      ['create', '--bucket', 'acme'],
      ['invalidate', 'E1'],
      ['invalidate'],
      ['delete', 'E1'],
    ])
      assert.equal((await run('cloudfront', ...args)).status, 2, args.join(' '))
    assert.equal(server.asked.length, 0)
  })

  test('after a sync CloudFront forgets what was replaced', async (t) => {
    const { run, server, directory } = await scene(t)
    const write = (text: string) => fs.writeFileSync(path.join(directory, 'site/a b.css'), text)
    fs.mkdirSync(path.join(directory, 'site'))
    fs.writeFileSync(
      path.join(directory, 'stowage.config.json'),
      JSON.stringify({
        stores: { public: { url: 'file:./public', publicUrl: 'https://cdn.example.com/media' } },
        sources: { site: { directory: './site', settle: '0ms' } },
        rules: [{ source: 'site', destinations: [{ store: 'public', invalidate: 'E1A2' }] }],
      }),
    )
    write('1')
    assert.equal((await run('sync')).status, 0)
    assert.equal(server.asked.length, 0)
    write('22')
    assert.equal((await run('sync')).status, 0)
    assert.equal(server.asked.length, 1)
    assert.equal(server.asked[0]?.path, '/2020-05-31/distribution/E1A2/invalidation')
    assert.deepEqual(server.asked[0]?.body['Paths'], { Quantity: '1', Items: { Path: '/media/a%20b.css' } })
  })

  test('a bucket with a key of its own has its distribution asked with that key', async (t) => {
    const server = await fakeCloudFront(t)
    process.env['AWS_ENDPOINT_URL_CLOUDFRONT'] = server.endpoint
    t.after(() => delete process.env['AWS_ENDPOINT_URL_CLOUDFRONT'])
    const bucket = 's3://OWNKEY:own-secret@s3.amazonaws.com/?s3_bucket=b&cloudfront_domain=d.cloudfront.net'
    const config = checkConfig({
      stores: { public: bucket },
      sources: { site: { directory: '/srv/site' } },
      rules: [{ source: 'site', destinations: [{ store: 'public', invalidate: 'E1' }] }],
    })
    await using distributions = new Distributions(config)
    await distributions.invalidate('E1', ['/a'], new AbortController().signal)
    assert.equal(server.asked[0]?.credential[0], 'OWNKEY')
  })
})
