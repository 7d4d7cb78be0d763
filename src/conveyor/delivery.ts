/** Sends one file to one store, and proves that what arrived is what was meant. */
import { createHash } from 'node:crypto'
import { closeSync, constants, fstatSync, lstatSync, openSync, readSync, statSync, type BigIntStats } from 'node:fs'
import { isUtf8 } from 'node:buffer'
import { lookup } from 'mrmime'
import { codeOf, StowageError } from '../core/errors.ts'
import { FileBody } from '../core/file-body.ts'
import { cleanKey } from '../core/keys.ts'
import type { FileInfo, LinkKind, WriteOptions } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import type { Store } from '../store/store.ts'
import { changedMeanwhile, identityOf, isSame, type Original } from './original.ts'

/** Up to this size a file is read whole, at once: for many small files that costs half of what a stream does. */
const smallBytes = 256 * 1024

/** What was sent. */
export interface Sent {
  size: number
  /** SHA-256 of the bytes sent, lower-case hex. */
  digest: string
  /** It is a link to the original that was put there. */
  link?: LinkKind
}

/** How a file is sent. */
export interface SendOptions {
  /** The header Cache-Control, where the place can keep it. */
  cacheControl?: string
  signal?: AbortSignal
}

/**
 * Stores a file under a key, replacing what is there. When the file is the original itself and changes while it is
 * read, nothing is stored and the call rejects with a retryable CONFLICT. Rejects with CORRUPT when the store reports
 * another size or digest than what was sent.
 */
export async function send(
  store: Store,
  key: string,
  file: string,
  original: Original,
  options: SendOptions = {},
): Promise<Sent> {
  const small = file !== original.file || original.size <= smallBytes ? readSmall(file, original) : undefined
  const contentType = await contentTypeOf(store, key, small ?? file)
  const write: WriteOptions = {
    modified: new Date(Number(original.mtimeNs / 1_000_000n)),
    ...options,
    ...(contentType === undefined ? {} : { contentType }),
  }
  if (small) {
    const info = await store.put(key, small, write)
    return verified(store, key, info, small.byteLength, createHash('sha256').update(small).digest('hex'))
  }
  const hash = createHash('sha256')
  let before: ReturnType<typeof identityOf> | undefined
  const body = new FileBody(file, {
    onOpen: (stats) => {
      before = identityOf(stats)
      if (file === original.file && !isSame(before, original)) throw changedMeanwhile(original)
    },
    onBytes: (bytes) => hash.update(bytes),
    // At the end it must still be what it was at the start, or the body fails and nothing is stored.
    onEnd: (stats) => {
      if (before && !isSame(identityOf(stats), before)) throw changedMeanwhile(original)
    },
  })
  const size = file === original.file ? original.size : statSync(file).size
  const info = await store.put(key, body, { ...write, size }).catch((error: unknown) => {
    throw isErrno(error) ? explain(error, file) : error
  })
  return verified(store, key, info, size, hash.digest('hex'))
}

/**
 * Puts a link to the original under a key. Undefined where the store cannot: then it is to be sent. Rejects like
 * {@link send} when the original changes meanwhile.
 */
export async function link(
  store: Store,
  key: string,
  original: Original,
  kind: LinkKind,
  signal: AbortSignal,
): Promise<Sent | undefined> {
  if (!store.driver.link) return undefined
  const hash = createHash('sha256')
  const isUnchanged = (stats: BigIntStats | undefined) => {
    if (!stats?.isFile() || !isSame(identityOf(stats), original)) throw changedMeanwhile(original)
  }
  try {
    const body = new FileBody(original.file, { onOpen: isUnchanged, onEnd: isUnchanged })
    for await (const bytes of body) {
      throwIfAborted(signal)
      hash.update(bytes)
    }
    await store.driver.link(cleanKey(key), original.file, kind, { signal })
  } catch (error) {
    if (codeOf(error) === 'UNSUPPORTED') return undefined
    throw isErrno(error) ? explain(error, original.file) : error
  }
  isUnchanged(lstatSync(original.file, { bigint: true, throwIfNoEntry: false }))
  return { size: original.size, digest: hash.digest('hex'), link: kind }
}

/**
 * The content type by the name, for places that keep it. Text says that it is UTF-8 when it is, so that no browser has to
 * guess; of other text nobody knows.
 */
async function contentTypeOf(store: Store, key: string, content: Buffer | string): Promise<string | undefined> {
  const type = lookup(key)
  if (!type?.startsWith('text/') || !store.supports.contentType) return type
  const isKnown = typeof content === 'string' ? await isUtf8File(content) : isUtf8(content)
  return isKnown ? `${type}; charset=utf-8` : type
}

async function isUtf8File(file: string): Promise<boolean> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  try {
    for await (const bytes of new FileBody(file)) decoder.decode(bytes, { stream: true })
    decoder.decode()
    return true
  } catch (error) {
    if (error instanceof TypeError) return false
    throw isErrno(error) ? explain(error, file) : error
  }
}

/** SHA-256 of what a store holds under a key. */
export async function digestAt(store: Store, key: string, signal?: AbortSignal): Promise<Sent> {
  const hash = createHash('sha256')
  let size = 0
  const { body } = await store.open(key, signal ? { signal } : {})
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    hash.update(chunk)
    size += chunk.byteLength
  }
  return { size, digest: hash.digest('hex') }
}

function verified(store: Store, key: string, info: FileInfo, size: number, digest: string): Sent {
  const theirs = info.digests?.sha256
  if (info.size !== size || (theirs !== undefined && theirs !== digest))
    throw new StowageError('CORRUPT', `${key} arrived in ${store.location} as something else than what was sent.`, {
      hint: 'It is sent again.',
      retryable: true,
    })
  return { size, digest }
}

/** All bytes of a small file; undefined when it is a large one. The original must stay as it was while it is read. */
function readSmall(file: string, original: Original): Buffer | undefined {
  const descriptor = open(file)
  try {
    const stats = fstatSync(descriptor, { bigint: true })
    const isOriginal = file === original.file
    if (isOriginal && !isSame(identityOf(stats), original)) throw changedMeanwhile(original)
    const size = Number(stats.size)
    if (size > smallBytes) return undefined
    const bytes = Buffer.allocUnsafe(size + 1)
    let length = 0
    for (let read = 1; read > 0 && length <= size; length += read)
      read = readSync(descriptor, bytes, length, bytes.byteLength - length, length)
    if (length !== size || (isOriginal && !isSame(identityOf(fstatSync(descriptor, { bigint: true })), original)))
      throw changedMeanwhile(original)
    return bytes.subarray(0, size)
  } finally {
    closeSync(descriptor)
  }
}

/** Is it the file's own failure, as node tells it? */
function isErrno(error: unknown): boolean {
  return error instanceof Error && !(error instanceof StowageError) && 'errno' in error
}

function open(file: string): number {
  try {
    return openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (error) {
    throw explain(error, file)
  }
}

function explain(error: unknown, file: string): StowageError {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'ENOENT')
    return new StowageError('CONFLICT', `${file} vanished while it was being read.`, { cause: error, retryable: true })
  const hint =
    code === 'EACCES' ? 'Give the user that runs Stowage the right to read it, then run `stowage retry`.' : undefined
  return new StowageError(
    code === 'EACCES' || code === 'ELOOP' ? 'DENIED' : 'UNKNOWN',
    `Cannot read ${file}: ${code}.`,
    {
      cause: error,
      ...(hint ? { hint } : {}),
    },
  )
}
