/** What the control socket promises: only its owner may ask, nobody can tie it up, and a dead daemon's socket is no hindrance. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import * as os from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { askDaemon, controlLimits, serveControl, type ControlMethods } from './control.ts'

const methods: ControlMethods = {
  double: async ({ value }: { value: number }) => value * 2,
  nothing: async () => undefined,
  fail: async () => {
    throw new StowageError('BUSY', 'not now\nüber')
  },
  hang: async () => new Promise(() => {}),
}

async function serve(t: TestContext, name = 'a.sock'): Promise<string> {
  const socket = path.join(directoryOf(t), name)
  fs.mkdirSync(path.dirname(socket), { recursive: true })
  const control = await serveControl(socket, methods)
  t.after(async () => control.close())
  return socket
}

function directoryOf(t: TestContext): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-control-'))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  return directory
}

test('a question is answered, and a failure keeps its code and words', async (t) => {
  const socket = await serve(t)
  assert.equal(await askDaemon(socket, 'double', { value: 21 }), 42)
  assert.equal(await askDaemon(socket, 'nothing'), null)
  await assert.rejects(askDaemon(socket, 'fail'), { code: 'BUSY', message: 'not now\nüber' })
  for (const name of ['other', 'toString', '__proto__'])
    await assert.rejects(askDaemon(socket, name), { code: 'UNSUPPORTED' })
})

test('undefined is the answer when no daemon is there', async (t) => {
  const directory = directoryOf(t)
  assert.equal(await askDaemon(path.join(directory, 'none.sock'), 'double'), undefined)
  assert.equal(await askDaemon(path.join(directory, 'no', 'such', 'directory.sock'), 'double'), undefined)
  fs.writeFileSync(path.join(directory, 'file'), '')
  assert.equal(await askDaemon(path.join(directory, 'file'), 'double'), undefined)
})

test('only its owner can open the socket, and closing removes it', async (t) => {
  const socket = path.join(directoryOf(t), 'a.sock')
  const control = await serveControl(socket, methods)
  assert.equal(fs.statSync(socket).mode & 0o777, 0o600)
  await control.close()
  assert.deepEqual(fs.readdirSync(path.dirname(socket)), [])
  assert.equal(await askDaemon(socket, 'double'), undefined)
})

test('the socket of a killed process is replaced, that of a living one is not', async (t) => {
  const socket = path.join(directoryOf(t), 'a.sock')
  const script = `require('net').createServer(() => {}).listen(${JSON.stringify(socket)}, () => console.log('up'))`
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  await assert.rejects(serveControl(socket, methods), { code: 'BUSY' })
  child.kill('SIGKILL')
  await once(child, 'exit')
  assert.ok(fs.existsSync(socket))
  assert.equal(await askDaemon(socket, 'double'), undefined)
  const control = await serveControl(socket, methods)
  t.after(async () => control.close())
  assert.equal(await askDaemon(socket, 'double', { value: 1 }), 2)
})

test('a file that is no socket is left alone', async (t) => {
  const file = path.join(directoryOf(t), 'a.sock')
  fs.writeFileSync(file, 'precious')
  await assert.rejects(serveControl(file, methods), { code: 'INVALID_CONFIG', message: /in the way/ })
  assert.equal(fs.readFileSync(file, 'utf8'), 'precious')
})

test('a path longer than a socket may have works all the same', { skip: process.platform !== 'linux' }, async (t) => {
  const socket = await serve(t, `${'directory/'.repeat(20)}a.sock`)
  assert.ok(socket.length > 200)
  assert.equal(await askDaemon(socket, 'double', { value: 4 }), 8)
  assert.equal(await askDaemon(`${socket}.other`, 'double'), undefined)
  assert.equal(await askDaemon(path.join(path.dirname(socket), 'x/y.sock'), 'double'), undefined)
})

test('several questions on one connection are answered by id, however the bytes arrive', async (t) => {
  const connection = net.connect(await serve(t))
  t.after(() => connection.destroy())
  const text = `{"id":"a","method":"double","params":{"value":1}}\nnot JSON\n{"id":2,"method":"nothing"}\nnull\n`
  for (const byte of Buffer.from(text)) connection.write(Buffer.of(byte))
  let received = ''
  for await (const chunk of connection) {
    received += String(chunk)
    if (received.split('\n').length === 5) break
  }
  const replies = received
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { id: unknown; result?: unknown; error?: { code: string } })
  assert.deepEqual(
    new Set(replies.map(({ id, error }) => JSON.stringify([id, error?.code]))),
    new Set(['["a",null]', '[null,"INVALID_ARGUMENT"]', '[2,null]', '[null,"UNSUPPORTED"]']),
  )
})

test('a line without end is cut off', async (t) => {
  const connection = net.connect(await serve(t))
  connection.on('error', () => {})
  const closed = new Promise((resolve) => connection.once('close', resolve))
  const chunk = Buffer.alloc(65_536, 'x')
  const write = () => {
    while (!connection.destroyed && connection.write(chunk)) continue
  }
  connection.on('drain', write)
  write()
  await closed
  assert.ok(connection.bytesWritten > controlLimits.lineBytes - chunk.length)
})

test('more connections than allowed are turned away, and asking works again afterwards', async (t) => {
  const socket = await serve(t)
  const connections = Array.from({ length: controlLimits.connections }, () => net.connect(socket))
  t.after(() => connections.forEach((connection) => connection.destroy()))
  await Promise.all(connections.map(async (connection) => once(connection, 'connect')))
  // Each has been accepted once it has been answered.
  for (const connection of connections) {
    connection.write('{"id":1,"method":"nothing"}\n')
    await once(connection, 'data')
  }
  await assert.rejects(askDaemon(socket, 'double', { value: 1 }), { code: 'UNREACHABLE' })
  const [first] = connections
  first?.end()
  if (first) await once(first, 'close')
  assert.equal(await askDaemon(socket, 'double', { value: 1 }), 2)
})

test('who asks nothing is cut off after a while, who waits for an answer is not', async (t) => {
  const socket = path.join(directoryOf(t), 'a.sock')
  const answer = Promise.withResolvers<string>()
  const control = await serveControl(socket, { slow: async () => answer.promise }, { idleMs: 20 })
  t.after(async () => control.close())
  const asked = askDaemon(socket, 'slow')
  // Those that come later, one after another, are gone before the answer is there.
  for (let i = 0; i < 3; i++) await once(net.connect(socket).resume(), 'close')
  answer.resolve('done')
  assert.equal(await asked, 'done')
})

test('a daemon that does not answer is not waited for without end', async (t) => {
  await assert.rejects(askDaemon(await serve(t), 'hang', {}, 1), { code: 'TIMEOUT' })
})

test('closing does not wait for those who ask', async (t) => {
  const socket = path.join(directoryOf(t), 'a.sock')
  const control = await serveControl(socket, methods)
  const refused = assert.rejects(askDaemon(socket, 'hang'), { code: 'UNREACHABLE' })
  const connection = net.connect(socket)
  connection.write('{"id":1,"method":"nothing"}\n')
  await once(connection, 'data')
  await control.close()
  await refused
  connection.destroy()
})
