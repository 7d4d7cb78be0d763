/** The chain of credentials, with the files, variables and servers it looks at; each test has its own environment. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import * as http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { credentialChain } from './credentials.ts'

/** Replaces every AWS_ variable for the time of a test; the instance is not asked unless the test says so. */
async function surroundings(t: TestContext, variables: Record<string, string>) {
  const directory = await mkdtemp(path.join(tmpdir(), 'stowage-credentials-'))
  const before = { ...process.env }
  for (const name of Object.keys(process.env)) if (name.startsWith('AWS_')) delete process.env[name]
  Object.assign(process.env, { HOME: directory, AWS_EC2_METADATA_DISABLED: 'true' }, variables)
  t.after(async () => {
    for (const name of Object.keys(process.env)) if (!(name in before)) delete process.env[name]
    Object.assign(process.env, before)
    await rm(directory, { recursive: true })
  })
  return directory
}

async function serving(
  t: TestContext,
  answer: (request: http.IncomingMessage, response: http.ServerResponse) => void | Promise<void>,
): Promise<string> {
  const server = http.createServer((request, response) => void answer(request, response)).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function temporary(id: string, lastsMs: number) {
  const expires = new Date(Date.now() + lastsMs).toISOString()
  return JSON.stringify({ AccessKeyId: id, SecretAccessKey: 'secret', Token: 'token', Expiration: expires })
}

const minute = 60_000

test('the environment comes first', async (t) => {
  await surroundings(t, {
    AWS_ACCESS_KEY_ID: 'id',
    AWS_SECRET_ACCESS_KEY: 'secret',
    AWS_SESSION_TOKEN: 'token',
    AWS_CONTAINER_CREDENTIALS_FULL_URI: 'http://127.0.0.1:1/',
  })
  const found = await credentialChain('us-east-1')()
  assert.deepEqual(found, { accessKeyId: 'id', secretAccessKey: 'secret', sessionToken: 'token' })
})

test('the shared files are read, the profile chosen by AWS_PROFILE', async (t) => {
  const directory = await surroundings(t, {})
  Object.assign(process.env, {
    AWS_SHARED_CREDENTIALS_FILE: path.join(directory, 'credentials'),
    AWS_CONFIG_FILE: path.join(directory, 'config'),
  })
  await writeFile(
    path.join(directory, 'credentials'),
    '# a comment\n[default]\naws_access_key_id=one\naws_secret_access_key = a=b/c+d\n\n[work]\nregion = x\n',
  )
  await writeFile(
    path.join(directory, 'config'),
    '[profile work]\r\naws_access_key_id = two\r\naws_secret_access_key = s\r\naws_session_token = t\r\n',
  )
  assert.deepEqual(await credentialChain('us-east-1')(), { accessKeyId: 'one', secretAccessKey: 'a=b/c+d' })
  process.env['AWS_PROFILE'] = 'work'
  const work = await credentialChain('us-east-1')()
  assert.deepEqual(work, { accessKeyId: 'two', secretAccessKey: 's', sessionToken: 't' })
})

test('a container is asked with its token, once however many ask, and again before the credentials end', async (t) => {
  let asked = 0
  const url = await serving(t, (request, response) => {
    assert.equal(request.headers.authorization, 'let me in')
    // The first ones have less left than the margin; the second ones have enough.
    response.end(temporary(`id ${++asked}`, asked === 1 ? 4 * minute : 60 * minute))
  })
  await surroundings(t, {
    AWS_CONTAINER_CREDENTIALS_FULL_URI: url,
    AWS_CONTAINER_AUTHORIZATION_TOKEN: 'let me in',
  })
  const chain = credentialChain('us-east-1')
  const first = await Promise.all(Array.from({ length: 20 }, async () => chain()))
  assert.deepEqual([asked, new Set(first.map(({ accessKeyId }) => accessKeyId))], [1, new Set(['id 1'])])
  assert.equal((await chain()).accessKeyId, 'id 2')
  assert.equal((await chain()).accessKeyId, 'id 2')
  assert.equal(asked, 2)
})

test('credentials that cannot be renewed are used until they end', async (t) => {
  let asked = 0
  const url = await serving(t, (_, response) => {
    if (++asked > 1) response.statusCode = 500
    response.end(temporary('id', 4 * minute))
  })
  await surroundings(t, { AWS_CONTAINER_CREDENTIALS_FULL_URI: url })
  const chain = credentialChain('us-east-1')
  const first = await chain()
  assert.deepEqual(await chain(), first)
  assert.equal(asked, 2)
})

test('an instance gives the credentials of its role to whoever has a session token', async (t) => {
  const url = await serving(t, (request, response) => {
    const { url: asked, method } = request
    if (method === 'PUT' && asked === '/latest/api/token') return void response.end('session')
    response.statusCode = request.headers['x-aws-ec2-metadata-token'] === 'session' ? 200 : 401
    const roles = '/latest/meta-data/iam/security-credentials/'
    response.end(asked === roles ? 'the-role' : asked === `${roles}the-role` ? temporary('id', 60 * minute) : '')
  })
  await surroundings(t, { AWS_EC2_METADATA_DISABLED: '', AWS_EC2_METADATA_SERVICE_ENDPOINT: url })
  const { accessKeyId, sessionToken, expiresMs } = await credentialChain('us-east-1')()
  assert.deepEqual([accessKeyId, sessionToken], ['id', 'token'])
  assert.ok(expiresMs && expiresMs > Date.now())
})

test('a web identity is exchanged for credentials at the endpoint that AWS_ENDPOINT_URL_STS names', async (t) => {
  let form = new URLSearchParams()
  const url = await serving(t, async (request, response) => {
    form = new URLSearchParams(Buffer.concat(await request.toArray()).toString())
    const { AccessKeyId, SecretAccessKey, Token, Expiration } = JSON.parse(temporary('id', 60 * minute))
    response.end(
      `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
        <Credentials><AccessKeyId>${AccessKeyId}</AccessKeyId><SecretAccessKey>${SecretAccessKey}</SecretAccessKey>
        <SessionToken>${Token}</SessionToken><Expiration>${Expiration}</Expiration></Credentials>
      </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
    )
  })
  const directory = await surroundings(t, { AWS_ENDPOINT_URL_STS: url, AWS_ROLE_ARN: 'arn:aws:iam::1:role/r' })
  process.env['AWS_WEB_IDENTITY_TOKEN_FILE'] = path.join(directory, 'token')
  await writeFile(path.join(directory, 'token'), 'a.web.token\n')
  const { accessKeyId, sessionToken } = await credentialChain('eu-west-1')()
  assert.deepEqual([accessKeyId, sessionToken], ['id', 'token'])
  assert.deepEqual(
    ['Action', 'RoleArn', 'WebIdentityToken'].map((name) => form.get(name)),
    ['AssumeRoleWithWebIdentity', 'arn:aws:iam::1:role/r', 'a.web.token'],
  )
})

test('no credentials anywhere are DENIED, naming every place and what it said', async (t) => {
  const url = await serving(t, (_, response) => {
    response.statusCode = 418
    response.end()
  })
  await surroundings(t, { AWS_CONTAINER_CREDENTIALS_FULL_URI: url })
  await assert.rejects(credentialChain('us-east-1')(), {
    code: 'DENIED',
    message: /AWS_ACCESS_KEY_ID.*WEB_IDENTITY.*\.aws\/credentials.*answered 418.*IMDSv2/,
  })
})
