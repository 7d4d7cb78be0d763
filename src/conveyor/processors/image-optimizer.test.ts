/** Images through the optimiser: every promise by decoding what comes out. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import sharp from 'sharp'
import * as images from '../../../test/images.ts'
import { testProcessor, type NamedContent } from '../../testing/index.ts'
import { runChain } from '../chain.ts'
import { lookAt, type Original } from '../original.ts'
import type { Processor } from '../processor.ts'
import * as optimizer from './image-optimizer.ts'
import { loadProcessor } from './index.ts'
import { sharedPool } from './pool.ts'

const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-images-'))
after(async () => {
  await sharedPool.close()
  fs.rmSync(base, { recursive: true, force: true })
})

const hasGifsicle = spawnSync('gifsicle', ['--version']).status === 0
const withGifsicle = { skip: hasGifsicle ? false : 'gifsicle is not installed' }

const samples = [
  ...(await images.jpegs()),
  ...(await images.pngs()),
  ...(await images.gifs()).filter(({ name }) => hasGifsicle || name !== 'moving.gif'),
  ...images.svgs(),
]
const sample = (name: string) => samples.find((each) => each.name === name) as NamedContent
const broken = await brokenImages()

for (const [label, make] of Object.entries(optimizer))
  testProcessor(`image-optimizer.${label}`, {
    make: ({ strict }) => make({ onError: strict ? 'fail' : 'pass' }),
    samples,
    check: async (output, input) => {
      assert.deepEqual(await images.shown(output), await images.shown(input))
      const { format } = await sharp(output.content).metadata()
      assert.equal(
        format?.replace('jpeg', 'jpg'),
        path.extname(output.name).toLowerCase().slice(1).replace('jpeg', 'jpg'),
      )
      if (label.endsWith('ilename')) assert.equal(output.name, input.name)
    },
    metadata: label.startsWith('keepMetadata') ? allMetadata : metadataThatShows,
    broken,
  })

async function metadataThatShows({ content }: NamedContent) {
  const { orientation = 1, icc, hasProfile } = await sharp(content).metadata()
  return { orientation, icc, hasProfile }
}

async function allMetadata(file: NamedContent) {
  if (file.name.endsWith('.svg')) return ['<metadata>', 'Made by an editor'].map((text) => file.content.includes(text))
  const { exif, xmp, density, comments } = await sharp(file.content).metadata()
  const has = ['a comment', 'a video'].map((text) => file.content.includes(text))
  // What a GIF says of itself as a format is not said of the picture.
  const own = file.name.endsWith('.png') || file.name.endsWith('.gif') ? {} : { density }
  return { ...(await metadataThatShows(file)), exif, xmp, comments, has, ...own }
}

async function brokenImages(): Promise<NamedContent[]> {
  const [jpeg, png, gif] = ['baseline.jpg', 'colours.png', 'still.gif'].map((name) => sample(name).content) as Buffer[]
  assert.ok(jpeg && png && gif)
  const flipped = Buffer.from(png)
  flipped[flipped.length >> 1] = (flipped[flipped.length >> 1] ?? 0) ^ 1
  const holed = Buffer.from(jpeg).fill(0x41, jpeg.length >> 1, (jpeg.length >> 1) + 400)
  const cut = (name: string, content: Buffer, at: number) => ({
    name: `cut at ${at} ${name}`,
    content: content.subarray(0, at),
  })
  const sof = jpeg.indexOf(Buffer.from([0xff, 0xc0]))
  const hugeJpeg = Buffer.from(jpeg)
  hugeJpeg.writeUInt16BE(30_000, sof + 5)
  hugeJpeg.writeUInt16BE(30_000, sof + 7)
  const hugeGif = Buffer.from(gif)
  hugeGif.writeUInt16LE(30_000, 6)
  hugeGif.writeUInt16LE(30_000, 8)
  return [
    ...[3, 100, jpeg.length >> 1, jpeg.length - 2, jpeg.length - 1].map((at) => cut('x.jpg', jpeg, at)),
    ...[8, 100, png.length >> 1, png.length - 12, png.length - 1].map((at) => cut('x.png', png, at)),
    ...[6, 100, gif.length >> 1, gif.length - 1].map((at) => cut('x.gif', gif, at)),
    {
      name: 'cut and ended.jpg',
      content: Buffer.concat([jpeg.subarray(0, jpeg.length >> 1), Buffer.from([0xff, 0xd9])]),
    },
    { name: 'holed.jpg', content: holed },
    { name: 'flipped.png', content: flipped },
    { name: 'a jpeg.png', content: jpeg },
    { name: 'a png.jpg', content: png },
    { name: 'a gif.png', content: gif },
    { name: 'a png.svg', content: png },
    { name: 'a web page.jpg', content: Buffer.from('<!doctype html><svg></svg>') },
    { name: 'a webp.jpg', content: await images.picture(20).webp().toBuffer() },
    { name: 'huge.jpg', content: hugeJpeg },
    { name: 'huge.png', content: images.withSize(png, 30_000, 30_000) },
    { name: 'huge.gif', content: hugeGif },
    { name: 'empty.png', content: Buffer.alloc(0) },
    { name: 'unclosed.svg', content: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><g></svg>') },
    {
      name: 'not utf-8.svg',
      content: Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"><text>\xff</text></svg>', 'latin1'),
    },
  ]
}

let runs = 0
async function run(processor: Processor, { name, content }: NamedContent) {
  const directory = path.join(base, String(runs++))
  fs.mkdirSync(path.join(directory, 'work'), { recursive: true })
  fs.writeFileSync(path.join(directory, name), content)
  const warnings: string[] = []
  const result = await runChain([processor], lookAt(directory, name) as Original, {
    workDirectory: async () => path.join(directory, 'work'),
    timeLimitMs: 60_000,
    signal: new AbortController().signal,
    warn: (message) => warnings.push(message),
  })
  return { name: result.name, content: fs.readFileSync(result.file), warnings }
}

const isProgressive = (jpeg: Buffer) =>
  jpeg.includes(Buffer.from([0xff, 0xc2])) && !jpeg.includes(Buffer.from([0xff, 0xc0]))

test('photographs become smaller and progressive, pixel for pixel the same', async () => {
  for (let index = 0; index < 3; index++) {
    const input = { name: 'photograph.jpg', content: images.photograph(index) }
    const output = await run(optimizer.max(), input)
    assert.ok(output.content.length < input.content.length * 0.95)
    assert.ok(isProgressive(output.content))
    assert.deepEqual(await images.shown(output), await images.shown(input))
  }
})

test('what a camera and an editor have noted goes, and where it was taken', async () => {
  for (const name of ['camera.jpg', 'camera.png', 'editor.svg']) {
    const noted = ['Somebody', 'A camera', 'a comment', 'somebody', 'GPS'].filter((text) =>
      sample(name).content.includes(text),
    )
    assert.notEqual(noted.length, 0)
    const { content } = await run(optimizer.max(), sample(name))
    assert.deepEqual(
      noted.filter((text) => content.includes(text)),
      [],
    )
  }
})

test('a still GIF becomes a PNG where the name may change, and stays as it is otherwise', async () => {
  for (const name of ['still.gif', 'one frame.gif', 'see-through.gif']) {
    const { content, name: given } = await run(optimizer.max(), sample(name))
    const isSmaller = content.length < sample(name).content.length
    assert.equal(given, isSmaller ? name.replace('.gif', '.png') : name)
    assert.ok((await run(optimizer.keepFilename(), sample(name))).content.equals(sample(name).content))
  }
  assert.equal((await run(optimizer.max(), sample('still.gif'))).name, 'still.png')
})

test('a GIF that says something stays one where metadata is kept', async () => {
  const comment = Buffer.concat([Buffer.from([9]), Buffer.from('Somebody.'), Buffer.from([0])])
  const content = images.withGifExtension(sample('still.gif').content, 0xfe, comment)
  assert.equal((await run(optimizer.keepMetadata(), { name: 'still.gif', content })).name, 'still.gif')
  assert.equal((await run(optimizer.max(), { name: 'still.gif', content })).name, 'still.png')
})

test('an animation is optimised by gifsicle, frame for frame the same', withGifsicle, async () => {
  const input = { name: 'moving.gif', content: await padded(await images.animation(12)) }
  const output = await run(optimizer.keepFilename(), input)
  assert.ok(output.content.length < input.content.length)
  assert.deepEqual(await images.shown(output), await images.shown(input))
})

/** The same animation with a colour table of its own for each frame, as careless programs write it. */
async function padded(gif: Buffer): Promise<Buffer> {
  const { status, stdout } = spawnSync('gifsicle', ['--unoptimize', '--no-warnings', '-c', 'a comment'], { input: gif })
  return status === 0 ? stdout : gif
}

test('without gifsicle animations are passed on, with one warning for all of them', async () => {
  const { PATH } = process.env
  await sharedPool.close()
  process.env['PATH'] = base
  try {
    const processor = optimizer.max()
    const input = { name: 'moving.gif', content: await images.animation(3) }
    const outputs = [await run(processor, input), await run(processor, input)]
    for (const { content } of outputs) assert.ok(content.equals(input.content))
    assert.deepEqual(
      outputs.map(({ warnings }) => warnings.length),
      [1, 0],
    )
    assert.match(outputs[0]?.warnings[0] ?? '', /gifsicle is not installed/)
  } finally {
    process.env['PATH'] = PATH
    await sharedPool.close()
  }
})

test('animated PNGs, and JPEGs of several pictures that belong together, are left as they are', async () => {
  const animated = images.withChunk(sample('colours.png').content, 'acTL', Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]))
  const gainMap = images.withSegment(sample('baseline.jpg').content, 0xe1, Buffer.from('xmp hdrgm:Version="1.0"'))
  const several = images.withSegment(sample('baseline.jpg').content, 0xe2, Buffer.from('MPF\0offsets'))
  for (const [processor, input] of [
    [optimizer.max(), { name: 'x.png', content: animated }],
    [optimizer.max(), { name: 'x.jpg', content: gainMap }],
    [optimizer.keepMetadata(), { name: 'x.jpg', content: several }],
  ] as const) {
    const output = await run(processor, input)
    assert.ok(output.content.equals(input.content))
    assert.deepEqual(output.warnings, [])
  }
  assert.ok((await run(optimizer.max(), { name: 'x.jpg', content: several })).content.length < several.length)
})

test('ids, titles, scripts and what style sheets point at stay in drawings', async () => {
  const sprite = (await run(optimizer.max(), sample('sprite.svg'))).content.toString()
  assert.ok(sprite.includes('id="one"') && sprite.includes('id="two"'))
  assert.ok((await run(optimizer.max(), sample('editor.svg'))).content.includes('<title>A drawing</title>'))
  const styled = (await run(optimizer.max(), sample('styled.svg'))).content.toString()
  assert.ok(/<g><rect [^>]*class="a"/.test(styled) && styled.includes('fill="#ff0000"'))
})

test('more pixels than allowed are refused by the header; the option allows more', async () => {
  const { warnings } = await run(optimizer.max({ maxPixels: 100 }), sample('colours.png'))
  assert.match(warnings.join(), /90 × \d+ pixels, more than 100/)
  assert.deepEqual((await run(optimizer.max(), sample('colours.png'))).warnings, [])
})

test('whatever is changed in an image, what comes out shows what went in', async () => {
  const seed = Date.now() % 1_000_000
  console.log(`seed ${seed}`)
  let state = seed
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return (state >> 8) % below
  }
  const processor = optimizer.max()
  for (let round = 0; round < 60; round++) {
    const { name, content } = samples[random(samples.length)] as NamedContent
    const changed = Buffer.from(content)
    for (let count = random(3); count >= 0; count--) changed[random(changed.length)] = random(256)
    const output = await run(processor, { name, content: changed })
    if (output.content.equals(changed)) continue
    // Nobody can say what a damaged image shows that no decoder takes.
    const before = await images.shown({ name, content: changed }, 'none').catch(() => undefined)
    if (before) assert.deepEqual(await images.shown(output, 'none'), before, `${name}, round ${round}, seed ${seed}`)
  }
})

test('a package that is not installed is named, with what to run', async () => {
  const alone = path.join(base, 'alone')
  for (const part of ['core', 'conveyor/processors'])
    fs.cpSync(path.join('src', part), path.join(alone, part), { recursive: true })
  fs.mkdirSync(path.join(alone, 'node_modules'))
  fs.symlinkSync(path.resolve('node_modules/@rgrove'), path.join(alone, 'node_modules/@rgrove'))
  const { optimizeImage } = (await import(
    pathToFileURL(path.join(alone, 'conveyor/processors/image/optimize.ts')).href
  )) as typeof import('./image/optimize.ts')
  const settings = { keepMetadata: false, mayRename: true, maxPixels: 1e6, target: path.join(alone, 'target') }
  for (const [name, needed] of [
    ['baseline.jpg', '@napi-rs/image'],
    ['colours.png', '@napi-rs/image'],
    ['still.gif', 'sharp'],
    ['editor.svg', 'svgo'],
  ] as const) {
    const file = path.join(alone, name)
    fs.writeFileSync(file, sample(name).content)
    await assert.rejects(optimizeImage({ ...settings, file, name }), {
      name: 'StowageError',
      code: 'INVALID_CONFIG',
      message: new RegExp(`npm install ${needed}$`),
    })
  }
})

test('options are checked, and are part of the version', async () => {
  const load = async (options: object) => loadProcessor({ use: 'image-optimizer.max', ...options }, base)
  await assert.rejects(load({ onError: 'ignore', quality: 80 }), {
    code: 'INVALID_CONFIG',
    message: /onError.*quality/,
  })
  assert.notEqual((await load({ onError: 'fail' })).version, (await load({})).version)
})
