/**
 * The cache beside what it stands in front of: a hundred readers of one object that is not here yet, and small files that
 * are. Each run is a process of its own.
 */
import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { stripTypeScriptTypes } from 'node:module'
import * as path from 'node:path'
import type { Driver } from '../src/store/driver.ts'

const size = 200 << 20
const rate = 50e6
const delayMs = 20
const port = 24_230
const url = `s3://key:secret@127.0.0.1:${port}?s3_bucket=bench&use_ssl=false`
const files = 1000

// As users run it: stripping types takes time and memory of its own.
const { Cache } = (await import(compiled('cache/cache'))) as typeof import('../src/cache/cache.ts')
const { cached } = (await import(compiled('cache/cached'))) as typeof import('../src/cache/cached.ts')
const { openDriver } = (await import(compiled('drivers/index'))) as typeof import('../src/drivers/index.ts')

const { STOWAGE_BENCH_ROLE: role, STOWAGE_BENCH_DIRECTORY: directory = '' } = process.env
if (role === 'direct') print(await readers(await openDriver(url), 1))
else if (role === 'cached') {
  await using cache = await Cache.open({ directory })
  print(await readers(cached(await openDriver(url), { cache }), 100))
} else if (role === 'hits') print(await hits(directory))
else await main()

async function main() {
  const script = path.join(import.meta.dirname, 'servers/slow-origin.ts')
  const origin = fork(script, [port, rate, delayMs].map(String))
  await once(origin, 'message')
  const { workplace } = await import('./scene.ts')
  const base = workplace('/tmp')
  const runs = { direct: [] as Figures[], cached: [] as Figures[], hits: [] as Figures[] }
  for (let run = 0; run < 5; run++)
    for (const [name, all] of Object.entries(runs)) {
      const place = path.join(base, `${name}${run}`)
      const output = child(name, place)
      origin.send('requests')
      const [requests] = (await once(origin, 'message')) as [number]
      all.push({ ...(JSON.parse(output) as Figures), requests })
      await fs.rm(place, { recursive: true, force: true })
    }
  const [direct, hundred, hit] = [medians(runs.direct), medians(runs.cached), medians(runs.hits)]
  console.log('\n200 MiB at 50 MB/s, not in the cache: 100 readers through the cache beside one without')
  for (const name of Object.keys(hundred)) {
    const [ours = Number.NaN, theirs = Number.NaN] = [hundred[name], direct[name]]
    console.log(`${name.padEnd(44)} ${ours.toFixed(2)}  ${theirs.toFixed(2)}  ${(ours / theirs).toFixed(2)}x`)
  }
  console.log(`\nOpening and reading one of ${files} files of 4 KiB that are here, a second`)
  for (const [name, figure] of Object.entries(hit))
    if (name !== 'requests') console.log(`${name.padEnd(44)} ${figure.toFixed(0)}`)
  origin.disconnect()
}

/** Runs this file in a process of its own, without its types: to strip them there would take memory users do not pay for. */
function child(role: string, directory: string): string {
  const program = stripTypeScriptTypes(readFileSync(import.meta.filename, 'utf8'))
  return execFileSync(process.execPath, ['--input-type=module', '--eval', program], {
    cwd: import.meta.dirname,
    encoding: 'utf8',
    env: { ...process.env, STOWAGE_BENCH_ROLE: role, STOWAGE_BENCH_DIRECTORY: directory },
  })
}

type Figures = Record<string, number>

/** So many readers at once, in a process that has read before: of small objects for the first byte, and of the large one. */
async function readers(driver: Driver, count: number): Promise<Figures> {
  const all = async (key: string, size: number) => {
    const begun = performance.now()
    const one = async () => {
      let [bytes, first] = [0, Number.NaN]
      for await (const chunk of (await driver.read(key)).body as AsyncIterable<Buffer>) {
        if (bytes === 0) first = performance.now() - begun
        bytes += chunk.byteLength
      }
      if (bytes !== size) throw new Error(`${bytes} bytes arrived`)
      return { first, last: performance.now() - begun }
    }
    const times = await Promise.all(Array.from({ length: count }, one))
    return { first: Math.max(...times.map(({ first }) => first)), last: Math.max(...times.map(({ last }) => last)) }
  }
  const small = []
  for (let i = 0; i < 20; i++) small.push((await all(`small/${i}/${1 << 16}`, 1 << 16)).first)
  const { last } = await all(`large/${size}`, size)
  await driver.close()
  const { userCPUTime, systemCPUTime, maxRSS } = process.resourceUsage()
  return {
    'first byte of all readers, ms': median(small.slice(10)),
    'last byte of all readers, ms': last,
    'CPU, s': (userCPUTime + systemCPUTime) / 1e6,
    'peak memory, MB': maxRSS / 1024,
  }
}

/** How many files a second, one after another and 64 at once, through the cache and past it. */
async function hits(place: string): Promise<Figures> {
  const source = path.join(place, 'files')
  await fs.mkdir(source, { recursive: true })
  const names = Array.from({ length: files }, (_, i) => `f${i}`)
  for (const name of names) await fs.writeFile(path.join(source, name), Buffer.alloc(4096, name))
  const figures: Figures = {}
  const inner = await openDriver(`file://${source}`)
  for (const [where, hotBytes] of [
    ['disk', 0],
    ['memory', 8 << 20],
  ] as const) {
    await using cache = await Cache.open({ directory: path.join(place, where), hotBytes })
    const driver = cached(inner, { cache, freshMs: Infinity })
    const read = async (name: string) => {
      let bytes = 0
      for await (const chunk of (await driver.read(name)).body as AsyncIterable<Buffer>) bytes += chunk.byteLength
      if (bytes !== 4096) throw new Error(`${bytes} bytes arrived`)
    }
    for (const name of [...names, ...names]) await read(name)
    const { misses } = cache.statistics
    for (const atOnce of [1, 64])
      figures[`cache, from ${where}, ${atOnce} at once`] = await perSecond(names, atOnce, read)
    if (cache.statistics.misses !== misses) throw new Error('some were not in the cache')
  }
  for (const atOnce of [1, 64])
    figures[`fs.readFile, ${atOnce} at once`] = await perSecond(names, atOnce, async (name) =>
      fs.readFile(path.join(source, name)),
    )
  return figures
}

async function perSecond(names: string[], atOnce: number, read: (name: string) => Promise<unknown>): Promise<number> {
  const total = 40_000
  let next = 0
  const begun = performance.now()
  await Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (next < total) await read(names[next++ % names.length] ?? '')
    }),
  )
  return total / ((performance.now() - begun) / 1000)
}

function medians(runs: readonly Figures[]): Figures {
  return Object.fromEntries(Object.keys(runs[0] ?? {}).map((name) => [name, median(runs.map((run) => run[name] ?? 0))]))
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}

function compiled(name: string): string {
  return new URL(`../dist/${name}.js`, import.meta.url).href
}

function print(figures: Figures) {
  console.log(JSON.stringify(figures))
}
