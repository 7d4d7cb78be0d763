import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Authorization } from './authorization.ts'

/** The example of RFC 7616, section 3.9.1. */
const mufasa = { user: 'Mufasa', password: 'Circle of Life' }
const nonce = () => 'f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ'
const rest =
  'realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
const [md5, sha256] = [`Digest algorithm=MD5, ${rest}`, `Digest algorithm=SHA-256, ${rest}`]

function responseTo(challenge: string): string | undefined {
  const authorization = new Authorization(mufasa, false, nonce)
  assert.equal(authorization.grant('GET', '/dir/index.html'), undefined)
  assert.ok(authorization.learn(challenge, undefined))
  return authorization.grant('GET', '/dir/index.html')?.header
}

test('the responses are those of RFC 7616', () => {
  assert.match(responseTo(md5) ?? '', /response="8ca523f5e9506fed4657c9700eebdbec"/)
  assert.match(responseTo(sha256) ?? '', /response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"/)
})

test('of several challenges the strongest is met, wherever it stands', () => {
  for (const challenge of [
    `Basic realm="a, Digest b", ${md5}, ${sha256}`,
    `${sha256}, ${md5}, Basic realm=x`,
    `Negotiate, ${md5}, ${sha256}`,
  ])
    assert.match(responseTo(challenge) ?? '', /algorithm=SHA-256/)
  assert.match(responseTo('Bearer, Basic realm="say \\"Digest\\""') ?? '', /^Basic TXVmYXNhOkNpcmNsZSBvZiBMaWZl$/)
  assert.match(responseTo(`${md5.replace('MD5', 'SHA-999')}, basic`) ?? '', /^Basic /)
})

test('what cannot be met is not answered', () => {
  for (const challenge of ['', 'Negotiate', 'Bearer realm="x"', 'Digest realm="x", nonce="y", qop="auth-int"'])
    assert.equal(new Authorization(mufasa, false).learn(challenge, undefined), false, challenge)
})

test('a nonce is used again, counted', () => {
  const authorization = new Authorization(mufasa, false)
  authorization.learn(md5, undefined)
  const counts = [1, 2, 3].map(() => /nc=(\w+)/.exec(authorization.grant('GET', '/')?.header ?? '')?.[1])
  assert.deepEqual(counts, ['00000001', '00000002', '00000003'])
})

test('a stale nonce is replaced, a refused password is not sent again', () => {
  const authorization = new Authorization(mufasa, false)
  authorization.learn(md5, undefined)
  const first = authorization.grant('GET', '/')
  const next = md5.replace('7ypf', 'next')
  assert.equal(authorization.learn(next, first), false)
  assert.ok(authorization.learn(`${next}, stale=true`, first))
  assert.match(authorization.grant('GET', '/')?.header ?? '', /nonce="next.*nc=00000001/)
  assert.ok(authorization.learn(next, first), 'somebody else has learned of the new nonce')
})

test('a server that has forgotten its nonces, as after a restart, is believed once', () => {
  const authorization = new Authorization(mufasa, false)
  authorization.learn(md5, undefined)
  const worked = authorization.grant('GET', '/')
  assert.ok(worked)
  authorization.accepted(worked)
  assert.ok(authorization.learn(md5.replace('7ypf', 'next'), worked))
  const refused = authorization.grant('GET', '/')
  assert.equal(authorization.learn(md5.replace('7ypf', 'more'), refused), false)
})

test('Basic is sent at once only where that was asked for, and refused once is refused', () => {
  const authorization = new Authorization({ user: 'ü', password: 'pass:word' }, true)
  const grant = authorization.grant('GET', '/')
  assert.equal(grant?.header, `Basic ${Buffer.from('ü:pass:word').toString('base64')}`)
  assert.equal(authorization.learn('Basic realm="x"', grant), false)
  assert.ok(authorization.learn(sha256, grant))
  assert.match(authorization.grant('GET', '/')?.header ?? '', /^Digest username\*=UTF-8''%C3%BC/)
})
