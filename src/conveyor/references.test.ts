/** Style sheets that follow what they refer to, on a real directory, a real database and stores in memory. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { systemClock } from '../core/clock.ts'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import type { Driver } from '../store/driver.ts'
import { Store } from '../store/store.ts'
import { Conveyor } from './conveyor.ts'
import type { Source } from './intake.ts'
import type { Processor } from './processor.ts'
import cssLinks, { findReferences } from './processors/css-links.ts'
import { md5 } from './processors/unique-filename.ts'
import type { Rule } from './rules.ts'

interface Scene {
  base: string
  site: string
  sources: Source[]
  messages: string[]
  /** What was written and deleted at the store `out`, in order. */
  order: string[]
  drivers: Record<string, Driver>
  publicUrls: Record<string, string>
  /** How long it takes until what was not done is tried again, of itself. */
  backoffMs: number
  write(name: string, content: string): void
  open(rules?: Partial<Rule>[]): Promise<{ conveyor: Conveyor; close: () => Promise<void> }>
  /** One sync in a conveyor of its own: a restart, if there was one before. */
  sync(rules?: Partial<Rule>[], patienceMs?: number): Promise<Conveyor>
  content(store?: string): Promise<Record<string, string>>
}

const versioned: Partial<Rule>[] = [{ processors: [cssLinks, md5], destinations: [{ store: 'out', path: 'static' }] }]

function scene(t: TestContext): Scene {
  const base = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-references-')))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const site = path.join(base, 'site')
  fs.mkdirSync(site)
  const messages: string[] = []
  const say = (message: string) => void messages.push(message)
  const log: Log = { debug: say, info: say, warn: say, error: say }
  const order: string[] = []
  const drivers: Record<string, Driver> = { out: noting(memoryDriver(), order), other: memoryDriver() }
  const publicUrls: Record<string, string> = { out: 'https://cdn.example.com/' }
  const sources: Source[] = [{ name: 'site', directory: site, ignore: ['*.tmp'], settleMs: 0 }]
  const open: Scene['open'] = async (given = versioned) => {
    const database = await openDatabase(path.join(base, 'state.db'))
    const stores = new Map(
      Object.entries(drivers).map(([name, driver]) => {
        const publicUrl = publicUrls[name]
        return [name, new Store(driver, publicUrl === undefined ? {} : { publicUrl })]
      }),
    )
    const rules = given.map((rule, index) => ruleOf(rule, index))
    const workDirectory = path.join(base, 'work')
    const backoff = { baseMs: made.backoffMs, maxMs: made.backoffMs }
    const queue = new Queue(database, { clock: systemClock, backoff })
    const own = { database, queue, clock: systemClock, log, workDirectory }
    const conveyor = new Conveyor({ sources, rules, stores, ...own })
    const close = async () => {
      await conveyor.close()
      await database.close()
    }
    return { conveyor, close }
  }
  const made: Scene = {
    base,
    site,
    sources,
    messages,
    order,
    drivers,
    publicUrls,
    // Nobody who is to be told to go on may wait for this.
    backoffMs: 3_600_000,
    open,
    write(name, content) {
      fs.mkdirSync(path.dirname(path.join(base, name)), { recursive: true })
      fs.writeFileSync(path.join(base, name), content)
    },
    async sync(rules, patienceMs = 2000) {
      const { conveyor, close } = await open(rules)
      await conveyor.start()
      await conveyor.scan()
      await conveyor.idle({ patienceMs })
      await close()
      return conveyor
    },
    async content(name = 'out') {
      const store = new Store(drivers[name] as Driver)
      const files: Record<string, string> = {}
      for await (const { key } of store.list()) files[key] = (await store.get(key)).toString()
      return files
    },
  }
  return made
}

function noting(inner: Driver, order: string[]): Driver {
  return {
    ...inner,
    writeBytes: async (key, bytes, options) => {
      const info = (await inner.writeBytes?.(key, bytes, options)) ?? assert.fail()
      order.push(`write ${key}`)
      return info
    },
    delete: async (key, options) => {
      order.push(`delete ${key}`)
      return inner.delete(key, options)
    },
  }
}

function ruleOf(rule: Partial<Rule>, index: number): Rule {
  return {
    label: `rule ${index}`,
    source: 'site',
    filter: {},
    processors: [],
    destinations: [{ store: 'out', path: '' }],
    supersededAfterMs: 0,
    timeLimitMs: 60_000,
    ...rule,
  }
}

/** Resolves with the reason when a file was tried and waits. */
async function waiting(conveyor: Conveyor, key: string): Promise<string> {
  for (;;) {
    const job = await conveyor.queue.find('file', key)
    if (job?.state === 'waiting' && job.attempt > 0) return job.reason ?? ''
    await systemClock.sleep(20)
  }
}

/** The key of a file that goes through unique-filename.md5. */
function keyOf(name: string, content: string): string {
  const { dir, name: stem, ext } = path.posix.parse(name)
  return path.posix.join('static', dir, `${stem}_${createHash('md5').update(content).digest('hex')}${ext}`)
}

const urlOf = (name: string, content: string) => `https://cdn.example.com/${keyOf(name, content)}`

test('references become the addresses of what is delivered, and what is elsewhere or nowhere stays', async (t) => {
  const s = scene(t)
  s.write('site/img/a b.png', '1')
  s.write('site/fonts/x.woff2', '2')
  s.write('site/css/other.css', '3')
  const own = (a: string, x: string, other: string) =>
    `@import "${other}";a{b:url(${a}?v=1#frag);c:url("${x}#iefix");d:url(data:image/png;base64,AA==)` +
    `;e:url(https://example.com/css/other.css);f:url(//example.com/a.png);g:url(none.png);h:url(../../x);i:url(#id)}`
  const css = own('../img/a%20b.png', '/fonts/x.woff2', 'other.css')
  s.write('site/css/main.css', css)
  await s.sync()
  const expected = own(
    urlOf('img/a b.png', '1').replace(' ', '%20'),
    urlOf('fonts/x.woff2', '2'),
    urlOf('css/other.css', '3'),
  )
  assert.equal((await s.content())[keyOf('css/main.css', css)], expected)
})

test('an address from the root is found through the document root and the base path', async (t) => {
  const s = scene(t)
  const [source] = s.sources
  Object.assign(source as Source, { documentRoot: s.base, basePath: '/shop/' })
  fs.mkdirSync(path.join(s.base, 'linked'))
  s.write('site/a.png', '1')
  const css = 'a{b:url(/shop/site/a.png);c:url(/site/a.png);d:url(/a.png);e:url(/shop/a.png)}'
  s.write('site/main.css', css)
  await s.sync()
  const url = urlOf('a.png', '1')
  const expected = `a{b:url(${url});c:url(${url});d:url(/a.png);e:url(/shop/a.png)}`
  assert.equal((await s.content())[keyOf('main.css', css)], expected)
  // Where the base path is a directory, also by a link, it is not taken away.
  fs.symlinkSync(s.site, path.join(s.base, 'shop'))
  s.write('site/main.css', `${css} `)
  await s.sync()
  const linked = `a{b:url(/shop/site/a.png);c:url(${url});d:url(/a.png);e:url(${url})} `
  assert.equal((await s.content())[keyOf('main.css', `${css} `)], linked)
})

test('when an image is replaced every style sheet that uses it follows, untouched, before the old image goes', async (t) => {
  const s = scene(t)
  s.write('site/a.png', '1')
  const sheets = ['one.css', 'deep/two.css', 'deep/three.css']
  const css = (name: string) => `${name}{b:url(${name.startsWith('deep') ? '../a.png' : 'a.png'})}`
  for (const name of sheets) s.write(`site/${name}`, css(name))
  s.write('site/unconcerned.css', 'a{b:c}')
  await s.sync()
  s.order.length = 0
  s.write('site/a.png', '2')
  const { counters } = await s.sync()
  const files = await s.content()
  for (const name of sheets)
    assert.equal(files[keyOf(name, css(name))], css(name).replace(/url\(.*\)/, `url(${urlOf('a.png', '2')})`))
  assert.equal(counters.delivered, 4)
  assert.equal(files[keyOf('a.png', '1')], undefined)
  assert.equal(s.order[0], `write ${keyOf('a.png', '2')}`)
  assert.equal(s.order.at(-1), `delete ${keyOf('a.png', '1')}`)
})

test('an old image stays for its time of grace', async (t) => {
  const s = scene(t)
  const rules = versioned.map((rule) => ({ ...rule, supersededAfterMs: 3_600_000 }))
  s.write('site/a.png', '1')
  s.write('site/a.css', 'a{b:url(a.png)}')
  await s.sync(rules)
  s.write('site/a.png', '2')
  await s.sync(rules)
  const files = await s.content()
  assert.equal(files[keyOf('a.css', 'a{b:url(a.png)}')], `a{b:url(${urlOf('a.png', '2')})}`)
  assert.equal(files[keyOf('a.png', '1')], '1')
})

test('an old image stays as long as a style sheet that uses it cannot be delivered anew', async (t) => {
  const s = scene(t)
  let isBroken = false
  const fragile: Processor = {
    name: 'fragile',
    version: '1',
    extensions: ['css'],
    process: async () => {
      if (isBroken) throw new StowageError('CORRUPT', 'it smells')
      return undefined
    },
  }
  const rules = [{ processors: [fragile, cssLinks, md5], destinations: [{ store: 'out', path: 'static' }] }]
  const css = 'a{b:url(a.png)}'
  s.write('site/a.png', '1')
  s.write('site/a.css', css)
  await s.sync(rules)
  isBroken = true
  s.write('site/a.png', '2')
  await s.sync(rules)
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', '1')})}`)
  assert.equal((await s.content())[keyOf('a.png', '1')], '1')
  isBroken = false
  const { conveyor, close } = await s.open(rules)
  await conveyor.start()
  await conveyor.queue.retry()
  await conveyor.idle({ patienceMs: 2000 })
  await close()
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', '2')})}`)
  assert.equal((await s.content())[keyOf('a.png', '1')], undefined)
})

test('each destination shows its own addresses, relative ones where it has no public URL', async (t) => {
  const s = scene(t)
  const destinations = [
    { store: 'out', path: 'static' },
    { store: 'other', path: 'copy' },
  ]
  const rules = [{ processors: [cssLinks, md5], destinations }]
  s.write('site/img/a b.png', '1')
  const css = 'a{b:url("../img/a b.png")}'
  s.write('site/css/a.css', css)
  await s.sync(rules)
  const name = (content: string) => path.posix.basename(keyOf('a b.png', content)).replace(' ', '%20')
  const sheet = keyOf('css/a.css', css)
  const shown = async (store: string) =>
    (await s.content(store))[sheet.replace('static', store === 'out' ? 'static' : 'copy')]
  assert.equal(await shown('out'), `a{b:url("https://cdn.example.com/static/img/${name('1')}")}`)
  assert.equal(await shown('other'), `a{b:url("../img/${name('1')}")}`)
  s.write('site/img/a b.png', '2')
  await s.sync(rules)
  assert.equal(await shown('out'), `a{b:url("https://cdn.example.com/static/img/${name('2')}")}`)
  assert.equal(await shown('other'), `a{b:url("../img/${name('2')}")}`)
  assert.deepEqual(Object.keys(await s.content('other')).length, 2)
})

test('a style sheet waits for what it refers to without being worked on meanwhile, and shows it from the first', {
  timeout: 120_000,
}, async (t) => {
  const s = scene(t)
  const { promise: gate, resolve: openGate } = Promise.withResolvers<void>()
  let runs = 0
  const slow: Processor = {
    name: 'slow',
    version: '1',
    process: async ({ name }) => {
      if (name.endsWith('.png')) await gate
      else runs++
      return undefined
    },
  }
  const names = Array.from({ length: 50 }, (_, index) => `${index}.png`)
  for (const name of names) s.write(`site/${name}`, name)
  const css = names.map((name) => `a{b:url(${name})}`).join('\n')
  s.write('site/a.css', css)
  const { conveyor, close } = await s.open([{ ...versioned[0], processors: [slow, cssLinks, md5] }])
  const delivered: string[] = []
  conveyor.onDelivered(({ path: file }) => delivered.push(file))
  await conveyor.start()
  await conveyor.scan()
  assert.match(await waiting(conveyor, 'site/a.css'), /a.css refers to 0.png and 49 more, still to be delivered/)
  assert.deepEqual([await s.content(), runs], [{}, 1])
  openGate()
  await conveyor.idle({ patienceMs: 60_000 })
  await close()
  assert.equal(delivered.at(-1), 'a.css')
  assert.equal(runs, 2)
  const expected = names.map((name) => `a{b:url(${urlOf(name, name)})}`).join('\n')
  assert.equal((await s.content())[keyOf('a.css', css)], expected)
  assert.deepEqual(s.order.filter((each) => each.includes('a_')).length, 1)
})

test('what is missing is not waited for; when it comes, or goes, the style sheet follows', async (t) => {
  const s = scene(t)
  const css = 'a{b:url(late.png);c:url(ignored.tmp)}'
  s.write('site/a.css', css)
  s.write('site/ignored.tmp', '1')
  await s.sync()
  assert.deepEqual(await s.content(), { [keyOf('a.css', css)]: css })
  s.write('site/late.png', '1')
  await s.sync()
  const shown = css.replace('late.png', urlOf('late.png', '1'))
  assert.deepEqual(await s.content(), { [keyOf('a.css', css)]: shown, [keyOf('late.png', '1')]: '1' })
  fs.rmSync(path.join(s.site, 'late.png'))
  s.order.length = 0
  await s.sync()
  assert.deepEqual(await s.content(), { [keyOf('a.css', css)]: css })
  assert.deepEqual(s.order, [`write ${keyOf('a.css', css)}`, `delete ${keyOf('late.png', '1')}`])
})

test('an image that was set aside is not waited for any longer, and is followed when it is mended', {
  timeout: 120_000,
}, async (t) => {
  const s = scene(t)
  const { promise: gate, resolve: openGate } = Promise.withResolvers<void>()
  const broken: Processor = {
    name: 'broken',
    version: '1',
    extensions: ['png'],
    process: async ({ file }) => {
      await gate
      if (fs.readFileSync(file, 'utf8') === 'bad') throw new StowageError('CORRUPT', 'it smells')
      return undefined
    },
  }
  const rules = [{ ...versioned[0], processors: [broken, cssLinks, md5] }]
  const css = 'a{b:url(a.png)}'
  s.write('site/a.png', 'bad')
  s.write('site/a.css', css)
  const { conveyor, close } = await s.open(rules)
  await conveyor.start()
  await conveyor.scan()
  await waiting(conveyor, 'site/a.css')
  openGate()
  while (await conveyor.queue.find('file', 'site/a.css')) await systemClock.sleep(20)
  await close()
  assert.deepEqual(await s.content(), { [keyOf('a.css', css)]: css })
  s.write('site/a.png', 'good')
  await s.sync(rules)
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', 'good')})}`)
})

test('style sheets that import each other, and themselves, are delivered and show the right addresses', async (t) => {
  const s = scene(t)
  const sheets = {
    'a.css': '@import "b.css";',
    'b.css': '@import "c.css";',
    'c.css': '@import "a.css";@import "c.css";',
  }
  for (const [name, css] of Object.entries(sheets)) s.write(`site/${name}`, css)
  s.write('site/on-top.css', '@import "a.css";')
  await s.sync(undefined, 10_000)
  const files = await s.content()
  const shown = (css: string) =>
    css.replace(/"(.\.css)"/g, (_, name: keyof typeof sheets) => `"${urlOf(name, sheets[name])}"`)
  for (const [name, css] of [...Object.entries(sheets), ['on-top.css', '@import "a.css";'] as const])
    assert.equal(files[keyOf(name, css)], shown(css))
  assert.equal((await s.sync()).counters.delivered, 0)
})

test('names made of contents that show each other in a circle come to an end', async (t) => {
  const s = scene(t)
  const byContent: Processor = {
    name: 'by-content',
    version: '1',
    process: async ({ file, name }) => ({
      name: `${createHash('md5').update(fs.readFileSync(file)).digest('hex')}.${name}`,
    }),
  }
  s.write('site/a.css', '@import "b.css";')
  s.write('site/b.css', '@import "a.css";')
  const { counters } = await s.sync([{ processors: [cssLinks, byContent] }], 10_000)
  assert.ok(counters.delivered >= 2 && counters.delivered <= 60, `${counters.delivered} deliveries`)
  const files = await s.content()
  for (const name of ['a.css', 'b.css']) {
    const last = s.order.findLast((each) => each.startsWith('write') && each.endsWith(name)) ?? ''
    const [shown] = await findReferences(files[last.replace('write ', '')] ?? '')
    const key = shown?.value.replace('https://cdn.example.com/', '') ?? ''
    assert.ok(files[key] !== undefined, `${key} is not there`)
  }
})

test('an address that changes while a style sheet is being made is noticed', { timeout: 120_000 }, async (t) => {
  const s = scene(t)
  const { promise: gate, resolve: openGate } = Promise.withResolvers<void>()
  const { promise: asked, resolve: hasAsked } = Promise.withResolvers<void>()
  const slow: Processor = {
    name: 'slow',
    version: '1',
    extensions: ['css'],
    process: async () => {
      hasAsked()
      await gate
      return undefined
    },
  }
  s.write('site/a.png', '1')
  const rules = [{ ...versioned[0], processors: [cssLinks, slow, md5] }]
  await s.sync(rules)
  const css = 'a{b:url(a.png)}'
  s.write('site/a.css', css)
  const { conveyor, close } = await s.open(rules)
  const replaced = new Promise<void>(
    (resolve) => void conveyor.onDelivered(({ path: file }) => file === 'a.png' && resolve()),
  )
  await conveyor.start()
  await conveyor.scan()
  await asked
  s.write('site/a.png', '2')
  await conveyor.scan()
  await replaced
  openGate()
  await conveyor.idle({ patienceMs: 2000 })
  await close()
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', '2')})}`)
})

test('a restart while a style sheet waits, or is yet to follow, changes nothing in the end', async (t) => {
  const s = scene(t)
  s.backoffMs = 100
  let isDown = true
  const inner = s.drivers['out'] as Driver
  s.drivers['out'] = {
    ...inner,
    writeBytes: async (key, bytes, options) => {
      if (isDown && key.includes('.png')) throw new StowageError('UNREACHABLE', 'The store answers 500.')
      return inner.writeBytes?.(key, bytes, options) ?? assert.fail()
    },
  }
  const css = 'a{b:url(a.png)}'
  s.write('site/a.png', '1')
  s.write('site/a.css', css)
  await s.sync(undefined, 0)
  await s.sync(undefined, 0)
  assert.deepEqual(await s.content(), {})
  isDown = false
  await s.sync(undefined, 60_000)
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', '1')})}`)
  // The image is replaced, and we end before the style sheet has followed.
  s.write('site/a.png', '2')
  const { conveyor, close } = await s.open()
  const replaced = new Promise<void>((resolve) => void conveyor.onDelivered(() => resolve()))
  await conveyor.start()
  await conveyor.scan()
  await replaced
  await conveyor.close(0)
  await close()
  await s.sync(undefined, 10_000)
  const files = await s.content()
  assert.deepEqual(files, {
    [keyOf('a.css', css)]: `a{b:url(${urlOf('a.png', '2')})}`,
    [keyOf('a.png', '2')]: '2',
  })
})

test('another public URL is shown without touching anything', async (t) => {
  const s = scene(t)
  const css = 'a{b:url(a.png)}'
  s.write('site/a.png', '1')
  s.write('site/a.css', css)
  await s.sync()
  s.publicUrls['out'] = 'https://other.example.com/'
  const { counters } = await s.sync()
  assert.equal(counters.delivered, 1)
  const shown = `a{b:url(${urlOf('a.png', '1').replace('cdn', 'other')})}`
  assert.equal((await s.content())[keyOf('a.css', css)], shown)
})

test('what is referred to may be of another source, and goes by the rule that is nearest', async (t) => {
  const s = scene(t)
  const assets = path.join(s.base, 'assets')
  fs.mkdirSync(assets)
  s.sources.push({ name: 'assets', directory: assets, ignore: [], settleMs: 0 })
  const rules: Partial<Rule>[] = [
    { label: 'plain', source: 'assets', destinations: [{ store: 'out', path: 'plain' }] },
    { label: 'versioned', source: 'assets', processors: [md5], destinations: [{ store: 'out', path: 'static' }] },
    { label: 'sheets', processors: [cssLinks, md5], destinations: [{ store: 'out', path: 'static' }] },
  ]
  const css = 'a{b:url(../assets/a.png)}'
  s.write('site/a.css', css)
  s.write('assets/a.png', '1')
  await s.sync(rules)
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', '1')})}`)
  s.write('assets/a.png', '2')
  await s.sync(rules)
  assert.equal((await s.content())[keyOf('a.css', css)], `a{b:url(${urlOf('a.png', '2')})}`)
})

test('a rule without links any more, and a style sheet that is gone, hold nothing back', async (t) => {
  const s = scene(t)
  s.write('site/a.png', '1')
  s.write('site/a.css', 'a{b:url(a.png)}')
  s.write('site/b.css', 'b{b:url(a.png)}')
  await s.sync()
  fs.rmSync(path.join(s.site, 'b.css'))
  await s.sync()
  const plain = versioned.map((rule) => ({ ...rule, processors: [md5] }))
  await s.sync(plain)
  s.write('site/a.png', '2')
  await s.sync(plain)
  assert.deepEqual(await s.content(), {
    [keyOf('a.css', 'a{b:url(a.png)}')]: 'a{b:url(a.png)}',
    [keyOf('a.png', '2')]: '2',
  })
})

test('after random changes and restarts every style sheet shows what is there, and nothing is left over', async (t) => {
  const seed = Number(process.env['STOWAGE_TEST_SEED'] ?? Date.now() % 2 ** 31)
  console.log(`STOWAGE_TEST_SEED=${seed}`)
  let state = seed
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  const s = scene(t)
  const images = ['a.png', 'img/b.png', 'img/c.png']
  const sheets = ['x.css', 'y.css', 'css/z.css']
  const now = new Map<string, string>()
  const change = (step: number) => {
    const isSheet = random(3) === 0
    const name = (isSheet ? sheets : images)[random(3)] as string
    if (random(4) === 0) {
      fs.rmSync(path.join(s.site, name), { force: true })
      now.delete(name)
      return
    }
    const targets = [...images, ...sheets].filter(() => random(2) === 0)
    const css = targets.map((target) => `a{b:url(${path.posix.relative(path.posix.dirname(name), target)})}`)
    const content = isSheet ? `/* ${step} */${css.join('')}` : `${step}`
    s.write(`site/${name}`, content)
    now.set(name, content)
  }
  for (let round = 0; round < 12; round++) {
    const { conveyor, close } = await s.open()
    await conveyor.start()
    await conveyor.watch()
    for (let step = 0; step < 6; step++) {
      change(round * 100 + step)
      // Some changes are made while we work, others meet a sudden end.
      if (random(3) === 0) await conveyor.idle({ patienceMs: 500 })
    }
    if (random(2) === 0) await conveyor.close(0)
    await close()
    await s.sync(undefined, 10_000)
    const expected = [...now].map(([name, content]) => {
      const shown = content.replace(/url\((.*?)\)/g, (whole, reference: string) => {
        const target = path.posix.join(path.posix.dirname(name), reference)
        return now.has(target) ? `url(${urlOf(target, now.get(target) ?? '')})` : whole
      })
      return [keyOf(name, content), name.endsWith('.css') ? shown : content] as const
    })
    assert.deepEqual(
      await s.content(),
      Object.fromEntries(expected.sort(([a], [b]) => (a < b ? -1 : 1))),
      `round ${round}`,
    )
  }
})
