/** Does a public address give what was delivered? */
import { createHash } from 'node:crypto'
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import { throwIfAborted } from '../store/driving.ts'

/** What is to be there. */
interface Expected {
  size: number
  /** SHA-256, lower-case hex; empty where nobody knows it. */
  digest: string
}

interface Options {
  /** Read it and compare its bytes. Default: only what the answer to a HEAD says. */
  content?: boolean
  signal?: AbortSignal
  /** How long an answer, and then each piece of it, may take. Default 30 s. */
  limitMs?: number
}

/** Such servers do not answer HEAD, and may answer GET. */
const withoutHead = new Set([405, 501])

/**
 * Asks an address, following redirections, for status 200 and the right length. Rejects with NOT_FOUND, DENIED or CORRUPT
 * when that is not what it gives, and with a retryable error when it cannot be asked now.
 */
export async function checkServed(url: string, expected: Expected, options: Options = {}): Promise<void> {
  const { content = false, signal, limitMs = 30_000 } = options
  const stop = new AbortController()
  const timer = setTimeout(() => stop.abort(), limitMs)
  const stopListening = onAbort(signal, () => stop.abort())
  try {
    const isRead = content && expected.digest !== ''
    const length = isRead ? undefined : await announced(url, stop.signal)
    if (length === undefined) await read(url, expected, stop.signal, timer)
    else checkLength(url, length, expected)
  } catch (error) {
    throwIfAborted(signal)
    if (error instanceof StowageError) throw error
    if (stop.signal.aborted) throw new StowageError('TIMEOUT', `${url} is silent for ${limitMs / 1000} s.`)
    const { cause = error } = error as Error
    const { code, message } = cause as NodeJS.ErrnoException
    throw new StowageError('UNREACHABLE', `${url} cannot be reached: ${code ?? message}.`, { cause: error })
  } finally {
    clearTimeout(timer)
    stopListening()
  }
}

/** The length by the answer to a HEAD; undefined where only reading tells. */
async function announced(url: string, signal: AbortSignal): Promise<number | undefined> {
  const response = await ask(url, 'HEAD', signal)
  if (withoutHead.has(response.status)) return undefined
  checkStatus(url, response)
  const length = response.headers.get('content-length')
  return length === null || response.headers.has('content-encoding') ? undefined : Number(length)
}

async function read(url: string, expected: Expected, signal: AbortSignal, timer: NodeJS.Timeout): Promise<void> {
  const response = await ask(url, 'GET', signal)
  if (response.status !== 200) await response.body?.cancel()
  checkStatus(url, response)
  const hash = createHash('sha256')
  let size = 0
  for await (const bytes of response.body ?? []) {
    timer.refresh()
    hash.update(bytes)
    size += bytes.byteLength
    if (size > expected.size) break
  }
  checkLength(url, size, expected)
  if (expected.digest !== '' && hash.digest('hex') !== expected.digest)
    throw new StowageError('CORRUPT', `${url} gives other bytes than were delivered.`)
}

async function ask(url: string, method: 'HEAD' | 'GET', signal: AbortSignal): Promise<Response> {
  // Compressed, it would have another length.
  return fetch(url, { method, signal, headers: { 'accept-encoding': 'identity' } })
}

function checkLength(url: string, size: number, expected: Expected) {
  if (size === expected.size) return
  const what = size > expected.size ? 'more' : `${size}`
  throw new StowageError('CORRUPT', `${url} gives ${what} bytes instead of ${expected.size}.`)
}

function checkStatus(url: string, { status }: Response) {
  if (status === 200) return
  const isTrouble = status === 408 || status === 429 || status >= 500
  const code = status === 401 || status === 403 ? 'DENIED' : 'NOT_FOUND'
  throw new StowageError(isTrouble ? 'UNREACHABLE' : code, `${url} is answered with status ${status}.`)
}
