/**
 * What a reference in a file must be where that file is delivered: from `../img/a.png?x` to the file it means, to the key
 * that file has at the same store, to the address of that key.
 */
import { existsSync } from 'node:fs'
import * as path from 'node:path'
import { StowageError } from '../core/errors.ts'
import { realPath } from '../core/real-path.ts'
import type { Database, Transaction } from '../state/database.ts'
import type { Queue } from '../state/queue.ts'
import type { Store } from '../store/store.ts'
import { findIgnored, ignoreMatcher } from '../watch/ignore.ts'
import { fingerprintOf } from './chain.ts'
import { deliveryJobKey, fileJobKey, seenAs, type Source } from './intake.ts'
import { isCurrent, rowsOf, type LedgerRow } from './ledger.ts'
import { isSame, lookAt, type Original } from './original.ts'
import { isWaitingFor, type FileName, type Reference } from './references.ts'
import { destinationOf, mismatch, type Destination, type Rule } from './rules.ts'
import { findUrl } from './urls.ts'

/** What answers are drawn from. */
export interface AddressContext {
  sources: ReadonlyMap<string, Source>
  rules: readonly Rule[]
  database: Database
  queue: Queue
  store: (name: string) => Store
}

/** Who asks: a file, on its way by a rule to a destination, and how often it has tried. */
export interface Asker {
  source: Source
  original: Original
  rule: Rule
  to: Destination
  attempt: number
}

/** So many times a file of which there has been no news yet is waited for. */
const patience = 8

/** The addresses one run of a chain asks for. */
export class Addresses {
  readonly #asker: Asker
  readonly #context: AddressContext
  readonly #references = new Map<string, Reference>()

  constructor(asker: Asker, context: AddressContext) {
    this.#asker = asker
    this.#context = context
  }

  /** All that was asked for. */
  get references(): Reference[] {
    return [...this.#references.values()]
  }

  /** The files whose delivery is still to come. */
  get awaited(): Reference[] {
    return this.references.filter(({ isPending }) => isPending)
  }

  /** See `destination.addressOf` of {@link ProcessorInput}. */
  async of(reference: string): Promise<string> {
    const asked = splitReference(reference)
    if (!asked) return reference
    const file = this.#fileOf(asked.pathname)
    const names = filesAt(file, this.#context.sources.values())
    const found = await this.#context.database.transaction(async (tx) => {
      const answers: Reference[] = []
      for (const name of names) answers.push(await this.#ask(tx, name))
      return answers
    })
    const awaited = found.find(({ isPending }) => isPending)
    if (awaited) throw waitsFor(this.#asker.original, awaited)
    const delivered = found.find(({ key }) => key !== '')
    return delivered ? this.#addressOf(delivered) + asked.suffix : reference
  }

  /** Is an answer that was given no longer the one that would be given? */
  async isOutdated(tx: Transaction): Promise<boolean> {
    for (const given of this.#references.values()) {
      const now = await locate(tx, given, this.#asker, this.#context)
      if (now.key !== given.key || now.isPending !== given.isPending) return true
    }
    return false
  }

  async #ask(tx: Transaction, name: FileName): Promise<Reference> {
    const id = fileJobKey(name.source, name.path)
    const known = this.#references.get(id)
    if (known) return known
    const reference = await locate(tx, name, this.#asker, this.#context)
    this.#references.set(id, reference)
    return reference
  }

  /** What is relative is so to the original; what begins at the root does so at the document root. */
  #fileOf(pathname: string): string {
    const { source, original } = this.#asker
    if (!pathname.startsWith('/')) return inRealDirectory(path.join(path.dirname(original.file), pathname))
    const { documentRoot = source.directory, basePath = '/' } = source
    // A base path may be one that only the web server knows.
    const isLogical = pathname.startsWith(basePath) && !existsSync(path.join(documentRoot, basePath))
    return inRealDirectory(path.join(documentRoot, isLogical ? pathname.slice(basePath.length) : pathname))
  }

  #addressOf({ source, path: file, key }: Reference): string {
    const { to, original } = this.#asker
    const { rules, store } = this.#context
    const owner = { path: file, destination: to.store, key }
    const base = rules
      .filter((rule) => rule.source === source)
      .map((rule) => destinationOf(rule, owner)?.to.url)
      .find((url) => url !== undefined)
    const url = findUrl(store(to.store), key, base)
    if (url !== undefined) return url
    const from = path.posix.join('/', to.path, path.posix.dirname(original.path))
    return path.posix.relative(from, `/${key}`).split('/').map(encodeURIComponent).join('/')
  }
}

/** Where one file is delivered, as far as another, on its way to the same store, is concerned. */
async function locate(tx: Transaction, name: FileName, asker: Asker, context: AddressContext): Promise<Reference> {
  const { rules, sources } = context
  const directory = sources.get(name.source)?.directory
  const original = directory === undefined ? undefined : find(directory, name.path)
  const rows = (await rowsOf(tx, name.source, name.path)).filter(
    (row) => row.destination === asker.to.store && row.delivery && row.variant === undefined,
  )
  const expected = original ? expectedAt(asker.to.store, name, original, rules) : []
  const isDone = expected.every(({ rule, to }) => rows.some((row) => original && isOf(row, rule, to, original)))
  const isPending =
    !isDone && original !== undefined && (await isComing(tx, { ...name, original, expected }, asker, context))
  const { source, path: file } = name
  return { source, path: file, key: isPending ? '' : (preferred(rows, asker, rules)?.key ?? ''), isPending }
}

interface Expected {
  rule: Rule
  to: Destination
}

function expectedAt(store: string, name: FileName, original: Original, rules: readonly Rule[]): Expected[] {
  return rules
    .filter((rule) => rule.source === name.source && mismatch(rule.filter, name.path, original.size) === undefined)
    .flatMap((rule) => rule.destinations.filter((to) => to.store === store).map((to) => ({ rule, to })))
}

function isOf(row: LedgerRow, rule: Rule, to: Destination, original: Original): boolean {
  const isSameTask = row.rule === rule.label && destinationOf(rule, row)?.to === to
  return isSameTask && isCurrent(row, original, fingerprintOf(rule.processors, to))
}

/** Is somebody at it, or has nobody heard of it yet? What was set aside, and what waits for the asker itself, does not come. */
async function isComing(
  tx: Transaction,
  { source, path: file, original, expected }: FileName & { original: Original; expected: Expected[] },
  asker: Asker,
  { queue, sources }: AddressContext,
): Promise<boolean> {
  const self = { source: asker.source.name, path: asker.original.path }
  if (source === self.source && file === self.path) return false
  if (await isWaitingFor(tx, asker.to.store, { source, path: file }, self)) return false
  const job = await queue.find('file', fileJobKey(source, file), tx)
  if (job && job.state !== 'aside') return true
  for (const { rule, to } of expected) {
    const own = await queue.find('delivery', deliveryJobKey({ source, path: file }, rule.label, to), tx)
    if (own && own.state !== 'aside') return true
  }
  if (job || asker.attempt > patience) return false
  const isIgnored = ignoreMatcher(sources.get(source)?.ignore ?? [])
  return findIgnored(isIgnored, file) === undefined && !(await isSeen(tx, source, original))
}

async function isSeen(tx: Transaction, source: string, original: Original): Promise<boolean> {
  const seen = await seenAs(tx, source, original.path)
  return seen !== undefined && isSame(seen, original)
}

/** Of several places the one of the asker's own rule and directory, else the first that is configured. */
function preferred(rows: readonly LedgerRow[], asker: Asker, rules: readonly Rule[]): LedgerRow | undefined {
  const rank = (row: LedgerRow) => {
    const index = rules.findIndex(({ label }) => label === row.rule)
    if (index < 0) return Infinity
    const isNear = destinationOf(rules[index], row)?.to.path === asker.to.path
    return (row.rule === asker.rule.label ? 0 : 2 * rules.length) + (isNear ? 0 : rules.length) + index
  }
  return rows.toSorted((a, b) => rank(a) - rank(b))[0]
}

/** The files of sources that a path of the disk means. */
function* filesAt(file: string, sources: Iterable<Source>): Generator<FileName> {
  for (const { name, directory } of sources) {
    const relative = path.relative(directory, file)
    const isOutside = relative === '' || relative === '..' || relative.startsWith(`..${path.sep}`)
    if (!isOutside && !path.isAbsolute(relative)) yield { source: name, path: relative.split(path.sep).join('/') }
  }
}

/** What cannot be looked at is not there for others. */
function find(directory: string, file: string): Original | undefined {
  try {
    return lookAt(directory, file)
  } catch {
    return undefined
  }
}

function inRealDirectory(file: string): string {
  return path.join(realPath(path.dirname(file)), path.basename(file))
}

/** The path, decoded, and the rest of a reference to a file of this site; undefined for all that is none. */
function splitReference(reference: string): { pathname: string; suffix: string } | undefined {
  const trimmed = reference.replace(/^[\0- ]+|[\0- ]+$|[\t\n\r]/g, '')
  if (/^([a-z][a-z0-9+.-]*:|[/\\]{2})/i.test(trimmed)) return undefined
  const end = trimmed.search(/[?#]/)
  const [pathname, suffix] = end < 0 ? [trimmed, ''] : [trimmed.slice(0, end), trimmed.slice(end)]
  try {
    const decoded = decodeURIComponent(pathname).replaceAll('\\', '/')
    return decoded === '' || decoded.endsWith('/') || decoded.includes('\0') ? undefined : { pathname: decoded, suffix }
  } catch {
    return undefined
  }
}

function waitsFor(original: Original, awaited: FileName): StowageError {
  return new StowageError('BUSY', `${original.path} waits for ${awaited.path}, which it refers to.`)
}
