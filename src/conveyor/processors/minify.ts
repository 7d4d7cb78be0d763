/** Style sheets and scripts in fewer bytes, by esbuild. It works in a process of its own, beside ours. */
import { isUtf8 } from 'node:buffer'
import { randomUUID } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import * as path from 'node:path'
import type { Message, TransformOptions } from 'esbuild'
import * as z from 'zod'
import { StowageError } from '../../core/errors.ts'
import type { Processor, ProcessorInput, ProcessorOutput } from '../processor.ts'
import { optionalPackage } from './optional-package.ts'
import { parseOptions } from './options.ts'
import { onErrorOption, unlessUnfit } from './unfit.ts'
import { isWorthwhile } from './worthwhile.ts'

const schema = z.strictObject({
  onError: onErrorOption.default('pass'),
  sourceMap: z.boolean().default(false),
  target: z.union([z.string(), z.array(z.string())]).optional(),
})

/** Settings of the minifier. */
export interface MinifyOptions {
  /** What becomes of a file with syntax errors: delivered as it is with a warning, or held back. Default `pass`. */
  onError?: 'pass' | 'fail'
  /** Add a source map, with the sources, at the end of the file. Default false. */
  sourceMap?: boolean
  /** What must understand the result, such as `chrome90` or `es2018`. Default: what knows all of today's CSS and JavaScript. */
  target?: string | string[]
}

/** Minifies style sheets. What is not understood, such as hacks for old browsers, stays. Rejects with INVALID_CONFIG without esbuild. */
export const css = (options: MinifyOptions = {}): Processor => minifier('css', ['css'], options)

/** Minifies scripts; names that other scripts can see stay. Rejects with INVALID_CONFIG without esbuild. */
export const js = (options: MinifyOptions = {}): Processor => minifier('js', ['js', 'mjs', 'cjs'], options)

/** What is open at the end changes the meaning of all that follows; other mistakes are a line's own. */
const unclosed = /^Unterminated|" to (go with|end) /

function minifier(loader: 'css' | 'js', extensions: readonly string[], given: MinifyOptions): Processor {
  const name = `minify.${loader}`
  const { onError, sourceMap, target } = parseOptions(name, schema, given)
  const options: TransformOptions = {
    loader,
    minify: true,
    logLevel: 'silent',
    ...(sourceMap ? { sourcemap: 'inline', sourcesContent: true } : {}),
    ...(target === undefined ? {} : { target }),
  }
  return {
    name,
    version: '1',
    extensions,
    // It has threads of its own; so many keep them busy.
    concurrency: 16,
    process: async (input) => unlessUnfit(onError, input, async () => minify(input, options)),
  }
}

async function minify(input: ProcessorInput, options: TransformOptions): Promise<ProcessorOutput | undefined> {
  const before = await readFile(input.file, { signal: input.signal })
  if (!isUtf8(before)) throw new StowageError('UNSUPPORTED', 'It is not UTF-8.')
  const after = Buffer.from(await transform(before, { ...options, sourcefile: input.name }))
  if (!options.sourcemap && !isWorthwhile(before.byteLength, after.byteLength)) return undefined
  const file = path.join(await input.workDirectory(), randomUUID())
  await writeFile(file, after)
  return { file }
}

async function transform(text: Buffer, options: TransformOptions): Promise<string> {
  const esbuild = await optionalPackage('esbuild', async () => import('esbuild'))
  try {
    const { code, warnings } = await esbuild.transform(text, options)
    const mistakes = warnings.filter((warning) => unclosed.test(warning.text))
    if (mistakes.length > 0) throw syntaxError(mistakes)
    return code
  } catch (error) {
    const { errors } = error as { errors?: Message[] }
    if (errors && errors.length > 0) throw syntaxError(errors)
    // Its process may have been killed; the next file gets a new one.
    if (!(error instanceof StowageError)) await esbuild.stop()
    throw error
  }
}

function syntaxError([first, ...more]: Message[]): StowageError {
  const { line = 0, column = 0 } = first?.location ?? {}
  const others = more.length > 0 ? ` (and ${more.length} more)` : ''
  return new StowageError('CORRUPT', `Line ${line}, column ${column + 1}: ${first?.text}${others}.`)
}
