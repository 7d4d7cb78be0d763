/**
 * A place that looks like S3 and is slow: one object of so many bytes, each answer after a while, and all answers together at
 * a rate that is kept by the bytes sent. Its parent process asks it how often the object was asked for.
 */
import { once } from 'node:events'
import { randomBytes } from 'node:crypto'
import * as http from 'node:http'

const [port, size = 0, bytesPerSecond = 0, delayMs] = process.argv.slice(2).map(Number)
if (!port || !size || !bytesPerSecond || delayMs === undefined)
  throw new Error('Give: PORT SIZE BYTES-PER-SECOND DELAY-MS')

const pattern = randomBytes(1 << 20)
const pieceBytes = 64 * 1024
let fetches = 0
/** When what was sent by now will have been due, in milliseconds of the steady clock. */
let paidUntil = 0

const server = http.createServer((request, response) => {
  fetches++
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
  process.send?.(fetches)
  fetches = 0
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

/** Resolves when there is room for more: false when nobody wants it any more. */
async function drained(response: http.ServerResponse): Promise<boolean> {
  const stop = new AbortController()
  response.once('close', () => stop.abort())
  return once(response, 'drain', { signal: stop.signal }).then(
    () => true,
    () => false,
  )
}
