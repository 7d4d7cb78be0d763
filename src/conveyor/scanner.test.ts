/** The scan of real directories: what it finds, what it must not take for a deletion, and a random model. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'
import { systemClock } from '../core/clock.ts'
import { silentLog } from '../core/log.ts'
import { openDatabase } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import { Intake, type FilePayload } from './intake.ts'
import { scan } from './scanner.ts'
import { SourceFeed } from './source-feed.ts'

function temporary(t: TestContext): string {
  const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage-scan-'))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  return directory
}

async function found(root: string, options: Parameters<typeof scan>[1] = {}): Promise<string[]> {
  const files: string[] = []
  for await (const batch of scan(root, options))
    for (const { directory, count, names } of batch)
      if (count > 0) files.push(...names.split('\0').map((name) => (directory === '' ? name : `${directory}/${name}`)))
  return files.sort()
}

test('every regular file below is found, and nothing through symbolic links', async (t) => {
  const root = temporary(t)
  fs.mkdirSync(path.join(root, 'a/b'), { recursive: true })
  for (const name of ['x', 'a/new\nline', 'a/b/ünï', 'skip.tmp']) fs.writeFileSync(path.join(root, name), 'x')
  fs.symlinkSync('/etc', path.join(root, 'link'))
  fs.symlinkSync('x', path.join(root, 'file-link'))
  assert.deepEqual(await found(root, { ignore: ['*.tmp'] }), ['a/b/ünï', 'a/new\nline', 'x'])
  assert.deepEqual(await found(root, { below: 'a/b' }), ['a/b/ünï'])
})

test('a root that is not there is UNREACHABLE, not empty', async (t) => {
  await assert.rejects(found(path.join(temporary(t), 'absent')), { code: 'UNREACHABLE' })
})

test('a name that is not UTF-8 is skipped with a warning that shows it', async (t) => {
  const root = temporary(t)
  fs.writeFileSync(Buffer.concat([Buffer.from(`${root}/bad`), Buffer.from([0xff])]), 'x')
  fs.writeFileSync(path.join(root, 'good \ufffd'), 'x')
  const warnings: string[] = []
  assert.deepEqual(await found(root, { onWarning: (message) => warnings.push(message) }), ['good \ufffd'])
  assert.match(warnings.join(), /bad\\xff: its name is not UTF-8/)
})

test('a scan can be cancelled', async (t) => {
  const controller = new AbortController()
  controller.abort()
  await assert.rejects(found(temporary(t), { signal: controller.signal }), { code: 'ABORTED' })
})

/** A source with its queue, and what its jobs say. */
async function feed(t: TestContext, directory: string) {
  const database = await openDatabase(':memory:')
  t.after(async () => database.close())
  const source = { name: 's', directory, ignore: [], settleMs: 0 }
  const queue = new Queue(database, { clock: systemClock })
  const intake = new Intake(source, { queue, clock: systemClock, log: silentLog })
  const sourceFeed = new SourceFeed(source, { database, intake, clock: systemClock, log: silentLog })
  const news = async () => {
    const jobs = await queue.take('file', 100_000)
    for (const job of jobs) await queue.finish(job)
    return Object.fromEntries(
      jobs.map(({ payload }) => [(payload as FilePayload).path, (payload as FilePayload).event]),
    )
  }
  return { scan: async () => sourceFeed.scan(), news }
}

test('a root that is swapped while it is scanned deletes nothing', async (t) => {
  const base = temporary(t)
  const root = path.join(base, 'root')
  for (let d = 0; d < 60; d++) {
    fs.mkdirSync(path.join(root, `d${d}`), { recursive: true })
    for (let i = 0; i < 200; i++) fs.writeFileSync(path.join(root, `d${d}/${i}`), '')
  }
  const { scan: again, news } = await feed(t, root)
  await again()
  assert.equal(Object.keys(await news()).length, 12_000)
  const swapping = again()
  fs.renameSync(root, `${root}.away`)
  await assert.rejects(swapping, { code: 'UNREACHABLE' })
  assert.deepEqual(await news(), {})
})

test('a source that goes away and comes back is watched again, and nothing of it was deleted', async (t) => {
  const base = temporary(t)
  const root = path.join(base, 'root')
  fs.mkdirSync(root)
  fs.writeFileSync(path.join(root, 'a'), '1')
  const database = await openDatabase(':memory:')
  const waits: (() => void)[] = []
  // Time passes when the test says so.
  const sleep = async (_: number, signal?: AbortSignal) =>
    new Promise<void>((resolve) => {
      waits.push(resolve)
      if (signal?.aborted) resolve()
      signal?.addEventListener('abort', () => resolve(), { once: true })
    })
  const clock = { now: () => Date.now(), sleep }
  const source = { name: 's', directory: root, ignore: [], settleMs: 0 }
  const queue = new Queue(database, { clock })
  const intake = new Intake(source, { queue, clock, log: silentLog })
  const feeding = new SourceFeed(source, { database, intake, clock, log: silentLog })
  t.after(async () => {
    await feeding.close()
    await database.close()
  })
  const jobs: string[] = []
  const until = async (job: string) => {
    while (!jobs.includes(job)) {
      for (const wake of waits.splice(0)) wake()
      for (const taken of await queue.take('file', 100)) {
        const { path: file, event } = taken.payload as FilePayload
        jobs.push(`${event} ${file}`)
        await queue.finish(taken)
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  await feeding.start()
  await until('created a')
  fs.renameSync(root, `${root}.away`)
  while (waits.length === 0) await new Promise((resolve) => setImmediate(resolve))
  fs.renameSync(`${root}.away`, root)
  fs.writeFileSync(path.join(root, 'b'), '2')
  await until('created b')
  fs.writeFileSync(path.join(root, 'c'), '3')
  await until('created c')
  assert.deepEqual(jobs.toSorted(), ['created a', 'created b', 'created c'])
})

test('scans of a random tree find exactly what changed', async (t) => {
  const seed = Number(process.env['STOWAGE_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
  t.diagnostic(`STOWAGE_SEED=${seed}`)
  let state = seed
  const random = (below: number) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff
    return state % below
  }
  const root = temporary(t)
  const { scan: again, news } = await feed(t, root)
  const model = new Map<string, number>()
  for (let round = 0; round < 60; round++) {
    const expected: Record<string, string> = {}
    for (let step = 0; step < 5; step++) {
      const name = `d${random(4)}/e${random(3)}/f${random(4)}`
      // One change of a file a round: two might cancel out, which other tests are for.
      if (name in expected) continue
      if (random(3) > 0) {
        fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true })
        fs.writeFileSync(path.join(root, name), 'x'.repeat(round + 1))
        expected[name] = model.has(name) ? 'modified' : 'created'
        model.set(name, round)
      } else if (model.delete(name)) {
        fs.rmSync(path.join(root, name))
        expected[name] = 'deleted'
      }
    }
    await again()
    assert.deepEqual(await news(), expected, `round ${round}, STOWAGE_SEED=${seed}`)
  }
})
