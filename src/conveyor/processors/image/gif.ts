/** GIF: a still one becomes a PNG where that is allowed, an animated one is optimised by gifsicle where that is installed. */
import { spawnSync } from 'node:child_process'
import { hash } from 'node:crypto'
import { optionalPackage } from '../optional-package.ts'
import { checkSize, damaged, smallest, type ImageSettings, type Optimized } from './limits.ts'
import { optimizePng } from './png.ts'

interface Gif {
  width: number
  height: number
  frames: number
  /** Comments, and other things that no decoder needs. */
  hasMetadata: boolean
}

const [extension, frame, trailer] = [0x21, 0x2c, 0x3b]
const [commentLabel, applicationLabel] = [0xfe, 0xff]
const maxOutputBytes = 512 << 20

/** Throws CORRUPT for a file that is not whole, or that gifsicle made something else of. */
export async function optimizeGif(bytes: Buffer, settings: ImageSettings): Promise<Optimized> {
  const gif = readGif(bytes)
  checkSize(gif.width, gif.height, gif.frames, settings)
  if (gif.frames > 1) return optimizeAnimation(bytes, settings)
  // PNG has no place for what a GIF says besides its picture.
  if (!settings.mayRename || (settings.keepMetadata && gif.hasMetadata)) return {}
  const sharp = await loadSharp()
  const decoded = await sharp(bytes, { failOn: 'warning', limitInputPixels: settings.maxPixels })
    .png({ compressionLevel: 1 })
    .toBuffer()
  const { bytes: png = decoded } = await optimizePng(decoded, { ...settings, keepMetadata: false })
  return png.length < bytes.length ? { bytes: png, extension: '.png' } : {}
}

async function optimizeAnimation(bytes: Buffer, settings: ImageSettings): Promise<Optimized> {
  const strip = settings.keepMetadata ? [] : ['--no-comments', '--no-names', '--no-extensions']
  const { status, stdout, error } = spawnSync('gifsicle', ['-O3', '--no-warnings', ...strip], {
    input: bytes,
    maxBuffer: maxOutputBytes,
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  if ((error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT') return { missing: 'gifsicle' }
  if (error || status !== 0)
    throw damaged(`is a GIF that gifsicle cannot read (${error?.message ?? `status ${status}`})`)
  const best = smallest(bytes, [stdout])
  if (!best) return {}
  if ((await shown(bytes, settings)) !== (await shown(best, settings))) throw damaged('is a GIF that gifsicle changes')
  return { bytes: best }
}

/** Everything a viewer gets to see: pixels, times and repetitions. */
async function shown(bytes: Buffer, settings: ImageSettings): Promise<string> {
  const sharp = await loadSharp()
  const image = sharp(bytes, { animated: true, limitInputPixels: settings.maxPixels })
  const { delay, loop, pages } = await image.metadata()
  const pixels = await image.ensureAlpha().raw().toBuffer()
  return JSON.stringify([pages, loop, delay, hash('sha256', pixels)])
}

async function loadSharp() {
  const { default: sharp } = await optionalPackage('sharp', async () => import('sharp'))
  sharp.concurrency(1)
  sharp.cache(false)
  return sharp
}

/** Walks through the blocks, and throws CORRUPT unless the last one is there. */
function readGif(bytes: Buffer): Gif {
  const gif: Gif = { width: 0, height: 0, frames: 0, hasMetadata: false }
  const byte = (at: number) => {
    const value = bytes[at]
    if (value === undefined) throw damaged('is a GIF without its end')
    return value
  }
  const afterTable = (at: number, flags: number) => at + (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0)
  const afterBlocks = (from: number) => {
    let at = from
    while (byte(at) !== 0) at += byte(at) + 1
    return at + 1
  }
  gif.width = byte(6) | (byte(7) << 8)
  gif.height = byte(8) | (byte(9) << 8)
  for (let at = afterTable(13, byte(10)); byte(at) !== trailer; )
    if (byte(at) === extension) {
      const label = byte(at + 1)
      const isLoop = /^(NETSCAPE2\.0|ANIMEXTS1\.0)$/.test(bytes.toString('latin1', at + 3, at + 14))
      if (label === commentLabel || (label === applicationLabel && !isLoop)) gif.hasMetadata = true
      at = afterBlocks(at + 2)
    } else if (byte(at) === frame) {
      gif.frames++
      at = afterBlocks(afterTable(at + 10, byte(at + 9)) + 1)
    } else throw damaged('is a GIF with damaged blocks')
  if (gif.frames === 0) throw damaged('is a GIF without a picture')
  return gif
}
