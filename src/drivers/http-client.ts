/**
 * A lean HTTP/1.1 client over pooled sockets (RFC 9112), for drivers that send very many small requests: what the
 * general clients do around each of them costs more than the request.
 */
import * as net from 'node:net'
import { Readable } from 'node:stream'
import * as tls from 'node:tls'
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import { Limit } from '../core/limit.ts'
import { Pull } from '../core/pull.ts'

/** Where to connect, and how patiently. */
export interface HttpClientOptions {
  host: string
  port: number
  /** Speak TLS. */
  tls: boolean
  /** Certificates to trust instead of the system's, as PEM. */
  ca?: string
  /** Certificate to show to the server, and its key, in one PEM. */
  identity?: string
  /** Check the server's certificate. Default true; without it anybody may pose as the server. */
  verify?: boolean
  /** Sockets at once. Default 256. */
  maxSockets?: number
  /** So long without a byte in either direction ends a request. Default 60 s. */
  timeoutMs?: number
  /** Default 10 s. */
  connectTimeoutMs?: number
}

/** A request. Names of headers are lower-case; Host and Content-Length are added. */
export interface HttpRequest {
  method: string
  /** Path and query, percent-encoded. */
  path: string
  headers: Readonly<Record<string, string>>
  /**
   * Bytes, or a stream of them. A stream is sent once, on a connection of its own that no server can have given up, at
   * the pace of the server; its errors come through. It is left when the answer ends before it.
   */
  body?: Uint8Array | AsyncIterable<Uint8Array>
  /** How many bytes the stream has: another length rejects with CORRUPT, unfinished. Without it the body goes in chunks. */
  size?: number
  /** Is it the same to do it twice, as when nobody knows whether a busy server has heard it? Default: by its method. */
  mayRepeat?: boolean
  signal?: AbortSignal
}

/** An answer. The body must be read to its end or destroyed, which also happens in `bytes`. */
export interface HttpResponse {
  status: number
  /** Names are lower-case; repeated ones are joined by a comma. */
  headers: Record<string, string>
  /** The body as a stream. */
  stream(): Readable
  /** The whole body; rejects with CORRUPT past `limit` bytes (default 16 MiB). */
  bytes(limit?: number): Promise<Buffer>
}

const headerLimit = 64 * 1024
const idleSockets = 256
/** Copying a short body behind its head is cheaper than a second piece for the kernel to gather. */
const oneWriteBytes = 64 * 1024

/** No server known ends idle connections sooner than after some seconds. */
const youngMs = 1_000

const untrusted = { hint: 'Its certificate is not to be trusted: mend it, or name the certificates to trust.' }

/** A client for one server. */
export class HttpClient {
  readonly #options: HttpClientOptions
  readonly #limit: Limit
  readonly #idle: Connection[] = []
  readonly #open = new Set<Connection>()
  #isClosed = false

  constructor(options: HttpClientOptions) {
    this.#options = options
    this.#limit = new Limit(options.maxSockets ?? 256)
  }

  /**
   * Sends a request; resolves when the head of the answer is there. Rejects with UNREACHABLE, TIMEOUT or ABORTED, with
   * CLOSED after `close`, and with INVALID_ARGUMENT for what cannot stand in a header.
   */
  async request(request: HttpRequest): Promise<HttpResponse> {
    this.#check()
    checkLines(request)
    const answered = Promise.withResolvers<HttpResponse>()
    // The place is kept until the body has been read, because so long the socket is busy.
    this.#limit
      .run(async () => {
        const { response, done } = await this.#exchange(request)
        answered.resolve(response)
        await done
      }, request.signal)
      .catch(answered.reject)
    return answered.promise
  }

  /** Ends all connections, also those in use. */
  async close(): Promise<void> {
    this.#isClosed = true
    for (const connection of this.#open) connection.destroy()
  }

  /**
   * A pooled socket may have been closed by the server a moment ago; then the request is sent once more on a new one. What
   * must not be done twice goes on one that is too young for that, and is not sent again.
   */
  async #exchange(request: HttpRequest): Promise<Exchange> {
    this.#check()
    const { mayRepeat = isRepeatable(request) } = request
    for (let pooled = this.#idle.pop(); pooled; pooled = this.#idle.pop()) {
      if (!pooled.isUsable) continue
      if (isStream(request.body) || !(mayRepeat || pooled.isYoung)) {
        pooled.destroy() // its place is taken by the new one
        break
      }
      try {
        return await this.#send(pooled, request)
      } catch (error) {
        if (!(error instanceof StaleConnection)) throw error
        if (!mayRepeat) throw error.reason
      }
    }
    const connection = await Connection.open(this.#options, request.signal)
    this.#open.add(connection)
    connection.onClose(() => this.#open.delete(connection))
    if (this.#isClosed) connection.destroy()
    this.#check()
    try {
      return await this.#send(connection, request)
    } catch (error) {
      throw error instanceof StaleConnection ? error.reason : error
    }
  }

  #check() {
    if (this.#isClosed) throw new StowageError('CLOSED', `The connection to ${this.#options.host} was closed.`)
  }

  async #send(connection: Connection, request: HttpRequest): Promise<Exchange> {
    const exchange = await connection.send(request)
    const done = exchange.done.then(() => {
      if (!connection.isUsable || this.#isClosed || this.#idle.length >= idleSockets) connection.destroy()
      else {
        connection.rest()
        this.#idle.push(connection)
      }
    })
    return { response: exchange.response, done }
  }
}

interface Exchange {
  response: HttpResponse
  /** The body has ended, one way or another. */
  done: Promise<void>
}

/** Nothing of an answer has come: the server may have closed the socket before it saw the request. */
class StaleConnection extends Error {
  readonly reason: StowageError
  constructor(reason: StowageError) {
    super(reason.message)
    this.reason = reason
  }
}

/** One socket. It does one exchange after another. */
class Connection {
  readonly #socket: net.Socket
  readonly #name: string
  #exchange: Incoming | undefined
  /** The body that is being sent. */
  #outgoing: Pull<Uint8Array> | undefined
  #isReusable = true
  #restedAt = 0

  private constructor(socket: net.Socket, name: string, timeoutMs: number) {
    this.#socket = socket
    this.#name = name
    socket.setNoDelay(true)
    socket.setTimeout(timeoutMs)
    socket.on('timeout', () => {
      if (!this.#exchange) socket.destroy()
      else if (!socket.isPaused() && !this.#outgoing?.isWaiting)
        this.#fail('TIMEOUT', `did not answer for ${timeoutMs / 1000} s`)
      // The silence is our own: we have paused the socket because our reader is slow, or wait for the body to send.
      else socket.setTimeout(timeoutMs)
    })
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('error', (error) =>
      this.#fail('UNREACHABLE', `broke off (${(error as NodeJS.ErrnoException).code})`, error),
    )
    // Only an end that the server has sent may be the end of an answer.
    socket.on('close', () => this.#fail('UNREACHABLE', 'was closed'))
    socket.on('end', () => this.#end())
  }

  static async open(options: HttpClientOptions, signal: AbortSignal | undefined): Promise<Connection> {
    const { host, port, ca, identity, verify = true, timeoutMs = 60_000, connectTimeoutMs = 10_000 } = options
    const name = `${host}:${port}`
    const address = { host: addressOf(host), port }
    const socket = options.tls
      ? tls.connect({
          ...address,
          ...(net.isIP(address.host) ? {} : { servername: host }),
          ...(ca ? { ca } : {}),
          ...(identity ? { cert: identity, key: identity } : {}),
          rejectUnauthorized: verify,
          ALPNProtocols: ['http/1.1'],
        })
      : net.connect(address)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const late = `${name} took longer than ${connectTimeoutMs / 1000} s to accept a connection.`
    const abort = () => reject(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal?.reason }))
    if (signal?.aborted) abort()
    signal?.addEventListener('abort', abort, { once: true })
    socket.setTimeout(connectTimeoutMs, () => reject(new StowageError('TIMEOUT', late)))
    socket.once('error', (error: NodeJS.ErrnoException) => {
      const what = `Cannot connect to ${name}: ${error.code ?? error.message}.`
      const isUntrusted = socket instanceof tls.TLSSocket && Boolean(socket.authorizationError)
      reject(new StowageError('UNREACHABLE', what, { cause: error, ...(isUntrusted && untrusted) }))
    })
    socket.once(options.tls ? 'secureConnect' : 'connect', resolve)
    try {
      await promise
    } catch (error) {
      socket.on('error', () => {}).destroy() // what else it may say is of no interest
      throw error
    } finally {
      signal?.removeEventListener('abort', abort)
    }
    socket.removeAllListeners('timeout').removeAllListeners('error')
    return new Connection(socket, name, timeoutMs)
  }

  get isUsable(): boolean {
    return this.#isReusable && !this.#socket.destroyed && this.#socket.writable && this.#exchange === undefined
  }

  /** While nobody uses it, an open socket does not keep the process alive. */
  rest(): void {
    this.#restedAt = performance.now()
    this.#socket.unref()
  }

  /** Was it used so lately that no server has closed it for being idle? */
  get isYoung(): boolean {
    return performance.now() - this.#restedAt < youngMs
  }

  onClose(listener: () => void): void {
    this.#socket.once('close', listener)
  }

  destroy(): void {
    this.#socket.destroy()
  }

  async send(request: HttpRequest): Promise<Exchange> {
    const { method, path, headers, body, signal } = request
    let head = `${method} ${path} HTTP/1.1\r\n`
    for (const name in headers) head += `${name}: ${headers[name]}\r\n`
    head += framingOf(request)
    this.#socket.ref()
    const incoming = new Incoming(method === 'HEAD', this.#socket, () => this.#outgoing === undefined)
    this.#exchange = incoming
    const abort = () => this.#fail('ABORTED', 'was cut short: the call was cancelled')
    const stopListening = onAbort(signal, abort)
    const done = incoming.ended.then((isClean) => {
      stopListening()
      this.#exchange = undefined
      // An answer that came before we had sent everything leaves the socket in the middle of a request.
      if (!isClean || this.#outgoing || this.#socket.writableLength > 0) this.#isReusable = false
      if (!this.#isReusable) this.#socket.destroy()
    })
    if (isStream(body)) {
      this.#socket.write(`${head}\r\n`, 'latin1')
      void this.#stream(body, request.size, incoming)
    } else this.#write(`${head}\r\n`, body)
    return { response: await incoming.head, done }
  }

  /**
   * Sends a body at the pace of the server, for as long as the answer is not complete. The piece that completes an
   * announced size is kept until the body has ended: with it, the server would take what may go on for the whole.
   */
  async #stream(body: AsyncIterable<Uint8Array>, size: number | undefined, incoming: Incoming) {
    const pull = new Pull(body)
    this.#outgoing = pull
    void incoming.ended.then(() => pull.leave(undefined))
    try {
      let length = 0
      let last: Uint8Array | undefined
      for (let chunk = await pull.next(); chunk; chunk = await pull.next()) {
        length += chunk.byteLength
        if (size !== undefined && length > size) throw wrongSize(size, length, 'at least ')
        if (chunk.byteLength === 0) continue
        if (length === size) last = chunk
        else await this.#writePiece(chunk, size === undefined)
      }
      if (size !== undefined && length !== size) throw wrongSize(size, length)
      this.#outgoing = undefined
      if (size === undefined) this.#socket.write('0\r\n\r\n')
      else if (last) await this.#writePiece(last, false)
    } catch (error) {
      // Half a request was sent: the server must not take that for the whole. (Nothing fails that has ended before.)
      this.#isReusable = false
      incoming.fail(error)
      this.#socket.destroy()
    } finally {
      await pull.end()
    }
  }

  /** Writes a piece of a body, as a chunk if its length was not announced; resolves when there is room for the next. */
  async #writePiece(piece: Uint8Array, isChunk: boolean): Promise<void> {
    const socket = this.#socket
    socket.cork()
    if (isChunk) socket.write(`${piece.byteLength.toString(16)}\r\n`, 'latin1')
    let hasRoom = socket.write(piece)
    if (isChunk) hasRoom = socket.write('\r\n', 'latin1')
    socket.uncork()
    if (hasRoom || socket.destroyed) return
    const { promise, resolve } = Promise.withResolvers<void>()
    socket.once('drain', resolve).once('close', resolve)
    await promise
    socket.off('drain', resolve).off('close', resolve)
  }

  #write(head: string, body: Uint8Array | undefined) {
    if (!body || body.byteLength === 0) this.#socket.write(head, 'latin1')
    else if (body.byteLength <= oneWriteBytes) {
      const bytes = Buffer.allocUnsafe(head.length + body.byteLength)
      bytes.write(head, 'latin1')
      bytes.set(body, head.length)
      this.#socket.write(bytes)
    } else {
      this.#socket.cork()
      this.#socket.write(head, 'latin1')
      this.#socket.write(body)
      this.#socket.uncork()
    }
  }

  #take(chunk: Buffer) {
    if (!this.#exchange) {
      // Nobody asked: whatever this is, the socket cannot be trusted any more.
      this.#isReusable = false
      this.#socket.destroy()
      return
    }
    try {
      this.#exchange.take(chunk)
      if (this.#exchange?.isLast) this.#isReusable = false
    } catch (error) {
      this.#fail('UNREACHABLE', `does not speak HTTP as it should (${(error as Error).message})`)
    }
  }

  #end() {
    this.#isReusable = false
    if (this.#exchange && !this.#exchange.finishAtEnd()) this.#fail('UNREACHABLE', 'hung up in the middle of an answer')
  }

  #fail(code: 'UNREACHABLE' | 'TIMEOUT' | 'ABORTED', what: string, cause?: unknown) {
    this.#isReusable = false
    const reason = new StowageError(code, `The connection to ${this.#name} ${what}.`, { cause })
    const isStale = code === 'UNREACHABLE' && this.#exchange?.isUntouched
    this.#exchange?.fail(isStale ? new StaleConnection(reason) : reason)
    this.#socket.destroy()
  }
}

/** An answer as it comes in. */
class Incoming {
  readonly #isHead: boolean
  readonly #socket: net.Socket
  readonly #isSent: () => boolean
  readonly #head = Promise.withResolvers<HttpResponse>()
  readonly #ended = Promise.withResolvers<boolean>()
  #pending: Buffer = Buffer.alloc(0)
  #framing: 'head' | 'length' | 'chunked' | 'close' | 'done' = 'head'
  /** Bytes that are still to come of the body, or of the present chunk with the line break after it. */
  #left = 0
  #chunks: Buffer[] = []
  #stream: Readable | undefined
  #error: Error | undefined
  #status = 0
  isLast = false
  isUntouched = true

  constructor(isHead: boolean, socket: net.Socket, isSent: () => boolean) {
    this.#isHead = isHead
    this.#socket = socket
    this.#isSent = isSent
    this.#head.promise.catch(() => undefined)
  }

  get head(): Promise<HttpResponse> {
    return this.#head.promise
  }

  /** Resolves when nothing more is to come: true when the answer was complete. */
  get ended(): Promise<boolean> {
    return this.#ended.promise
  }

  take(chunk: Buffer): void {
    this.isUntouched = false
    if (this.#framing === 'head') this.#takeHead(chunk)
    else this.#takeBody(chunk)
  }

  /** The server has closed the connection; true when that is how this answer ends, or when it has ended before. */
  finishAtEnd(): boolean {
    if (this.#framing === 'close' && !this.#isTooEarly()) this.#finish()
    return this.#framing === 'done'
  }

  fail(error: unknown): void {
    if (this.#framing === 'done') return
    this.#framing = 'done'
    this.#error = error instanceof Error ? error : new Error('The body failed.', { cause: error })
    this.#head.reject(error)
    this.#stream?.destroy(this.#error)
    this.#ended.resolve(false)
  }

  #takeHead(chunk: Buffer) {
    const bytes = this.#pending.byteLength > 0 ? Buffer.concat([this.#pending, chunk]) : chunk
    const end = bytes.indexOf('\r\n\r\n')
    if (end < 0) {
      if (bytes.byteLength > headerLimit) throw new Error('the header is too long')
      this.#pending = bytes
      return
    }
    this.#pending = Buffer.alloc(0)
    const { status, headers, isLast } = parseHead(bytes.toString('latin1', 0, end))
    const rest = bytes.subarray(end + 4)
    if (status === 101) throw new Error('it wants to speak another protocol')
    if (status >= 100 && status < 200) {
      if (rest.byteLength > 0) this.#takeHead(rest)
      return
    }
    this.isLast = isLast
    this.#status = status
    this.#frame(status, headers)
    if (rest.byteLength > 0) this.#takeBody(rest)
    this.#head.resolve({
      status,
      headers,
      stream: () => this.#asStream(),
      bytes: async (limit) => this.#asBytes(limit),
    })
  }

  #frame(status: number, headers: Record<string, string>) {
    const { 'content-length': length, 'transfer-encoding': coding } = headers
    if (this.#isHead || status === 204 || status === 304) {
      this.#finish()
      // Some servers send the end of a body that is none; it may come at any moment.
      if (coding !== undefined) this.isLast = true
    } else if (coding !== undefined) {
      if (!/^chunked$/i.test(coding)) throw new Error('it encodes what it sends in a way nobody asked for')
      this.#framing = 'chunked'
    } else if (length === undefined) {
      this.#framing = 'close'
      this.isLast = true
    } else {
      if (!/^\d{1,15}$/.test(length)) throw new Error('Content-Length is not a number')
      this.#framing = 'length'
      this.#left = Number(length)
      if (this.#left === 0) this.#finish()
    }
  }

  #takeBody(chunk: Buffer) {
    if (this.#framing === 'chunked') this.#takeChunked(chunk)
    else if (this.#framing === 'close') this.#push(chunk)
    else {
      // Some servers send a body after the answer to HEAD. The answer is good; the socket is not any more.
      const wanted = this.#framing === 'length' ? Math.min(this.#left, chunk.byteLength) : 0
      if (wanted < chunk.byteLength) this.isLast = true
      if (wanted === 0) return
      this.#left -= wanted
      this.#push(wanted === chunk.byteLength ? chunk : chunk.subarray(0, wanted))
      if (this.#left === 0) this.#finish()
    }
  }

  #takeChunked(chunk: Buffer) {
    let bytes = this.#pending.byteLength > 0 ? Buffer.concat([this.#pending, chunk]) : chunk
    this.#pending = Buffer.alloc(0)
    while (bytes.byteLength > 0 && this.#framing === 'chunked') {
      if (this.#left > 2) {
        const part = bytes.subarray(0, this.#left - 2)
        this.#left -= part.byteLength
        this.#push(part)
        bytes = bytes.subarray(part.byteLength)
      } else if (this.#left > 0) {
        const skipped = Math.min(this.#left, bytes.byteLength)
        const lineBreak = this.#left === 2 ? '\r\n' : '\n'
        if (bytes.toString('latin1', 0, skipped) !== lineBreak.slice(0, skipped))
          throw new Error('a chunk is longer than it says')
        this.#left -= skipped
        bytes = bytes.subarray(skipped)
      } else {
        const end = bytes.indexOf('\r\n')
        if (end < 0) {
          if (bytes.byteLength > 1024) throw new Error('the size of a chunk is too long')
          this.#pending = bytes
          return
        }
        const size = /^([0-9a-f]{1,12})\s*(?:;.*)?$/i.exec(bytes.toString('latin1', 0, end))?.[1]
        if (size === undefined) throw new Error('the size of a chunk is not a number')
        if (Number.parseInt(size, 16) === 0) return this.#takeTrailer(bytes)
        this.#left = Number.parseInt(size, 16) + 2
        bytes = bytes.subarray(end + 2)
      }
    }
  }

  /** After the last chunk come trailers, which nobody here needs, and an empty line. */
  #takeTrailer(bytes: Buffer) {
    const end = bytes.indexOf('\r\n\r\n')
    if (end >= 0) {
      if (end + 4 < bytes.byteLength) this.isLast = true
      this.#finish()
    } else if (bytes.byteLength > headerLimit) throw new Error('the trailer is too long')
    else this.#pending = bytes
  }

  #push(chunk: Buffer) {
    if (!this.#stream) {
      this.#chunks.push(chunk)
      // Nobody reads yet: hold the server back.
      if (this.#framing !== 'head' && this.#chunks.length > 4) this.#socket.pause()
    } else if (!this.#stream.push(chunk)) this.#socket.pause()
  }

  /** A server cannot have stored what it has not heard, whatever it says. */
  #isTooEarly(): boolean {
    return this.#status < 300 && !this.#isSent()
  }

  #finish() {
    if (this.#isTooEarly()) throw new Error('it was content before it had heard the whole request')
    this.#framing = 'done'
    this.#stream?.push(null)
    this.#socket.resume()
    this.#ended.resolve(true)
  }

  #asStream(): Readable {
    if (this.#stream) return this.#stream
    const stream = new Readable({
      highWaterMark: 256 * 1024,
      read: () => {
        if (this.#framing !== 'done') this.#socket.resume()
      },
      destroy: (error, callback) => {
        if (this.#framing !== 'done') {
          this.#framing = 'done'
          this.#ended.resolve(false)
        }
        callback(error)
      },
    })
    this.#stream = stream
    // Whoever reads later finds the error then; until that nobody listens, which would end the process.
    stream.on('error', () => undefined)
    for (const chunk of this.#chunks) stream.push(chunk)
    this.#chunks = []
    if (this.#error) stream.destroy(this.#error)
    else if (this.#framing === 'done') stream.push(null)
    return stream
  }

  async #asBytes(limit = 16 << 20): Promise<Buffer> {
    if (this.#framing === 'done' && !this.#stream && !this.#error) {
      const [only] = this.#chunks
      const bytes = this.#chunks.length === 1 && only ? only : Buffer.concat(this.#chunks)
      if (bytes.byteLength > limit) throw tooLong(limit)
      return bytes
    }
    const parts: Buffer[] = []
    let size = 0
    for await (const part of this.#asStream() as AsyncIterable<Buffer>) {
      size += part.byteLength
      if (size > limit) throw tooLong(limit)
      parts.push(part)
    }
    return Buffer.concat(parts, size)
  }
}

function isStream(body: HttpRequest['body']): body is AsyncIterable<Uint8Array> {
  return body !== undefined && !(body instanceof Uint8Array)
}

/**
 * Is it the same to do it twice? By its method (RFC 9110, section 9.2.2; RFC 4918), unless it is a change under a
 * condition, which the first time makes untrue. MOVE and MKCOL are not done twice with the same answer.
 */
function isRepeatable({ method, headers }: HttpRequest): boolean {
  if (/^(?:GET|HEAD|OPTIONS|PROPFIND)$/.test(method)) return true
  return /^(?:PUT|DELETE)$/.test(method) && !('if-match' in headers || 'if-none-match' in headers)
}

/** How the server is told where the body ends. */
function framingOf({ method, body, size }: HttpRequest): string {
  if (isStream(body)) return size === undefined ? 'transfer-encoding: chunked\r\n' : `content-length: ${size}\r\n`
  const isBodyUsual = method === 'PUT' || method === 'POST'
  return body || isBodyUsual ? `content-length: ${body?.byteLength ?? 0}\r\n` : ''
}

function wrongSize(announced: number, found: number, atLeast = ''): StowageError {
  return new StowageError(
    'CORRUPT',
    `A body was announced with ${announced} bytes but has ${atLeast}${found}; it was not stored.`,
  )
}

function tooLong(limit: number): StowageError {
  return new StowageError('CORRUPT', `The answer is longer than ${limit} bytes.`)
}

/** Whoever could write a line break could write headers and requests of his own. */
function checkLines({ method, path, headers }: HttpRequest): void {
  if (!/^[A-Z]+$/.test(method) || !/^[\x21-\x7e]+$/.test(path))
    throw new StowageError('INVALID_ARGUMENT', 'The path of a request has characters that must be percent-encoded.')
  for (const name in headers)
    if (/[^\t\x20-\x7e]/.test(headers[name] ?? ''))
      throw new StowageError('INVALID_ARGUMENT', `The header ${name} has characters that no header can carry.`)
}

/** Names below localhost are this machine (RFC 6761), which not every resolver knows. */
function addressOf(host: string): string {
  return host === 'localhost' || host.endsWith('.localhost') ? '127.0.0.1' : host.replace(/^\[|\]$/g, '')
}

/** The head of an answer, and whether it is the last on its connection. */
function parseHead(text: string): { status: number; headers: Record<string, string>; isLast: boolean } {
  const lines = text.split('\r\n')
  const [, minor, status] = /^HTTP\/1\.([01]) (\d{3})(?: |$)/.exec(lines[0] ?? '') ?? []
  if (status === undefined) throw new Error('the first line is no status')
  const headers: Record<string, string> = Object.create(null)
  for (let i = 1; i < lines.length; i++) {
    const line = lines[i] ?? ''
    const colon = line.indexOf(':')
    const name = line.slice(0, colon).toLowerCase()
    if (colon <= 0 || !/^[\w!#$%&'*+.^`|~-]+$/.test(name)) throw new Error('a header has no name')
    const value = line.slice(colon + 1).trim()
    const before = headers[name]
    headers[name] = before === undefined ? value : `${before}, ${value}`
  }
  // Two lengths: one of them may have been smuggled in (RFC 9112, section 6.3).
  const isAmbiguous = headers['content-length'] !== undefined && headers['transfer-encoding'] !== undefined
  if (isAmbiguous) delete headers['content-length']
  const connection = headers['connection'] ?? ''
  const staysOpen = minor === '1' ? !/\bclose\b/i.test(connection) : /\bkeep-alive\b/i.test(connection)
  return { status: Number(status), headers, isLast: isAmbiguous || !staysOpen }
}
