/** What is encrypted in the state opens with its key and under its name, and with nothing else. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { Vault } from './vault.ts'

const secret = 's3://KEY:TOPSECRET@host/ü?s3_bucket=b'

function stateOf(t: TestContext): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-vault-'))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  return path.join(directory, 'new', 'stowage.db')
}

const withKey = (key: string, state = '/nowhere/stowage.db') => new Vault(state, { STOWAGE_KEY: key })

test('a text comes back under its name, and the same text looks different each time', (t) => {
  const state = stateOf(t)
  const vault = new Vault(state, {})
  const sealed = ['', 'x', secret, 'x'.repeat(100_000)].map((text) => [text, vault.seal('store:a', text)] as const)
  for (const [text, each] of sealed) assert.equal(new Vault(state, {}).open('store:a', each), text)
  assert.notEqual(vault.seal('store:a', secret), vault.seal('store:a', secret))
  assert.doesNotMatch(vault.seal('store:a', secret), /TOPSECRET/)
})

test('a key file is made when it is first needed, for its owner alone, and one that is there stays', (t) => {
  const state = stateOf(t)
  const file = `${state}.key`
  assert.throws(() => new Vault(state, {}).open('store:a', withKey('0'.repeat(64)).seal('store:a', 'x')), {
    code: 'INVALID_CONFIG',
    message: /stowage\.db\.key.*STOWAGE_KEY.*store set/,
  })
  assert.equal(fs.existsSync(file), false)
  const umask = process.umask(0)
  t.after(() => process.umask(umask))
  new Vault(state, {}).seal('store:a', 'x')
  assert.equal(fs.statSync(file).mode & 0o777, 0o600)
  const key = fs.readFileSync(file, 'utf8')
  assert.equal(Buffer.from(key, 'base64').byteLength, 32)
  new Vault(state, {}).seal('store:b', 'x')
  assert.equal(fs.readFileSync(file, 'utf8'), key)
  assert.deepEqual(fs.readdirSync(path.dirname(file)), ['stowage.db.key'])
})

test('a key file that others may read is refused', (t) => {
  const state = stateOf(t)
  const sealed = new Vault(state, {}).seal('store:a', secret)
  for (const mode of [0o640, 0o604, 0o620, 0o601]) {
    fs.chmodSync(`${state}.key`, mode)
    for (const use of [(vault: Vault) => vault.open('store:a', sealed), (vault: Vault) => vault.seal('store:a', 'x')])
      assert.throws(() => use(new Vault(state, {})), { code: 'INVALID_CONFIG', message: /others may read.*chmod 600/ })
  }
  fs.chmodSync(`${state}.key`, 0o400)
  assert.equal(new Vault(state, {}).open('store:a', sealed), secret)
})

test('the key of the environment is 32 bytes as base64 or hex; anything else is an error that does not repeat it', () => {
  const key = randomBytes(32)
  const sealed = withKey(key.toString('hex')).seal('store:a', secret)
  for (const text of [key.toString('hex').toUpperCase(), key.toString('base64'), `${key.toString('base64')}\n`])
    assert.equal(withKey(text).open('store:a', sealed), secret)
  const wrong = ['', 'TOPSECRET', key.toString('hex').slice(2), `${key.toString('hex')}00`, key.toString('base64url')]
  for (const text of [...wrong, randomBytes(31).toString('base64'), randomBytes(33).toString('base64')])
    if (text !== key.toString('base64'))
      assert.throws(
        () => withKey(text).seal('store:a', secret),
        (error: Error & { code?: string }) => {
          assert.equal(error.code, 'INVALID_CONFIG')
          assert.match(error.message, /STOWAGE_KEY.*32 bytes.*openssl rand/)
          if (text !== '') assert.ok(!error.message.includes(text))
          return true
        },
      )
})

test('another key, another name and every flipped bit are errors, never another text', (t) => {
  const state = stateOf(t)
  const vault = withKey(randomBytes(32).toString('hex'))
  const sealed = vault.seal('store:a', 'secret')
  assert.throws(() => withKey(randomBytes(32).toString('hex')).open('store:a', sealed), {
    code: 'INVALID_CONFIG',
    message: /another key than that of STOWAGE_KEY/,
  })
  new Vault(state, {}).seal('store:b', 'x')
  assert.throws(() => new Vault(state, {}).open('store:a', sealed), { message: /another key than that of .*\.key/ })
  assert.throws(() => vault.open('store:b', sealed), { code: 'CORRUPT' })
  const [form = '', id = '', text = ''] = sealed.split(':')
  const bytes = Buffer.from(text, 'base64')
  for (let bit = 0; bit < bytes.byteLength * 8; bit++) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    assert.throws(() => vault.open('store:a', [form, id, flipped.toString('base64')].join(':')), { code: 'CORRUPT' })
  }
  for (const length of [0, 1, 27, bytes.byteLength - 1])
    assert.throws(() => vault.open('store:a', [form, id, bytes.subarray(0, length).toString('base64')].join(':')), {
      code: 'CORRUPT',
    })
  for (const other of ['', 'secret', `v2:${id}:${text}`])
    assert.throws(() => vault.open('store:a', other), { code: 'UNSUPPORTED' })
})
