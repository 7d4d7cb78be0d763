/** A little WebDAV in memory, for what the real servers of the tests do not do. */
import type { Heard, Told } from './fake-web.ts'

/** The XML of a 207 answer that tells of files and directories; a directory's name ends in a slash. */
export function propfound(resources: readonly { href: string; size?: number; etag?: string }[]): Told {
  const responses = resources.map(({ href, size, etag }) => {
    const type = href.endsWith('/') ? '<d:collection/>' : ''
    const length = size === undefined ? '' : `<d:getcontentlength>${size}</d:getcontentlength>`
    const version = etag === undefined ? '' : `<d:getetag>${etag}</d:getetag>`
    return (
      `<d:response><d:href>${href}</d:href><d:propstat><d:prop><d:resourcetype>${type}</d:resourcetype>${length}${version}` +
      '</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>'
    )
  })
  return multistatus(responses.join('\n'))
}

/** A 207 answer with these responses in it. */
export function multistatus(responses: string): Told {
  const body = `<?xml version="1.0"?><d:multistatus xmlns:d="DAV:">${responses}</d:multistatus>`
  return { status: 207, headers: { 'content-type': 'application/xml' }, body }
}

/** Files and directories by their paths, and the methods on them that the driver uses. */
export class FakeDav {
  readonly files = new Map<string, Buffer>()
  readonly directories = new Set(['/'])
  /** What OPTIONS says in the header DAV. */
  readonly says: string
  /** Takes a body of unknown length for an empty one, as some gateways do. */
  readonly dropsChunks: boolean

  constructor(says: string, dropsChunks = false) {
    this.says = says
    this.dropsChunks = dropsChunks
  }

  answer({ method, path, headers, body }: Heard): Told {
    const file = this.files.get(path)
    const target = new URL(String(headers['destination'] ?? 'http://none/')).pathname
    if (method === 'OPTIONS') return { status: 200, headers: { dav: this.says, server: 'fake' } }
    if (method === 'PROPFIND') return this.#propfind(path, headers['depth'] === '1')
    if (method === 'MKCOL') {
      const isThere = this.directories.has(path)
      this.directories.add(path)
      return { status: isThere ? 405 : 201 }
    }
    if (method === 'PUT') {
      this.files.set(path, this.dropsChunks && headers['content-length'] === undefined ? Buffer.alloc(0) : body)
      return { status: file ? 204 : 201 }
    }
    if (!file) return { status: 404 }
    if (method === 'GET')
      return { status: 200, headers: { 'content-length': `${file.byteLength}`, etag: '"x"' }, body: file }
    if (method === 'DELETE') this.files.delete(path)
    else {
      // What is replaced goes first, with all that is in it.
      const replaced = [...this.files.keys()].filter((each) => each === target || each.startsWith(`${target}/`))
      if (replaced.length > 0 && headers['overwrite'] === 'F') return { status: 412 }
      for (const each of replaced) this.files.delete(each)
      this.files.set(target, file)
      if (method === 'MOVE') this.files.delete(path)
    }
    return { status: 204 }
  }

  #propfind(path: string, isDeep: boolean): Told {
    const size = this.files.get(path)?.byteLength
    if (size !== undefined) return propfound([{ href: path, size }])
    const directory = path.replace(/\/?$/, '/')
    const below = [...this.files.keys(), ...this.directories].filter((each) => each.startsWith(directory))
    if (below.length === 0) return { status: 404 }
    const children = new Set(below.map((each) => /^[^/]+\/?/.exec(each.slice(directory.length))?.[0] ?? ''))
    const found = [...children].filter((name) => name !== '' && isDeep).map((name) => directory + name)
    return propfound([directory, ...found].map((href) => ({ href, size: this.files.get(href)?.byteLength ?? 0 })))
  }
}
