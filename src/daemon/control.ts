/**
 * The local socket over which a running daemon answers the command line. One JSON object a line each way:
 * `{id, method, params}` is answered by `{id, result}` or `{id, error: {code, message}}`, in any order.
 */
import { createHash } from 'node:crypto'
import { closeSync, constants, lstatSync, openSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as net from 'node:net'
import * as path from 'node:path'
import { codeOf, StowageError, type ErrorCode } from '../core/errors.ts'

/** What may be asked, by name. Parameters and answers are JSON. */
export type ControlMethods = Record<string, (parameters: never) => Promise<unknown>>

/** Limits of what a daemon listens to. */
export const controlLimits = { lineBytes: 1024 * 1024, connections: 32, idleMs: 60_000 } as const

/** The longest name of a socket that every system takes. */
const longestSocketName = 103

interface Reply {
  id: unknown
  result?: unknown
  error?: { code: ErrorCode; message: string }
}

/**
 * Listens on a socket that only this user can open; on Windows, on a named pipe. A socket file that a dead process left is
 * replaced in one step. Rejects with BUSY when somebody answers there. Who asks nothing for `idleMs` (default 60 s) is cut off.
 */
export async function serveControl(
  file: string,
  methods: ControlMethods,
  { idleMs = controlLimits.idleMs }: { idleMs?: number } = {},
): Promise<{ close(): Promise<void> }> {
  const connections = new Set<net.Socket>()
  const server = net.createServer((connection) => {
    connections.add(connection)
    connection.on('close', () => connections.delete(connection))
    connection.on('error', () => connection.destroy())
    connection.setTimeout(idleMs, () => connection.destroy())
    serveConnection(connection, methods, idleMs)
  })
  server.maxConnections = controlLimits.connections
  const remove = process.platform === 'win32' ? await listenOnPipe(server, file) : await listenOnFile(server, file)
  return {
    close: async () => {
      for (const connection of connections) connection.destroy()
      await remove()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/**
 * Asks a daemon. Undefined when none listens there; rejects with what the daemon rejected with, with DENIED when it is
 * somebody else's, and with TIMEOUT after `limitMs` (default 30 s).
 */
export async function askDaemon(
  file: string,
  method: string,
  parameters: object = {},
  limitMs = 30_000,
): Promise<unknown> {
  const connection = await connect(file)
  if (!connection) return undefined
  const { promise, resolve, reject } = Promise.withResolvers<Reply>()
  const limit = setTimeout(() => reject(failure('TIMEOUT', `does not answer within ${limitMs} ms`)), limitMs)
  connection.on('error', (error) => reject(failure('UNREACHABLE', `broke off: ${error.message}`)))
  connection.on('close', () => reject(failure('UNREACHABLE', 'hung up; it may be stopping')))
  onLine(connection, 64 * controlLimits.lineBytes, (line) => resolve(JSON.parse(line) as Reply))
  try {
    connection.write(`${JSON.stringify({ id: 1, method, params: parameters })}\n`)
    const { result, error } = await promise
    if (error) throw new StowageError(error.code, error.message)
    return result ?? null
  } finally {
    clearTimeout(limit)
    connection.destroy()
  }
}

function failure(code: ErrorCode, what: string): StowageError {
  return new StowageError(code, `The daemon ${what}.`)
}

async function listenOnPipe(server: net.Server, file: string): Promise<() => Promise<void>> {
  await listen(server, pipeName(file))
  return async () => {}
}

/** Binds under another name and renames, so that at no moment anybody else can open it, or find none. */
async function listenOnFile(server: net.Server, file: string): Promise<() => Promise<void>> {
  const existing = lstatSync(file, { throwIfNoEntry: false })
  if (existing && !existing.isSocket())
    throw new StowageError('INVALID_CONFIG', `${file} is in the way: the daemon wants to listen there.`)
  const other = existing && (await connect(file).catch(() => undefined))
  other?.destroy()
  if (other) throw new StowageError('BUSY', `Another daemon answers at ${file}.`)
  const fresh = `${file}.new`
  await fs.rm(fresh, { force: true })
  const name = shortName(fresh)
  try {
    await listen(server, name.text)
    await fs.chmod(fresh, 0o600)
    await fs.rename(fresh, file)
  } catch (error) {
    server.close()
    name.release()
    throw new StowageError('UNKNOWN', `Cannot listen at ${file}: ${(error as Error).message}.`, { cause: error })
  }
  return async () => {
    await fs.rm(file, { force: true })
    server.once('close', () => name.release())
  }
}

async function listen(server: net.Server, name: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(name, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

/** A connection; undefined when nobody listens there. */
async function connect(file: string): Promise<net.Socket | undefined> {
  const isPipe = process.platform === 'win32'
  if (!isPipe && !lstatSync(file, { throwIfNoEntry: false })) return undefined
  const name = isPipe ? { text: pipeName(file), release() {} } : shortName(file)
  const connection = net.connect(name.text)
  try {
    await new Promise<void>((resolve, reject) => connection.once('connect', resolve).once('error', reject))
    return connection
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTSOCK') return undefined
    const isDenied = code === 'EACCES' || code === 'EPERM'
    throw new StowageError(isDenied ? 'DENIED' : 'UNREACHABLE', `The daemon at ${file} cannot be asked: ${code}.`, {
      cause: error,
      ...(isDenied ? { hint: 'It belongs to another user.' } : {}),
    })
  } finally {
    name.release()
  }
}

/** The name of a socket is 107 bytes at most. A longer one is said relative to here, or to its opened directory. */
function shortName(file: string): { text: string; release: () => void } {
  const candidates = [file, path.relative(process.cwd(), file)]
  const text = candidates.find((name) => Buffer.byteLength(name) <= longestSocketName)
  if (text !== undefined) return { text, release() {} }
  const directory = path.dirname(file)
  if (process.platform !== 'linux')
    throw new StowageError('INVALID_CONFIG', `${file} is too long for the name of a socket.`, {
      hint: 'Give state a shorter path.',
    })
  const descriptor = openSync(directory, constants.O_RDONLY | constants.O_DIRECTORY)
  return { text: `/proc/self/fd/${descriptor}/${path.basename(file)}`, release: () => closeSync(descriptor) }
}

function pipeName(file: string): string {
  return `\\\\.\\pipe\\stowage-${createHash('sha256').update(path.resolve(file)).digest('hex').slice(0, 32)}`
}

function serveConnection(connection: net.Socket, methods: ControlMethods, idleMs: number) {
  let open = 0
  // Whoever waits for an answer is not idle.
  const rest = () => connection.setTimeout(open === 0 ? idleMs : 0)
  onLine(connection, controlLimits.lineBytes, (line) => {
    open++
    rest()
    void answer(line, methods).then((reply) => {
      open--
      rest()
      if (connection.writable) connection.write(`${JSON.stringify(reply)}\n`)
    })
  })
}

/** Calls back for each line; a connection that sends a longer one is cut. */
function onLine(connection: net.Socket, longest: number, hear: (line: string) => void) {
  let parts: string[] = []
  let length = 0
  connection.setEncoding('utf8')
  connection.on('data', (text: string) => {
    const [first = '', ...others] = text.split('\n')
    parts.push(first)
    length += first.length
    for (const next of others) {
      if (length <= longest) hear(parts.join(''))
      parts = [next]
      length = next.length
    }
    if (length > longest) connection.destroy()
  })
}

async function answer(line: string, methods: ControlMethods): Promise<Reply> {
  let id: unknown = null
  try {
    const request = JSON.parse(line) as { id?: unknown; method: string; params?: never } | null
    id = request?.id ?? null
    const name = String(request?.method)
    const call = Object.hasOwn(methods, name) ? methods[name] : undefined
    if (!call)
      throw new StowageError('UNSUPPORTED', `The daemon does not know ${JSON.stringify(name.slice(0, 100))}.`, {
        hint: 'It may be of another version: restart it.',
      })
    return { id, result: await call(request?.params ?? ({} as never)) }
  } catch (error) {
    const isSyntax = error instanceof SyntaxError
    return {
      id,
      error: {
        code: isSyntax ? 'INVALID_ARGUMENT' : codeOf(error),
        message: isSyntax ? 'The request is not JSON.' : (error as Error).message,
      },
    }
  }
}
