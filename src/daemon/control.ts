/** The local socket over which a running daemon answers the command line: one JSON object a line each way. */
import { chmodSync, rmSync } from 'node:fs'
import * as net from 'node:net'
import { createInterface } from 'node:readline'
import { StowageError, codeOf, type ErrorCode } from '../core/errors.ts'

/** What may be asked, by name. Parameters and answers are JSON. */
export type ControlMethods = Record<string, (parameters: never) => Promise<unknown>>

const longestLine = 1 << 20
const mostConnections = 32
const patienceMs = 10_000

/**
 * Listens on a socket that only this user can open. A socket file that nobody answers is replaced; the state behind it
 * is locked anyway, so there cannot be another daemon.
 */
export async function serveControl(socket: string, methods: ControlMethods): Promise<{ close(): Promise<void> }> {
  if (Buffer.byteLength(socket) > 107)
    throw new StowageError('INVALID_CONFIG', `${socket} is too long for the name of a socket.`, {
      hint: 'Give state a shorter path.',
    })
  rmSync(socket, { force: true })
  const connections = new Set<net.Socket>()
  const server = net.createServer((connection) => {
    connections.add(connection)
    connection.on('close', () => connections.delete(connection))
    connection.on('error', () => connection.destroy())
    connection.setTimeout(patienceMs, () => connection.destroy())
    serveConnection(connection, methods)
  })
  server.maxConnections = mostConnections
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(socket, resolve)
  })
  chmodSync(socket, 0o600)
  return {
    close: async () => {
      for (const connection of connections) connection.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** Asks a daemon. Undefined when none listens there; rejects with what the daemon rejected with. */
export async function askDaemon(socket: string, method: string, parameters: object = {}): Promise<unknown> {
  const connection = net.connect(socket)
  connection.setTimeout(patienceMs, () =>
    connection.destroy(new StowageError('TIMEOUT', 'The daemon does not answer.')),
  )
  try {
    await new Promise<void>((resolve, reject) => connection.once('connect', resolve).once('error', reject))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ECONNREFUSED') return undefined
    throw error
  }
  try {
    connection.write(`${JSON.stringify({ method, parameters })}\n`)
    for await (const line of createInterface({ input: connection })) {
      const { result, error } = JSON.parse(line) as { result?: unknown; error?: { code: ErrorCode; message: string } }
      if (error) throw new StowageError(error.code, error.message)
      return result
    }
    throw new StowageError('UNREACHABLE', 'The daemon hung up.')
  } finally {
    connection.destroy()
  }
}

function serveConnection(connection: net.Socket, methods: ControlMethods) {
  let pending = ''
  connection.setEncoding('utf8')
  connection.on('data', (text: string) => {
    const lines = (pending + text).split('\n')
    pending = lines.pop() ?? ''
    if (pending.length > longestLine) connection.destroy()
    for (const line of lines)
      void answer(line, methods).then((reply) => connection.writable && connection.write(`${reply}\n`))
  })
}

async function answer(line: string, methods: ControlMethods): Promise<string> {
  try {
    const { method, parameters } = JSON.parse(line) as { method: string; parameters: never }
    const call = Object.hasOwn(methods, method) ? methods[method] : undefined
    if (!call)
      throw new StowageError(
        'UNSUPPORTED',
        `This daemon does not know ${JSON.stringify(method)}; it may be of another version.`,
      )
    return JSON.stringify({ result: await call(parameters) })
  } catch (error) {
    return JSON.stringify({ error: { code: codeOf(error), message: (error as Error).message } })
  }
}
