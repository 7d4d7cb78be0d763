/** The minifiers of old: YUI Compressor and Google Closure Compiler, as the programs they are. Installing them is up to you. */
import { randomUUID } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import * as path from 'node:path'
import * as z from 'zod'
import type { Processor, ProcessorInput } from '../processor.ts'
import { parseOptions } from './options.ts'
import { findProgram, runProgram, type ProgramRun } from './program.ts'
import { onErrorOption, unlessUnfit } from './unfit.ts'
import { isWorthwhile } from './worthwhile.ts'

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
  /** How it is told what to do; `output` is a name in its working directory. */
  run: (input: ProcessorInput, output: string) => Pick<ProgramRun, 'stdin' | 'isPrinting'> & { arguments: string[] }
}

/** YUI Compressor, for style sheets and for scripts of ECMAScript 5 at most. Rejects with INVALID_CONFIG where it is not installed. */
export const yuiCompressor = (options: MinifyProgramOptions = {}): Processor =>
  minifier(options, {
    name: 'yui-compressor',
    programs: ['yui-compressor', 'yuicompressor'],
    hint: 'Install it, for example with: npm install --global yuicompressor. It needs Java. Or use minify.css and minify.js.',
    extensions: ['css', 'js'],
    // Not all who wrap it pass standard input on, and characters whole.
    run: ({ name, file }, output) => {
      const type = path.posix.extname(name).toLowerCase() === '.css' ? 'css' : 'js'
      return { arguments: ['--type', type, '--charset', 'utf-8', '-o', output, file] }
    },
  })

/** Google Closure Compiler, for scripts. Rejects with INVALID_CONFIG where it is not installed. */
export const googleClosureCompiler = (options: MinifyProgramOptions = {}): Processor =>
  minifier(options, {
    name: 'google-closure-compiler',
    programs: ['google-closure-compiler', 'closure-compiler'],
    hint: 'Install it, for example with: npm install --global google-closure-compiler. Or use minify.js.',
    extensions: ['js'],
    // It takes names for patterns.
    run: ({ file }) => ({ arguments: ['--warning_level', 'QUIET'], stdin: file, isPrinting: true }),
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
        const { arguments: own, ...through } = program.run(input, path.basename(output))
        const limits = { maxBytes: 2 * size + 65_536, signal: input.signal }
        await runProgram({ command: [...called, ...further, ...own], directory, output, ...through, ...limits })
        return isWorthwhile(size, (await stat(output)).size) ? { file: output } : undefined
      }),
  }
}
