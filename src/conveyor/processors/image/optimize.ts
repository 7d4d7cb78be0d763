/** One image file, optimised without loss by the tool of its format. Runs in a process of the pool. */
import { readFileSync, statSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { diskError } from '../../../core/disk-error.ts'
import { StowageError } from '../../../core/errors.ts'
import { optimizeGif } from './gif.ts'
import { optimizeJpeg } from './jpeg.ts'
import { damaged, type ImageSettings, type Optimized } from './limits.ts'
import { optimizePng } from './png.ts'
import { optimizeSvg } from './svg.ts'

/** The work on one file. */
export interface ImageTask extends ImageSettings {
  file: string
  /** Its extension must be that of the content. */
  name: string
  /** Where the result is written, if there is one. */
  target: string
}

/** What came of it. */
export interface ImageResult extends Omit<Optimized, 'bytes'> {
  /** The target was written, and is smaller than the file. */
  isSmaller: boolean
}

const maxBytes = 256 << 20
const formats = { JPEG: optimizeJpeg, PNG: optimizePng, GIF: optimizeGif, SVG: optimizeSvg }
type Format = keyof typeof formats
const extensions: Record<string, Format | undefined> = {
  '.jpg': 'JPEG',
  '.jpeg': 'JPEG',
  '.png': 'PNG',
  '.gif': 'GIF',
  '.svg': 'SVG',
}

/**
 * Optimises a file. Throws CORRUPT for what is damaged or something else than its name says, UNSUPPORTED for what is too
 * large, and INVALID_CONFIG when the package for its format is not installed.
 */
export async function optimizeImage(task: ImageTask): Promise<ImageResult> {
  const bytes = onDisk(task.file, () => read(task.file))
  const format = formatOf(bytes)
  const announced = extensions[path.extname(task.name).toLowerCase()]
  if (!format) throw damaged(`is not ${announced ? `the ${announced} that its name says` : 'of a known format'}`)
  if (announced && announced !== format) throw damaged(`is a ${format}, and not the ${announced} that its name says`)
  const { bytes: result, ...rest } = await formats[format](bytes, task).catch((error: unknown) => {
    throw error instanceof StowageError ? error : unreadable(format, error)
  })
  if (result) onDisk(task.target, () => writeFileSync(task.target, result, { flag: 'wx' }))
  return { ...rest, isSmaller: result !== undefined }
}

/** Whatever a library has against an image, it is as good as damaged for us. */
function unreadable(format: Format, cause: unknown): StowageError {
  const [reason = ''] = (cause instanceof Error ? cause.message : String(cause)).split('\n')
  return new StowageError('CORRUPT', `The image is a ${format} that cannot be read: ${reason}.`, { cause })
}

function read(file: string): Buffer {
  const { size } = statSync(file)
  if (size > maxBytes) throw new StowageError('UNSUPPORTED', `The image has ${size} bytes, more than ${maxBytes}.`)
  return readFileSync(file)
}

function onDisk<T>(file: string, work: () => T): T {
  try {
    return work()
  } catch (error) {
    throw diskError(error, `${file} cannot be read or written`) ?? error
  }
}

function formatOf(bytes: Buffer): Format | undefined {
  if (bytes.length === 0) throw damaged('is empty')
  const begin = bytes.toString('latin1', 0, 1024)
  if (begin.startsWith('\xff\xd8\xff')) return 'JPEG'
  if (begin.startsWith('\x89PNG\r\n\x1a\n')) return 'PNG'
  if (/^GIF8[79]a/.test(begin)) return 'GIF'
  // Comments of any length may come before the first element.
  const text = begin.replace(/^\xef\xbb\xbf/, '').trimStart()
  return /^<(\?xml|!--|!DOCTYPE svg|svg[\s>])/i.test(text) && /<svg[\s>]/.test(bytes.toString('latin1'))
    ? 'SVG'
    : undefined
}
