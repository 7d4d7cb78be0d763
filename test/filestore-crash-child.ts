/**
 * One life of a filestore under a random workload; started, and told what to do, by filestore-crash.test.ts. It notes what
 * it is about to do and what came of it in a journal, and kills itself at the moment it was told.
 */
import fs from 'node:fs' // as an object, whose functions can be replaced
import { syncBuiltinESMExports } from 'node:module'
import * as path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Cache } from '../src/cache/cache.ts'
import { systemClock } from '../src/core/clock.ts'
import { openDriver } from '../src/drivers/index.ts'
import { Filestore } from '../src/filestore/filestore.ts'
import { openDatabase, type Row, type Transaction } from '../src/state/database.ts'
import { Queue } from '../src/state/queue.ts'
import type { Driver } from '../src/store/driver.ts'
import {
  actors,
  allKeys,
  contentOf,
  digestOf,
  keysOf,
  seeded,
  type Life,
  type Result,
} from './filestore-crash-model.ts'

const life = JSON.parse(process.argv[2] ?? '') as Life
const { base } = life
const journal = fs.openSync(path.join(base, 'journal'), 'a')
const { writeSync } = fs
let lines = 0

/** One write of one line: it is whole in the journal or not there, whenever we are killed. The parent counts the lines it hears. */
function note(...line: unknown[]) {
  writeSync(journal, `${JSON.stringify(line)}\n`)
  writeSync(1, line[0] === 'done' ? '!' : '.')
}

countMoments()
const database = await openDatabase(path.join(base, 'state.db'))
note('interrupted', await interrupted())
const queue = new Queue(database, { clock: systemClock, backoff: { baseMs: 5, maxMs: 50 } })
const cache = life.isCached
  ? await Cache.open({ directory: path.join(base, 'cache'), maxBytes: 1_500_000, hotBytes: 300_000 })
  : undefined
const remotes = new Map<string, Driver>()
for (const name of ['one', 'two']) remotes.set(name, await openDriver(`file://${base}/${name}?fsync=false`))
const filestore = await Filestore.open({
  name: 'files',
  directory: path.join(base, 'files'),
  remotes,
  remote: life.route,
  database,
  queue,
  coolDownMs: life.coolDownMs,
  keepLocal: life.keepLocal,
  deleteAfterMs: life.deleteAfterMs,
  ...(cache && { cache }),
})
const { driver } = filestore
filestore.on('failed', ({ key, operation, error }) => note('failed', key, operation, String(error)))

const random = seeded(life.seed)
const isEarly = random() < 0.5
if (!isEarly) await filestore.start()
await observe()
await filestore.start()
await compareCounters()
if (life.isLast) await end()
else {
  await Promise.all([...actors.map(async (actor) => act(actor, seeded(life.seed + actor.charCodeAt(0)))), manage()])
  note('done')
}

/** The kinds of jobs that were in hand when we were killed. */
async function interrupted(): Promise<string[]> {
  const rows = await database.query(
    "SELECT DISTINCT queue, payload ->> '$.order.kind' AS kind FROM jobs WHERE state = 'running'",
  )
  return [...new Set(rows.map((row) => String(row['kind'] ?? row['queue'])))]
}

/** What everything is now. */
async function observe() {
  note('observing')
  for (const key of allKeys) {
    const id = lines++
    note('begin', id, 'read', key)
    note('seen', id, key, await digestThere(key))
  }
  const listed: Record<string, number> = {}
  for await (const entry of driver.list('')) if (entry.kind === 'file') listed[entry.key] = entry.size
  const deleted: string[] = []
  for await (const { key } of filestore.deleted()) deleted.push(key)
  note('observed', listed, deleted)
}

async function digestThere(key: string, range?: { start: number; end: number }): Promise<Result> {
  try {
    const { info, body } = await driver.read(key, range ? { range } : {})
    const bytes = Buffer.concat((await body.toArray()) as Buffer[])
    if (!range && bytes.byteLength !== info.size) return { error: `${bytes.byteLength} bytes of ${info.size}` }
    const { sha256 = digestOf(bytes) } = info.digests ?? {}
    if (!range && sha256 !== digestOf(bytes)) return { error: `it is not what its digest says` }
    return { digest: digestOf(bytes) }
  } catch (error) {
    return resultOf(error)
  }
}

function resultOf(error: unknown): Result {
  const { code, message } = error as { code?: string; message: string }
  return code === undefined || code === 'UNKNOWN' ? { error: String((error as Error).stack) } : { code, message }
}

/** Works on the keys of one actor, one call after another. */
async function act(actor: string, dice: () => number) {
  const keys = keysOf(actor)
  const any = () => keys[Math.floor(dice() * keys.length)] ?? ''
  for (let count = 0; count < life.calls; count++) {
    const throwOf = dice()
    const [key, other] = [any(), any()]
    if (throwOf < 0.38) await put(key, dice)
    else if (throwOf < 0.54) await call('delete', [key], async () => driver.delete(key))
    else if (throwOf < 0.68) await call('restore', [key], async () => void (await filestore.restore(key)))
    else if (throwOf < 0.8) await call('move', [key, other], async () => void (await driver.move?.(key, other)))
    else await read(key)
  }
}

async function put(key: string, dice: () => number) {
  const name = `${life.number}.${lines}`
  const bytes = contentOf(name)
  // Sizes and times that come back again and again are how one file is taken for another.
  const modified = dice() < 0.3 ? { modified: new Date(1_700_000_000_000) } : {}
  const isStream = dice() < 0.4
  await call('put', [key, name], async () => {
    if (isStream) await driver.write(key, pieces(bytes), modified)
    else await driver.writeBytes?.(key, bytes, modified)
  })
}

async function* pieces(bytes: Buffer): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += 50_000) {
    yield bytes.subarray(at, at + 50_000)
    await new Promise((resolve) => setImmediate(resolve))
  }
}

async function read(key: string) {
  const id = lines++
  note('begin', id, 'read', key)
  note('seen', id, key, await digestThere(key))
}

async function call(operation: string, parameters: string[], work: () => Promise<void>) {
  const id = lines++
  note('begin', id, operation, ...parameters)
  const result = await work().then(
    (): Result => ({}),
    (error: unknown) => resultOf(error),
  )
  note('end', id, result)
}

/** What whoever runs the filestore does meanwhile. */
async function manage() {
  const dice = seeded(life.seed + 1)
  const prefix = () => (dice() < 0.5 ? '' : `${actors[Math.floor(dice() * actors.length)]}/`)
  const foreign = allKeys.filter((key) => /^[fg]/.test(key))
  for (let count = 0; count < life.calls; count++) {
    const throwOf = dice()
    const [from, to] = dice() < 0.5 ? (['one', 'two'] as const) : (['two', 'one'] as const)
    if (throwOf < 0.1) await filestore.move({ kind: 'offload', prefix: prefix() })
    else if (throwOf < 0.2) await filestore.move({ kind: 'recall', prefix: prefix(), drop: dice() < 0.5 })
    else if (throwOf < 0.35) await filestore.move({ kind: 'migrate', from, to, prefix: prefix(), drop: dice() < 0.7 })
    else if (throwOf < 0.38) await filestore.stopMoving()
    else if (throwOf < 0.42) await filestore.pause(dice() < 0.5 ? undefined : from)
    else if (throwOf < 0.5) await filestore.resume()
    else if (throwOf < 0.54) await filestore.scan()
    else if (throwOf < 0.6) await compareCounters()
    else await read(foreign[Math.floor(dice() * foreign.length)] ?? '')
  }
}

/** Do the counters say what a walk through everything counts? */
async function compareCounters() {
  const { counted, kept } = await database.transaction(async (tx) => ({
    counted: await count(tx),
    kept: await keep(tx),
  }))
  for (const name of new Set([...Object.keys(counted), ...Object.keys(kept)]))
    if ((counted[name] ?? 0) !== (kept[name] ?? 0))
      note('wrong', `the counter ${name} says ${kept[name] ?? 0} instead of ${counted[name] ?? 0}`)
}

async function count(tx: Transaction) {
  const counted: Record<string, number> = {}
  const add = (name: string, by = 1) => (counted[name] = (counted[name] ?? 0) + by)
  for (const { size, local, cloud, deleted_ms: deleted } of await tx.all('SELECT * FROM files')) {
    const kinds =
      deleted === null
        ? ['', ...(local === null ? [] : ['local_']), ...(cloud === 1 ? ['cloud_'] : [])]
        : (['deleted_'] as string[])
    if (kinds.length === 3) kinds.push('both_')
    for (const kind of kinds) {
      add(`${kind}files`)
      add(`${kind}bytes`, Number(size))
    }
  }
  for (const { queue: name, grp, state } of await tx.all('SELECT * FROM jobs')) add(`${name} ${grp} ${state}`)
  return counted
}

async function keep(tx: Transaction) {
  const [row = {}] = await tx.all('SELECT * FROM file_counts')
  const kept = Object.fromEntries(Object.entries(row).map(([name, value]) => [name, Number(value)]))
  delete kept['store']
  for (const { queue: name, grp, state, jobs } of await tx.all('SELECT * FROM job_counts'))
    kept[`${name} ${grp} ${state}`] = Number(jobs)
  return kept
}

/** Everything comes to rest; what is left over is collected; then all that is known is told. */
async function end() {
  await filestore.resume()
  await filestore.scan()
  await filestore.idle()
  await removed()
  for await (const orphan of filestore.gc({ delete: true })) note('orphan', orphan)
  await removed()
  await observe()
  await compareCounters()
  const status = await filestore.status()
  const tables: Record<string, Row[]> = {}
  for (const table of ['files', 'replicas', 'jobs', 'settings'])
    tables[table] = await database.query(`SELECT * FROM ${table}`)
  await filestore.close()
  await cache?.close()
  for (const remote of remotes.values()) await remote.close()
  await database.close()
  note('rests', status, tables)
}

/** Resolves when nothing waits to be removed that could be removed by now. */
async function removed() {
  for (;;) {
    const news = Promise.withResolvers<void>()
    const stopListening = queue.onAdded(news.resolve)
    const { running = 0, oldestMs = Infinity } =
      (await queue.counts()).find((each) => each.queue === 'remove:files') ?? {}
    if (running === 0 && oldestMs > Date.now() + 60_000) return stopListening()
    await news.promise
    stopListening()
  }
}

/**
 * Every change that another process could see is a moment before and a moment after which we may be killed: a change of
 * names, a file that is begun or has grown, a commit.
 */
function countMoments() {
  let moments = 0
  const moment = (what: string) => {
    if (++moments !== life.killAt) return
    note('killed', what)
    process.kill(process.pid, 'SIGKILL')
    // It is not heard at once.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
  }
  const around = (owner: object, names: string[]) => {
    const methods = owner as Record<string, (...parameters: unknown[]) => unknown>
    for (const name of names) {
      const original = methods[name] as (...parameters: unknown[]) => unknown
      methods[name] = function (this: unknown, ...parameters: unknown[]) {
        if (name === 'exec' && parameters[0] !== 'COMMIT') return original.apply(this, parameters)
        const what = parameters[0] === 'COMMIT' ? 'COMMIT' : name
        moment(`before ${what}`)
        const result = original.apply(this, parameters)
        if (result instanceof Promise) return result.finally(() => moment(`after ${what}`))
        moment(`after ${what}`)
        return result
      }
    }
  }
  around(fs, ['renameSync', 'linkSync', 'unlinkSync', 'openSync', 'writeFileSync', 'mkdirSync', 'futimesSync'])
  around(fs.promises, ['rename', 'link', 'unlink', 'rm', 'rmdir', 'mkdir', 'copyFile', 'writeFile', 'open'])
  around(DatabaseSync.prototype, ['exec'])
  syncBuiltinESMExports()
}
