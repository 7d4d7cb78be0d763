/**
 * References in style sheets, to images, fonts and other sheets, become the addresses at which those are delivered. Only
 * the references change: every other byte stays, whatever it is, since nothing is parsed that need not be.
 */
import { isUtf8 } from 'node:buffer'
import { randomUUID } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import * as path from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { tokenizer, type CSSToken } from '@csstools/css-tokenizer'
import type { Processor } from '../processor.ts'

/** A reference: what it says, where it stands (in UTF-16 units, the end being outside), and how another is written there. */
export interface CssReference {
  value: string
  start: number
  end: number
  write: (value: string) => string
}

/** How long others wait for us at most, in milliseconds. */
const sliceMs = 10

/** Functions whose strings are addresses; the others' are texts. */
const withAddresses = new Set(['url', 'image-set', '-webkit-image-set'])
/** At-rules in which an address is a name, and leads to no file. */
const withNames = new Set(['namespace', 'document', '-moz-document'])

/** What is open: the name of a function, or nothing for a mere bracket, and what closes it. */
interface Open {
  name?: string
  closer: string
}

const brackets: Partial<Record<string, Open>> = {
  '(-token': { closer: ')-token' },
  '[-token': { closer: ']-token' },
  '{-token': { closer: '}-token' },
}

/** Rewrites `url()`, `@import` and `image-set()`. References to what is not delivered, or is elsewhere, stay as they are. */
const cssLinks: Processor = {
  name: 'css-links',
  version: '1',
  extensions: ['css'],
  differsPerDestination: true,
  async process({ file, destination, workDirectory, signal }) {
    const bytes = await readFile(file, { signal })
    // Bytes that are not UTF-8 are kept one for one.
    const encoding = isUtf8(bytes) ? 'utf8' : 'latin1'
    const css = bytes.toString(encoding)
    const references = await findReferences(css, signal)
    const values = new Set(references.map(({ value }) => value))
    const asked = [...values].map(async (value) => [value, await destination?.addressOf(value)] as const)
    const addresses = new Map(await Promise.all(asked))
    const changed = references.filter(({ value }) => (addresses.get(value) ?? value) !== value)
    if (changed.length === 0) return undefined
    const made = path.join(await workDirectory(), randomUUID())
    const parts = changed.map(({ value, start, write }, index) => {
      const kept = css.slice(changed[index - 1]?.end ?? 0, start)
      return kept + write(addresses.get(value) ?? value)
    })
    await writeFile(made, Buffer.from(parts.join('') + css.slice(changed.at(-1)?.end), encoding))
    return { file: made }
  },
}
export default cssLinks

/** Finds the references of a style sheet, however broken that is. Others get their turn meanwhile. */
export async function findReferences(css: string, signal?: AbortSignal): Promise<CssReference[]> {
  const finder = new Finder()
  const tokens = tokenizer({ css })
  while (!tokens.endOfFile()) {
    signal?.throwIfAborted()
    slice(tokens, finder)
    await nextTurn()
  }
  return finder.found
}

/** The tokenizer makes an error object of each mistake, whose stack nobody reads: without it a broken sheet takes a tenth of the time. */
function slice({ nextToken, endOfFile }: ReturnType<typeof tokenizer>, finder: Finder) {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    const end = performance.now() + sliceMs
    while (!endOfFile() && performance.now() < end)
      for (let i = 0; i < 200 && !endOfFile(); i++) finder.see(nextToken())
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** Sees one token after another, and knows which strings and URLs are references. */
class Finder {
  readonly found: CssReference[] = []
  readonly #open: Open[] = []
  /** The at-rule whose prelude this is. */
  #rule = ''
  #isAfterImport = false

  see(token: CSSToken) {
    const [type] = token
    if (type === 'whitespace-token' || type === 'comment') return
    if (type === 'url-token') this.#add(token, token[4].value, unquoted)
    else if (type === 'string-token') {
      const name = this.#open.at(-1)?.name
      if (this.#isAfterImport || (name !== undefined && withAddresses.has(name)))
        this.#add(token, token[4].value, quoted)
    } else this.#follow(token)
    this.#isAfterImport = type === 'at-keyword-token' && this.#rule === 'import'
  }

  #follow(token: CSSToken) {
    const [type] = token
    if (type === 'at-keyword-token') this.#rule = token[4].value.toLowerCase()
    else if (type === 'semicolon-token' || type === '{-token') this.#rule = ''
    if (type === 'function-token') this.#open.push({ name: token[4].value.toLowerCase(), closer: ')-token' })
    const bracket = brackets[type]
    if (bracket) this.#open.push(bracket)
    else if (this.#open.at(-1)?.closer === type) this.#open.pop()
  }

  #add([, raw, start, last]: CSSToken, value: string, write: (raw: string, value: string) => string) {
    if (!withNames.has(this.#rule))
      this.found.push({ value, start, end: last + 1, write: (address) => write(raw, address) })
  }
}

/** As the string was: in the same quotes. */
function quoted(raw: string, value: string): string {
  const quote = raw[0] ?? '"'
  return quote + value.replace(quote === '"' ? /["\\]|\p{Cc}/gu : /['\\]|\p{Cc}/gu, escaped) + quote
}

/** As the URL was: without quotes, and with what counts as white space in CSS around it. */
function unquoted(raw: string, value: string): string {
  const [before = ''] = /^[^(]*\([ \t\n\r\f]*/.exec(raw) ?? []
  const [after = ''] = /[ \t\n\r\f]*\)?$/.exec(raw.slice(before.length)) ?? []
  return before + value.replace(/["'()\\ ]|\p{Cc}/gu, escaped) + after
}

function escaped(character: string): string {
  return /[ \p{Cc}]/u.test(character) ? `\\${character.codePointAt(0)?.toString(16)} ` : `\\${character}`
}
