/** Compressed variants beside the file, for web servers that send those instead of compressing each time. */
import { randomUUID } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import * as path from 'node:path'
import * as z from 'zod'
import { parseSize } from '../../core/units.ts'
import type { Processor, ProcessorInput, ProcessorOutput } from '../processor.ts'
import type { CompressTask, Encoding } from './compress-file.ts'
import { parseOptions } from './options.ts'
import { sharedPool } from './pool.ts'

const suffixes: Record<Encoding, string> = { gzip: '.gz', brotli: '.br', zstd: '.zst' }
const names = Object.keys(suffixes) as Encoding[]
const size = z.union([z.number(), z.string()])
const schema = z.strictObject({
  encodings: z.array(z.enum(names)).min(1, 'needs at least one').default(['gzip', 'brotli']),
  extensions: z.array(z.string().regex(/^[^./]+$/, 'is not an extension: write "css", without dot')).optional(),
  minimum: size.default('1KiB'),
  maximum: size.default('64MiB'),
})

/** Settings of the compression. */
export interface PrecompressOptions {
  /** Which variants. Default gzip (`.gz`) and brotli (`.br`). */
  encodings?: Encoding[]
  /** Which files. Default: texts, fonts and other things that are not compressed in themselves. */
  extensions?: string[]
  /** Smaller files have no variants. Default 1 KiB. */
  minimum?: number | string
  /** Nor have larger ones. Default 64 MiB. */
  maximum?: number | string
}

const worthwhile =
  'css js mjs cjs html htm xhtml xml rss atom svg json map webmanifest txt md csv wasm ttf otf eot ico bmp'.split(' ')
const task = {
  module: new URL(`./compress-file${import.meta.url.slice(-3)}`, import.meta.url).href,
  name: 'compressFile',
}

/** Adds variants that are smaller than the file. The file stays as it is. Stands last, or only names come after it. */
export default function precompress(options: PrecompressOptions = {}): Processor {
  const { encodings, extensions = worthwhile, ...sizes } = parseOptions('precompress', schema, options)
  const [minimum, maximum] = [parseSize(sizes.minimum), parseSize(sizes.maximum)]
  return {
    name: 'precompress',
    version: '1',
    extensions: extensions.map((each) => each.toLowerCase()),
    concurrency: availableParallelism(),
    process: async (input) => {
      const bytes = (await stat(input.file)).size
      return bytes < minimum || bytes > maximum ? undefined : compress(input, encodings)
    },
  }
}

async function compress(input: ProcessorInput, encodings: readonly Encoding[]): Promise<ProcessorOutput> {
  const target = path.join(await input.workDirectory(), randomUUID())
  const targets = Object.fromEntries(encodings.map((each) => [each, target + suffixes[each]]))
  const work: CompressTask = { file: input.file, targets }
  const made = await sharedPool.run<Encoding[]>({ ...task, input: work }, input.signal)
  return { variants: made.map((each) => ({ file: target + suffixes[each], suffix: suffixes[each] })) }
}
