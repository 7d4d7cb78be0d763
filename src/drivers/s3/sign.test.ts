/** Signatures against the examples that AWS publishes ("Authenticating Requests: Using the Authorization Header", "… Query Parameters"). */
import assert from 'node:assert/strict'
import { hash } from 'node:crypto'
import { test } from 'node:test'
import { encode, encodeQuery, Signer, type Signable } from './sign.ts'

const credentials = {
  accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
  secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
}
const now = new Date('2013-05-24T00:00:00Z')
const host = 'examplebucket.s3.amazonaws.com'
const empty = hash('sha256', '')

const examples: { name: string; request: Signable; signature: string }[] = [
  {
    name: 'GET of an object with a range',
    request: { method: 'GET', path: '/test.txt', query: {}, headers: { host, range: 'bytes=0-9' }, payload: empty },
    signature: 'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  },
  {
    name: 'PUT of an object',
    request: {
      method: 'PUT',
      path: '/test%24file.text',
      query: {},
      headers: { host, date: 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY' },
      payload: hash('sha256', 'Welcome to Amazon S3.'),
    },
    signature: '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
  },
  {
    name: 'GET of the lifecycle, a parameter without a value',
    request: { method: 'GET', path: '/', query: { lifecycle: '' }, headers: { host }, payload: empty },
    signature: 'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
  },
  {
    name: 'a listing with two parameters',
    request: { method: 'GET', path: '/', query: { prefix: 'J', 'max-keys': '2' }, headers: { host }, payload: empty },
    signature: '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
  },
]

for (const { name, request, signature } of examples)
  test(`${name} is signed as AWS says`, () => {
    const headers: Record<string, string> = { ...request.headers }
    new Signer('us-east-1').sign({ ...request, headers }, credentials, now)
    assert.equal(headers['x-amz-date'], '20130524T000000Z')
    assert.ok(headers['authorization']?.endsWith(`, Signature=${signature}`), headers['authorization'])
    assert.ok(headers['authorization']?.includes('Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request'))
  })

test('a URL is signed as AWS says', () => {
  const request = { method: 'GET', path: '/test.txt', query: {}, headers: { host }, payload: 'UNSIGNED-PAYLOAD' }
  const query = new Signer('us-east-1').presign(request, credentials, now, 86_400)
  assert.equal(
    query,
    'X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request' +
      '&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host' +
      '&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
  )
})

test('the key is derived anew for another day, another key and another secret', () => {
  const signer = new Signer('us-east-1')
  const sign = (secretAccessKey: string, at: Date) => {
    const headers: Record<string, string> = { host }
    const request = { method: 'GET', path: '/', query: {}, headers, payload: empty }
    signer.sign(request, { ...credentials, secretAccessKey }, at)
    const alone: Record<string, string> = { host }
    new Signer('us-east-1').sign({ ...request, headers: alone }, { ...credentials, secretAccessKey }, at)
    assert.equal(headers['authorization'], alone['authorization'])
  }
  sign('one', now)
  sign('one', new Date(now.getTime() + 86_400_000))
  sign('another', new Date(now.getTime() + 86_400_000))
  sign('one', now)
})

test('the token of temporary credentials is signed too', () => {
  const headers: Record<string, string> = { host }
  const temporary = { ...credentials, sessionToken: 'a/token=' }
  const request = { method: 'GET', path: '/', query: {}, headers, payload: empty }
  new Signer('us-east-1').sign(request, temporary, now)
  assert.equal(headers['x-amz-security-token'], 'a/token=')
  assert.match(headers['authorization'] ?? '', /;x-amz-security-token,/)
  const query = new Signer('us-east-1').presign({ ...request, headers: { host } }, temporary, now, 60)
  assert.match(query, /X-Amz-Security-Token=a%2Ftoken%3D/)
})

test('only the unreserved characters stay as they are, and a query is in order of its encoded names', () => {
  assert.equal(encode("Az09-_.~ !'()*/+é"), 'Az09-_.~%20%21%27%28%29%2A%2F%2B%C3%A9')
  assert.equal(encodeQuery({ b: '1', a: ' ', B: '', 'a-': '2' }), 'B=&a=%20&a-=2&b=1')
})
