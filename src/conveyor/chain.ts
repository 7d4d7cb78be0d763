/** Runs the processors of a rule on one file, one after another, within a time limit. */
import * as path from 'node:path'
import { StowageError } from '../core/errors.ts'
import { Limit } from '../core/limit.ts'
import type { Workbench } from '../store/workbench.ts'
import type { Original } from './original.ts'
import type { Processor, ProcessorInput, ProcessorOutput, Variant } from './processor.ts'
import type { Destination } from './rules.ts'

/** What comes out of a chain: a file on the disk and the base name it is to be delivered under. */
export interface Processed {
  file: string
  name: string
  /** The name changes whenever the content does. */
  isVersioned: boolean
  variants: readonly Variant[]
}

/** What a run of a chain needs. */
export interface ChainOptions {
  destination?: ProcessorInput['destination']
  workDirectory: () => Promise<string>
  timeLimitMs: number
  signal: AbortSignal
  /** Hears what processors find odd. Default: nobody does. */
  warn?: (message: string) => void
}

/** The turns of processors that have a limit. */
const limits = new WeakMap<Processor, Limit>()

/** Runs the chain. Rejects naming the processor and the file; TIMEOUT when it takes longer than its limit. */
export async function runChain(
  processors: readonly Processor[],
  original: Original,
  options: ChainOptions,
): Promise<Processed> {
  let result: Processed = {
    file: original.file,
    name: path.posix.basename(original.path),
    isVersioned: false,
    variants: [],
  }
  const extension = path.posix.extname(original.path).slice(1).toLowerCase()
  for (const processor of processors)
    if (processor.extensions?.includes(extension) ?? true) result = await runOne(processor, original, result, options)
  return { ...result, isVersioned: result.isVersioned && !dependsOnOthers(processors, extension) }
}

/** What differs per destination shows more than the original, such as addresses, and so may change without it. */
function dependsOnOthers(processors: readonly Processor[], extension: string): boolean {
  return processors.some(
    ({ differsPerDestination, extensions }) => differsPerDestination && (extensions?.includes(extension) ?? true),
  )
}

async function runOne(
  processor: Processor,
  original: Original,
  current: Processed,
  options: ChainOptions,
): Promise<Processed> {
  const run = async () => runNow(processor, original, current, options)
  if (processor.concurrency === undefined) return run()
  const limit = limits.get(processor) ?? new Limit(processor.concurrency)
  limits.set(processor, limit)
  return limit.run(run, options.signal)
}

async function runNow(
  processor: Processor,
  original: Original,
  current: Processed,
  options: ChainOptions,
): Promise<Processed> {
  const limit = AbortSignal.timeout(options.timeLimitMs)
  const signal = AbortSignal.any([options.signal, limit])
  const failure = (reason: string, details: { cause?: unknown; code?: 'TIMEOUT' | 'ABORTED' }) =>
    new StowageError(details.code ?? 'UNKNOWN', `The processor ${processor.name} ${reason} on ${original.file}.`, {
      cause: details.cause,
      retryable: details.code === 'ABORTED',
    })
  const cut = new Promise<never>((_, reject) => {
    const fire = () =>
      reject(
        limit.aborted && !options.signal.aborted
          ? failure(`took longer than ${options.timeLimitMs} ms`, { code: 'TIMEOUT' })
          : failure('was stopped', { code: 'ABORTED' }),
      )
    if (signal.aborted) fire()
    else signal.addEventListener('abort', fire, { once: true })
  })
  cut.catch(() => undefined)
  try {
    const work = processor.process({
      file: current.file,
      name: current.name,
      sourceFile: original.file,
      sourcePath: original.path,
      ...(options.destination ? { destination: options.destination } : {}),
      workDirectory: options.workDirectory,
      warn: (message) => options.warn?.(`${original.path}: ${message} (${processor.name})`),
      signal,
    })
    const output = await Promise.race([work, cut])
    return after(current, output)
  } catch (error) {
    if (error instanceof StowageError) throw error
    throw failure(`failed with "${error instanceof Error ? error.message : String(error)}"`, { cause: error })
  }
}

/** What stands after a processor. Throws when it gave names that are none. */
function after(current: Processed, output: ProcessorOutput | undefined): Processed {
  const { file, name = current.name, variants = file === undefined ? current.variants : [] } = output ?? {}
  const wrong = [name, ...variants.map(({ suffix }) => name + (suffix || '/'))].find((each) => !isBaseName(each))
  if (wrong !== undefined) throw new Error(`it gave the name ${JSON.stringify(wrong)}, which is not a base name`)
  const isVersioned = name === current.name ? current.isVersioned : false
  return { file: file ?? current.file, name, isVersioned: output?.versioned ?? isVersioned, variants }
}

function isBaseName(name: string): boolean {
  return name !== '' && name !== '.' && name !== '..' && !name.includes('/')
}

/** A workbench that is only made when somebody asks for it, and the way to be rid of it. */
export function lazyBench(make: () => Promise<Workbench>) {
  let bench: Promise<Workbench> | undefined
  return {
    directory: async () => {
      bench ??= make()
      return (await bench).directory
    },
    [Symbol.asyncDispose]: async () => {
      await (await bench)?.[Symbol.asyncDispose]()
    },
  }
}

/**
 * Identifies in the ledger how a file was made: the chain, and how its destination wants it kept. When that changes, the
 * files it concerns are processed again.
 */
export function fingerprintOf(processors: readonly Processor[], to?: Destination): string {
  const chain = processors.map(({ name, version }) => `${name}@${version}`)
  const { cacheControl, link } = to ?? {}
  const kept = cacheControl === undefined && link === undefined ? [] : [JSON.stringify({ cacheControl, link })]
  return [...chain, ...kept].join(' ')
}
