/** A web server in this process that answers as a test tells it, wrongly if need be, and remembers what it was asked. */
import { once } from 'node:events'
import * as http from 'node:http'
import type { AddressInfo } from 'node:net'
import { collect } from '../../src/core/bytes.ts'

/** A request that was heard to its end. */
export interface Heard {
  method: string
  path: string
  headers: http.IncomingHttpHeaders
  body: Buffer
  /** It came on a connection that had been used before. */
  isLater: boolean
}

/** What is answered. */
export interface Told {
  status: number
  headers?: Record<string, string>
  body?: string | Uint8Array
}

/** Answers on a free port of 127.0.0.1 until it is disposed of; with nothing, by hanging up. */
export class FakeWeb implements AsyncDisposable {
  readonly heard: Heard[] = []
  readonly #server: http.Server

  private constructor(answer: (request: Heard) => Told | 'nothing') {
    const used = new WeakSet<object>()
    this.#server = http.createServer((incoming, outgoing) => {
      const isLater = used.has(incoming.socket)
      used.add(incoming.socket)
      void collect(incoming as AsyncIterable<Buffer>).then((body) => {
        const { method = '', url = '', headers } = incoming
        const request = { method, path: url, headers, body, isLater }
        this.heard.push(request)
        const told = answer(request)
        if (told === 'nothing') incoming.socket.end()
        else outgoing.writeHead(told.status, told.headers ?? {}).end(told.body)
      })
    })
  }

  static async open(answer: (request: Heard) => Told | 'nothing'): Promise<FakeWeb> {
    const fake = new FakeWeb(answer)
    await once(fake.#server.listen(0, '127.0.0.1'), 'listening')
    return fake
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close')
    this.#server.close()
    this.#server.closeAllConnections()
    await closed
  }
}
