/** What is wrong with an image, and what is too much of it. */
import { StowageError } from '../../../core/errors.ts'

/** What may be done to an image. */
export interface ImageSettings {
  /** Keep what does not change the picture: camera data, copyright, comments. */
  keepMetadata: boolean
  /** A still GIF may become a PNG, with another extension. */
  mayRename: boolean
  /** Of all frames together; images of more are UNSUPPORTED. */
  maxPixels: number
}

/** What came of an image. Undefined bytes: nothing could be gained. */
export interface Optimized {
  bytes?: Buffer
  /** The format has changed, so the name has to. */
  extension?: '.png'
  /** A program that is not installed, and without which nothing could be done. */
  missing?: string
}

/** The error for an image that is not what it ought to be. */
export function damaged(reason: string): StowageError {
  return new StowageError('CORRUPT', `The image ${reason}.`)
}

/** Throws UNSUPPORTED for an image whose header announces more pixels than are allowed, before anything is decoded. */
export function checkSize(width: number, height: number, frames: number, { maxPixels }: ImageSettings): void {
  if (width < 1 || height < 1) throw damaged('has no pixels')
  if (width * height * frames <= maxPixels) return
  const times = frames > 1 ? ` in ${frames} frames` : ''
  throw new StowageError('UNSUPPORTED', `The image has ${width} × ${height} pixels${times}, more than ${maxPixels}.`, {
    hint: 'The option maxPixels allows more.',
  })
}

/** The smaller of several, or undefined when none is smaller than the original. */
export function smallest(original: Buffer, candidates: readonly Buffer[]): Buffer | undefined {
  const [best] = candidates.toSorted((a, b) => a.length - b.length)
  return best && best.length < original.length ? best : undefined
}
