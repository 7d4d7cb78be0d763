import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { testProcessor } from '../../testing/index.ts'
import { runChain } from '../chain.ts'
import { lookAt, type Original } from '../original.ts'
import cssLinks, { findReferences } from './css-links.ts'

const directory = mkdtempSync(path.join(tmpdir(), 'stowage-css-links-'))
after(() => rmSync(directory, { recursive: true, force: true }))

testProcessor('css-links', {
  make: () => cssLinks,
  samples: [
    { name: 'a.css', content: Buffer.from('@import "b.css";a{b:url(c.png);*zoom:1;d:image-set("e.png" 1x)}') },
    { name: 'broken.css', content: Buffer.from('a{content:"open\n;b:url(c.png)}}}') },
    { name: 'latin.css', content: Buffer.from('a{content:"\xe9";b:url(c.png)}', 'latin1') },
  ],
  addressOf: async (reference) => (reference.startsWith('/') ? reference : `/x/${reference}`),
  mayGrow: true,
  check: ({ content }, input) => {
    const back = content.toString('latin1').replaceAll('/x/', '')
    assert.equal(back, input.content.toString('latin1'))
  },
})

const valuesOf = async (css: string) => (await findReferences(css)).map(({ value }) => value)

/** The sheet with every reference replaced by what `turn` makes of it. */
async function rewritten(content: string | Buffer, turn: (reference: string) => string): Promise<Buffer> {
  writeFileSync(path.join(directory, 'a.css'), content)
  const { file } = await runChain([cssLinks], lookAt(directory, 'a.css') as Original, {
    destination: { store: 'out', path: '', addressOf: async (reference) => turn(reference) },
    workDirectory: async () => directory,
    timeLimitMs: 60_000,
    signal: new AbortController().signal,
  })
  return readFileSync(file)
}

test('references are found in url(), @import and image-set(), quoted or not', async () => {
  const css = `@charset "utf-8";
@import 'a.css';@IMPORT/**/"b.css" screen;
@import url(c.css) layer(x) supports(display: grid);
@namespace svg url(http://www.w3.org/2000/svg);
@namespace "x";
@font-face { font-family: "Not a file"; src: local("Not one"), url("d.woff2") format("woff2"), url( e.woff ) }
a { background: url('f.png') , URL(g.png); content: "no.png"; cursor: url(h.cur), auto }
b { background: image-set("i.avif" type("image/avif") 1x, url(j.png) 2x); list-style: -webkit-image-set( "k.png" 1x ) }
c { --x: url(l.png); --y: "no.png"; mask: image-set(url("m.svg") 1x) }
@media (min-width: 1px) { @supports (a: b) { d { background: url(n.png) } } }
@unknown url(o.png) { e { f: url("p.png") } }`
  assert.deepEqual(
    (await valuesOf(css)).join(' '),
    ['a.css b.css c.css d.woff2 e.woff f.png g.png h.cur i.avif j.png k.png l.png m.svg n.png o.png p.png'].join(' '),
  )
})

test('comments, strings and broken URLs hold no references', async () => {
  const css = `/* url(a.png) */ a { content: "url(b.png)"; x: 'url("c.png")'; y: url(d e.png); z: myurl(f.png) }
a { background: url(var(--g)); filter: progid:DXImageTransform.Microsoft.AlphaImageLoader(src='h.png') }`
  assert.deepEqual(await valuesOf(css), [])
})

test('escapes are understood, and what is written in their place is escaped', async () => {
  const css = `a{b:u\\72l(x\\29 \\ y.png);c:url("\\61\\"b.png");d:url('\\'');@im\\port "e\\\nf.css"}`
  assert.deepEqual(await valuesOf(css), ['x) y.png', 'a"b.png', "'", 'ef.css'])
  const strange = `"'() \\\n\u0001é😀`
  const turned = (await rewritten(css, () => strange)).toString()
  assert.deepEqual(await valuesOf(turned), [strange, strange, strange, strange])
})

test('hacks for old browsers and everything else that is odd stays byte for byte', async () => {
  const css =
    'a{*zoom:1;_height:1px;filter:progid:X(a=1);color:red\\9}}}\r\n<!-- b{x:url(one.png)\0} -->;;@;"open\n url(two.png)'
  const expected = css.replace('one.png', 'https://cdn/1').replace('two.png', 'https://cdn/1')
  assert.equal((await rewritten(css, () => 'https://cdn/1')).toString(), expected)
})

test('what is not closed at the end, or at all, is understood as browsers do', async () => {
  assert.deepEqual(await valuesOf('a{b:url(x.png'), ['x.png'])
  assert.deepEqual(await valuesOf('@import "x.css'), ['x.css'])
  assert.deepEqual(await valuesOf('a{b:"x\n;c:url(y.png)}'), ['y.png'])
  assert.deepEqual(await valuesOf('a{b:url("x\n)}c{d:url(y.png)}'), ['y.png'])
  assert.deepEqual(await valuesOf('a{b:calc(1px;c:"no"}d{e:url(y.png)}'), ['y.png'])
  assert.equal((await rewritten('a{b:url(x.png', () => 'y.png')).toString(), 'a{b:url(y.png')
})

test('bytes that are not UTF-8, and a byte order mark, are kept', async () => {
  const latin = Buffer.from('@charset "latin1";a{content:"\xe9";b:url(x.png)}', 'latin1')
  const turned = await rewritten(latin, () => 'longer.png')
  assert.deepEqual(turned, Buffer.from('@charset "latin1";a{content:"\xe9";b:url(longer.png)}', 'latin1'))
  assert.equal((await rewritten('\ufeff@import "é.css";', () => 'ü.css')).toString(), '\ufeff@import "ü.css";')
})

test('a sheet whose references all stay is not written anew', async () => {
  writeFileSync(path.join(directory, 'a.css'), 'a{b:url(data:image/png;base64,AA==)}')
  const original = lookAt(directory, 'a.css') as Original
  const { file } = await runChain([cssLinks], original, {
    destination: { store: 'out', path: '', addressOf: async (reference) => reference },
    workDirectory: async () => directory,
    timeLimitMs: 60_000,
    signal: new AbortController().signal,
  })
  assert.equal(file, original.file)
})

test('of random sheets nothing but the references changes, and each becomes what it should', async () => {
  const seed = Number(process.env['STOWAGE_TEST_SEED'] ?? Date.now() % 2 ** 31)
  console.log(`STOWAGE_TEST_SEED=${seed}`)
  const random = generator(seed)
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T
  const addresses = ['b.png', 'https://cdn.example.com/a%20b.png?x#y', `odd "'() \\ é`, '']
  for (let round = 0; round < 400; round++) {
    const css = Array.from({ length: Math.floor(random() * 30) }, () => pick(pieces)).join('')
    const references = await findReferences(css)
    const turns = new Map(references.map(({ value }) => [value, pick(addresses)]))
    const turned = (await rewritten(css, (reference) => turns.get(reference) ?? reference)).toString()
    // Cut out the references, and the rest is the same.
    const found = await findReferences(turned)
    const message = `${JSON.stringify(css)} became ${JSON.stringify(turned)}`
    assert.deepEqual(
      found.map(({ value }) => value),
      references.map(({ value }) => turns.get(value)),
      message,
    )
    assert.deepEqual(between(turned, found), between(css, references), message)
  }
})

test('5 MB of any sheet are read in bounded time, and others get their turn meanwhile', {
  timeout: 120_000,
}, async () => {
  const sheets = {
    rules: 'a{background:url(img/a.png)}\n'.repeat(180_000),
    'open strings': '"a\n'.repeat(1_700_000),
    'an open string': `"${'a'.repeat(5e6)}`,
    'an open comment': `/*${'*'.repeat(5e6)}`,
    'broken URLs': 'url(a b'.repeat(700_000),
    brackets: '('.repeat(5e6),
    escapes: '\\61 '.repeat(1_200_000),
    backslashes: '\\'.repeat(5e6),
  }
  for (const [name, css] of Object.entries(sheets)) {
    let turns = 0
    const timer = setInterval(() => turns++, 1)
    const references = await findReferences(css)
    clearInterval(timer)
    assert.equal(references.length, name === 'rules' ? 180_000 : 0, name)
    if (name === 'rules') assert.ok(turns > 3, `others had ${turns} turns`)
  }
})

const pieces = [
  'url(a.png)',
  'url( "a.png" )',
  "url('b\\'c.png'",
  '@import "a.css";',
  '@import ',
  "'x.css'",
  '"x',
  '\n',
  ' ',
  ';',
  '{',
  '}',
  '(',
  ')',
  '[',
  ']',
  '/*',
  '*/',
  'image-set(',
  '"d.png" 1x',
  ',',
  '\\',
  '\\29 ',
  'u\\72l(e)',
  '@namespace ',
  '*zoom:1',
  '--x:',
  'é',
  '😀',
  '\ufeff',
  '\r\n',
  '\0',
  'url(',
  'URL(f g)',
  '@media',
  'type("t")',
  '<!--',
  '-->',
  ':',
  '#',
]

function between(css: string, references: readonly { start: number; end: number }[]): string[] {
  const starts = [0, ...references.map(({ end }) => end)]
  // Of an unquoted URL, brackets and spaces around the address stay.
  const shells = references.map(({ start, end }) => {
    const raw = css.slice(start, end)
    return /^["']/.test(raw) ? raw[0] : [/^[^(]*\(/.exec(raw)?.[0], /\)?$/.exec(raw)?.[0]].join('')
  })
  return starts.map((start, index) => css.slice(start, references[index]?.start)).concat(shells as string[])
}

/** Mulberry32. */
function generator(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
