/** The minifiers of old: YUI Compressor and Google Closure Compiler, as the programs they are. Installing them is up to you. */
import { randomUUID } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import * as path from 'node:path'
import * as z from 'zod'
import type { Processor, ProcessorInput } from '../processor.ts'
import { parseOptions } from './options.ts'
import { findProgram, runProgram } from './program.ts'
import { onErrorOption, unlessUnfit } from './unfit.ts'

const schema = z.strictObject({
  command: z.array(z.string()).min(1).optional(),
  arguments: z.array(z.string()).default([]),
  onError: onErrorOption.default('pass'),
})

/** Settings of these minifiers. */
export interface MinifyProgramOptions {
  /** How the program is called, such as `['java', '-jar', '/opt/yuicompressor.jar']`. Default: it is looked for in the PATH. */
  command?: string[]
  /** Further arguments. */
  arguments?: string[]
  /** What becomes of a file with syntax errors: delivered as it is with a warning, or held back. Default `pass`. */
  onError?: 'pass' | 'fail'
}

interface Program {
  name: string
  programs: readonly string[]
  hint: string
  extensions: readonly string[]
  arguments: (input: ProcessorInput) => string[]
}

/** YUI Compressor, for style sheets and for scripts of ECMAScript 5 at most. Rejects with INVALID_CONFIG where it is not installed. */
export const yuiCompressor = (options: MinifyProgramOptions = {}): Processor =>
  minifier(options, {
    name: 'yui-compressor',
    programs: ['yui-compressor', 'yuicompressor'],
    hint: 'Install it, for example with: npm install --global yuicompressor. It needs Java. Or use minify.css and minify.js.',
    extensions: ['css', 'js'],
    arguments: ({ name }) => {
      const type = path.posix.extname(name).toLowerCase() === '.css' ? 'css' : 'js'
      return ['--type', type, '--charset', 'utf-8']
    },
  })

/** Google Closure Compiler, for scripts. Rejects with INVALID_CONFIG where it is not installed. */
export const googleClosureCompiler = (options: MinifyProgramOptions = {}): Processor =>
  minifier(options, {
    name: 'google-closure-compiler',
    programs: ['google-closure-compiler', 'closure-compiler'],
    hint: 'Install it, for example with: npm install --global google-closure-compiler. Or use minify.js.',
    extensions: ['js'],
    arguments: () => ['--warning_level', 'QUIET'],
  })

function minifier(options: MinifyProgramOptions, program: Program): Processor {
  const { name, programs, hint, extensions } = program
  const { command, arguments: further, onError } = parseOptions(name, schema, options)
  return {
    name,
    version: '1',
    extensions,
    concurrency: availableParallelism(),
    process: async (input) =>
      unlessUnfit(onError, input, async () => {
        const called = command ?? [findProgram(programs, hint)]
        const { size } = await stat(input.file)
        if (size === 0) return undefined
        const directory = await input.workDirectory()
        const output = path.join(directory, randomUUID())
        const filled = [...called, ...further, ...program.arguments(input)]
        // Their own way to name files knows patterns, so they get no names.
        const through = { stdin: input.file, output, isPrinting: true }
        await runProgram({ command: filled, directory, ...through, maxBytes: 2 * size + 65_536, signal: input.signal })
        return (await stat(output)).size < size ? { file: output } : undefined
      }),
  }
}
