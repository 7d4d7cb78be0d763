/**
 * Files on a WebDAV server (RFC 4918). Directories are made as keys need them, and stay: WebDAV deletes a directory with
 * all that is in it, also what another client has stored there a moment ago, so an empty one is never taken away.
 */
import { randomUUID } from 'node:crypto'
import { StowageError } from '../../core/errors.ts'
import { maxKeyBytes } from '../../core/keys.ts'
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
import { checkSize, guarded, throwIfAborted, walk } from '../../store/driving.ts'
import { prefixed } from '../../store/wrappers/prefix.ts'
import type { HttpResponse } from '../http-client.ts'
import { siteOf } from '../http/http.ts'
import { openFile } from '../http/reading.ts'
import { Site, type SiteOptions } from '../http/site.ts'
import { Dav, parentOf, type Found } from './dav.ts'

/** Where files are while they are written, unless the server does that itself. Not a key, never listed. */
const temporaryDirectory = '.stowage-tmp'
/** When it was begun, and what makes it the only one. */
const temporaryName = /\/([0-9a-z]{8,9})-[0-9a-f-]{36}$/
/** What has been there for longer was left by a process that died. */
const temporaryMs = 7 * 24 * 3_600_000
/** A body up to this size is sent from memory: again if need be, and on a connection that is open. */
const gatheredBytes = 256 << 10
/** So long a failed write waits for its traces to go. */
const cleaningMs = 2000

/** What a PUT may be sent straight to its key: because the server itself replaces in one step, and only with what is whole. */
export type DirectPut = 'never' | 'sized' | 'always'

/** How a server is reached. */
export interface WebdavOptions extends SiteOptions {
  /** The directory in which everything lies, and temporary files too. Default: the root of the server. */
  home?: string
  /** Default: by what the server says of itself. */
  directPut?: DirectPut
}

/**
 * `webdav://USER:PASSWORD@host/folder`, or `webdavs://…` over TLS, with `ca` (a file of certificates to trust), `pki` (a
 * file with a certificate to show, and its key) and `verify` (default true; false takes any certificate).
 */
export function webdavFromUrl(url: StorageUrl): Driver {
  const options = siteOf(url, url.scheme === 'webdavs')
  return prefixed(webdavDriver({ ...options, home: url.path }), url.path)
}

/** Opens a WebDAV server; keys are paths on it. Nothing is contacted yet. */
export function webdavDriver(options: WebdavOptions): Driver {
  return new WebdavDriver(options)
}

class WebdavDriver implements Driver {
  readonly location: string
  readonly supports = {
    write: true,
    list: true,
    range: true,
    // Never half a file; but where a rename takes away what it replaces, there is a moment without either.
    atomicWrite: false,
    ifAbsent: false,
    ifMatch: false,
    contentType: false,
    metadata: false,
    keyUnderFile: false,
    maxKeyBytes,
    maxPartBytes: 255,
    refuses: [
      {
        pattern: /(^|\/)(\.DAV(\/|$)|\.davfs\.tmp)/,
        reason: 'Names like .DAV and .davfs.tmp are kept by Apache for itself: it would not list them.',
      },
    ],
  }
  readonly #site: Site
  readonly #dav: Dav
  readonly #home: string
  readonly #temporary: string
  #directPut: DirectPut | undefined
  #isReady = false
  #hidesDots: boolean | undefined
  #isClosed = false

  constructor({ home = '', directPut, ...options }: WebdavOptions) {
    this.#site = new Site(options, options.tls ? 'webdavs' : 'webdav')
    this.#dav = new Dav(this.#site)
    this.#home = home
    this.#temporary = home === '' ? temporaryDirectory : `${home}/${temporaryDirectory}`
    this.#directPut = directPut
    this.location = this.#site.location
  }

  async read(key: string, options: ReadOptions = {}) {
    this.#check(options, key)
    const stat = async () => this.stat(key, options)
    return openFile(this.#site, key, options, { stat, isCertain: true })
  }

  async write(key: string, body: Body, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options, key)
    const stop = new AbortController()
    const signal = options.signal ? AbortSignal.any([options.signal, stop.signal]) : stop.signal
    const flow = guarded(key, body, options.size, signal)
    try {
      const start: Uint8Array[] = []
      let size = 0
      for (let next = await flow.next(); !next.done; next = await flow.next()) {
        start.push(next.value)
        size += next.value.byteLength
        if (size > gatheredBytes) return await this.#upload(key, new Counted(start, flow), options.size, options)
      }
      return await this.writeBytes(key, Buffer.concat(start, size), options)
    } finally {
      // Whoever still waits for a body that is silent is let go.
      stop.abort()
      await flow.return(undefined)
    }
  }

  async writeBytes(key: string, bytes: Uint8Array, options: WriteOptions = {}): Promise<FileInfo> {
    this.#check(options, key)
    checkSize(key, bytes.byteLength, options.size)
    return this.#upload(key, bytes, bytes.byteLength, options)
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(options, key)
    const found = await this.#dav.find(key, options.signal)
    if (found?.kind !== 'file') throw this.#dav.absent(key)
    return found.info
  }

  /** A directory is an entry whether or not there are files in it. */
  async *list(directory: string, options: ListOptions = {}): AsyncGenerator<Entry> {
    this.#check(options, directory)
    const children = async (below: string) => {
      const entries = await this.#dav.children(below, options.signal)
      return below === this.#home ? entries.filter(({ key }) => key !== this.#temporary) : entries
    }
    yield* walk(children, directory, options)
  }

  async delete(key: string, options: CallOptions = {}): Promise<void> {
    this.#check(options, key)
    await this.#dav.delete(key, options.signal)
  }

  /** The copy is made under a temporary name: servers show a copy that is not yet complete. */
  async copy(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    this.#check(options, to)
    this.#refuse(to, options)
    const info = await this.stat(from, options)
    if (from === to) return info
    const { signal } = options
    await this.#byTemporary(to, signal, async (temporary) => this.#dav.transfer('COPY', [from, temporary], signal))
    return this.#written(to, info.size, { signal, mayRepeat: true })
  }

  async move(from: string, to: string, options: CallOptions & { ifAbsent?: boolean } = {}): Promise<FileInfo> {
    this.#check(options, to)
    this.#refuse(to, options)
    const info = await this.stat(from, options)
    if (from === to) return info
    const { signal } = options
    const isSame = (target: Found | undefined) =>
      target?.kind === 'file' && target.info.etag === info.etag && target.info.size === info.size
    await this.#checkListed(to, signal)
    await this.#explained(to, signal, async () => this.#dav.transfer('MOVE', [from, to], signal, isSame))
    return this.#written(to, info.size, { signal, mayRepeat: false })
  }

  async close() {
    this.#isClosed = true
    await this.#site.close()
  }

  #check({ signal }: CallOptions, key = '') {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
    if (key === this.#temporary || key.startsWith(`${this.#temporary}/`))
      throw new StowageError('INVALID_KEY', `The name ${temporaryDirectory} is kept for files being written.`)
  }

  /** Servers look whether a file is there, and write it then: two who ask at once are both told that it is not. */
  #refuse(key: string, { ifAbsent, ifMatch }: WriteOptions) {
    if (ifAbsent)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot store ${key} only where there is no file.`)
    if (ifMatch !== undefined)
      throw new StowageError('UNSUPPORTED', `${this.location} cannot replace only a certain version of ${key}.`)
  }

  async #upload(
    key: string,
    body: Uint8Array | Counted,
    size: number | undefined,
    options: WriteOptions,
  ): Promise<FileInfo> {
    this.#refuse(key, options)
    const { signal } = options
    const put = async (target: string) => {
      // What can be sent only once finds its directory there, and the server knowing who we are.
      if (body instanceof Counted) await this.#dav.makeDirectory(parentOf(target), signal)
      await this.#dav.put(target, { body, size, headers: headersOf(options) }, signal)
    }
    const directPut = (this.#directPut ??= await this.#askForDirectPut(signal))
    if (directPut === 'always' || (directPut === 'sized' && size !== undefined))
      await this.#explained(key, signal, async () => put(key))
    else
      await this.#byTemporary(key, signal, async (temporary) => {
        await put(temporary)
        if (size === undefined) await this.#checkStored(temporary, key, body.byteLength, signal)
      })
    return this.#written(key, body.byteLength, { signal, mayRepeat: body instanceof Uint8Array })
  }

  /** Lets `fill` make a temporary file, and puts that under its key. Nothing remains of a failure. */
  async #byTemporary(key: string, signal: AbortSignal | undefined, fill: (temporary: string) => Promise<void>) {
    await this.#makeReady(signal)
    await this.#checkListed(key, signal)
    const temporary = `${this.#temporary}/${Date.now().toString(36)}-${randomUUID()}`
    try {
      await fill(temporary)
      // Nobody else moves what nobody else knows.
      const isDone = () => true
      await this.#explained(key, signal, async () => this.#dav.transfer('MOVE', [temporary, key], signal, isDone))
    } catch (error) {
      // What went wrong first is what counts.
      await this.#dav.delete(temporary, AbortSignal.timeout(cleaningMs)).catch(() => undefined)
      throw error
    }
  }

  async #explained(key: string, signal: AbortSignal | undefined, work: () => Promise<void>) {
    try {
      await work()
    } catch (error) {
      throw error instanceof StowageError ? await this.#dav.obstacle(key, error, signal) : error
    }
  }

  /** Some servers take a body of unknown length for an empty one. */
  async #checkStored(temporary: string, key: string, size: number, signal: AbortSignal | undefined) {
    const found = await this.#dav.find(temporary, signal)
    const stored = found?.kind === 'file' ? found.info.size : 0
    if (stored !== size)
      throw new StowageError('CORRUPT', `${this.location} stored ${stored} of the ${size} bytes of ${key}.`, {
        hint: 'It may not take bodies of unknown length; tell the size.',
      })
  }

  /**
   * What is known of a file that was just stored, unless somebody else has replaced it since. When the server cannot be
   * asked, what can be done again fails; what cannot is stored all the same.
   */
  async #written(key: string, size: number, call: { signal: AbortSignal | undefined; mayRepeat: boolean }) {
    const found = await this.#dav.find(key, call.signal).catch((error: unknown) => {
      if (error instanceof StowageError && error.retryable && !call.mayRepeat) return undefined
      throw error
    })
    return found?.kind === 'file' && found.info.size === size ? found.info : { key, size }
  }

  /** Renaming over a file has a moment without either on many servers, so where PUT does better it is used. */
  async #askForDirectPut(signal: AbortSignal | undefined): Promise<DirectPut> {
    const request = { method: 'OPTIONS', key: this.#home, isDirectory: true, signal, accept: [403, 404, 405, 501] }
    const response = await this.#site.request(request)
    await response.bytes()
    return directPutOf(response)
  }

  /** nginx lists no name that begins with a dot: what is stored under it would not be found again. */
  async #checkListed(key: string, signal: AbortSignal | undefined) {
    if (!/(^|\/)\./.test(key.slice(this.#home.length))) return
    if (this.#hidesDots === undefined) {
      await this.#makeReady(signal)
      const listed = await this.#dav.children(this.#home, signal)
      this.#hidesDots = !listed.some((entry) => entry.key === this.#temporary)
    }
    if (this.#hidesDots)
      throw new StowageError('INVALID_KEY', `${key} cannot be stored in ${this.location}.`, {
        hint: 'The server lists no names that begin with a dot.',
      })
  }

  /** Makes the directory of temporary files, and removes from it what is old. */
  async #makeReady(signal: AbortSignal | undefined) {
    if (this.#isReady) return
    await this.#dav.makeDirectory(this.#temporary, signal)
    if (this.#isReady) return
    this.#isReady = true
    for (const { kind, key } of await this.#dav.children(this.#temporary, signal)) {
      const begun = temporaryName.exec(key)?.[1]
      if (kind === 'file' && begun !== undefined && Number.parseInt(begun, 36) < Date.now() - temporaryMs)
        await this.#dav.delete(key, signal).catch(() => undefined)
    }
  }
}

/** mod_dav_fs writes to a temporary file and renames it. So does Nextcloud, but only Content-Length tells it what is whole. */
function directPutOf({ headers }: HttpResponse): DirectPut {
  const dav = headers['dav'] ?? ''
  if (headers['server']?.startsWith('Apache') && dav.includes('<http://apache.org/dav/propset/fs/')) return 'always'
  return /\b(oc-resource-sharing|nextcloud-checksum-update)\b/.test(dav) ? 'sized' : 'never'
}

function headersOf({ contentType, modified }: WriteOptions): Record<string, string> {
  return {
    ...(contentType === undefined ? {} : { 'content-type': contentType }),
    // Nextcloud and ownCloud keep it; others pass it over.
    ...(modified === undefined ? {} : { 'x-oc-mtime': String(Math.floor(modified.getTime() / 1000)) }),
  }
}

/** A body of which the start has been read already, counted as it goes. */
class Counted implements AsyncIterable<Uint8Array> {
  byteLength = 0
  readonly #start: readonly Uint8Array[]
  readonly #rest: AsyncGenerator<Uint8Array>

  constructor(start: readonly Uint8Array[], rest: AsyncGenerator<Uint8Array>) {
    this.#start = start
    this.#rest = rest
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    for (const chunk of this.#start) yield this.#counted(chunk)
    for await (const chunk of this.#rest) yield this.#counted(chunk)
  }

  #counted(chunk: Uint8Array): Uint8Array {
    this.byteLength += chunk.byteLength
    return chunk
  }
}
