/** Both ways of hearing, on a real directory. Nothing sleeps: each test waits for the news it expects. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { flags, loadInotify, parseEvents } from './inotify.ts'
import { WatchedTree, type WatchMessage } from './watch-worker.ts'
import { watch, type Watcher } from './watcher.ts'

interface Heard {
  paths: Set<string>
  gone: boolean
  warnings: string[]
  /** Resolves when the condition holds; the test's time limit bounds it. */
  until(condition: () => boolean): Promise<void>
}

async function start(t: TestContext, way: Watcher['kind'], prepare = (_root: string) => {}) {
  const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-watch-'))
  const root = path.join(base, 'root')
  fs.mkdirSync(root)
  prepare(root)
  let check = () => {}
  const heard: Heard = {
    paths: new Set(),
    gone: false,
    warnings: [],
    until: async (condition) =>
      new Promise((resolve) => {
        check = () => {
          if (condition()) resolve()
        }
        check()
      }),
  }
  const watcher = watch(
    root,
    { ignore: ['*.tmp', 'ignored'], way },
    {
      news: (paths) => {
        for (const each of paths) heard.paths.add(each)
        check()
      },
      lost: () => assert.fail('events were lost'),
      gone: () => {
        heard.gone = true
        check()
      },
      deaf: (reason) => assert.fail(reason),
      warning: (message) => {
        heard.warnings.push(message)
        check()
      },
    },
  )
  t.after(async () => {
    await watcher.close()
    fs.rmSync(base, { recursive: true, force: true })
  })
  await watcher.ready
  return { base, root, heard, watcher, has: (name: string) => () => heard.paths.has(name) }
}

const ways: Watcher['kind'][] = ['inotify', 'fs.watch']
for (const way of ways)
  describe(`watching by ${way}`, { timeout: 60_000 }, () => {
    test('a file that is written, renamed and deleted is news each time', async (t) => {
      const { root, heard, has } = await start(t, way)
      fs.writeFileSync(path.join(root, 'a'), '1')
      await heard.until(has('a'))
      heard.paths.clear()
      fs.renameSync(path.join(root, 'a'), path.join(root, 'new\nline'))
      await heard.until(() => heard.paths.has('a') && heard.paths.has('new\nline'))
      heard.paths.clear()
      fs.rmSync(path.join(root, 'new\nline'))
      await heard.until(has('new\nline'))
    })

    test('a file put in place by rename, as editors do, is news', async (t) => {
      const { root, heard, has } = await start(t, way, (directory) => fs.writeFileSync(path.join(directory, 'a'), '1'))
      fs.writeFileSync(path.join(root, 'a.tmp'), '2')
      fs.renameSync(path.join(root, 'a.tmp'), path.join(root, 'a'))
      await heard.until(has('a'))
      assert.ok(!heard.paths.has('a.tmp'))
    })

    test('files in directories made a moment ago are all news', async (t) => {
      const { root, heard } = await start(t, way)
      for (let i = 0; i < 300; i++) {
        fs.mkdirSync(path.join(root, `d${i}/e/f`), { recursive: true })
        fs.writeFileSync(path.join(root, `d${i}/e/f/file`), 'x')
      }
      await heard.until(() =>
        Array.from({ length: 300 }, (_, i) => `d${i}/e/f/file`).every((name) => heard.paths.has(name)),
      )
    })

    test('a directory moved in brings its files, later writes in it are news, and moving it out is too', async (t) => {
      const { base, root, heard, has } = await start(t, way)
      fs.mkdirSync(path.join(base, 'outside/sub'), { recursive: true })
      for (let i = 0; i < 50; i++) fs.writeFileSync(path.join(base, `outside/sub/${i}`), 'x')
      fs.renameSync(path.join(base, 'outside'), path.join(root, 'inside'))
      await heard.until(() =>
        Array.from({ length: 50 }, (_, i) => `inside/sub/${i}`).every((name) => heard.paths.has(name)),
      )
      fs.writeFileSync(path.join(root, 'inside/sub/later'), 'x')
      await heard.until(has('inside/sub/later'))
      heard.paths.clear()
      fs.renameSync(path.join(root, 'inside'), path.join(base, 'outside'))
      await heard.until(has('inside'))
    })

    test('a directory renamed within the tree is heard under its new name', async (t) => {
      const { root, heard, has } = await start(t, way, (directory) => fs.mkdirSync(path.join(directory, 'old')))
      fs.renameSync(path.join(root, 'old'), path.join(root, 'new'))
      await heard.until(has('old'))
      fs.writeFileSync(path.join(root, 'new/file'), 'x')
      await heard.until(has('new/file'))
    })

    test('of a burst of 5,000 files none is missed', async (t) => {
      const { root, heard } = await start(t, way)
      for (let i = 0; i < 5000; i++) fs.writeFileSync(path.join(root, `f${i}`), 'x')
      await heard.until(() => heard.paths.size >= 5000)
    })

    test('what is ignored is not heard', async (t) => {
      const { root, heard, has } = await start(t, way, (directory) => fs.mkdirSync(path.join(directory, 'ignored')))
      fs.writeFileSync(path.join(root, 'ignored/a'), 'x')
      fs.writeFileSync(path.join(root, 'b.tmp'), 'x')
      fs.writeFileSync(path.join(root, 'last'), 'x')
      await heard.until(has('last'))
      assert.deepEqual([...heard.paths], ['last'])
    })

    test('a root that is moved away is gone', async (t) => {
      const { base, root, heard } = await start(t, way, (directory) => fs.writeFileSync(path.join(directory, 'a'), 'x'))
      fs.renameSync(root, path.join(base, 'away'))
      // Where the system only tells about children, the next one tells.
      if (way === 'fs.watch') fs.rmSync(path.join(base, 'away/a'))
      await heard.until(() => heard.gone)
    })

    test('it can be closed at any moment, and more than once', async (t) => {
      const { root, watcher } = await start(t, way)
      fs.rmSync(root, { recursive: true })
      await watcher.close()
      await watcher.close()
      const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-watch-'))
      t.after(() => fs.rmSync(base, { recursive: true, force: true }))
      const deaf = () => assert.fail('it was not told to listen any more')
      const early = watch(base, { way }, { news: deaf, lost: deaf, gone: deaf, deaf, warning: deaf })
      await early.close()
      // Who waits for it hears of it.
      await Promise.allSettled([early.ready])
    })

    test('a root that is not there cannot be watched', async () => {
      const silent = () => {}
      const listener = { news: silent, lost: silent, gone: silent, deaf: silent, warning: silent }
      const watcher = watch('/nowhere/at/all', { way }, listener)
      await assert.rejects(watcher.ready, { code: 'UNREACHABLE' })
      await watcher.close()
    })

    test('a name that is not UTF-8 is warned about, and the others are heard', async (t) => {
      const { root, heard, has } = await start(t, way)
      fs.writeFileSync(Buffer.concat([Buffer.from(`${root}/bad`), Buffer.from([0xff])]), 'x')
      fs.writeFileSync(path.join(root, 'good'), 'x')
      await heard.until(() => has('good')() && heard.warnings.length > 0)
      assert.match(heard.warnings[0] ?? '', /not UTF-8/)
    })
  })

test('when the kernel lost events, new directories are watched and the loss is told', (t) => {
  const inotify = loadInotify()
  assert.ok(inotify)
  const root = fs.mkdtempSync(path.join(tmpdir(), 'stowage-watch-'))
  t.after(() => fs.rmSync(root, { recursive: true, force: true }))
  const told: WatchMessage[] = []
  const tree = new WatchedTree(inotify, { root, ignore: [] }, (message) => told.push(message))
  t.after(() => fs.closeSync(tree.descriptor))
  tree.start()
  fs.mkdirSync(path.join(root, 'unheard'))
  const overflow = Buffer.alloc(16)
  overflow.writeInt32LE(-1, 0)
  overflow.writeUInt32LE(flags.overflow, 4)
  tree.take(overflow)
  assert.deepEqual(told.at(-1), { kind: 'overflow' })
  fs.writeFileSync(path.join(root, 'unheard/file'), 'x')
  const buffer = Buffer.alloc(65_536)
  const length = fs.readSync(tree.descriptor, buffer)
  const names = [...parseEvents(buffer.subarray(0, length))].map(({ name }) => name.toString())
  assert.ok(names.includes('file'))
})
