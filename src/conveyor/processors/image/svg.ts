/** SVG: fewer characters for the same drawing. Ids, titles, scripts and what style sheets may point at stay. */
import { parseXml } from '@rgrove/parse-xml'
import type { Config } from 'svgo'
import { optionalPackage } from '../optional-package.ts'
import { damaged, smallest, type ImageSettings, type Optimized } from './limits.ts'
import { isPathData } from './path-data.ts'

const namespace = 'http://www.w3.org/2000/svg'

type Plugins = NonNullable<Config['plugins']>

/** Nothing that is drawn. */
const metadata: Plugins = ['removeComments', 'removeMetadata', 'removeEditorsNSData']
/** Other ways to write the same document. */
const spelling: Plugins = [
  'removeDoctype',
  'removeXMLProcInst',
  'cleanupEnableBackground',
  'removeUnusedNS',
  'sortAttrs',
]
/** Other ways to draw the same, for documents in which nothing but the drawing looks at elements and attributes. */
const drawing: Plugins = [
  'cleanupAttrs',
  'convertColors',
  'removeEmptyAttrs',
  'removeEmptyText',
  { name: 'removeUnknownsAndDefaults', params: { keepRoleAttr: true, unknownContent: false, unknownAttrs: false } },
  'collapseGroups',
  'sortDefsChildren',
  {
    name: 'convertPathData',
    // More digits than the numbers of renderers have; no curve is replaced by a similar one.
    params: { floatPrecision: 6, makeArcs: undefined, straightCurves: false, convertToQ: false },
  },
]

/** Throws CORRUPT for text that is not well-formed. What other programs define or put into it is left as it is. */
export async function optimizeSvg(bytes: Buffer, settings: ImageSettings): Promise<Optimized> {
  const text = decode(bytes)
  if (text === undefined || /<!DOCTYPE[^>]*\[|<[\w-]*:?foreignObject/i.test(text)) return {}
  checkWellFormed(text)
  const { optimize } = await optionalPackage('svgo', async () => import('svgo'))
  const plugins = [...(settings.keepMetadata ? [] : metadata), ...spelling, ...(isPlain(text) ? drawing : [])]
  const best = smallest(bytes, [Buffer.from(optimize(text, { multipass: true, plugins }).data)])
  return best ? { bytes: best } : {}
}

/** Nothing looks into the drawing, and nothing in it has mistakes that renderers would have to get over. */
function isPlain(text: string): boolean {
  if (/<[\w-]*:?(style|script|animate|set)|\son\w+\s*=|<\?xml-stylesheet/i.test(text)) return false
  const paths = text.matchAll(/\sd\s*=\s*(?:"([^"]*)"|'([^']*)')/g)
  return paths.every(([, double, single = '']) => isPathData(double ?? single))
}

/** Browsers show nothing of what is not; the optimiser would make something else of it. */
function checkWellFormed(text: string) {
  const { root } = parseXml(text)
  const [, prefix] = /^(?:(\w+):)?svg$/.exec(root?.name ?? 'none') ?? ['', 'none']
  if (root?.attributes[prefix === undefined ? 'xmlns' : `xmlns:${prefix}`] !== namespace)
    throw damaged('is an XML document, but no SVG')
}

/** Other encodings than UTF-8 are rare, and left alone. */
function decode(bytes: Buffer): string | undefined {
  const declared = /^[^>]*encoding\s*=\s*["']([^"']+)/.exec(bytes.toString('latin1', 0, 200))?.[1]
  if (declared !== undefined && !/^(utf-?8|us-ascii)$/i.test(declared)) return undefined
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw damaged('is an SVG that is not UTF-8')
  }
}
