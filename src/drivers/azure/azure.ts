/** Azure Blob Storage (learn.microsoft.com/rest/api/storageservices). Containers are never made, and rights on one are enough. */
import { createHash, hash, randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import type { BlobHTTPHeaders, BlobItem, BlobPrefix, BlockBlobUploadOptions } from '@azure/storage-blob'
import { onAbort } from '../../core/abort.ts'
import { codeOf, StowageError } from '../../core/errors.ts'
import { compareKeys } from '../../core/keys.ts'
import { Limit } from '../../core/limit.ts'
import { Pull } from '../../core/pull.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type {
  Body,
  CallOptions,
  Driver,
  Entry,
  FileInfo,
  ListOptions,
  ReadOptions,
  WriteOptions,
} from '../../store/driver.ts'
import { checkSize, guarded, placeOf, throwIfAborted } from '../../store/driving.ts'
import { prefixed } from '../../store/wrappers/prefix.ts'
import { openContainer, signUrl, type AzureAccount, type AzureLogin, type Opened } from './account.ts'
import { explain } from './explain.ts'

/** A file up to this size is one request; a longer one is sent in blocks of it, of which there may be 50,000. */
const blockBytes = 8 << 20
const blocksAtOnce = 4
/** A request with bytes may take longer than one without: as long as they take at 16 kB/s. */
const slowBytesPerMs = 16

/** How a container is reached. */
export interface AzureOptions extends AzureAccount {
  /** So long an answer, and each next piece of one, may take. Default 60 s. */
  timeoutMs?: number
}

/**
 * `azure://ACCOUNT.blob.core.windows.net/container/path` with `access_key`; or `tenant_id`, `client_id` and `client_secret`
 * of a service principal; or `sas_token`; or `anonymous=true`; or nothing, and the usual places are asked for an identity.
 * Emulators: `account` with the account's name in the path, `use_ssl=false`, and a port.
 */
export function azureFromUrl(url: StorageUrl): Driver {
  const { host, port, path, parameters } = url
  const tls = parameters.flag('use_ssl', true)
  const named = parameters.text('account')
  const login = loginOf(url)
  parameters.end()
  const [container = '', ...prefix] = path.split('/')
  if (host === '')
    throw invalid('The azure URL does not name an account.', 'Write azure://ACCOUNT.blob.core.windows.net/CONTAINER.')
  if (container === '')
    throw invalid('The azure URL does not name a container.', 'Its path begins with one: azure://HOST/CONTAINER/….')
  const origin = `${tls ? 'https' : 'http'}://${host}${port === undefined ? '' : `:${port}`}`
  const account = named ?? host.split('.')[0] ?? ''
  const endpoint = named === undefined ? origin : `${origin}/${named}`
  return prefixed(azureDriver({ account, endpoint, container, login }), prefix.join('/'))
}

function loginOf({ user, password, parameters }: StorageUrl): AzureLogin {
  // A "+" of base64 has become a space on its way through the URL.
  const key = parameters.text('access_key')?.replaceAll(' ', '+')
  const token = parameters.text('sas_token')
  const isAnonymous = parameters.flag('anonymous', false)
  const [tenantId, clientId, clientSecret] = ['tenant_id', 'client_id', 'client_secret'].map((name) =>
    parameters.text(name),
  )
  if (user !== undefined || password !== undefined)
    throw invalid('An azure URL has no user and no password.', 'Give the key as ?access_key=….')
  const isPrincipal = [tenantId, clientId, clientSecret].some((value) => value !== undefined)
  if ([key !== undefined, token !== undefined, isAnonymous, isPrincipal].filter(Boolean).length > 1)
    throw invalid('The azure URL says in more than one way who we are.', 'Leave one.')
  if (key !== undefined) return { kind: 'key', key }
  if (token !== undefined) return { kind: 'sas', token: token.replace(/^\?/, '') }
  if (isAnonymous) return { kind: 'anonymous' }
  if (!isPrincipal) return { kind: 'ambient' }
  if (tenantId !== undefined && clientId !== undefined && clientSecret !== undefined)
    return { kind: 'principal', tenantId, clientId, clientSecret }
  throw invalid('A service principal is not complete.', 'Give tenant_id, client_id and client_secret.')
}

/** Opens a container. Nothing is contacted yet. */
export function azureDriver(options: AzureOptions): Driver {
  return new AzureDriver(options)
}

class AzureDriver implements Driver {
  readonly location: string
  readonly supports = {
    write: true,
    list: true,
    range: true,
    atomicWrite: true,
    ifAbsent: true,
    ifMatch: true,
    contentType: true,
    metadata: true,
    keyUnderFile: true,
    confirms: true,
    maxKeyBytes: 1024,
    maxPartBytes: 1024,
    refuses: [
      { pattern: /\\/, reason: 'Azure takes a backslash for a slash.' },
      { pattern: /\.(\/|$)/, reason: 'Azure drops dots at the end of a part of a name.' },
    ],
  }
  readonly #options: AzureOptions
  readonly #timeoutMs: number
  #opened: Promise<Opened> | undefined
  #isClosed = false

  constructor(options: AzureOptions) {
    this.#options = options
    this.#timeoutMs = options.timeoutMs ?? 60_000
    this.location = `azure://${options.endpoint.replace(/^https?:\/\//, '')}/${options.container}`
  }

  async read(key: string, options: ReadOptions = {}) {
    const { start = 0, end } = options.range ?? {}
    try {
      const response = await this.#ask(key, options, async ({ container }, abortSignal) => {
        const count = end === undefined ? undefined : end - start
        return container.getBlobClient(key).download(start, count, { abortSignal, maxRetryRequests: 0 })
      })
      const stream = response.readableStreamBody as Readable
      const total = /\/(\d+)$/.exec(response.contentRange ?? '')?.[1]
      const { lastModified, etag, contentType, metadata } = response
      const contentLength = Number(total ?? response.contentLength)
      const contentMD5 = response.blobContentMD5 ?? (total === undefined ? response.contentMD5 : undefined)
      const info = infoOf(key, { contentLength, lastModified, etag, contentType, metadata, contentMD5 })
      const body = Readable.from(this.#watched(key, stream, options), { objectMode: false })
      return { info, body: body.once('close', () => stream.destroy()) }
    } catch (error) {
      // There is no range in an empty file, nor behind the end of one.
      if (codeOf(error) !== 'UNKNOWN' || !(error as Error).message.includes('InvalidRange')) throw error
      return { info: await this.stat(key, options), body: Readable.from([], { objectMode: false }) }
    }
  }

  async write(key: string, body: Body, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const stop = new AbortController()
    const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
    const blocks = cut(guarded(key, body, options.size, signal))
    try {
      const first = (await blocks.next()).value
      if (!first) return await this.writeBytes(key, Buffer.alloc(0), options)
      const second = (await blocks.next()).value
      if (!second) return await this.writeBytes(key, first, options)
      return await this.#writeBlocks(key, chained([first, second], blocks), options, { stop, signal })
    } finally {
      await blocks.return(undefined)
    }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}): Promise<FileInfo> {
    checkSize(key, bytes.byteLength, options.size)
    const send = async ({ container }: Opened, abortSignal: AbortSignal) =>
      container
        .getBlockBlobClient(key)
        .upload(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), bytes.byteLength, {
          abortSignal,
          ...writeOptions(options),
          transactionalContentMD5: hash('md5', bytes, 'buffer'),
        })
    const { etag } = await this.#conditional(key, options, async () => this.#ask(key, options, send, bytes.byteLength))
    return writtenInfo(key, bytes.byteLength, etag, options)
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    return infoOf(
      key,
      await this.#ask(key, options, async ({ container }, abortSignal) =>
        container.getBlobClient(key).getProperties({ abortSignal }),
      ),
    )
  }

  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    this.#check(options)
    const { container } = await this.#open()
    const prefix = directory === '' ? '' : `${directory}/`
    let continuationToken: string | undefined
    do {
      const page = await this.#ask(undefined, options, async (_, abortSignal) => {
        const settings = { ...(prefix && { prefix }), includeMetadata: true, abortSignal }
        const pages = { maxPageSize: 5000, ...(continuationToken === undefined ? {} : { continuationToken }) }
        const listing =
          options.recursive === false
            ? container.listBlobsByHierarchy('/', settings).byPage(pages)
            : container.listBlobsFlat(settings).byPage(pages)
        return (await listing.next()).value
      })
      const { blobItems, blobPrefixes = [] } = page.segment as { blobItems: BlobItem[]; blobPrefixes?: BlobPrefix[] }
      const entries = [...blobItems.map(entryOf), ...blobPrefixes.map(directoryOf)]
        .filter(({ key }) => isKey(key))
        .filter((entry) => options.after === undefined || compareKeys(placeOf(entry), options.after) > 0)
        .sort((a, b) => compareKeys(placeOf(a), placeOf(b)))
      for (const entry of entries) {
        yield entry
        this.#check(options)
      }
      continuationToken = page.continuationToken || undefined
    } while (continuationToken !== undefined)
  }

  async delete(key: string, options: CallOptions = {}): Promise<void> {
    try {
      await this.#ask(key, options, async ({ container }, abortSignal) =>
        container.getBlobClient(key).delete({ abortSignal, deleteSnapshots: 'include' }),
      )
    } catch (error) {
      if (codeOf(error) !== 'NOT_FOUND') throw error
    }
  }

  async copy(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    const source = await this.stat(from, options)
    if (from === to) return source
    await this.#conditional(to, options, async () =>
      this.#ask(
        to,
        options,
        async ({ container }, abortSignal) => {
          const { url } = container.getBlobClient(from)
          const conditions = options.ifAbsent ? { ifNoneMatch: '*' } : {}
          const poller = await container
            .getBlobClient(to)
            .beginCopyFromURL(url, { abortSignal, conditions, intervalInMs: 250 })
          return poller.pollUntilDone()
        },
        source.size,
      ),
    )
    return this.stat(to, options)
  }

  async signedUrl(key: string, options: { method: 'GET' | 'PUT'; expiresInSeconds: number }): Promise<string> {
    this.#check({})
    if (!(options.expiresInSeconds >= 1))
      throw new StowageError('INVALID_ARGUMENT', 'A signed URL is valid for at least one second.')
    return this.#ask(key, {}, async (opened) => signUrl(this.#options, opened, key, options))
  }

  async close() {
    this.#isClosed = true
  }

  #check({ signal }: CallOptions) {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
  }

  async #open(): Promise<Opened> {
    this.#opened ??= openContainer(this.#options).catch((error: unknown) => {
      this.#opened = undefined
      throw this.#explain(error, undefined, {})
    })
    return this.#opened
  }

  /** Asks for something, for no longer than it may take. */
  async #ask<T>(
    key: string | undefined,
    options: CallOptions,
    work: (opened: Opened, signal: AbortSignal) => Promise<T>,
    bytes = 0,
  ): Promise<T> {
    this.#check(options)
    const opened = await this.#open()
    const { signal } = options
    const stop = new AbortController()
    let isLate = false
    const timer = setTimeout(
      () => {
        isLate = true
        stop.abort()
      },
      this.#timeoutMs + Math.ceil(bytes / slowBytesPerMs),
    )
    const stopListening = onAbort(signal, () => stop.abort())
    try {
      return await work(opened, stop.signal)
    } catch (error) {
      throw this.#explain(error, key, { signal, isLate })
    } finally {
      // What has begun to come, such as the body of a file, has limits of its own.
      clearTimeout(timer)
      stopListening()
    }
  }

  #explain(error: unknown, key: string | undefined, how: { signal?: AbortSignal | undefined; isLate?: boolean }) {
    const { location } = this
    return explain(error, {
      location,
      container: this.#options.container,
      ...(key === undefined ? {} : { key }),
      ...how,
    })
  }

  /** A condition that did not hold is EXISTS or CONFLICT, by which condition it was. */
  async #conditional<T>(key: string, { ifAbsent, ifMatch }: WriteOptions, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      const isRefused = codeOf(error) === 'CONFLICT' || codeOf(error) === 'EXISTS'
      if (ifAbsent && isRefused) throw new StowageError('EXISTS', `The file ${key} is already in ${this.location}.`)
      if (ifMatch !== undefined && (isRefused || codeOf(error) === 'NOT_FOUND'))
        throw new StowageError('CONFLICT', `The file ${key} in ${this.location} is not the version that was expected.`)
      throw error
    }
  }

  /** Blocks belong to nobody until the list of them is committed; the service forgets them after a week. */
  async #writeBlocks(
    key: string,
    blocks: AsyncIterable<Buffer>,
    options: WriteOptions,
    { stop, signal }: { stop: AbortController; signal: AbortSignal },
  ): Promise<FileInfo> {
    const limit = new Limit(blocksAtOnce)
    const upload = randomUUID()
    const ids: string[] = []
    const digest = createHash('md5')
    const sending: Promise<unknown>[] = []
    let failure: { error: unknown } | undefined
    let size = 0
    for await (const block of blocks) {
      if (failure) break
      size += block.byteLength
      digest.update(block)
      const id = Buffer.from(`${upload}-${String(ids.length).padStart(6, '0')}`).toString('base64')
      ids.push(id)
      const sent = limit.run(async () =>
        this.#ask(
          key,
          { signal },
          async ({ container }, abortSignal) =>
            container.getBlockBlobClient(key).stageBlock(id, block, block.byteLength, {
              abortSignal,
              transactionalContentMD5: hash('md5', block, 'buffer'),
            }),
          block.byteLength,
        ),
      )
      sending.push(
        sent.catch((error: unknown) => {
          failure ??= { error }
          stop.abort() // whoever waits for the body is let go
        }),
      )
      // No more blocks are in memory than are on their way, and the one that is being filled.
      if (limit.running >= blocksAtOnce) await Promise.race(sending.slice(-blocksAtOnce))
    }
    await Promise.all(sending)
    if (failure) throw failure.error
    checkSize(key, size, options.size)
    const { blobHTTPHeaders, ...rest } = writeOptions(options)
    const headers: BlobHTTPHeaders = { ...blobHTTPHeaders, blobContentMD5: digest.digest() }
    const { etag } = await this.#conditional(key, options, async () =>
      this.#ask(key, options, async ({ container }, abortSignal) =>
        container.getBlockBlobClient(key).commitBlockList(ids, { abortSignal, blobHTTPHeaders: headers, ...rest }),
      ),
    )
    return writtenInfo(key, size, etag, options)
  }

  /** A body that fails in our words, and when nothing comes for too long. */
  async *#watched(key: string, stream: Readable, options: CallOptions): AsyncGenerator<Buffer> {
    const pull = new Pull<Buffer>(stream as AsyncIterable<Buffer>)
    const late = () => pull.leave(new StowageError('TIMEOUT', `${key} in ${this.location} stopped coming.`))
    const stopListening = onAbort(options.signal, () =>
      pull.leave(new StowageError('ABORTED', 'The call was cancelled.', { cause: options.signal?.reason })),
    )
    try {
      for (;;) {
        const timer = setTimeout(late, this.#timeoutMs)
        const chunk = await pull.next().finally(() => clearTimeout(timer))
        if (!chunk) return
        yield chunk
      }
    } catch (error) {
      throw error instanceof StowageError ? error : this.#explain(error, key, { signal: options.signal })
    } finally {
      stopListening()
      stream.destroy()
    }
  }
}

/** Cuts a body into blocks; the last is shorter. */
async function* cut(body: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, undefined> {
  let block = Buffer.allocUnsafe(blockBytes)
  let filled = 0
  for await (const chunk of body)
    for (let at = 0; at < chunk.byteLength; ) {
      const taken = Math.min(chunk.byteLength - at, blockBytes - filled)
      block.set(chunk.subarray(at, at + taken), filled)
      at += taken
      filled += taken
      if (filled < blockBytes) continue
      yield block
      block = Buffer.allocUnsafe(blockBytes)
      filled = 0
    }
  if (filled > 0) yield block.subarray(0, filled)
}

async function* chained(first: readonly Buffer[], rest: AsyncGenerator<Buffer>): AsyncGenerator<Buffer> {
  yield* first
  yield* rest
}

function writeOptions(
  options: WriteOptions,
): Pick<BlockBlobUploadOptions, 'blobHTTPHeaders' | 'metadata' | 'conditions'> {
  const { contentType, cacheControl, metadata = {}, modified, ifAbsent, ifMatch } = options
  for (const [name, value] of Object.entries(metadata)) {
    if (!/^[A-Za-z_]\w*$/.test(name))
      throw invalid(`Azure takes no metadata named ${JSON.stringify(name)}.`, 'Use letters, digits and "_".')
    if (!/^[\x20-\x7e]*$/.test(value))
      throw invalid(`The metadata ${name} has characters that no header can carry.`, 'Use ASCII, or encode the value.')
  }
  return {
    blobHTTPHeaders: {
      ...(contentType === undefined ? {} : { blobContentType: contentType }),
      ...(cacheControl === undefined ? {} : { blobCacheControl: cacheControl }),
    },
    // The way rclone keeps modification times.
    metadata: { ...metadata, ...(modified ? { mtime: modified.toISOString() } : {}) },
    conditions: {
      ...(ifAbsent ? { ifNoneMatch: '*' } : {}),
      ...(ifMatch === undefined ? {} : { ifMatch: `"${ifMatch}"` }),
    },
  }
}

interface Properties {
  contentLength?: number | undefined
  lastModified?: Date | undefined
  etag?: string | undefined
  contentType?: string | undefined
  contentMD5?: Uint8Array | undefined
  metadata?: Record<string, string> | undefined
}

function infoOf(
  key: string,
  { contentLength = 0, lastModified, etag, contentType, contentMD5, metadata = {} }: Properties,
): FileInfo {
  const { mtime, ...own } = metadata
  const kept = new Date(mtime ?? Number.NaN)
  const modified = Number.isNaN(kept.getTime()) ? lastModified : kept
  return {
    key,
    size: contentLength,
    ...(modified ? { modified } : {}),
    ...(etag ? { etag: etag.replaceAll('"', '') } : {}),
    ...(contentType ? { contentType } : {}),
    ...(Object.keys(own).length > 0 ? { metadata: own } : {}),
    ...(contentMD5 && contentMD5.byteLength === 16
      ? { digests: { md5: Buffer.from(contentMD5).toString('hex') } }
      : {}),
  }
}

function entryOf({ name, properties, metadata }: BlobItem): Entry {
  return { kind: 'file', ...infoOf(name, { ...properties, ...(metadata ? { metadata } : {}) } as Properties) }
}

function directoryOf({ name }: BlobPrefix): Entry {
  return { kind: 'directory', key: name.replace(/\/$/, '') }
}

/** Others may have stored what is no key for us: names with empty parts, or with dots for parts. */
function isKey(key: string): boolean {
  return key !== '' && key.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
}

function writtenInfo(
  key: string,
  size: number,
  etag: string | undefined,
  { contentType, metadata }: WriteOptions,
): FileInfo {
  return {
    key,
    size,
    ...(etag ? { etag: etag.replaceAll('"', '') } : {}),
    ...(contentType ? { contentType } : {}),
    ...(metadata ? { metadata } : {}),
  }
}

function invalid(message: string, hint: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, { hint })
}
