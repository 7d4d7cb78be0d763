/**
 * The daemon is killed with SIGKILL at random moments, at least 100 times, while files are created, changed, renamed
 * and deleted; in the end every destination equals what the rules say, with nothing left over.
 *
 * Method: a seeded random writer works on the source directory while one daemon after another is started and killed.
 * The oracle computes from the final source tree alone what each destination must hold.
 * Replay a run with STOWAGE_SEED=n.
 */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'

const kills = Number(process.env['STOWAGE_KILLS'] ?? 100)
const seed = Number(process.env['STOWAGE_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
const bin = path.resolve(import.meta.dirname, '../bin/stowage.js')

test(`a daemon killed ${kills} times loses nothing and leaves nothing over`, { timeout: 20 * 60_000 }, async (t) => {
  t.diagnostic(`STOWAGE_SEED=${seed}`)
  const random = mulberry32(seed)
  const base = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-crash-'))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const site = path.join(base, 'site')
  fs.mkdirSync(site)
  const config = path.join(base, 'stowage.config.json')
  fs.writeFileSync(config, JSON.stringify(configuration(base)))

  const writer = new Writer(site, random)
  for (let i = 0; i < 40; i++) writer.act()
  for (let round = 0; round < kills; round++) {
    const daemon = start(config)
    const lifeMs = 250 + Math.floor(random() * 400)
    const until = Date.now() + lifeMs
    while (Date.now() < until) {
      writer.act()
      await new Promise((resolve) => setTimeout(resolve, Math.floor(random() * 15)))
    }
    assert.equal(daemon.exitCode, null, `the daemon of round ${round} ended by itself`)
    daemon.kill('SIGKILL')
    await once(daemon, 'exit')
  }
  const sync = start(config, 'sync')
  const errors: Buffer[] = []
  sync.stderr?.on('data', (chunk: Buffer) => errors.push(chunk))
  const [code] = await once(sync, 'exit')
  assert.equal(code, 0, Buffer.concat(errors).toString())

  assert.deepEqual(differences(tree(path.join(base, 'plain')), tree(site)), [])
  assert.deepEqual(differences(tree(path.join(base, 'hashed')), hashedNames(tree(site))), [])
})

/** What is missing, left over or different, a line each: the trees are too large to look at. */
function differences(found: Record<string, string>, expected: Record<string, string>): string[] {
  return [...new Set([...Object.keys(found), ...Object.keys(expected)])].flatMap((name) => {
    if (found[name] === expected[name]) return []
    if (!(name in expected)) return [`left over: ${name}`]
    return [`${name in found ? 'different' : 'missing'}: ${name}`]
  })
}

/** Two destinations: the files as they are, and the `.css` files under names that carry their digest. */
function configuration(base: string) {
  return {
    state: path.join(base, 'state.db'),
    stores: { plain: `file://${base}/plain`, hashed: `file://${base}/hashed` },
    sources: { site: { directory: path.join(base, 'site'), settle: '0ms' } },
    rules: [
      { label: 'all', source: 'site', destinations: [{ store: 'plain' }] },
      {
        label: 'styles',
        source: 'site',
        filter: { extensions: ['css'] },
        processors: ['unique-filename.md5'],
        destinations: [{ store: 'hashed' }],
      },
    ],
  }
}

function start(config: string, verb = 'up'): ChildProcess {
  return spawn(process.execPath, [bin, verb, '--config', config], { stdio: ['ignore', 'ignore', 'pipe'] })
}

/** Every file below a directory with the digest of its bytes. */
function tree(directory: string): Record<string, string> {
  const files: Record<string, string> = {}
  for (const entry of fs.readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const file = path.join(entry.parentPath, entry.name)
    files[path.relative(directory, file)] = createHash('md5').update(fs.readFileSync(file)).digest('hex')
  }
  return Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function hashedNames(files: Record<string, string>): Record<string, string> {
  const hashed = Object.entries(files)
    .filter(([name]) => name.endsWith('.css'))
    .map(([name, digest]) => [name.replace(/\.css$/, `_${digest}.css`), digest] as const)
  return Object.fromEntries(hashed.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Does one random thing to a tree at each call. */
class Writer {
  readonly #root: string
  readonly #random: () => number
  #count = 0

  constructor(root: string, random: () => number) {
    this.#root = root
    this.#random = random
  }

  act() {
    const files = Object.keys(this.#files())
    const dice = this.#random()
    const victim = files[Math.floor(this.#random() * files.length)]
    if (victim === undefined || (dice < 0.45 && files.length < 300)) this.#create()
    else if (dice < 0.65) this.#write(victim)
    else if (dice < 0.8) this.#rename(victim)
    else if (dice < 0.97) fs.rmSync(path.join(this.#root, victim))
    else
      fs.rmSync(path.join(this.#root, path.dirname(victim) === '.' ? victim : path.dirname(victim)), {
        recursive: true,
      })
  }

  #files(): Record<string, true> {
    const files: Record<string, true> = {}
    for (const entry of fs.readdirSync(this.#root, { recursive: true, withFileTypes: true }))
      if (entry.isFile()) files[path.relative(this.#root, path.join(entry.parentPath, entry.name))] = true
    return files
  }

  #name(): string {
    const depth = Math.floor(this.#random() * 3)
    const parts = Array.from({ length: depth }, () => `d${Math.floor(this.#random() * 4)}`)
    return path.join(...parts, `file ${this.#count++}.${this.#random() < 0.5 ? 'css' : 'png'}`)
  }

  #create() {
    const name = this.#name()
    fs.mkdirSync(path.join(this.#root, path.dirname(name)), { recursive: true })
    this.#write(name)
  }

  #write(name: string) {
    const size = Math.floor(this.#random() * 20_000)
    fs.writeFileSync(path.join(this.#root, name), Buffer.alloc(size, `${this.#random()} `))
  }

  #rename(name: string) {
    const target = this.#name()
    fs.mkdirSync(path.join(this.#root, path.dirname(target)), { recursive: true })
    fs.renameSync(path.join(this.#root, name), path.join(this.#root, target))
  }
}

/** Small seeded generator (mulberry32, public domain algorithm by Tommy Ettinger). */
function mulberry32(state: number): () => number {
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
