import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { holdsSecret, parseStorageUrl } from './storage-url.ts'

test('a URL is taken apart', () => {
  const url = parseStorageUrl('s3://KEY:SEC%2FRET@s3.example.com:8443/a%20b/c/?aws_region=eu-1&use_ssl=no')
  assert.deepEqual(
    [url.scheme, url.host, url.port, url.user, url.password, url.path],
    ['s3', 's3.example.com', 8443, 'KEY', 'SEC/RET', 'a b/c'],
  )
  assert.equal(url.parameters.text('aws_region'), 'eu-1')
  assert.equal(url.parameters.flag('use_ssl', true), false)
  url.parameters.end()
  assert.equal(url.printable, 's3://s3.example.com:8443/a%20b/c/')
})

test('forms without a host', () => {
  assert.equal(parseStorageUrl('memory:').scheme, 'memory')
  assert.equal(parseStorageUrl('file:///srv/media').path, 'srv/media')
  assert.equal(parseStorageUrl('http://[::1]:80/x').host, '[::1]')
})

test('secrets may stand in the environment or in a file', (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'stowage-url-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const file = path.join(directory, 'secret')
  writeFileSync(file, 'from the file\n')
  process.env['STOWAGE_TEST_KEY'] = 'from the environment'
  t.after(() => delete process.env['STOWAGE_TEST_KEY'])
  const url = parseStorageUrl(`s3://env:STOWAGE_TEST_KEY:file:${encodeURIComponent(file)}@host/p`)
  assert.deepEqual([url.user, url.password, url.host], ['from the environment', 'from the file', 'host'])
  assert.throws(() => parseStorageUrl('s3://env:STOWAGE_TEST_NONE:x@host/'), { message: /STOWAGE_TEST_NONE.*not set/ })
})

for (const text of [
  's3://KEY:hunter2/x@host/p',
  's3://KEY:hunter2@x@host/p',
  's3://KEY:hunter2#x@host/p',
  's3://KEY:hunter2%zz@host/p',
  's3://KEY:hunter2@host:99999/p',
  's3://KEY:hunter2@host/p?use_ssl=hunter2',
  's3://KEY:hunter2@host/p?unknown=hunter2',
])
  test(`${text.replace('hunter2', '…')} is refused without repeating a secret`, () => {
    const read = () => {
      const { parameters } = parseStorageUrl(text)
      parameters.flag('use_ssl', true)
      parameters.end()
    }
    assert.throws(read, (error: Error & { code: string }) => {
      assert.equal(error.code, 'INVALID_ARGUMENT')
      assert.ok(!error.message.includes('hunter2'), error.message)
      return true
    })
  })

test('an unknown parameter is named, beside those that exist', () => {
  const { parameters } = parseStorageUrl('file:///x?fsnyc=false')
  parameters.flag('fsync', true)
  assert.throws(() => parameters.end(), { message: /fsnyc.*It may have: fsync/ })
})

test('a URL that holds a secret is told from one that says where it is', () => {
  const holding = [
    's3://KEY:hunter2@host/p?s3_bucket=b',
    's3://env:KEY:hunter2@host/p',
    's3://KEY:hunter2/x@host/p',
    's3://KEY:hunter2@x@host/p',
    's3://KEY:hunter2#x@host/p',
    's3://host/p#hunter2',
    'azure://a.blob.core.windows.net/c?access_key=hunter2',
    'azure://a.blob.core.windows.net/c?sas_token=sv%3D1%26sig%3Dhunter2',
    'azure://a.blob.core.windows.net/c?tenant_id=t&client_id=c&client_secret=hunter2',
    'sftp://me@host/?private_key=/keys/id&private_key_pass=hunter2',
    'swift://me@host/?container=c&temp_url_key=hunter2',
    'swift://host/?application_credential_id=a&application_credential_secret=hunter2',
    's3://env:KEY:env:SECRET@host/p?session_token=hunter2',
  ]
  const clean = [
    's3://env:KEY:env:SECRET@host/p?s3_bucket=b&session_token=env:TOKEN',
    's3://env:KEY:file:%2Frun%2Fsecrets%2Fa@host/p',
    's3://host/p?s3_bucket=b',
    'sftp://me@host/?private_key=/keys/id&private_key_pass=env:PASS',
    'azure://a.blob.core.windows.net/c?access_key=file:/run/key',
    'file:///srv/media?fsync=false',
    'memory:',
    'no URL at all',
  ]
  for (const url of holding) assert.equal(holdsSecret(url), true, url)
  for (const url of clean) assert.equal(holdsSecret(url), false, url)
})
