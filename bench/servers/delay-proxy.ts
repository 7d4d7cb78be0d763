/** A TCP proxy that adds latency: each piece of data arrives so many milliseconds later, in both directions together. */
import * as net from 'node:net'

const [listen, target, delayMs] = process.argv.slice(2).map(Number)
if (!listen || !target || delayMs === undefined) throw new Error('Give: LISTEN-PORT TARGET-PORT DELAY-MS')

const server = net.createServer((client) => {
  client.setNoDelay(true)
  const upstream = net.connect(target, '127.0.0.1').setNoDelay(true)
  forward(client, upstream, delayMs / 2)
  forward(upstream, client, delayMs / 2)
})
server.listen(listen, '127.0.0.1', () => console.log('ready'))

/** Order is kept: timers of one length fire in the order they were set. */
function forward(from: net.Socket, to: net.Socket, ms: number) {
  from.on('data', (data) => {
    // At most what one delay holds is on its way; the sender is held back by the kernel's own buffers beyond that.
    setTimeout(() => to.writable && to.write(data), ms)
  })
  from.on('end', () => setTimeout(() => to.end(), ms))
  from.on('error', () => to.destroy())
  to.on('close', () => from.destroy())
}
