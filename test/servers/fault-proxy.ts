/** A TCP proxy in this process that does to connections what networks do, at the very byte a test names. */
import { once } from 'node:events'
import * as net from 'node:net'

/** From the client to the server, or back. */
export type Way = 'up' | 'down'

/**
 * What happens. The first four strike when the byte after the first `after` comes this way, counted over all connections
 * from when the fault was set or has last struck: both ends of its connection are reset; its receiver is told in good
 * order that this way has ended, and the rest is swallowed; nothing goes on this way, as if the network had gone; the
 * lowest bit of the byte is turned over. `delay` holds each piece back. The others reset what is open and meet what is
 * new: nobody listens; it is reset at once; it is accepted, and nothing ever comes of it.
 */
export type Fault =
  | { how: 'reset' | 'end' | 'stall' | 'flip'; way: Way; after: number; times?: number }
  | { how: 'delay'; way: Way; ms: number }
  | { how: 'refuse' | 'reset on connect' | 'silent' }

/** The two sockets of a connection, and the ways that are dead. */
type Link = { client: net.Socket; server?: net.Socket; dead: Partial<Record<Way, boolean>> }

/** Relays ports of 127.0.0.1; as good as a direct connection until a fault is set. Disposing of it ends everything. */
export class FaultProxy implements AsyncDisposable {
  /** Bytes that came so far. */
  readonly bytes: Record<Way, number> = { up: 0, down: 0 }
  /** How often the present fault has struck. */
  struck = 0
  readonly #servers: { server: net.Server; host: string; port: number }[]
  readonly #links = new Set<Link>()
  readonly #watchers = new Set<() => void>()
  #fault: Fault | undefined
  #carried = 0

  private constructor(targets: readonly number[], host: string | undefined) {
    this.#servers = targets.map((target) => ({
      server: net.createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client, target)),
      host: host ?? '127.0.0.1',
      port: host === undefined ? 0 : target,
    }))
  }

  /** Listens on a free port for each target; or, where servers tell further ports, on the same ones of another local address. */
  static async open(targets: readonly number[], host?: string): Promise<FaultProxy> {
    const proxy = new FaultProxy(targets, host)
    await proxy.set(undefined)
    return proxy
  }

  /** Where it listens for the first target. */
  get port(): number {
    return this.#servers[0]?.port ?? 0
  }

  /** Connections that clients have open. */
  get live(): number {
    return [...this.#links].filter(({ client }) => !client.destroyed).length
  }

  /** Sets the fault from now on, or none. What an earlier one has stalled stays dead, but its closing is heard. */
  async set(fault: Fault | undefined): Promise<void> {
    this.#fault = fault
    this.#carried = this.struck = 0
    for (const { client, server, dead } of this.#links) {
      if (dead.up) client.resume()
      if (dead.down) server?.resume()
    }
    if (fault && !('way' in fault)) this.#links.forEach(resetBoth)
    for (const each of this.#servers)
      if (fault?.how === 'refuse') each.server.close()
      else if (!each.server.listening) {
        await once(each.server.listen(each.port, each.host), 'listening')
        each.port = (each.server.address() as net.AddressInfo).port
      }
  }

  /** Waits for something to become true of the proxy; rejects when it has not after 20 s. */
  async until(what: string, isTrue: (proxy: this) => boolean): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const late = setTimeout(() => reject(new Error(`It never came to this: ${what} (${this.live} live).`)), 20_000)
    const watch = () => isTrue(this) && resolve()
    this.#watchers.add(watch)
    watch()
    await promise.finally(() => this.#watchers.delete(watch) && clearTimeout(late))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const open = this.#servers.map(({ server }) => server).filter(({ listening }) => listening)
    const closed = open.map(async (server) => once(server.close(), 'close'))
    this.#links.forEach(resetBoth)
    await Promise.all(closed)
  }

  #accept(client: net.Socket, target: number) {
    const link: Link = { client, dead: {} }
    this.#links.add(link)
    const how = this.#fault?.how
    if (how === 'silent' || how === 'reset on connect') this.struck++
    else link.server = net.connect({ host: '127.0.0.1', port: target, allowHalfOpen: true, noDelay: true })
    const { server } = link
    for (const socket of server ? [client, server] : [client])
      socket.on('error', () => resetBoth(link)).on('close', () => this.#close(link))
    if (server) {
      this.#relay(link, 'up', client, server)
      this.#relay(link, 'down', server, client)
    } else if (how === 'silent') client.resume().on('end', () => client.destroy())
    else resetBoth(link)
  }

  #close(link: Link) {
    const { client, server } = link
    if (client.destroyed && server?.writableEnded === false) server.destroy()
    if (server?.destroyed && !client.writableEnded) client.destroy()
    if (client.destroyed && server?.destroyed !== false) this.#links.delete(link)
    for (const watch of this.#watchers) watch()
  }

  #relay(link: Link, way: Way, from: net.Socket, to: net.Socket) {
    from.on('data', (chunk: Buffer) => {
      this.bytes[way] += chunk.byteLength
      if (!link.dead[way]) this.#carry(link, way, chunk, from, to)
      for (const watch of this.#watchers) watch()
    })
    // An end behind bytes that were lost never arrives in good order.
    from.on('end', () => (link.dead[way] && !to.writableEnded ? reset(to) : to.end()))
  }

  #carry(link: Link, way: Way, chunk: Buffer, from: net.Socket, to: net.Socket) {
    const fault = this.#fault && 'way' in this.#fault && this.#fault.way === way ? this.#fault : undefined
    const struck = fault && fault.how !== 'delay' ? this.#strike(fault, chunk.byteLength) : -1
    const before = chunk.subarray(0, Math.max(0, struck))
    if (struck >= 0 && fault?.how !== 'flip') {
      link.dead[way] = true
      if (fault?.how === 'end') to.end(before)
      else to.write(before, () => fault?.how === 'reset' && resetBoth(link))
      if (fault?.how === 'stall') from.pause()
      return
    }
    if (struck >= 0) chunk[struck] = (chunk[struck] ?? 0) ^ 1
    const goOn = () => void (link.dead[way] || from.resume())
    if (fault?.how !== 'delay' && to.write(chunk)) return
    from.pause()
    if (fault?.how === 'delay') setTimeout(() => to.write(chunk, goOn), fault.ms)
    else to.once('drain', goOn)
  }

  /** Where in the next bytes it strikes, or -1. */
  #strike({ after, times = 1 }: { after: number; times?: number }, bytes: number): number {
    const at = after - this.#carried
    this.#carried += bytes
    if (this.struck >= times || at >= bytes) return -1
    this.#carried = 0
    this.struck++
    return at
  }
}

function resetBoth({ client, server }: Link) {
  reset(client)
  if (server) reset(server)
}

/** A socket that is just being shut down cannot be reset: node 24 would never close it, and then spin when it exits. */
function reset(socket: net.Socket) {
  if (socket.writableEnded && !socket.writableFinished) socket.destroy()
  else socket.resetAndDestroy()
}
