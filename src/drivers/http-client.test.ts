/** The HTTP client against servers that do what servers do: in pieces, too early, too late, too much, not at all. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import * as http from 'node:http'
import * as net from 'node:net'
import { describe, test } from 'node:test'
import { collect } from '../core/bytes.ts'
import { HttpClient, type HttpClientOptions, type HttpRequest } from './http-client.ts'

const get = { method: 'GET', path: '/', headers: { host: 'test' } }

/** Listens on loopback; ends with its sockets when disposed of. */
async function listening<T extends net.Server>(server: T) {
  const sockets = new Set<net.Socket>()
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as net.AddressInfo
  return {
    port,
    sockets,
    [Symbol.asyncDispose]: async () => {
      const closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

/** A server that hears one request head at a time and answers as it is told; `count` counts connections. */
async function answering(answer: (socket: net.Socket, request: string, connection: number) => void) {
  let count = 0
  const server = net.createServer((socket) => {
    const connection = ++count
    let heard = ''
    socket.on('data', (chunk) => {
      heard += chunk.toString('latin1')
      for (let end = heard.indexOf('\r\n\r\n'); end >= 0; end = heard.indexOf('\r\n\r\n')) {
        const request = heard.slice(0, end)
        heard = heard.slice(end + 4)
        answer(socket, request, connection)
      }
    })
  })
  const place = await listening(server)
  return Object.assign(place, { connections: () => count })
}

function clientOf(port: number, options: Partial<HttpClientOptions> = {}) {
  const client = new HttpClient({ host: '127.0.0.1', port, tls: false, ...options })
  return Object.assign(client, { [Symbol.asyncDispose]: async () => client.close() })
}

describe('answers', () => {
  const whole = 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\nx-a: 2\r\n\r\nhello'
  const chunked =
    'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n003\r\nllo\r\n0\r\nX-Trailer: t\r\n\r\n'
  const continued = `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n${whole}`
  for (const [name, text] of Object.entries({ whole, chunked, continued }))
    for (const size of [1, 2, 7, 1000])
      test(`${name}, in pieces of ${size}, are put together, and the socket is used again`, async () => {
        await using server = await answering((socket) => {
          socket.setNoDelay(true)
          const pieces = Array.from({ length: Math.ceil(text.length / size) }, (_, i) =>
            text.slice(i * size, (i + 1) * size),
          )
          const next = () => {
            const piece = pieces.shift()
            if (piece !== undefined) socket.write(piece, () => setImmediate(next))
          }
          next()
        })
        await using client = clientOf(server.port)
        for (let i = 0; i < 3; i++) {
          const response = await client.request(get)
          assert.equal(response.status, 200)
          assert.equal((await response.bytes()).toString(), 'hello')
          if (name !== 'chunked') assert.equal(response.headers['x-a'], '1, 2')
        }
        assert.equal(server.connections(), 1)
      })

  test('without a length end with the connection', async () => {
    await using server = await answering((socket) => {
      socket.write('HTTP/1.1 200 OK\r\n\r\nhel')
      setImmediate(() => socket.end('lo'))
    })
    await using client = clientOf(server.port)
    assert.equal((await (await client.request(get)).bytes()).toString(), 'hello')
    assert.equal((await (await client.request(get)).bytes()).toString(), 'hello')
    assert.equal(server.connections(), 2)
  })

  test('without a length are not ended by us', async () => {
    await using server = await answering((socket) => socket.write('HTTP/1.1 200 OK\r\n\r\nhello'))
    await using client = clientOf(server.port)
    const response = await client.request(get)
    await client.close()
    await assert.rejects(response.bytes(), { code: 'UNREACHABLE' })
  })

  for (const [name, head, connections] of [
    ['of HTTP/1.0', 'HTTP/1.0 200 OK', 3],
    ['of HTTP/1.0 that say that they stay', 'HTTP/1.0 200 OK\r\nConnection: Keep-Alive', 1],
    ['with two kinds of length', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked', 3],
  ] as const)
    test(`${name} are taken from ${connections} connections`, async () => {
      const body = head.endsWith('chunked') ? '5\r\nhello\r\n0\r\n\r\n' : 'hello'
      await using server = await answering((socket) => socket.write(`${head}\r\nContent-Length: 5\r\n\r\n${body}`))
      await using client = clientOf(server.port)
      for (let i = 0; i < 3; i++) assert.equal((await (await client.request(get)).bytes()).toString(), 'hello')
      assert.equal(server.connections(), connections)
    })

  test('to HEAD, and 204 and 304, have no body whatever their headers say', async () => {
    await using server = await answering((socket, request) => {
      const status = /\/(\d+)/.exec(request)?.[1]
      socket.write(`HTTP/1.1 ${status} X\r\nContent-Length: 99\r\n\r\n`)
    })
    await using client = clientOf(server.port)
    for (const [method, status] of [
      ['HEAD', 200],
      ['GET', 204],
      ['GET', 304],
    ] as const) {
      const response = await client.request({ ...get, method, path: `/${status}` })
      assert.equal(response.status, status)
      assert.equal((await response.bytes()).byteLength, 0)
    }
    assert.equal(server.connections(), 1)
  })

  test('that break off are UNREACHABLE, never short', async () => {
    for (const start of ['Content-Length: 10\r\n\r\nhello', 'Transfer-Encoding: chunked\r\n\r\n9\r\nhello']) {
      await using server = await answering((socket) => socket.end(`HTTP/1.1 200 OK\r\n${start}`))
      await using client = clientOf(server.port)
      const response = await client.request(get)
      await assert.rejects(response.bytes(), { code: 'UNREACHABLE' })
      const again = await client.request(get)
      await assert.rejects(collect(again.stream()), { code: 'UNREACHABLE' })
    }
  })

  const nonsense = {
    'no HTTP': 'SSH-2.0-OpenSSH\r\n\r\n',
    'a header without end': `HTTP/1.1 200 OK\r\n${'x: y\r\n'.repeat(20_000)}`,
    'a header in one line without end': `HTTP/1.1 200 OK\r\nx: ${'y'.repeat(200_000)}`,
    'a length that is no number': 'HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\n',
    'a body in another encoding': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
    'a space behind a name': 'HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n',
    'a folded header': 'HTTP/1.1 200 OK\r\nX: y\r\n z: 1\r\nContent-Length: 0\r\n\r\n',
    'two lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello',
    'a chunk of no size': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n',
    'a chunk longer than it says': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n',
  }
  for (const [name, text] of Object.entries(nonsense))
    test(`with ${name} are UNREACHABLE`, async () => {
      await using server = await answering((socket) => socket.write(text))
      await using client = clientOf(server.port)
      await assert.rejects(async () => (await client.request(get)).bytes(), { code: 'UNREACHABLE' })
    })

  test('with more bytes than announced do not spoil the next answer', async () => {
    const length = {
      HEAD: 'Content-Length: 5\r\n\r\nhello',
      GET: 'Content-Length: 5\r\n\r\nhelloHTTP/1.1 500 Oops\r\n\r\n',
    }
    for (const method of ['HEAD', 'GET'] as const) {
      let answers = 0
      await using server = await answering((socket) =>
        socket.write(`HTTP/1.1 200 OK\r\n${answers++ === 0 ? length[method] : 'Content-Length: 0\r\n\r\n'}`),
      )
      await using client = clientOf(server.port)
      await client
        .request({ ...get, method })
        .then(async (response) => response.bytes())
        .catch(() => undefined)
      assert.equal((await client.request(get)).status, 200)
      assert.equal(server.connections(), 2)
    }
  })

  test('longer than the reader wants are CORRUPT', async () => {
    await using server = await answering((socket) =>
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n${'x'.repeat(100)}`),
    )
    await using client = clientOf(server.port)
    await assert.rejects(async () => (await client.request(get)).bytes(10), { code: 'CORRUPT' })
  })
})

describe('connections', () => {
  test('a pooled socket that the server has closed unnoticed is replaced, and the request is sent again', async () => {
    // The server ends each connection when it hears the second request on it: the moment nobody can foresee.
    const heard = new Map<number, number>()
    await using server = await answering((socket, _, connection) => {
      const requests = (heard.get(connection) ?? 0) + 1
      heard.set(connection, requests)
      if (requests === 2) socket.destroy()
      else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
    })
    await using client = clientOf(server.port)
    for (let i = 0; i < 5; i++) assert.equal((await (await client.request(get)).bytes()).toString(), 'ok')
    assert.equal(server.connections(), 5)
  })

  const unrepeatable: Partial<HttpRequest>[] = [
    { method: 'POST' },
    { method: 'PUT', headers: { host: 'test', 'if-none-match': '*' } },
    { method: 'PUT', headers: { host: 'test', 'if-match': 'x' } },
    { method: 'MOVE' },
  ]
  for (const request of unrepeatable)
    test(`what must not be done twice is not sent again: ${JSON.stringify(request)}`, async (t) => {
      const heard: string[] = []
      await using server = await answering((socket, text) => {
        heard.push(text)
        if (text.startsWith('GET')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        else socket.destroy()
      })
      await using client = clientOf(server.port)
      await client.request(get)
      await assert.rejects(client.request({ ...get, ...request }), { code: 'UNREACHABLE', retryable: true })
      assert.equal(heard.filter((text) => text.startsWith(request.method ?? '')).length, 1)
      // A connection that has rested might have been closed a moment ago, so it goes on a new one.
      await client.request(get)
      const before = server.connections()
      const moment = performance.now() + 2_000
      t.mock.method(performance, 'now', () => moment)
      await assert.rejects(client.request({ ...get, ...request }), { code: 'UNREACHABLE' })
      assert.equal(server.connections(), before + 1)
    })

  test('a new socket that the server closes is UNREACHABLE, and the request is not sent again', async () => {
    await using server = await answering((socket) => socket.destroy())
    await using client = clientOf(server.port)
    await assert.rejects(client.request(get), { code: 'UNREACHABLE', retryable: true })
    assert.equal(server.connections(), 1)
  })

  test('nobody listening is UNREACHABLE', async () => {
    const { port } = await (async () => {
      await using server = await listening(net.createServer())
      return server
    })()
    await using client = clientOf(port)
    await assert.rejects(client.request(get), { code: 'UNREACHABLE', message: /ECONNREFUSED/ })
  })

  test('a server that is silent is a TIMEOUT, before its answer and within', async () => {
    for (const start of ['', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello']) {
      await using server = await answering((socket) => socket.write(start))
      await using client = clientOf(server.port, { timeoutMs: 50 })
      await assert.rejects(async () => (await client.request(get)).bytes(), { code: 'TIMEOUT' })
    }
  })

  test('a fired signal is ABORTED: before, while waiting for a socket, for the answer, and within it', async () => {
    await using server = await answering((socket, request) => {
      if (request.startsWith('GET /half')) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello')
    })
    await using client = clientOf(server.port, { maxSockets: 2 })
    await assert.rejects(client.request({ ...get, signal: AbortSignal.abort() }), { code: 'ABORTED' })
    const half = new AbortController()
    const response = await client.request({ ...get, path: '/half', signal: half.signal })
    const silent = new AbortController()
    const first = client.request({ ...get, signal: silent.signal })
    const queued = new AbortController()
    const second = client.request({ ...get, signal: queued.signal })
    queued.abort()
    await assert.rejects(second, { code: 'ABORTED' })
    silent.abort()
    await assert.rejects(first, { code: 'ABORTED' })
    const bytes = response.bytes()
    half.abort()
    await assert.rejects(bytes, { code: 'ABORTED' })
  })

  test('a body that is dropped gives its place to the next request', async () => {
    await using server = await answering((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n')
      socket.write(Buffer.alloc(9_000_000))
    })
    await using client = clientOf(server.port, { maxSockets: 1 })
    for (let i = 0; i < 5; i++) (await client.request(get)).stream().destroy()
    assert.equal((await (await client.request(get)).bytes()).byteLength, 9_000_000)
  })

  test('a slow reader holds the server back', async () => {
    const total = 64 << 20
    let sent = 0
    await using server = await answering((socket) => {
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${total}\r\n\r\n`)
      const chunk = Buffer.alloc(1 << 20)
      const more = () => {
        while (sent < total) {
          sent += chunk.byteLength
          if (!socket.write(chunk)) return void socket.once('drain', more)
        }
      }
      more()
    })
    await using client = clientOf(server.port)
    const body = (await client.request(get)).stream()
    let received = 0
    let furthestAhead = 0
    for await (const chunk of body) {
      received += (chunk as Buffer).byteLength
      furthestAhead = Math.max(furthestAhead, sent - received)
    }
    assert.equal(received, total)
    assert.ok(furthestAhead < 24 << 20, `${furthestAhead} bytes ahead`)
  })

  test('an early refusal is heard while the body is still being sent, and that socket is not used again', async () => {
    await using server = await answering((socket, request) => {
      if (request.startsWith('PUT')) socket.pause()
      socket.write('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno')
    })
    await using client = clientOf(server.port)
    const response = await client.request({ ...get, method: 'PUT', body: Buffer.alloc(32 << 20) })
    assert.deepEqual([response.status, (await response.bytes()).toString()], [403, 'no'])
    assert.equal((await client.request(get)).status, 403)
    assert.equal(server.connections(), 2)
  })

  test('no more sockets than allowed are open, and all requests come through', async () => {
    const server = http.createServer((request, response) => request.pipe(response))
    await using place = await listening(server)
    await using client = clientOf(place.port, { maxSockets: 3 })
    let most = 0
    server.on('connection', () => (most = Math.max(most, place.sockets.size)))
    const bodies = Array.from({ length: 200 }, (_, i) => Buffer.alloc(i * 1000, i))
    const echoed = await Promise.all(
      bodies.map(async (body) => (await client.request({ ...get, method: 'PUT', body })).bytes()),
    )
    assert.ok(bodies.every((body, i) => echoed[i]?.equals(body)))
    assert.ok(most <= 3, `${most} sockets`)
  })

  test('a body whose connection breaks before anybody reads it fails when it is read, and not before', async () => {
    await using server = await answering((socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello'))
    await using client = clientOf(server.port)
    const body = (await client.request(get)).stream()
    const closed = new Promise<void>((resolve) => body.once('close', resolve))
    for (const socket of server.sockets) socket.destroy()
    await closed
    await assert.rejects(collect(body), { code: 'UNREACHABLE' })
  })

  test('closing ends what runs and what waits, and nothing starts after it', async () => {
    await using server = await answering(() => {})
    const client = clientOf(server.port, { maxSockets: 1 })
    const running = client.request(get)
    const waiting = client.request(get)
    const ends = [assert.rejects(running), assert.rejects(waiting, { code: 'CLOSED' })]
    await client.close()
    await Promise.all(ends)
    await assert.rejects(client.request(get), { code: 'CLOSED' })
    assert.ok(server.connections() <= 1)
  })
})

describe('bodies that stream', () => {
  const put = { method: 'PUT', path: '/', headers: { host: 'test' } }
  const bytes = randomBytes(3_000_000)
  async function* pieces(...sizes: number[]) {
    for (let at = 0; at < bytes.byteLength; ) {
      const size = sizes.shift() ?? 300_001
      yield bytes.subarray(at, at + size)
      at += size
    }
  }
  /** Keeps what it is sent, whole or not. */
  const keeping = async () => {
    const kept: { method?: string | undefined; bytes: Buffer; isWhole: boolean; headers: http.IncomingHttpHeaders }[] =
      []
    const server = http.createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => undefined)
      request.on('close', () => {
        kept.push({
          method: request.method,
          bytes: Buffer.concat(chunks),
          isWhole: request.complete,
          headers: request.headers,
        })
        response.end('kept')
      })
    })
    return Object.assign(await listening(server), { kept })
  }

  for (const size of [bytes.byteLength, undefined])
    test(`arrive whole ${size === undefined ? 'in chunks' : 'with their length'}, on sockets that are used again`, async () => {
      await using server = await keeping()
      await using client = clientOf(server.port)
      for (let i = 0; i < 3; i++) {
        const response = await client.request({ ...put, body: pieces(1, 0, 5), ...(size ? { size } : {}) })
        assert.equal((await response.bytes()).toString(), 'kept')
        assert.equal((await (await client.request(get)).bytes()).toString(), 'kept')
      }
      const sent = server.kept.filter((_, index) => index % 2 === 0)
      assert.ok(sent.every((each) => each.isWhole && each.bytes.equals(bytes)))
      assert.equal(sent[0]?.headers['content-length'], size === undefined ? undefined : String(size))
      assert.equal(server.sockets.size, 1)
    })

  test('that fail, or are not as long as announced, are never taken for whole', async () => {
    const server = await keeping()
    await using client = clientOf(server.port)
    const failing = async function* () {
      yield* pieces()
      throw new Error('the source broke')
    }
    await assert.rejects(client.request({ ...put, body: failing() }), /the source broke/)
    await assert.rejects(client.request({ ...put, body: failing(), size: 4_000_000 }), /the source broke/)
    for (const size of [bytes.byteLength - 1, bytes.byteLength + 1])
      await assert.rejects(client.request({ ...put, body: pieces(), size }), { code: 'CORRUPT' })
    assert.equal((await client.request(get)).status, 200)
    await client.close()
    await server[Symbol.asyncDispose]()
    assert.deepEqual(
      server.kept.filter(({ isWhole }) => isWhole).map(({ method }) => method),
      ['GET'],
    )
  })

  test('that go on behind their announced size are not taken for whole, however late they do', async () => {
    await using server = await keeping()
    await using silent = await answering(() => undefined)
    await using client = clientOf(server.port)
    await using other = clientOf(silent.port, { timeoutMs: 50 })
    const body = async function* () {
      yield Buffer.from('four')
      await assert.rejects(other.request(get), { code: 'TIMEOUT' })
      yield Buffer.from('more')
    }
    await assert.rejects(client.request({ ...put, body: body(), size: 4 }), { code: 'CORRUPT' })
    assert.ok(!server.kept.some(({ isWhole }) => isWhole))
  })

  for (const answer of ['Content-Length: 0\r\n\r\n', 'Connection: close\r\n\r\n'])
    test(`are not stored because a server says so before it has heard them: ${JSON.stringify(answer)}`, async () => {
      await using server = await answering((socket) => socket.end(`HTTP/1.1 201 Created\r\n${answer}`))
      await using client = clientOf(server.port)
      const endless = async function* () {
        for (;;) yield Buffer.alloc(1 << 20)
      }
      await assert.rejects(async () => (await client.request({ ...put, body: endless() })).bytes(), {
        code: 'UNREACHABLE',
      })
    })

  test('are left when the server refuses them early, and their source is ended', async () => {
    await using server = await answering((socket, request) => {
      if (request.startsWith('PUT')) socket.write('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno')
    })
    await using client = clientOf(server.port)
    const ended = Promise.withResolvers<void>()
    const endless = async function* () {
      try {
        for (;;) yield Buffer.alloc(1 << 20)
      } finally {
        ended.resolve()
      }
    }
    const response = await client.request({ ...put, body: endless() })
    assert.deepEqual([response.status, (await response.bytes()).toString()], [403, 'no'])
    await ended.promise
  })

  test('may be slow for longer than a server may, and a fired signal leaves them at once', async () => {
    await using server = await keeping()
    await using silent = await answering(() => undefined)
    await using client = clientOf(server.port, { timeoutMs: 50 })
    await using impatient = clientOf(silent.port, { timeoutMs: 50 })
    const slow = async function* () {
      yield Buffer.from('slow')
      for (let i = 0; i < 3; i++) await assert.rejects(impatient.request(get), { code: 'TIMEOUT' })
      yield Buffer.from('ly')
    }
    assert.equal((await client.request({ ...put, body: slow() })).status, 200)
    assert.equal(server.kept[0]?.bytes.toString(), 'slowly')
    const controller = new AbortController()
    const stuck = async function* () {
      yield Buffer.from('half')
      controller.abort()
      await new Promise(() => {})
    }
    const request = client.request({ ...put, body: stuck(), signal: controller.signal })
    await assert.rejects(request, { code: 'ABORTED' })
  })
})

test('headers and paths that would break out of their line are refused', async () => {
  await using server = await answering((socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'))
  await using client = clientOf(server.port)
  const split = 'x\r\nx-admin: 1'
  await assert.rejects(client.request({ ...get, headers: { host: 'test', 'content-type': split } }), {
    code: 'INVALID_ARGUMENT',
  })
  await assert.rejects(client.request({ ...get, path: `/${split}` }), { code: 'INVALID_ARGUMENT' })
  assert.equal((await client.request(get)).status, 200)
})
