/**
 * Images through the conveyor with `image-optimizer.max`, beside jpegtran, optipng -o2 and gifsicle -O2 run two at a time on the
 * same files. Needs libjpeg-turbo-progs, optipng, gifsicle, time. Our processes give way to others: on a machine that is
 * not quiet run it as a whole with `nice -n 10`.
 */
import { execFileSync } from 'node:child_process'
import * as fs from 'node:fs'
import * as path from 'node:path'
import sharp from 'sharp'
import { animation, photograph, picture } from '../test/images.ts'
import { measure, type Contestant } from './measure.ts'
import { configure, report, stowage, workplace } from './scene.ts'

const base = workplace()
const kinds = { jpg: await jpegs(), png: await pngs(), gif: await gifs() }
const all = Object.values(kinds).flat()
for (const [title, files] of Object.entries({ ...kinds, 'all of them': all })) compare(title, files)

function compare(title: string, files: readonly Buffer[]) {
  const directory = path.join(base, title.replaceAll(' ', '-'))
  const [site, ours, theirs] = ['site', 'ours', 'theirs'].map((name) => path.join(directory, name)) as [
    string,
    string,
    string,
  ]
  fs.mkdirSync(site, { recursive: true })
  for (const [index, bytes] of files.entries())
    fs.writeFileSync(path.join(site, `${index}.${extensionOf(bytes)}`), bytes)
  const config = configure(directory, site, `file://${ours}?fsync=false`, {}, ['image-optimizer.max'])
  const clear = (...paths: string[]) => {
    for (const each of paths) fs.rmSync(each, { recursive: true, force: true })
  }
  const figures = measure(
    [
      stowage('stowage sync', ['sync', ...config], () => clear(ours, path.join(directory, 'state'))),
      {
        ...programs(site, theirs),
        prepare: () => {
          clear(theirs)
          fs.mkdirSync(theirs)
        },
      },
    ],
    3,
  )
  const bytes = files.reduce((sum, file) => sum + file.length, 0)
  report(`${title}: ${files.length} files, ${(bytes / 1e6).toFixed(1)} MB`, figures)
  const [our, their] = [sizeOf(ours), sizeOf(theirs)]
  console.log(`bytes that stay: ${percent(our, bytes)}, theirs ${percent(their, bytes)}; ${(our / their).toFixed(4)}x`)
}

/** One process a file, two at a time; progressive from 10 KiB on, as ours. */
function programs(site: string, out: string): Contestant {
  const each = (which: string, command: string) => `find . ${which} -print0 | xargs -0 -r -P2 -I{} ${command}`
  const script = [
    each(`-name '*.jpg' -size -20b`, `jpegtran -copy none -optimize -outfile ${out}/{} {}`),
    each(`-name '*.jpg' -size +19b`, `jpegtran -copy none -optimize -progressive -outfile ${out}/{} {}`),
    each(`-name '*.png'`, `optipng -quiet -o2 -strip all -out ${out}/{} {}`),
    each(`-name '*.still.gif'`, `optipng -quiet -o2 -strip all -out ${out}/{}.png {}`),
    each(`-name '*.moving.gif'`, `gifsicle -w -O2 -o ${out}/{} {}`),
  ].join('; ')
  return { name: 'jpegtran, optipng -o2, gifsicle -O2', command: ['sh', '-c', `cd ${site}; ${script}`] }
}

/** As cameras and editors write them: the photographs themselves, and smaller ones. */
async function jpegs(): Promise<Buffer[]> {
  const widths = [900, 640, 320, 120]
  const smaller = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((index) =>
    widths.flatMap((width) => [75, 85, 92].map(async (quality) => picture(width, index).jpeg({ quality }).toBuffer())),
  )
  return [...[0, 1, 2, 3, 4, 5, 6, 7].map(photograph), ...(await Promise.all(smaller))]
}

/** Photographs, transparent and grey ones, palettes, and drawings. */
async function pngs(): Promise<Buffer[]> {
  const drawings = fs.globSync('node_modules/bootstrap-icons/icons/{a,b}*.svg').slice(0, 40)
  const made = [
    ...[0, 1, 2, 3, 4, 5, 6, 7].flatMap((index) => [
      picture(300, index).png(),
      picture(200, index).ensureAlpha(0.5).png(),
      picture(300, index).grayscale().png(),
      picture(300, index).png({ palette: true }),
    ]),
    ...drawings.map((file) => sharp(file, { density: 600 }).png()),
  ]
  return Promise.all(made.map(async (image) => image.toBuffer()))
}

async function gifs(): Promise<Buffer[]> {
  const still = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((index) =>
    [100, 200, 300].map(async (width) => picture(width, index).gif().toBuffer()),
  )
  const moving = Array.from({ length: 24 }, async (_, index) => animation(index + 2))
  const careless = (gif: Buffer) => execFileSync('gifsicle', ['-w', '--unoptimize'], { input: gif })
  return [...(await Promise.all(still)), ...(await Promise.all(moving)).map(careless)]
}

function extensionOf(bytes: Buffer): string {
  if (bytes[0] === 0xff) return 'jpg'
  if (bytes[0] === 0x89) return 'png'
  // The block that says how often to repeat.
  return bytes.includes('NETSCAPE') ? 'moving.gif' : 'still.gif'
}

function sizeOf(directory: string): number {
  const files = fs.globSync('**/*.{jpg,png,gif}', { cwd: directory })
  return files.reduce((sum, file) => sum + fs.statSync(path.join(directory, file)).size, 0)
}

function percent(part: number, whole: number): string {
  return `${((100 * part) / whole).toFixed(2)} %`
}
