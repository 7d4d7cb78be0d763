/** Files that a web server serves, to read only. Nothing is listed: HTTP knows no directories. */
import { readFileSync } from 'node:fs'
import { StowageError } from '../../core/errors.ts'
import { maxKeyBytes } from '../../core/keys.ts'
import type { StorageUrl } from '../../core/storage-url.ts'
import type { CallOptions, Driver, Entry, FileInfo, ReadOptions } from '../../store/driver.ts'
import { throwIfAborted } from '../../store/driving.ts'
import { prefixed } from '../../store/wrappers/prefix.ts'
import { encoded, infoOf, isEncoded, openFile, sizeOf } from './reading.ts'
import { Site, type SiteOptions } from './site.ts'

/** A file whose size nobody tells is read to find it out, up to this. */
const countedBytes = 64 << 20

/**
 * `http://USER:PASSWORD@host/folder` or `https://…`, with `ca` (a file of certificates to trust), `pki` (a file with a
 * certificate to show, and its key) and `verify` (default true; false takes any certificate).
 */
export function httpFromUrl(url: StorageUrl): Driver {
  return prefixed(httpDriver(siteOf(url, url.scheme === 'https')), url.path)
}

/** Opens a web server. Nothing is contacted yet. */
export function httpDriver(options: SiteOptions): Driver {
  return new HttpDriver(options)
}

/** What URLs of web servers have in common. Rejects with INVALID_ARGUMENT, and INVALID_CONFIG for files that cannot be read. */
export function siteOf({ scheme, host, port, user, password, parameters }: StorageUrl, tls: boolean): SiteOptions {
  const ca = parameters.text('ca')
  const identity = parameters.text('pki')
  const verify = parameters.flag('verify', true)
  parameters.end()
  if (host === '' || !URL.canParse(`http://${host}`))
    throw new StowageError('INVALID_ARGUMENT', `The ${scheme} URL does not name a host.`)
  if ((user === undefined) !== (password === undefined))
    throw new StowageError('INVALID_ARGUMENT', `The ${scheme} URL has a user without a password.`, {
      hint: `Write ${scheme}://USER:PASSWORD@${host}/…, or neither.`,
    })
  return {
    host,
    port: port ?? (tls ? 443 : 80),
    tls,
    verify,
    ...(ca !== undefined && { ca: readPem(ca) }),
    ...(identity !== undefined && { identity: readPem(identity) }),
    ...(user !== undefined && password !== undefined && { login: { user, password } }),
  }
}

class HttpDriver implements Driver {
  readonly location: string
  readonly supports = {
    write: false,
    list: false,
    range: true,
    atomicWrite: false,
    ifAbsent: false,
    ifMatch: false,
    contentType: false,
    metadata: false,
    keyUnderFile: false,
    maxKeyBytes,
    maxPartBytes: maxKeyBytes,
  }
  readonly #site: Site
  #isClosed = false

  constructor(options: SiteOptions) {
    this.#site = new Site(options, options.tls ? 'https' : 'http')
    this.location = this.#site.location
  }

  async read(key: string, options: ReadOptions = {}) {
    this.#check(options)
    const stat = async () => this.stat(key, options)
    return openFile(this.#site, key, options, { stat, isCertain: false })
  }

  async stat(key: string, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(options)
    const head = await this.#site.request({ method: 'HEAD', key, signal: options.signal, accept: [405, 501] })
    await head.bytes()
    if (head.status === 200 && isEncoded(head)) throw encoded(this.#site, key, head)
    const size = sizeOf(head)
    return head.status === 200 && size !== undefined ? infoOf(key, size, head.headers) : this.#measure(key, options)
  }

  // oxlint-disable-next-line require-yield -- it only ever rejects
  async *list(_directory: string, options: CallOptions = {}): AsyncGenerator<Entry> {
    this.#check(options)
    throw new StowageError('UNSUPPORTED', `${this.location} cannot be listed: HTTP knows no directories.`)
  }

  async write(key: string, _body: unknown, options: CallOptions = {}): Promise<FileInfo> {
    this.#check(options)
    throw this.#readOnly('store', key)
  }

  async delete(key: string, options: CallOptions = {}): Promise<void> {
    this.#check(options)
    throw this.#readOnly('delete', key)
  }

  async close() {
    this.#isClosed = true
    await this.#site.close()
  }

  #check({ signal }: CallOptions) {
    if (this.#isClosed) throw new StowageError('CLOSED', `${this.location} was closed.`)
    throwIfAborted(signal)
  }

  /** Where HEAD is not to be had, or says too little: one byte is asked for, and if all come, they are counted. */
  async #measure(key: string, { signal }: CallOptions): Promise<FileInfo> {
    const headers = { range: 'bytes=0-0' }
    const response = await this.#site.request({ method: 'GET', key, headers, signal, accept: [416] })
    if (isEncoded(response)) throw encoded(this.#site, key, response)
    const told = sizeOf(response)
    if (told !== undefined) {
      // Of what is longer than this, the rest is not worth the connection.
      if (response.status === 200 && told > 1 << 16) response.stream().destroy()
      else await response.bytes()
      return infoOf(key, told, response.headers)
    }
    let size = 0
    for await (const chunk of response.stream() as AsyncIterable<Buffer>) {
      size += chunk.byteLength
      if (size > countedBytes)
        throw new StowageError('UNSUPPORTED', `${this.location} does not tell the size of ${key}.`, {
          hint: 'Let it send Content-Length.',
        })
    }
    if (response.status === 200) return infoOf(key, size, response.headers)
    throw new StowageError('UNSUPPORTED', `${this.location} does not tell the size of ${key}.`)
  }

  #readOnly(verb: string, key: string): StowageError {
    return new StowageError('READ_ONLY', `Cannot ${verb} ${key} in ${this.location}: HTTP is only read.`, {
      hint: 'Use webdav:// where the server speaks it.',
    })
  }
}

function readPem(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StowageError('INVALID_CONFIG', `The certificates in ${file} cannot be read: ${code}.`, { cause: error })
  }
}
