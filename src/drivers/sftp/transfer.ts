/** Reading and writing one file with many requests in flight: one at a time would wait a round trip for each. */
import { Readable } from 'node:stream'
import type { Session } from './connection.ts'

/** In flight at once: enough for a line of 100 ms at 40 MB/s. */
const windowBytes = 4 << 20

/** The bytes from `start` to `end` of an open file, as a stream. The handle is closed at its end. */
export function readFile(
  session: Session,
  handle: Buffer,
  { start, end }: { start: number; end: number },
  options: { signal?: AbortSignal | undefined; onShort: () => Error; close: () => void },
): Readable {
  const { signal, onShort, close } = options
  const pieceBytes = session.pieceBytes.read
  const window = Math.ceil(windowBytes / pieceBytes)
  const coming: Promise<Buffer>[] = []
  let asked = start
  const ask = () => {
    // Half a window at a time is one write to the socket instead of many.
    if (coming.length > window / 2 || asked >= end) return
    while (coming.length < window && asked < end) {
      const piece = readPiece(session, handle, asked, Math.min(pieceBytes, end - asked), signal)
      piece.catch(() => undefined) // it fails when its turn comes
      coming.push(piece)
      asked += pieceBytes
    }
  }
  let at = start
  const body = new Readable({
    highWaterMark: 2 * pieceBytes,
    read() {
      ask()
      const next = coming.shift()
      if (!next) this.push(null)
      else
        next.then(
          (bytes) => {
            at += bytes.byteLength
            // A file that was cut while we read it.
            if (at < Math.min(end, asked - coming.length * pieceBytes)) this.destroy(onShort())
            else this.push(bytes)
          },
          (error: unknown) => this.destroy(error as Error),
        )
    },
  })
  return body.once('close', close)
}

/** A piece of a file; shorter only at the end of the file. */
async function readPiece(
  session: Session,
  handle: Buffer,
  position: number,
  length: number,
  signal: AbortSignal | undefined,
): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(length)
  let filled = 0
  while (filled < length) {
    const read = await session.call<number>((done) => {
      const rest = buffer.subarray(filled)
      session.sftp.read(handle, rest, 0, rest.byteLength, position + filled, (error, bytesRead) => {
        // The end of the file is an answer.
        if ((error as { code?: number } | undefined)?.code === 1) done(undefined, 0)
        else done(error, bytesRead)
      })
    }, signal)
    if (read === 0) break
    filled += read
  }
  return buffer.subarray(0, filled)
}

/** Writes a body into an open file, from its beginning. Resolves to its size when the server has answered for all of it. */
export async function writeFile(
  session: Session,
  handle: Buffer,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): Promise<number> {
  const pieceBytes = session.pieceBytes.write
  const window = Math.ceil(windowBytes / pieceBytes)
  const going = new Set<Promise<void>>()
  let failure: { error: unknown } | undefined
  let position = 0
  const send = (bytes: Buffer) => {
    const at = position
    position += bytes.byteLength
    const sent = session
      .call<void>((done) => session.sftp.write(handle, bytes, 0, bytes.byteLength, at, (error) => done(error)), signal)
      .catch((error: unknown) => {
        failure ??= { error }
      })
      .finally(() => going.delete(sent))
    going.add(sent)
  }
  try {
    for await (const chunk of body)
      for (let at = 0; at < chunk.byteLength; at += pieceBytes) {
        while (going.size >= window) await Promise.race(going)
        if (failure) throw failure.error
        send(Buffer.from(chunk.buffer, chunk.byteOffset + at, Math.min(pieceBytes, chunk.byteLength - at)))
      }
  } finally {
    await Promise.all(going)
  }
  if (failure) throw failure.error
  return position
}
