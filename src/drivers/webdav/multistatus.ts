/** What a server says about resources: the XML of a 207 answer (RFC 4918, sections 13 and 14). */
import { parseXml, XmlElement } from '@rgrove/parse-xml'
import { StowageError } from '../../core/errors.ts'
import type { FileInfo } from '../../store/driver.ts'
import type { HttpResponse } from '../http-client.ts'
import { etagOf } from '../http/reading.ts'

/** Asks for what a {@link Resource} has. */
export const propfindBody = Buffer.from(
  '<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/>' +
    '<getlastmodified/><getetag/><getcontenttype/></prop></propfind>',
)

/** A file or directory as its server describes it. */
export interface Resource {
  /** Decoded, without a slash at its end. */
  path: string
  isCollection: boolean
  /** Undefined where the server does not tell. */
  size: number | undefined
  info: Pick<FileInfo, 'modified' | 'etag' | 'contentType'>
  /** As the server wrote it: what it wants to see in conditions. */
  rawEtag: string | undefined
  /** Why the server says nothing about it, if so. */
  status: number
}

/** So many characters are taken apart at once: enough to be quick, few enough for others to have their turn. */
const pieceLength = 1 << 16
/** What is said of one resource is never as long. */
const responseLength = 1 << 20

/**
 * Reads an answer as it comes. Entities of the sender's own are never expanded. Rejects with UNREACHABLE when it is not
 * whole, or not what WebDAV says, as when something between us and the server answers.
 */
export async function* readMultistatus(response: HttpResponse): AsyncGenerator<Resource> {
  const decoder = new TextDecoder()
  let text = ''
  // What stands around the responses, so that a few of them are a document of their own.
  let opening = ''
  let closing: string | undefined
  for await (const chunk of response.stream() as AsyncIterable<Buffer>) {
    text += decoder.decode(chunk, { stream: true })
    if (text.length < pieceLength) continue
    closing ??= /<\/(?:[\w.-]+:)?response\s*>/.exec(text)?.[0]
    const end = closing === undefined ? -1 : text.lastIndexOf(closing)
    if (end < 0 && text.length > responseLength) throw unreadable(text)
    if (end < 0 || closing === undefined) continue
    const cut = end + closing.length
    const [tag = '', name = ''] = rootTag.exec(opening || text) ?? []
    yield* resourcesIn(`${opening}${text.slice(0, cut)}</${name}>`, response.headers['date'])
    opening = tag
    text = text.slice(cut)
  }
  yield* resourcesIn(opening + text + decoder.decode(), response.headers['date'])
}

const rootTag = /<((?:[\w.-]+:)?multistatus)(?:\s[^>]*)?>/

function resourcesIn(text: string, now: string | undefined): Resource[] {
  try {
    const { root } = parseXml(text)
    const tree = root && treeOf(root, { '': '' })
    if (tree?.name === 'multistatus') return all(tree, 'response').flatMap((response) => resourcesOf(response, now))
  } catch (cause) {
    throw unreadable(text, cause)
  }
  throw unreadable(text)
}

/** An element in the namespace of WebDAV; others have no name here. */
interface Tree {
  name: string
  text: string
  children: Tree[]
}

type Scope = Readonly<Record<string, string>>

function treeOf(element: XmlElement, outer: Scope): Tree {
  let scope = outer
  for (const [name, value] of Object.entries(element.attributes)) {
    const prefix = /^xmlns(?::(.+))?$/.exec(name)
    if (prefix) scope = { ...scope, [prefix[1] ?? '']: value }
  }
  const [, prefix = '', local = ''] = /^(?:([^:]*):)?(.*)$/.exec(element.name) ?? []
  const elements = element.children.filter((node) => node instanceof XmlElement)
  return {
    name: scope[prefix] === 'DAV:' ? local : '',
    text: elements.length > 0 ? '' : element.text.trim(),
    children: elements.map((child) => treeOf(child, scope)),
  }
}

function all(tree: Tree, name: string): Tree[] {
  return tree.children.filter((child) => child.name === name)
}

function resourcesOf(response: Tree, now: string | undefined): Resource[] {
  const status = statusOf(response)
  const properties = all(response, 'propstat')
    .filter((part) => statusOf(part) === 200)
    .flatMap((part) => all(part, 'prop'))
    .flatMap((prop) => prop.children)
  const find = (name: string) => properties.find((property) => property.name === name)
  const textOf = (name: string) => find(name)?.text || undefined
  const type = find('resourcetype')
  const length = textOf('getcontentlength')
  const size = length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined
  const modified = new Date(textOf('getlastmodified') ?? Number.NaN)
  const contentType = textOf('getcontenttype')
  const rawEtag = textOf('getetag')
  const paths = all(response, 'href').map(({ text }) => pathOf(text))
  return paths
    .filter((path) => path !== undefined)
    .map((path) => ({
      path,
      isCollection: type !== undefined && all(type, 'collection').length > 0,
      size,
      info: {
        ...(Number.isNaN(modified.getTime()) ? {} : { modified }),
        ...etagOf(rawEtag ?? timeEtag(modified, size), modified, now),
        ...(contentType === undefined ? {} : { contentType }),
      },
      rawEtag,
      status,
    }))
}

/** nginx tells no etag here: this is the one it gives with the file itself. */
function timeEtag(modified: Date, size: number | undefined): string | undefined {
  if (size === undefined || Number.isNaN(modified.getTime())) return undefined
  return `${Math.floor(modified.getTime() / 1000).toString(16)}-${size.toString(16)}`
}

/** The status that stands in an element; 200 where there is none. */
function statusOf(tree: Tree): number {
  const text = all(tree, 'status')[0]?.text
  return text === undefined ? 200 : Number(/^HTTP\/\S+ (\d{3})/.exec(text)?.[1] ?? 500)
}

/**
 * The path of an address, which may be a whole URL or its path alone. Undefined where that is not UTF-8, so that no key
 * names it. It is taken apart by hand, because URLs resolve dots.
 */
function pathOf(href: string): string | undefined {
  const path = href.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/]*/i, '').replace(/\/+$/, '')
  try {
    const names = path.split('/').map(decodeURIComponent)
    return names.some((name) => name.includes('/')) ? undefined : names.join('/')
  } catch {
    return undefined
  }
}

function unreadable(text: string, cause?: unknown): StowageError {
  const start = JSON.stringify(text.slice(0, 80))
  return new StowageError('UNREACHABLE', `The answer is not the XML that WebDAV sends, or not all of it: ${start}.`, {
    cause,
  })
}
