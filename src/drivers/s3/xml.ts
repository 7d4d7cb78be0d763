/** The little XML that S3 speaks. */
import { parseXml, XmlElement, type XmlNode } from '@rgrove/parse-xml'
import { StowageError } from '../../core/errors.ts'

/** An element as an object: its children by name, each a list, text being the leaves. */
export interface XmlTree {
  name: string
  text: string
  children: Record<string, XmlTree[]>
}

/** Parses an answer. Rejects with UNREACHABLE when it is not XML, as when something between us and S3 answers. */
export function readXml(bytes: Buffer): XmlTree {
  try {
    const { root } = parseXml(bytes.toString())
    if (root) return treeOf(root)
  } catch {
    // told below
  }
  throw new StowageError(
    'UNREACHABLE',
    `The answer is not the XML that S3 sends: ${JSON.stringify(bytes.toString('utf8', 0, 80))}.`,
  )
}

/** The text of the first child of that name. */
export function textOf(tree: XmlTree, name: string): string | undefined {
  return tree.children[name]?.[0]?.text
}

/** Text as it may stand in XML. Control characters have no place there, not even escaped, so keys with them go single ways. */
export function escapeXml(text: string): string {
  return text.replace(/[&<>"'\r\n\t]/g, (character) => `&#${character.charCodeAt(0)};`)
}

function treeOf(element: XmlElement): XmlTree {
  const children: XmlTree['children'] = Object.create(null)
  for (const child of element.children.filter((node: XmlNode) => node instanceof XmlElement))
    (children[child.name] ??= []).push(treeOf(child))
  return { name: element.name, text: Object.keys(children).length > 0 ? '' : element.text, children }
}
