/**
 * Images without loss: the same pixels in fewer bytes, never in more. JPEG keeps its coefficients, PNG is compressed anew,
 * animated GIF goes through gifsicle, SVG is written more briefly. Needs @napi-rs/image, sharp for GIF and svgo for SVG.
 */
import { randomUUID } from 'node:crypto'
import { availableParallelism } from 'node:os'
import * as path from 'node:path'
import * as z from 'zod'
import type { Processor, ProcessorInput, ProcessorOutput } from '../processor.ts'
import type { ImageResult, ImageTask } from './image/optimize.ts'
import { parseOptions } from './options.ts'
import { sharedPool } from './pool.ts'
import { onErrorOption, unlessUnfit } from './unfit.ts'

const schema = z.strictObject({
  onError: onErrorOption.default('pass'),
  maxPixels: z.int().positive().default(50_000_000),
})

/** Settings of the image optimiser. */
export interface ImageOptimizerOptions {
  /** What becomes of an image that is damaged, too large or not what its name says: delivered as it is with a warning, or held back. Default `pass`. */
  onError?: 'pass' | 'fail'
  /** Images of more pixels, all frames together, count as too large. Default 50 million. */
  maxPixels?: number
}

/** The smallest: metadata goes, but for colour profile and orientation, and still GIFs become PNGs. */
export const max = variant('max', { keepMetadata: false, mayRename: true })

/** As {@link max}, with all metadata. */
export const keepMetadata = variant('keepMetadata', { keepMetadata: true, mayRename: true })

/** As {@link max}, under the same name: still GIFs stay as they are. */
export const keepFilename = variant('keepFilename', { keepMetadata: false, mayRename: false })

/** As {@link max}, with all metadata and under the same name. */
export const keepMetadataAndFilename = variant('keepMetadataAndFilename', { keepMetadata: true, mayRename: false })

const task = {
  module: new URL(`./image/optimize${import.meta.url.slice(-3)}`, import.meta.url).href,
  name: 'optimizeImage',
}

function variant(label: string, settings: Pick<ImageTask, 'keepMetadata' | 'mayRename'>) {
  return (options: ImageOptimizerOptions = {}): Processor => {
    const name = `image-optimizer.${label}`
    const { onError, maxPixels } = parseOptions(name, schema, options)
    const told = new Set<string>()
    return {
      name,
      version: '1',
      extensions: ['gif', 'jpeg', 'jpg', 'png', 'svg'],
      concurrency: availableParallelism(),
      process: async (input) =>
        unlessUnfit(onError, input, async () => {
          const target = path.join(await input.workDirectory(), randomUUID())
          const work: ImageTask = { ...settings, maxPixels, file: input.file, name: input.name, target }
          const result = await sharedPool.run<ImageResult>({ ...task, input: work }, input.signal)
          return outputOf(input, target, result, told)
        }),
    }
  }
}

function outputOf(
  input: ProcessorInput,
  target: string,
  { isSmaller, extension, missing }: ImageResult,
  told: Set<string>,
): ProcessorOutput | undefined {
  if (missing !== undefined && !told.has(missing)) {
    told.add(missing)
    input.warn(`${missing} is not installed; without it animated GIFs are delivered as they are.`)
  }
  if (!isSmaller) return undefined
  return { file: target, ...(extension ? { name: path.parse(input.name).name + extension } : {}) }
}
