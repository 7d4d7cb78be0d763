/** The methods of WebDAV (RFC 4918) on files, with what servers do differently, and what two clients do at once. */
import { StowageError } from '../../core/errors.ts'
import type { Entry, FileInfo } from '../../store/driver.ts'
import type { HttpRequest } from '../http-client.ts'
import { drain, IsDirectory, type Site } from '../http/site.ts'
import { propfindBody, readMultistatus, type Resource } from './multistatus.ts'

/** What is at a key. */
export type Found = { kind: 'directory' } | { kind: 'file'; info: FileInfo; rawEtag: string | undefined }

/** The bytes of a PUT. */
export interface Payload {
  body: NonNullable<HttpRequest['body']>
  /** Of a stream, when it is known. */
  size?: number | undefined
  headers: Record<string, string>
}

type Signal = AbortSignal | undefined

interface Propfind {
  key: string
  isDirectory?: boolean
  depth: string
  signal: Signal
}

/** Others replace the same file at the same moment; but not for ever. */
const attemptsAtMost = 6

/** WebDAV on one server. */
export class Dav {
  readonly #site: Site

  constructor(site: Site) {
    this.#site = site
  }

  /** What is at a key, undefined for nothing. */
  async find(key: string, signal: Signal): Promise<Found | undefined> {
    try {
      for await (const resource of this.#propfind({ key, depth: '0', signal }))
        return resource.status === 404 ? undefined : foundAt(key, resource, this.#site)
      return undefined
    } catch (error) {
      if (error instanceof IsDirectory) return { kind: 'directory' }
      throw error
    }
  }

  /** The files and directories of a directory, in any order; none where there is no such directory. */
  async children(directory: string, signal: Signal): Promise<Entry[]> {
    const base = directory === '' ? '' : `/${directory}`
    const entries: Entry[] = []
    for await (const resource of this.#propfind({ key: directory, isDirectory: true, depth: '1', signal })) {
      const { path, status } = resource
      if (path === base && !resource.isCollection && status === 200) return []
      if (path === base || status === 404) continue
      if (!path.startsWith(`${base}/`)) throw this.#misplaced(directory, path)
      const key = path.slice(1)
      if (key.includes('/', base.length)) continue
      const found = foundAt(key, resource, this.#site)
      entries.push(found.kind === 'file' ? { kind: 'file', ...found.info } : { kind: 'directory', key })
    }
    return entries
  }

  /** Makes a directory and those above it, unless they are there. */
  async makeDirectory(directory: string, signal: Signal): Promise<void> {
    if (directory === '') return
    let status = await this.#mkcol(directory, signal)
    if (status === 404 || status === 409) {
      await this.makeDirectory(parentOf(directory), signal)
      status = await this.#mkcol(directory, signal)
    }
    if (status < 300 || status === 405) return
    // Somebody else was faster; or it may not be made, but is there.
    const found = await this.find(directory, signal)
    if (found?.kind === 'directory') return
    if (found) throw this.#inTheWay(directory, 'a file')
    throw this.#site.refusal({ method: 'MKCOL', key: directory }, { status, headers: {} })
  }

  /**
   * Stores a file. When that is refused, the directories above it are made and a body that can be sent again is: nginx
   * answers with 500 where others do with 409.
   */
  async put(key: string, { body, size, headers }: Payload, signal: Signal): Promise<void> {
    const request = { method: 'PUT', key, body, size, headers, signal }
    const isRepeatable = body instanceof Uint8Array
    const response = await this.#site.request({ ...request, accept: isRepeatable ? [404, 409, 500] : [] })
    if (response.status < 300) return void (await response.bytes())
    await drain(response)
    await this.makeDirectory(parentOf(key), signal)
    await (await this.#site.request(request)).bytes()
  }

  /**
   * Renames or copies a file, over another file if there is one. A directory in its place is left alone (CONFLICT): the
   * method would replace the whole tree, so it is only told to overwrite after a look at what is there. When the source
   * is gone, `isDone` tells by the target whether it was this that moved it, before an answer that was lost.
   */
  async transfer(
    method: 'MOVE' | 'COPY',
    [from, to]: readonly [string, string],
    signal: Signal,
    isDone: (target: Found | undefined) => boolean = () => false,
  ): Promise<void> {
    const request = { method, key: from, mayRepeat: true, signal, accept: [301, 403, 404, 409, 412, 500] }
    let overwrite = 'F'
    for (let attempt = 1; ; attempt++) {
      const headers = { destination: this.#site.urlOf(to).href, overwrite }
      const response = await this.#site.request({ ...request, headers })
      await response.bytes()
      if (response.status < 300 && response.status !== 207) return
      const target = await this.find(to, signal)
      if (target?.kind === 'directory') throw this.#inTheWay(to, 'a directory')
      if (attempt === attemptsAtMost) throw this.#site.refusal(request, response)
      if (response.status === 404 && !(await this.find(from, signal))) {
        if (isDone(target)) return
        throw this.absent(from)
      }
      // Servers that take away what is replaced before they put the new in its place refuse who comes in between.
      overwrite = target ? 'T' : 'F'
      if (!target) await this.makeDirectory(parentOf(to), signal)
    }
  }

  /**
   * Deletes a file; a directory, which the method would delete with all that is in it, is left alone. Between the look and
   * the deletion a condition holds, where there is an etag that can be one.
   */
  async delete(key: string, signal: Signal): Promise<void> {
    let refused: string | undefined
    for (let attempt = 1; ; attempt++) {
      const found = await this.find(key, signal)
      if (found?.kind !== 'file') return
      const etag = found.rawEtag
      // A condition that fails although nothing has changed is none the server can judge.
      const headers: Record<string, string> = etag?.startsWith('"') && etag !== refused ? { 'if-match': etag } : {}
      const request = { method: 'DELETE', key, headers, mayRepeat: true, signal, accept: [301, 404, 410, 412] }
      const response = await this.#site.request(request)
      await response.bytes()
      if (![207, 301, 412].includes(response.status)) return
      if (attempt === attemptsAtMost) throw this.#site.refusal(request, response)
      refused = etag
    }
  }

  /** The error of a write that was refused: what is in its way if there is something, otherwise the refusal. */
  async obstacle(key: string, error: StowageError, signal: Signal): Promise<StowageError> {
    if (error instanceof IsDirectory) return this.#inTheWay(key, 'a directory')
    if (!['CONFLICT', 'DENIED', 'NOT_FOUND', 'INVALID_ARGUMENT', 'UNSUPPORTED'].includes(error.code)) return error
    for (let slash = key.indexOf('/'); slash > 0; slash = key.indexOf('/', slash + 1)) {
      const parent = key.slice(0, slash)
      if ((await this.#findQuietly(parent, signal))?.kind === 'file') return this.#inTheWay(parent, 'a file')
    }
    return (await this.#findQuietly(key, signal))?.kind === 'directory' ? this.#inTheWay(key, 'a directory') : error
  }

  /** The error for a file that is not there. */
  absent(key: string): StowageError {
    return new StowageError('NOT_FOUND', `There is no file ${key} in ${this.#site.location}.`)
  }

  async *#propfind({ depth, ...request }: Propfind): AsyncGenerator<Resource> {
    const headers = { depth, 'content-type': 'application/xml; charset=utf-8' }
    const response = await this.#site.request({
      method: 'PROPFIND',
      body: propfindBody,
      headers,
      accept: [404, 405, 410, 501],
      ...request,
    })
    if (response.status === 207) return yield* readMultistatus(response)
    await response.bytes()
    if (response.status === 404 || response.status === 410) return
    throw new StowageError('INVALID_CONFIG', `${this.#site.location} does not speak WebDAV at ${request.key || '/'}.`, {
      hint: 'Check the path: WebDAV is often served below one of its own.',
    })
  }

  async #mkcol(key: string, signal: Signal): Promise<number> {
    const request = {
      method: 'MKCOL',
      key,
      isDirectory: true,
      mayRepeat: true,
      signal,
      accept: [403, 404, 405, 409, 500],
    }
    const response = await this.#site.request(request)
    await response.bytes()
    return response.status
  }

  async #findQuietly(key: string, signal: Signal): Promise<Found | undefined> {
    return this.find(key, signal).catch(() => undefined)
  }

  #inTheWay(key: string, what: string): StowageError {
    return new StowageError('CONFLICT', `Cannot write in ${this.#site.location}: ${key} is ${what}.`)
  }

  #misplaced(directory: string, path: string): StowageError {
    return new StowageError('INVALID_CONFIG', `Asked for /${directory}, ${this.#site.location} tells of ${path}.`, {
      hint: 'A proxy before it changes the path: write the path that it has behind the proxy, or serve both alike.',
    })
  }
}

function foundAt(key: string, { isCollection, size, info, rawEtag, status }: Resource, { location }: Site): Found {
  if (status !== 200)
    throw new StowageError(status === 403 ? 'DENIED' : 'UNREACHABLE', `${location} tells only ${status} of ${key}.`)
  if (isCollection) return { kind: 'directory' }
  if (size === undefined)
    throw new StowageError('UNSUPPORTED', `${location} does not tell the size of ${key}, which it says is a file.`)
  return { kind: 'file', info: { key, size, ...info }, rawEtag }
}

/** The directory of a key; the empty string at the root. */
export function parentOf(key: string): string {
  return key.slice(0, Math.max(0, key.lastIndexOf('/')))
}
