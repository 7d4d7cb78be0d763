/** The storage URLs and the functions people know from filestore libraries, against real servers of every kind. */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, describe, test } from 'node:test'
import { BlobServiceClient, StorageSharedKeyCredential } from '@azure/storage-blob'
import { openDriver, openStore } from '../src/drivers/index.ts'
import { startS3 } from './servers/rgw.ts'
import { startServer } from './servers/start.ts'

const directory = mkdtempSync(path.join(tmpdir(), 'stowage-filestore-'))
after(() => rmSync(directory, { recursive: true, force: true }))

describe('every form of URL is taken as it is printed', () => {
  const forms: [form: string, location: string][] = [
    ['http://USER:PASSWORD@domain.tld:80/path/to/folder', 'http://domain.tld/path/to/folder'],
    ['https://USER:PASSWORD@domain.tld:443/path/to/folder', 'https://domain.tld/path/to/folder'],
    ['ftp://USER:PASSWORD@domain.tld:21/path/to/folder', 'ftp://domain.tld/path/to/folder'],
    ['ftps://USER:PASSWORD@domain.tld:990/path/to/folder', 'ftps://domain.tld/path/to/folder'],
    [
      `sftp://USER:PASSWORD@domain.tld/path/to/folder?private_key=${directory}/key&private_key_pass=secret&validate_host=true`,
      'sftp://domain.tld/path/to/folder',
    ],
    [
      's3://USER:PASSWORD@s3.amazonaws.com/path/to/folder?aws_region=eu-west-1&s3_bucket=NAME',
      's3://s3.amazonaws.com/NAME/path/to/folder',
    ],
    [
      's3://USER:PASSWORD@domain.tld/path/to/folder?s3_bucket=app_storage&use_ssl=false',
      's3://domain.tld/app_storage/path/to/folder',
    ],
    [
      'azure://name.blob.core.windows.net/path/to/folder?access_key=c2VjcmV0',
      'azure://name.blob.core.windows.net/path/to/folder',
    ],
    [
      'azure://name.blob.core.windows.net/path/to/folder?tenant_id=PASSWORD&client_id=id&client_secret=secret',
      'azure://name.blob.core.windows.net/path/to/folder',
    ],
    ['file:///path/to/folder', 'file:///path/to/folder'],
  ]
  for (const [form, location] of forms)
    test(form.replace(directory, ''), async () => {
      writeFileSync(path.join(directory, 'key'), '')
      const driver = await openDriver(form)
      assert.equal(driver.location, location)
      assert.equal(driver.supports.write, !form.startsWith('http'))
      await driver.close()
    })
})

/** A form of URL with a real server behind it. */
interface Place {
  form: string
  url: string
}

/** Real servers, as far as they are installed; in CI all of them. */
async function places(): Promise<{ writable: Place[]; readable: Place | undefined; stop: () => void }> {
  const writable: Place[] = [{ form: 'file:///path/to/folder', url: `file://${directory}/path/to/folder` }]
  const stops: (() => void)[] = []
  const web = startServer<{ host: string; port: number; files: string; user: string; password: string }>('web', [
    'nginx',
    'openssl',
  ])
  const ftp = startServer<{ host: string; port: number; implicit: number; ca: string }>('ftp', ['proftpd', 'openssl'])
  const sftp = startServer<{ host: string; port: number; user: string; home: string }>('sftp', [
    'sshd',
    'proftpd',
    'openssl',
  ])
  const azurite = startServer<{ host: string; port: number; account: string; key: string }>('azurite', ['node'])
  const s3 = startS3()
  for (const server of [web, ftp, sftp, azurite, s3]) if (server) stops.push(() => server.stop())
  const password = encodeURIComponent('se"cret')
  if (ftp) {
    const form = 'ftp://{USER}:{PASSWORD}@domain.tld:21/path/to/folder'
    writable.push({ form, url: `ftp://ftp:${password}@${ftp.host}:${ftp.port}/path/to/folder` })
    const secure = `ftps://ftp:${password}@${ftp.host}:${ftp.port}/path/to/folder?ca=${ftp.ca}`
    writable.push({ form: 'ftps://{USER}:{PASSWORD}@domain.tld/path/to/folder', url: secure })
  }
  if (sftp) {
    const { host, port, user, home } = sftp
    const keys = `private_key=${home}/locked&private_key_pass=passphrase&known_hosts=${home}/known_hosts&validate_host=true`
    const form = 'sftp://…/path/to/folder?private_key=...&private_key_pass=...&validate_host=true'
    writable.push({ form, url: `sftp://${user}@${host}:${port}${home}/files/path/to/folder?${keys}` })
  }
  if (s3) {
    await (await s3.bucket('app-storage')).close()
    const form = 's3://{USER}:{PASSWORD}@domain.tld/path/to/folder?s3_bucket=app_storage&use_ssl=false'
    const bucket = s3.named('app-storage')
    writable.push({
      form,
      url: `s3://testkey:testsecret@${s3.host}:${s3.port}/path/to/folder?s3_bucket=${bucket}&use_ssl=false`,
    })
  }
  if (azurite) {
    const { host, port, account, key } = azurite
    const service = new BlobServiceClient(
      `http://${host}:${port}/${account}`,
      new StorageSharedKeyCredential(account, key),
    )
    await service.getContainerClient('path').createIfNotExists()
    const form = 'azure://{STORAGE_NAME}.blob.core.windows.net/path/to/folder?access_key=...'
    const emulated = `use_ssl=false&account=${account}&access_key=${encodeURIComponent(key)}`
    writable.push({ form, url: `azure://${host}:${port}/path/to/folder?${emulated}` })
  }
  if (web) mkdirSync(path.join(web.files, 'path/to/folder'), { recursive: true })
  if (web) writeFileSync(path.join(web.files, 'path/to/folder/myfile'), 'content')
  const readable = web && {
    form: 'http://{USER}:{PASSWORD}@domain.tld:80/path/to/folder',
    url: `http://${web.user}:${encodeURIComponent(web.password)}@${web.host}:${web.port}/private/path/to/folder`,
  }
  return { writable, readable, stop: () => stops.forEach((stop) => stop()) }
}

const { writable, readable, stop } = await places()
after(stop)

for (const { form, url } of writable)
  test(`every function works on ${form}`, async () => {
    await using fs = await openStore(url)
    await fs.put('myfile', 'content')
    assert.equal((await fs.get('myfile')).toString(), 'content')
    assert.equal(await fs.exists('myfile'), true)
    const local = path.join(directory, 'downloads/myfile')
    await fs.download('myfile', local)
    assert.equal(readFileSync(local, 'utf8'), 'content')
    await fs.upload(local, 'deep/down/uploaded')
    const outcomes = await fs.uploadBatch([
      [local, 'batch/1'],
      [path.join(directory, 'absent'), 'batch/2'],
      [local, 'batch/3'],
    ])
    assert.deepEqual(
      outcomes.map(({ error }) => error === undefined),
      [true, false, true],
    )
    const keys = ['batch/1', 'batch/3', 'deep/down/uploaded', 'myfile']
    assert.deepEqual(await Array.fromAsync(fs.list(), ({ key }) => key), keys)
    for (const key of keys) await fs.delete(key)
    assert.equal(await fs.exists('myfile'), false)
    await assert.rejects(fs.get('myfile'), { code: 'NOT_FOUND' })
    await fs.delete('myfile')
  })

test('http and https are only read', { skip: readable ? false : 'nginx is not installed' }, async () => {
  await using fs = await openStore(readable?.url ?? '')
  assert.equal((await fs.get('myfile')).toString(), 'content')
  assert.equal(await fs.exists('another'), false)
  await assert.rejects(fs.put('myfile', 'x'), { code: 'READ_ONLY' })
})

test('a store of several places asks each in order, and can be told which', async () => {
  const [near, far] = [`file://${directory}/near`, writable.at(-1)?.url ?? '']
  await using fs = await openStore([near, far])
  await fs.put('a', 'all')
  await fs.put('b', 'near', { location: 'near' })
  await fs.put('c', 'far', { location: 'far' })
  const exists = async (key: string) =>
    Promise.all([fs.exists(key), fs.exists(key, { location: 'near' }), fs.exists(key, { location: 'far' })])
  assert.deepEqual(await exists('a'), [true, true, true])
  assert.deepEqual(await exists('b'), [true, true, false])
  assert.deepEqual(await exists('c'), [true, false, true])
  assert.equal((await fs.get('c')).toString(), 'far')
  await assert.rejects(fs.get('c', { location: 'near' }), { code: 'NOT_FOUND' })
  const local = path.join(directory, 'c')
  await fs.download('c', local)
  await fs.upload(local, 'd', { location: 'near' })
  await fs.uploadBatch([[local, 'e']], { location: 'far' })
  assert.deepEqual(
    [await exists('d'), await exists('e')],
    [
      [true, true, false],
      [true, false, true],
    ],
  )
  await fs.delete('a', { location: 'near' })
  assert.equal((await fs.get('a')).toString(), 'all')
  await fs.delete('a')
  assert.deepEqual(await exists('a'), [false, false, false])
})
