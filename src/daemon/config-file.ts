/** Reads the file of a configuration. What is wrong with its syntax is told by line and column; its text is never quoted. */
import { readFileSync, statSync } from 'node:fs'
import { registerHooks } from 'node:module'
import * as path from 'node:path'
import { pathToFileURL } from 'node:url'
import { StowageError } from '../core/errors.ts'

/** What the file says, not checked yet. The extension decides how it is read. Rejects with INVALID_CONFIG. */
export async function readConfigFile(file: string): Promise<unknown> {
  const extension = path.extname(file).toLowerCase()
  if (extension === '.json') return readJson(file)
  if (extension === '.yaml' || extension === '.yml') return readYaml(file)
  if (/^\.[cm]?[jt]s$/.test(extension)) return readModule(file)
  throw invalid(`${file} is of no kind that is known.`, 'There are: .ts, .js, .json, .yaml, .yml.')
}

async function readModule(file: string): Promise<unknown> {
  try {
    // Modules are kept for ever under their URL; a file that has changed gets another one.
    const url = `${pathToFileURL(file).href}?${statSync(file, { bigint: true }).mtimeNs}`
    const loaded = await importOurs(url)
    if (loaded.default !== undefined) return loaded.default
  } catch (error) {
    throw invalid(`${file} cannot be loaded${lineOf(error)}: ${reasonOf(error)}.`)
  }
  throw invalid(`${file} has no default export.`, 'It should say `export default defineConfig({ … })`.')
}

/** Imports a module for which `stowage` is this very package, wherever it is installed: also under `npx`. */
async function importOurs(url: string): Promise<{ default?: unknown }> {
  const own = new URL(`../index${path.extname(import.meta.filename)}`, import.meta.url).href
  const hooks = registerHooks({
    resolve(specifier, context, next) {
      if (specifier === 'stowage') return { url: own, shortCircuit: true }
      const found = next(specifier, context)
      // Without a package.json that says so, node would find out by trying, and warn about it.
      const isUnknown = found.url === url && (found.format === undefined || found.format === null)
      return isUnknown && /\.ts\?/.test(url) ? { ...found, format: 'module-typescript' } : found
    },
  })
  try {
    return (await import(url)) as { default?: unknown }
  } finally {
    hooks.deregister()
  }
}

/** Errors of syntax begin their stack with the place. */
function lineOf(error: unknown): string {
  const line = /^\S+?:(\d+)\n/.exec((error as Error | undefined)?.stack ?? '')?.[1]
  return line === undefined ? '' : ` (line ${line})`
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const [first = ''] = error.message.split('\n')
  return first.replace(/\.$/, '')
}

function readJson(file: string): unknown {
  const text = readText(file)
  try {
    return JSON.parse(text)
  } catch {
    const before = text.slice(0, brokenAt(text)).split('\n')
    throw invalid(
      `${file} is not JSON (line ${before.length}, column ${(before.at(-1)?.length ?? 0) + 1}).`,
      'A comma too many, a missing quote or a comment are the usual reasons.',
    )
  }
}

/**
 * Where a text stops being JSON. The engine's message names a position only sometimes and quotes the text at other times,
 * so it is found by trying: of the prefixes that something could still be made of, the longest.
 */
function brokenAt(text: string): number {
  let [good, bad] = [0, text.length + 1]
  while (bad - good > 1) {
    const middle = (good + bad) >> 1
    if (isBeginning(text.slice(0, middle))) good = middle
    else bad = middle
  }
  return good
}

/** Could this become JSON if it went on? Then what is wrong with it is only that it ends. */
function isBeginning(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch (error) {
    const { message } = error as Error
    const position = /at position (\d+)/.exec(message)?.[1]
    return position === undefined ? /end of JSON input/.test(message) : Number(position) >= text.length
  }
}

async function readYaml(file: string): Promise<unknown> {
  const { LineCounter, parseDocument } = await import('yaml')
  const lines = new LineCounter()
  const document = parseDocument(readText(file), { lineCounter: lines, prettyErrors: false })
  const [error] = document.errors
  if (!error) return document.toJS()
  const { line, col } = lines.linePos(error.pos[0])
  const reason = error.code.toLowerCase().replaceAll('_', ' ')
  throw invalid(`${file} is not YAML (line ${line}, column ${col}): ${reason}.`)
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8').replace(/^\ufeff/, '')
  } catch (error) {
    throw invalid(`${file} cannot be read: ${(error as NodeJS.ErrnoException).code}.`)
  }
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_CONFIG', message, hint === undefined ? {} : { hint })
}
