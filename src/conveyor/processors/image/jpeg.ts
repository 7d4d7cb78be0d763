/** JPEG: the same coefficients coded better, without decoding the picture, and with the metadata that is to stay. */
import { optionalPackage } from '../optional-package.ts'
import { orientationOf, orientationOnly } from './exif.ts'
import { checkSize, damaged, smallest, type ImageSettings, type Optimized } from './limits.ts'

/** A marker with what belongs to it; that of a scan reaches to the next marker. */
interface Segment {
  marker: number
  bytes: Buffer
}

interface Jpeg {
  segments: Segment[]
  width: number
  height: number
  /** What follows the picture: other pictures, a video, or nothing. */
  trailer: Buffer
}

const [startOfImage, endOfImage, startOfScan, comment] = [0xd8, 0xd9, 0xda, 0xfe]
const app = (number: number) => 0xe0 + number
const exif = Buffer.from('Exif\0\0')
const start = Buffer.from([0xff, startOfImage])
const end = Buffer.from([0xff, endOfImage])

/**
 * Codes a JPEG anew, progressively unless the other way is smaller. Colour profile and orientation stay, the other
 * metadata if they are to. Throws CORRUPT for a file that is not whole or does not decode to the same pixels afterwards.
 */
export async function optimizeJpeg(bytes: Buffer, settings: ImageSettings): Promise<Optimized> {
  const jpeg = readJpeg(bytes)
  checkSize(jpeg.width, jpeg.height, 1, settings)
  if (jpeg.segments.some((segment) => isTied(segment, settings))) return {}
  const metadata = settings.keepMetadata ? jpeg.segments.filter(isMetadata) : essential(jpeg)
  const recoded = await recode(bytes)
  const candidates = [readJpeg(recoded), jpeg].map((each) =>
    assemble(each, metadata, settings.keepMetadata ? jpeg.trailer : undefined),
  )
  const best = smallest(bytes, candidates)
  return best ? { bytes: best } : {}
}

/** The coefficients stay as they are; a file with damage in the midst of them is noticed by its pixels. */
async function recode(bytes: Buffer): Promise<Buffer> {
  const { compressJpegSync, Transformer } = await optionalPackage(
    '@napi-rs/image',
    async () => import('@napi-rs/image'),
  )
  const recoded = compressJpegSync(bytes, { quality: 100 })
  const [before, now] = [bytes, recoded].map((each) => new Transformer(each).rawPixelsSync())
  if (!before?.equals(now as Buffer)) throw damaged('is a JPEG with damaged pixels')
  return recoded
}

/** Takes a file apart, and throws CORRUPT unless it is there from its first to its last marker. */
function readJpeg(bytes: Buffer): Jpeg {
  const segments: Segment[] = []
  let size: { width: number; height: number } | undefined
  for (let at = 2; ; ) {
    while (bytes[at] === 0xff && bytes[at + 1] === 0xff) at++
    const marker = bytes[at + 1]
    if (marker === undefined) throw damaged('is a JPEG without its end')
    if (bytes[at] !== 0xff) throw damaged('is a JPEG with damaged markers')
    if (marker === endOfImage) {
      if (!size || !segments.some((segment) => segment.marker === startOfScan))
        throw damaged('is a JPEG without a picture')
      return { segments, ...size, trailer: bytes.subarray(at + 2) }
    }
    const headerEnd = at + 2 + (at + 4 <= bytes.length ? bytes.readUInt16BE(at + 2) : Number.POSITIVE_INFINITY)
    if (headerEnd > bytes.length) throw damaged('is a JPEG without its end')
    const next = marker === startOfScan ? endOfScan(bytes, headerEnd) : headerEnd
    if (isFrame(marker) && headerEnd >= at + 9)
      size = { height: bytes.readUInt16BE(at + 5), width: bytes.readUInt16BE(at + 7) }
    segments.push({ marker, bytes: bytes.subarray(at, next) })
    at = next
  }
}

/** Within a scan only escaped bytes and restart markers follow an FF. */
function endOfScan(bytes: Buffer, from: number): number {
  for (let at = bytes.indexOf(0xff, from); at >= 0; at = bytes.indexOf(0xff, at + 1)) {
    const code = bytes[at + 1] ?? 0
    if (code !== 0 && code !== 0xff && (code < 0xd0 || code > 0xd7)) return at
  }
  throw damaged('is a JPEG without its end')
}

function isFrame(marker: number): boolean {
  return marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)
}

/** What decoders can do without. JFIF's own segment and Adobe's say how colours are coded. */
function isMetadata(segment: Segment): boolean {
  const { marker } = segment
  if (marker === app(0)) return !begins(segment, 'JFIF\0')
  if (marker === app(14)) return !begins(segment, 'Adobe')
  return marker === comment || (marker > app(0) && marker <= app(15))
}

/** The colour profile, and the orientation without the rest of EXIF. */
function essential({ segments }: Jpeg): Segment[] {
  const profile = segments.filter((each) => each.marker === app(2) && begins(each, 'ICC_PROFILE\0'))
  const camera = segments.find((each) => each.marker === app(1) && begins(each, 'Exif\0\0'))
  const orientation = camera ? orientationOf(camera.bytes.subarray(4 + exif.length)) : 1
  if (orientation === 1) return profile
  const content = Buffer.concat([exif, orientationOnly(orientation)])
  const header = Buffer.from([0xff, app(1), 0, content.length + 2])
  return [{ marker: app(1), bytes: Buffer.concat([header, content]) }, ...profile]
}

/**
 * Brightness for screens that can show more, kept in a second picture, belongs to the first. So do pictures that are found by
 * their place in the file, when all metadata is to stay. Such files are left as they are.
 */
function isTied(segment: Segment, { keepMetadata }: ImageSettings): boolean {
  if (segment.marker === app(2) && begins(segment, 'MPF\0')) return keepMetadata
  if (segment.marker === app(2)) return begins(segment, 'urn:iso:std:iso:ts:21496')
  return segment.marker === app(1) && ['hdrgm:', 'HDRGainMap'].some((name) => segment.bytes.includes(name))
}

function begins({ bytes }: Segment, text: string): boolean {
  return bytes.toString('latin1', 4, 4 + text.length) === text
}

function assemble({ segments }: Jpeg, metadata: readonly Segment[], trailer: Uint8Array = new Uint8Array()): Buffer {
  const own = segments.filter((segment) => !isMetadata(segment))
  // JFIF wants to come first.
  const first = own.filter(({ marker }) => marker === app(0))
  const rest = own.filter(({ marker }) => marker !== app(0))
  return Buffer.concat([start, ...[...first, ...metadata, ...rest].map(({ bytes }) => bytes), end, trailer])
}
