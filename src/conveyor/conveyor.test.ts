/** The conveyor on a real directory, a real database and real stores; failures are injected at the stores. */
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
import { explain } from './explain.ts'
import type { Source } from './intake.ts'
import type { Processor } from './processor.ts'
import { md5 } from './processors/unique-filename.ts'
import cssLinks from './processors/css-links.ts'
import { spacesToDashes } from './processors/filename.ts'
import type { Rule } from './rules.ts'

interface Scene {
  site: string
  base: string
  messages: string[]
  drivers: Record<string, Driver>
  source: Source
  write(name: string, content: string): void
  /** One sync in a conveyor of its own. */
  sync(rules: Partial<Rule>[], patienceMs?: number): Promise<Conveyor>
  open(rules: Partial<Rule>[]): Promise<{ conveyor: Conveyor; close: () => Promise<void> }>
  content(store?: string): Promise<Record<string, string>>
}

async function scene(t: TestContext): Promise<Scene> {
  const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-conveyor-'))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const site = path.join(base, 'site')
  fs.mkdirSync(site)
  const messages: string[] = []
  const say = (message: string) => void messages.push(message)
  const log: Log = { debug: say, info: say, warn: say, error: say }
  const drivers: Record<string, Driver> = { out: memoryDriver(), other: memoryDriver() }
  const source: Source = { name: 'site', directory: site, ignore: ['*.tmp'], settleMs: 0 }
  const open = async (given: Partial<Rule>[]) => {
    const database = await openDatabase(path.join(base, 'state.db'))
    const stores = new Map(Object.entries(drivers).map(([name, driver]) => [name, new Store(driver)]))
    const rules = given.map((rule, index) => ruleOf(rule, index))
    const workDirectory = path.join(base, 'work')
    const conveyor = new Conveyor({
      sources: [source],
      rules,
      stores,
      database,
      clock: systemClock,
      log,
      workDirectory,
    })
    const close = async () => {
      await conveyor.close()
      await database.close()
    }
    return { conveyor, close }
  }
  return {
    base,
    site,
    messages,
    drivers,
    source,
    open,
    write(name, content) {
      fs.mkdirSync(path.dirname(path.join(site, name)), { recursive: true })
      fs.writeFileSync(path.join(site, name), content)
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

const md5Of = (text: string) => createHash('md5').update(text).digest('hex')

test('new, changed, renamed and deleted files are followed', async (t) => {
  const s = await scene(t)
  s.write('a b.css', 'one')
  s.write('dir/new\nline.txt', 'two')
  s.write('empty', '')
  await s.sync([{}])
  assert.deepEqual(await s.content(), { 'a b.css': 'one', 'dir/new\nline.txt': 'two', empty: '' })
  s.write('a b.css', 'changed')
  fs.renameSync(path.join(s.site, 'dir'), path.join(s.site, 'moved'))
  fs.rmSync(path.join(s.site, 'empty'))
  await s.sync([{}])
  assert.deepEqual(await s.content(), { 'a b.css': 'changed', 'moved/new\nline.txt': 'two' })
})

test('what has not changed is not delivered again', async (t) => {
  const s = await scene(t)
  s.write('a', '1')
  assert.equal((await s.sync([{}])).counters.delivered, 1)
  assert.equal((await s.sync([{}])).counters.delivered, 0)
})

test('all matching rules apply, each with its own path and chain', async (t) => {
  const s = await scene(t)
  s.write('x/a b.css', 'body')
  const styles: Partial<Rule> = {
    filter: { extensions: ['css'] },
    processors: [spacesToDashes, md5],
    destinations: [{ store: 'other', path: 'static' }],
  }
  await s.sync([{}, styles])
  assert.deepEqual(await s.content(), { 'x/a b.css': 'body' })
  assert.deepEqual(await s.content('other'), { [`static/x/a-b_${md5Of('body')}.css`]: 'body' })
})

test('a superseded key goes after the new one is there', async (t) => {
  const s = await scene(t)
  const order: string[] = []
  const inner = s.drivers['out'] as Driver
  s.drivers['out'] = {
    ...inner,
    writeBytes: async (key, bytes, options) => {
      order.push(`write ${key}`)
      return inner.writeBytes?.(key, bytes, options) ?? assert.fail()
    },
    delete: async (key, options) => {
      order.push(`delete ${key}`)
      return inner.delete(key, options)
    },
  }
  s.write('a.css', '1')
  await s.sync([{ processors: [md5] }])
  s.write('a.css', '2')
  await s.sync([{ processors: [md5] }])
  const [one, two] = [`a_${md5Of('1')}.css`, `a_${md5Of('2')}.css`]
  assert.deepEqual(order, [`write ${one}`, `write ${two}`, `delete ${one}`])
})

test('changing a rule re-evaluates the files it concerns', async (t) => {
  const s = await scene(t)
  s.write('a.css', '1')
  s.write('b.png', '2')
  await s.sync([{ label: 'r' }])
  await s.sync([{ label: 'r', filter: { extensions: ['css'] }, processors: [md5] }])
  assert.deepEqual(await s.content(), { [`a_${md5Of('1')}.css`]: '1' })
})

test('files that wait for a processor keep no others waiting', async (t) => {
  const s = await scene(t)
  const { promise: released, resolve: release } = Promise.withResolvers<void>()
  const slow: Processor = {
    name: 'slow',
    version: '1',
    extensions: ['png'],
    concurrency: 1,
    process: async () => released.then(() => undefined),
  }
  for (let i = 0; i < 400; i++) s.write(`a${i}.png`, `${i}`)
  const { conveyor, close } = await s.open([{ processors: [slow] }])
  await conveyor.start()
  await conveyor.watch()
  const { promise: delivered, resolve } = Promise.withResolvers<string>()
  conveyor.onDelivered(({ path: file }) => resolve(file))
  s.write('z.css', 'light')
  assert.equal(await delivered, 'z.css')
  release()
  await conveyor.idle({ patienceMs: 0 })
  assert.equal(Object.keys(await s.content()).length, 401)
  await close()
})

test('a store that is down delays its own deliveries and nobody else’s', async (t) => {
  const s = await scene(t)
  let isDown = true
  const inner = s.drivers['other'] as Driver
  s.drivers['other'] = {
    ...inner,
    writeBytes: async (key, bytes, options) => {
      if (isDown) throw new StowageError('UNREACHABLE', 'The store answers 500.')
      return inner.writeBytes?.(key, bytes, options) ?? assert.fail()
    },
  }
  const rules = [
    {
      destinations: [
        { store: 'out', path: '' },
        { store: 'other', path: '' },
      ],
    },
  ]
  for (let i = 0; i < 20; i++) s.write(`f${i}`, `${i}`)
  const { conveyor, close } = await s.open(rules)
  const { promise: delivered, resolve } = Promise.withResolvers<void>()
  conveyor.onDelivered(() => {
    if (conveyor.counters.delivered === 20) resolve()
  })
  await conveyor.start()
  await conveyor.scan()
  await delivered
  assert.equal(Object.keys(await s.content()).length, 20)
  assert.deepEqual(await s.content('other'), {})
  isDown = false
  await conveyor.idle({ patienceMs: 60_000 })
  assert.equal(Object.keys(await s.content('other')).length, 20)
  await close()
})

test('a file that grows while it is read is not delivered in part, and whole when it rests', async (t) => {
  const s = await scene(t)
  const inner = s.drivers['out'] as Driver
  const stored: number[] = []
  let isGrown = false
  s.drivers['out'] = {
    ...inner,
    write: async (key, body, options) => {
      const growing = async function* () {
        for await (const chunk of body) {
          if (!isGrown) fs.appendFileSync(path.join(s.site, 'log'), 'more')
          isGrown = true
          yield chunk
        }
      }
      const info = await inner.write(key, growing(), options)
      stored.push(info.size)
      return info
    },
  }
  s.write('log', 'x'.repeat(3_000_000))
  await s.sync([{}], 10_000)
  assert.deepEqual(stored, [3_000_004])
})

test('a full disk is waited for, and nothing is set aside', async (t) => {
  const s = await scene(t)
  let isFull = true
  const inner = s.drivers['out'] as Driver
  s.drivers['out'] = {
    ...inner,
    writeBytes: async (key, bytes, options) => {
      if (isFull) throw new StowageError('NO_SPACE', 'the disk is full')
      return inner.writeBytes?.(key, bytes, options) ?? assert.fail()
    },
  }
  s.write('a', '1')
  const { conveyor, close } = await s.open([{}])
  await conveyor.start()
  await conveyor.scan()
  await conveyor.idle({ patienceMs: 0 })
  assert.deepEqual(await conveyor.queue.setAside(), [])
  isFull = false
  await conveyor.idle({ patienceMs: 60_000 })
  await close()
  assert.deepEqual(await s.content(), { a: '1' })
})

test('a store that corrupts what it is given is found out, and the file is sent again', async (t) => {
  const s = await scene(t)
  let isBroken = true
  const inner = s.drivers['out'] as Driver
  s.drivers['out'] = {
    ...inner,
    writeBytes: async (key, bytes, options) => {
      const sent = isBroken ? bytes.subarray(1) : bytes
      isBroken = false
      const { size: _, ...rest } = options ?? {}
      return inner.writeBytes?.(key, sent, rest) ?? assert.fail()
    },
  }
  s.write('a', 'whole')
  await s.sync([{}], 10_000)
  assert.deepEqual(await s.content(), { a: 'whole' })
})

test('a processor that throws keeps its job with the reason, and the rest goes on', async (t) => {
  const s = await scene(t)
  const broken: Processor = {
    name: 'broken',
    version: '1',
    process: async ({ name }) => {
      if (name === 'bad') throw new Error('it smells')
      return undefined
    },
  }
  s.write('bad', '1')
  s.write('good', '2')
  await s.sync([{ processors: [broken] }], 0)
  assert.deepEqual(await s.content(), { good: '2' })
  assert.ok(s.messages.some((message) => message.includes('bad') && message.includes('it smells')))
})

test('a processor that never ends is cut off by its time limit and the file is set aside', async (t) => {
  const s = await scene(t)
  const stuck: Processor = { name: 'stuck', version: '1', process: async () => new Promise(() => {}) }
  s.write('a', '1')
  const conveyor = await s.sync([{ processors: [stuck], timeLimitMs: 50 }])
  assert.equal(conveyor.counters.delivered, 0)
  assert.ok(
    s.messages.some((message) => /Set aside: site\/a: The processor stuck took longer than 50 ms/.test(message)),
  )
})

test('two files that would have the same key are refused, with both names', async (t) => {
  const s = await scene(t)
  s.write('a b', '1')
  s.write('a-b', '2')
  await s.sync([{ processors: [spacesToDashes] }])
  assert.equal(Object.keys(await s.content()).length, 1)
  assert.ok(
    s.messages.some((message) => message.includes('a b') && message.includes('a-b') && message.includes('Set aside')),
  )
})

test('the original is deleted after its delay, once its copies were read back, and they stay', async (t) => {
  const s = await scene(t)
  s.write('a', '1')
  s.write('other.txt', '2')
  const rules = [{ filter: { paths: ['a'] }, deleteSourceAfterMs: 0 }]
  await s.sync(rules)
  assert.deepEqual(fs.readdirSync(s.site), ['other.txt'])
  await s.sync(rules)
  assert.deepEqual(await s.content(), { a: '1' })
})

test('an original whose copy was damaged stays', async (t) => {
  const s = await scene(t)
  const inner = s.drivers['out'] as Driver
  s.drivers['out'] = {
    ...inner,
    read: async (key, options) => {
      await inner.write(
        key,
        (async function* () {
          yield Buffer.from('x')
        })(),
      )
      return inner.read(key, options)
    },
  }
  s.write('a', '1')
  await s.sync([{ deleteSourceAfterMs: 0 }])
  assert.deepEqual(fs.readdirSync(s.site), ['a'])
  assert.ok(s.messages.some((message) => message.includes('is not what was delivered')))
})

test('a source that is gone is not a deletion of its files', async (t) => {
  const s = await scene(t)
  s.write('a', '1')
  await s.sync([{}])
  fs.renameSync(s.site, `${s.site}.away`)
  const { conveyor, close } = await s.open([{}])
  await conveyor.start()
  await assert.rejects(conveyor.scan(), { code: 'UNREACHABLE' })
  // As an unmounted file system leaves it: an empty directory that is another one.
  fs.mkdirSync(s.site)
  await assert.rejects(conveyor.scan(), { code: 'UNREACHABLE', message: /mounted/ })
  await conveyor.idle()
  await close()
  assert.deepEqual(await s.content(), { a: '1' })
})

test('while it watches, changes arrive by themselves', async (t) => {
  const s = await scene(t)
  const { conveyor, close } = await s.open([{}])
  await conveyor.start()
  await conveyor.watch()
  const next = async (count: number) =>
    new Promise<void>((resolve) => {
      const stop = conveyor.onDelivered(() => {
        if (conveyor.counters.delivered < count) return
        stop()
        resolve()
      })
    })
  const first = next(1)
  s.write('deep/er/a', '1')
  await first
  assert.deepEqual(await s.content(), { 'deep/er/a': '1' })
  const second = next(2)
  s.write('deep/er/a', 'two')
  await second
  assert.deepEqual(await s.content(), { 'deep/er/a': 'two' })
  await close()
})

test('where events are not wanted, changes are found by looking', async (t) => {
  const s = await scene(t)
  Object.assign(s.source, { pollingMs: 20 })
  const { conveyor, close } = await s.open([{}])
  t.after(close)
  await conveyor.start()
  await conveyor.watch()
  assert.equal(conveyor.feeds[0]?.watching, 'polling')
  const delivered = new Promise<void>((resolve) => conveyor.onDelivered(() => resolve()))
  s.write('a', '1')
  await delivered
  assert.deepEqual(await s.content(), { a: '1' })
})

test('explain says which rules match, what is known and what happens next', async (t) => {
  const s = await scene(t)
  s.write('a.css', '1')
  const rules = [{ label: 'all' }, { label: 'pictures', filter: { extensions: ['png'] } }]
  await s.sync(rules)
  const database = await openDatabase(path.join(s.base, 'state.db'))
  t.after(async () => database.close())
  const context = {
    sources: [s.source],
    rules: rules.map((rule, index) => ruleOf(rule, index)),
    database,
    queue: new Queue(database, { clock: systemClock }),
  }
  const known = await explain(path.join(s.site, 'a.css'), context)
  assert.deepEqual(
    known.rules.map(({ matches }) => matches),
    [true, false],
  )
  assert.match(known.lines.join('\n'), /"pictures" does not match: its extension is not png/)
  assert.match(known.lines.join('\n'), /delivered as a.css in out .* has not changed since/)
  const ignored = await explain(path.join(s.site, 'x.tmp'), context)
  assert.match(ignored.lines.join('\n'), /ignores x.tmp/)
  const outside = await explain('/elsewhere', context)
  assert.match(outside.lines.join('\n'), /none of the sources/)
})

test('a job that fails after its chain made something fails alone', async (t) => {
  const s = await scene(t)
  const same: Processor = {
    name: 'same',
    version: '1',
    process: async ({ workDirectory }) => {
      const file = path.join(await workDirectory(), 'made')
      fs.writeFileSync(file, 'made')
      return { file, name: 'same' }
    },
  }
  const unheard: unknown[] = []
  const hear = (error: unknown) => void unheard.push(error)
  process.on('unhandledRejection', hear)
  t.after(() => process.off('unhandledRejection', hear))
  for (const name of ['a', 'b', 'c']) s.write(name, name)
  await s.sync([{ processors: [same] }])
  assert.deepEqual(await s.content(), { same: 'made' })
  assert.equal(s.messages.filter((message) => message.includes('Set aside')).length, 2)
  assert.deepEqual(unheard, [])
})

test('a rule that gets another label keeps its keys', async (t) => {
  const s = await scene(t)
  s.write('a', '1')
  await s.sync([{ label: 'before' }])
  await s.sync([{ label: 'after' }])
  assert.deepEqual(await s.content(), { a: '1' })
  assert.deepEqual(
    s.messages.filter((message) => message.includes('Set aside')),
    [],
  )
  fs.rmSync(path.join(s.site, 'a'))
  await s.sync([{ label: 'after' }])
  assert.deepEqual(await s.content(), {})
})

/** Delivers beside each file one that holds it twice. */
const double: Processor = {
  name: 'double',
  version: '1',
  process: async ({ file, workDirectory }) => {
    const made = path.join(await workDirectory(), `${path.basename(file)} twice`)
    fs.writeFileSync(made, fs.readFileSync(file, 'utf8').repeat(2))
    return { variants: [{ file: made, suffix: '.twice' }] }
  },
}
const digestOf = (text: string) => createHash('md5').update(text).digest('hex')

test('variants go where their file goes, follow it under a new name, and leave with it', async (t) => {
  const s = await scene(t)
  const rules = [{ processors: [double, md5], destinations: [{ store: 'out', path: 'at' }] }]
  const named = (text: string) => `at/a_${digestOf(text)}.txt`
  s.write('a.txt', 'one')
  await s.sync(rules)
  assert.deepEqual(await s.content(), { [named('one')]: 'one', [`${named('one')}.twice`]: 'oneone' })
  const again = await s.sync(rules)
  assert.equal(again.counters.delivered, 0)
  s.write('a.txt', 'two!')
  await s.sync(rules)
  assert.deepEqual(await s.content(), { [named('two!')]: 'two!', [`${named('two!')}.twice`]: 'two!two!' })
  await s.sync([{ ...rules[0], processors: [md5] }])
  assert.deepEqual(await s.content(), { [named('two!')]: 'two!' })
  await s.sync(rules)
  fs.rmSync(path.join(s.site, 'a.txt'))
  await s.sync(rules)
  assert.deepEqual(await s.content(), {})
})

test('nobody refers to variants, and those of a style sheet follow what it shows', async (t) => {
  const s = await scene(t)
  const rules = [
    { label: 'fonts', filter: { extensions: ['woff'] }, processors: [double, md5] },
    { label: 'styles', filter: { extensions: ['css'] }, processors: [cssLinks, double] },
  ]
  s.write('a.css', 'url(x.woff)')
  for (const font of ['one', 'two']) {
    s.write('x.woff', font)
    await s.sync(rules)
    const name = `x_${digestOf(font)}.woff`
    assert.deepEqual(await s.content(), {
      'a.css': `url(${name})`,
      'a.css.twice': `url(${name})`.repeat(2),
      [name]: font,
      [`${name}.twice`]: font.repeat(2),
    })
  }
})
