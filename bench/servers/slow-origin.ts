/**
 * A place that looks like S3 and is slow: an object has as many bytes as its key says, each answer comes after a while, and
 * all together go at a rate that is kept by the bytes sent. Its parent process asks it for the number of requests.
 */
import { randomBytes } from 'node:crypto'
import * as http from 'node:http'

const [port, bytesPerSecond = 0, delayMs] = process.argv.slice(2).map(Number)
if (!port || !bytesPerSecond || delayMs === undefined) throw new Error('Give: PORT BYTES-PER-SECOND DELAY-MS')

const pattern = randomBytes(1 << 20)
const pieceBytes = 64 * 1024
let requests = 0
/** When what was sent by now will have been due, in milliseconds of the steady clock. */
let paidUntil = 0

const server = http.createServer((request, response) => {
  requests++
  const size = Number(/\d+$/.exec(request.url ?? '')?.[0])
  const [, from, to] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
  const start = Number(from ?? 0)
  const end = to ? Math.min(size, Number(to) + 1) : size
  response.writeHead(from === undefined ? 200 : 206, {
    etag: '"1"',
    'content-length': end - start,
    'last-modified': 'Thu, 01 Jan 2026 00:00:00 GMT',
    ...(from === undefined ? {} : { 'content-range': `bytes ${start}-${end - 1}/${size}` }),
  })
  setTimeout(() => void send(response, start, end), delayMs)
})
server.listen(port, '127.0.0.1', () => process.send?.('ready'))
process.on('message', () => {
  process.send?.(requests)
  requests = 0
})
process.on('disconnect', () => process.exit())

async function send(response: http.ServerResponse, start: number, end: number) {
  for (let at = start; at < end && !response.destroyed; ) {
    const offset = at % pattern.byteLength
    const piece = pattern.subarray(offset, offset + Math.min(pieceBytes, end - at))
    paidUntil = Math.max(paidUntil, performance.now() - 10) + (piece.byteLength / bytesPerSecond) * 1000
    if (!response.write(piece) && !(await drained(response))) return
    at += piece.byteLength
    // Timers are no finer than a millisecond: what they are late by is caught up with.
    const early = paidUntil - performance.now()
    if (early >= 1) await new Promise((resolve) => setTimeout(resolve, early))
  }
  response.end()
}

/** Resolves when there is room for more; false when nobody wants it any more. */
async function drained(response: http.ServerResponse): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<void>()
  response.once('drain', resolve).once('close', resolve)
  await promise
  response.off('drain', resolve).off('close', resolve)
  return !response.destroyed
}
