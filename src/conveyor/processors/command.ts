/** Any program as a processor. */
import { randomUUID } from 'node:crypto'
import { availableParallelism } from 'node:os'
import * as path from 'node:path'
import * as z from 'zod'
import { parseSize } from '../../core/units.ts'
import type { Processor } from '../processor.ts'
import { parseOptions } from './options.ts'
import { runProgram } from './program.ts'
import { onErrorOption, unlessUnfit } from './unfit.ts'

const word = z.string().min(1)
const extension = z.string().regex(/^[^./]+$/, 'is not an extension: write "mp4", without dot')
const schema = z.strictObject({
  command: z
    .array(z.string())
    .min(1)
    .refine(([program]) => program, 'must begin with a program'),
  extensions: z.array(extension).optional(),
  extension: extension.optional(),
  onError: onErrorOption.default('fail'),
  maxOutput: z.union([z.number(), z.string()]).default('4GiB'),
  environment: z.array(word).default([]),
  concurrency: z.int().positive().default(availableParallelism()),
})

/** Settings of a command. */
export interface CommandOptions {
  /**
   * The program and its arguments. `{input}` and `{output}` stand for paths, `{name}` for the present base name. Without
   * `{input}` the file is its standard input; without `{output}` what it prints is the result.
   */
  command: string[]
  /** Which files it is for. Default: all. */
  extensions?: string[]
  /** The extension of what it makes. Default: as before. */
  extension?: string
  /** What becomes of a file it fails on: delivered as it is with a warning, or held back. Default `fail`. */
  onError?: 'pass' | 'fail'
  /** It is ended when it makes more. Default 4 GiB. */
  maxOutput?: number | string
  /** Names of variables of our environment that it may see. Default: only such as PATH and LANG. */
  environment?: string[]
  /** So many at once. Default: as many as there are cores. */
  concurrency?: number
}

/** Runs a program on each file, without a shell. Throws INVALID_CONFIG when the options are wrong. */
export default function command(options: CommandOptions): Processor {
  const { command: words, extensions, extension: made, ...rest } = parseOptions('command', schema, options)
  const { onError, environment, concurrency } = rest
  const maxBytes = parseSize(rest.maxOutput)
  const has = (placeholder: string) => words.some((each) => each.includes(placeholder))
  const [isReading, isPrinting] = [!has('{input}'), !has('{output}')]
  return {
    name: 'command',
    version: '1',
    ...(extensions ? { extensions: extensions.map((each) => each.toLowerCase()) } : {}),
    concurrency,
    process: async (input) =>
      unlessUnfit(onError, input, async () => {
        const { name: stem, ext } = path.posix.parse(input.name)
        const name = made === undefined ? input.name : `${stem}.${made}`
        const directory = await input.workDirectory()
        const output = path.join(directory, `${randomUUID()}${made === undefined ? ext : `.${made}`}`)
        const values: Record<string, string> = { '{input}': input.file, '{output}': output, '{name}': input.name }
        const filled = words.map((each) => each.replace(/\{(input|output|name)\}/g, (found) => values[found] ?? found))
        const stdin = isReading ? { stdin: input.file } : {}
        const { signal } = input
        await runProgram({ command: filled, directory, output, ...stdin, isPrinting, maxBytes, environment, signal })
        return { file: output, name }
      }),
  }
}
