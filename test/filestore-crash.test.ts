/**
 * A filestore is killed with SIGKILL at random moments, 200 times, while files are put, uploaded, handed over, called back,
 * moved, migrated, deleted and restored by several at once, and others write into its directory. After each kill every file
 * must be what was acknowledged; in the end nothing may be left over anywhere.
 *
 * Method: the child (filestore-crash-child.ts) notes in a journal what it begins and what came of it, and so do we of what
 * we write into its directory. Most children kill themselves at a moment that was drawn among all changes that another
 * process can see (commits, renames, links …), the others are killed by us after a number of lines. The oracle reads the
 * journal and knows of each key what it may be. Replay a run with STOWAGE_SEED=n; STOWAGE_KILLS sets how often.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { compareKeys } from '../src/core/keys.ts'
import {
  actors,
  contentOf,
  digestOf,
  foreignKeys,
  keysOf,
  seeded,
  type Life,
  type Result,
} from './filestore-crash-model.ts'

const kills = Number(process.env['STOWAGE_KILLS'] ?? 200)
const seed = Number(process.env['STOWAGE_SEED'] ?? Math.floor(Math.random() * 2 ** 31))
const child = path.join(import.meta.dirname, 'filestore-crash-child.ts')

/** What stays the same in a filestore's lives. */
const shapes = [
  { name: 'deletes at once, through a cache', deleteAfterMs: 0, isCached: true },
  { name: 'keeps deleted files, without a cache', deleteAfterMs: 3_600_000, isCached: false },
  { name: 'keeps deleted files, through a cache', deleteAfterMs: 3_600_000, isCached: true },
  { name: 'deletes at once, without a cache', deleteAfterMs: 0, isCached: false },
]

test(`a filestore killed ${kills} times during put, upload, hand-over, recall and delete: no byte lost, nothing served wrong, nothing left over`, {
  timeout: 20 * 60_000,
}, async (t) => {
  t.diagnostic(`STOWAGE_SEED=${seed}`)
  const moments = new Map<string, number>()
  const ends = await Promise.allSettled(
    shapes.map(async ({ name, ...shape }, index) => {
      const base = fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-filestore-crash-'))
      const campaign = new Campaign(base, seeded(seed + index * 1000), moments)
      const share = Math.ceil((kills - index) / shapes.length)
      try {
        for (let number = 0; number < share; number++) await campaign.live(number, { ...shape, isLast: false })
        await campaign.live(share, { ...shape, isLast: true })
      } catch (error) {
        throw new Error(`A filestore that ${name} (in ${base}, seed ${seed}): ${(error as Error).message}`, {
          cause: error,
        })
      }
      fs.rmSync(base, { recursive: true, force: true })
    }),
  )
  for (const end of ends) if (end.status === 'rejected') throw end.reason
  for (const [moment, count] of [...moments].sort(([, a], [, b]) => b - a)) t.diagnostic(`${count} × killed ${moment}`)
})

/** The lives of one filestore. */
class Campaign {
  readonly #base: string
  readonly #random: () => number
  readonly #moments: Map<string, number>
  readonly #oracle: Oracle
  readonly #journal: number
  #read = 0
  #foreign = 0

  constructor(base: string, random: () => number, moments: Map<string, number>) {
    this.#base = base
    this.#random = random
    this.#moments = moments
    this.#journal = fs.openSync(path.join(base, 'journal'), 'a+')
    this.#oracle = new Oracle()
  }

  async live(number: number, shape: Pick<Life, 'deleteAfterMs' | 'isCached' | 'isLast'>): Promise<void> {
    const random = this.#random
    const isOwnKill = random() < 0.8
    const life: Life = {
      ...shape,
      base: this.#base,
      number,
      seed: Math.floor(random() * 2 ** 31),
      // As many soon as late: what is begun at the start must survive too.
      killAt: isOwnKill && !shape.isLast ? Math.ceil(10 ** (1 + random() * 2.3)) : 0,
      calls: 300,
      coolDownMs: random() < 0.6 ? 0 : Math.floor(random() * 20),
      keepLocal: random() < 0.3,
      route: random() < 0.7 ? 'one' : 'two',
    }
    const killAfter = isOwnKill || shape.isLast ? Infinity : Math.ceil(random() * 600)
    const errors = await this.#run(life, killAfter)
    this.#replay(life, errors)
    if (shape.isLast) this.#oracle.checkAtRest(this.#base, shape.deleteAfterMs)
  }

  /** Starts a child, writes into its directory while it lives, and returns what it said when it has ended. */
  async #run(life: Life, killAfter: number): Promise<string> {
    const process_ = spawn(process.execPath, [child, JSON.stringify(life)], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, NODE_COMPILE_CACHE: path.join(this.#base, 'compiled') },
    })
    const errors: Buffer[] = []
    process_.stderr.on('data', (chunk: Buffer) => errors.push(chunk))
    let lines = 0
    process_.stdout.on('data', (chunk: Buffer) => {
      const acts = life.isLast ? 0 : chunk.byteLength
      for (let act = 0; act < acts; act++) if (this.#random() < 0.1) this.#act()
      lines += chunk.byteLength
      if (lines >= killAfter || chunk.includes('!')) process_.kill('SIGKILL')
    })
    const [code, signal] = await once(process_, 'close')
    const said = Buffer.concat(errors).toString()
    if (life.isLast) assert.equal(code, 0, `the last life failed: ${said}`)
    else assert.equal(signal, 'SIGKILL', `life ${life.number} ended by itself: ${said}`)
    return said
  }

  /** Somebody else writes into the directory, or removes something from it. */
  #act() {
    const key = foreignKeys[Math.floor(this.#random() * foreignKeys.length)] ?? ''
    const target = path.join(this.#base, 'files', key)
    const id = `p${this.#foreign++}`
    if (key.startsWith('g') && this.#random() < 0.4) {
      this.#note('begin', id, 'unlink', key)
      fs.rmSync(target, { force: true })
    } else {
      const aside = path.join(this.#base, 'aside')
      fs.writeFileSync(aside, contentOf(id))
      this.#note('begin', id, 'foreign', key, id)
      for (let isDone = false; !isDone; )
        try {
          fs.mkdirSync(path.dirname(target), { recursive: true })
          fs.renameSync(aside, target)
          isDone = true
        } catch (error) {
          // The directory was empty a moment ago, and was tidied away.
          if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
        }
    }
    this.#note('end', id, {})
  }

  #note(...line: unknown[]) {
    fs.writeSync(this.#journal, `${JSON.stringify(line)}\n`)
  }

  #replay(life: Life, said: string) {
    const text = fs.readFileSync(path.join(this.#base, 'journal')).subarray(this.#read)
    this.#read += text.byteLength
    this.#oracle.begin(life)
    for (const line of text.toString().split('\n').slice(0, -1)) {
      const [kind, ...rest] = JSON.parse(line) as [string, ...unknown[]]
      if (kind === 'killed') this.#count([String(rest[0])])
      else if (kind === 'interrupted') this.#count((rest[0] as string[]).map((each) => `during a job: ${each}`))
      else
        try {
          this.#oracle.hear(kind, rest)
        } catch (error) {
          ;(error as Error).message += `\nin life ${life.number} ${JSON.stringify(life)} at ${line}\n${said}`
          throw error
        }
    }
    this.#count(this.#oracle.end())
  }

  #count(moments: string[]) {
    for (const moment of moments) this.#moments.set(moment, (this.#moments.get(moment) ?? 0) + 1)
  }
}

type State = { is: 'file' | 'deleted'; digest: string } | { is: 'absent' }
type Call = { operation: string; key: string; parameters: string[]; possible: Set<string> | undefined }

const absent: State = { is: 'absent' }

/** Knows of each key what it may be. */
class Oracle {
  #life: Life | undefined
  /** Of actors' keys. */
  readonly #states = new Map<string, State>()
  /** Of keys that others write to: digests, or `absent`. */
  readonly #possible = new Map(foreignKeys.map((key) => [key, new Set(['absent'])]))
  readonly #ever = new Map(foreignKeys.map((key) => [key, new Set(['absent'])]))
  readonly #open = new Map<unknown, Call>()
  /** Calls that were under way when the process was killed: each may have happened or not. */
  readonly #doubts: { keys: string[]; before: Map<string, State>; after: Map<string, State> }[] = []
  #seen = new Map<string, Result>()
  #rest: [status: { lost: { files: number } }, tables: Record<string, Record<string, string | number | null>[]>] =
    undefined as never

  begin(life: Life) {
    this.#life = life
    this.#seen = new Map()
  }

  hear(kind: string, rest: unknown[]) {
    if (kind === 'begin') this.#began(rest as [unknown, string, string, ...string[]])
    else if (kind === 'end') this.#ended(rest as [unknown, Result])
    else if (kind === 'seen') this.#saw(rest as [unknown, string, Result])
    else if (kind === 'observed') this.#observed(rest as [Record<string, number>, string[]])
    else if (kind === 'rests') this.#rest = rest as never
    else if (kind === 'wrong') assert.fail(String(rest[0]))
    else if (kind === 'orphan') assert.notEqual((rest[0] as { kind: string }).kind, 'unknown', 'a file nobody knows of')
    else if (kind === 'failed') assert.doesNotMatch(String(rest[2]), /damaged|CORRUPT|cannot be had|something else/)
  }

  /** To be called when the process has ended. Returns what it was doing. */
  end(): string[] {
    const under = [...this.#open.values()].map(({ operation }) => `during a call: ${operation}`)
    for (const { operation, key, parameters } of this.#open.values()) {
      const keys = operation === 'move' ? [key, parameters[0] ?? ''] : [key]
      const before = new Map(keys.map((each) => [each, this.#stateOf(each)]))
      const after = new Map([...before, ...this.#after(operation, key, parameters)])
      if (operation !== 'read') this.#doubts.push({ keys, before, after })
    }
    this.#open.clear()
    return [...new Set(under)]
  }

  #began([id, operation, key, ...parameters]: [unknown, string, string, ...string[]]) {
    const isRead = operation === 'read' && this.#possible.has(key)
    const possible = isRead ? new Set(this.#possible.get(key)) : undefined
    this.#open.set(id, { operation, key, parameters, possible })
    if (operation === 'foreign') this.#mayBe(key, digestOf(contentOf(parameters[0] ?? '')))
    // What was never noticed before it was removed leaves what was there before it.
    if (operation === 'unlink') this.#mayBe(key, ...(this.#ever.get(key) ?? []))
  }

  #mayBe(key: string, ...digests: string[]) {
    const readers = [...this.#open.values()].filter((each) => each.key === key)
    for (const digest of digests)
      for (const possible of [this.#possible.get(key), this.#ever.get(key), ...readers.map((each) => each.possible)])
        possible?.add(digest)
  }

  /** What a call that succeeds makes of its keys. */
  #after(operation: string, key: string, [parameter = '']: string[]): [string, State][] {
    const now = this.#stateOf(key)
    if (operation === 'put') return [[key, { is: 'file', digest: digestOf(contentOf(parameter)) }]]
    if (operation === 'delete') return now.is === 'file' ? [[key, { ...now, is: 'deleted' }]] : []
    if (operation === 'restore') return now.is === 'deleted' ? [[key, { ...now, is: 'file' }]] : []
    if (operation === 'move' && now.is === 'file' && key !== parameter)
      return [
        [key, absent],
        [parameter, now],
      ]
    return []
  }

  #ended([id, { code, error, message }]: [unknown, Result]) {
    const { operation, key, parameters } = this.#open.get(id) as Call
    this.#open.delete(id)
    assert.equal(error, undefined)
    if (operation === 'unlink') return
    if (operation === 'foreign') {
      this.#possible.set(key, new Set([digestOf(contentOf(parameters[0] ?? ''))]))
      return
    }
    const { is } = this.#stateOf(key)
    const isGone = operation === 'restore' && is === 'deleted' && this.#life?.deleteAfterMs === 0
    if (isGone && code === 'NOT_FOUND') this.#states.set(key, absent)
    else {
      assert.equal(code, this.#codeOf(operation, is), `${operation} of ${key}, which is ${is}: ${message}`)
      if (code === undefined)
        for (const [each, state] of this.#after(operation, key, parameters)) this.#states.set(each, state)
    }
  }

  #codeOf(operation: string, is: State['is']): string | undefined {
    if (operation === 'restore') return { file: 'EXISTS', deleted: undefined, absent: 'NOT_FOUND' }[is]
    if (operation === 'move') return is === 'file' ? undefined : 'NOT_FOUND'
    return undefined
  }

  #saw([id, key, result]: [unknown, string, Result]) {
    const { possible } = this.#open.get(id) as Call
    this.#open.delete(id)
    this.#seen.set(key, result)
    if (possible)
      return assert.ok(
        possible.has(digestIn(result)),
        `${key} is ${told(result)}, not one of ${[...possible].join(', ')}`,
      )
    const options = [this.#stateOf(key)]
    for (const { before, after } of this.#doubts.filter(({ keys }) => keys.includes(key)))
      options.push(before.get(key) ?? absent, after.get(key) ?? absent)
    const allowed = options.map((state) => (state.is === 'file' ? state.digest : 'absent'))
    assert.ok(allowed.includes(digestIn(result)), `${key} is ${told(result)}, not ${allowed.join(', ')}`)
  }

  /** All keys were looked at: what was in doubt is clear now. */
  #observed([listed, deleted]: [Record<string, number>, string[]]) {
    for (const { keys, before, after } of this.#doubts.splice(0)) {
      const fits = (states: Map<string, State>) =>
        keys.every((key) => isAs(this.#seen.get(key) ?? {}, states.get(key) ?? absent))
      const happened = [before, after].find(fits)
      assert.ok(happened, `${keys.join(', ')} are neither what they were nor what they should become`)
      for (const [key, state] of happened) this.#states.set(key, state)
    }
    for (const key of actors.flatMap(keysOf)) {
      const state = this.#stateOf(key)
      assert.ok(isAs(this.#seen.get(key) ?? {}, state), `${key} is ${told(this.#seen.get(key) ?? {})}, not ${state.is}`)
      assert.equal(key in listed, state.is === 'file', `${key} is ${state.is} and is listed, or not`)
      if (state.is === 'file') assert.ok(!deleted.includes(key), `${key} counts as deleted`)
      if (state.is === 'deleted' && this.#life?.deleteAfterMs !== 0)
        assert.ok(deleted.includes(key), `${key} cannot be restored`)
    }
  }

  #stateOf(key: string): State {
    return this.#states.get(key) ?? absent
  }

  /** Is exactly that on the disks which is known? */
  checkAtRest(base: string, deleteAfterMs: number) {
    const [status, { files = [], replicas = [], jobs = [], settings = [] }] = this.#rest
    const isLost = files.filter((row) => row['deleted_ms'] === null && row['local'] === null && row['cloud'] !== 1)
    assert.deepEqual(
      isLost.filter(({ key }) => !String(key).startsWith('g/')).map(({ key }) => key),
      [],
      'lost files',
    )
    assert.equal(status.lost.files, isLost.length)
    if (deleteAfterMs === 0)
      assert.deepEqual(
        files.filter((row) => row['deleted_ms'] !== null),
        [],
      )
    assert.deepEqual(
      jobs.filter((row) => row['queue'] !== 'remove:files' || row['state'] !== 'waiting'),
      [],
    )
    assert.deepEqual(
      settings.filter((row) => /:move:/.test(String(row['name']))),
      [],
    )

    const byKey = new Map(files.map((row) => [row['key'], row]))
    const here = files.filter((row) => row['local'] !== null)
    const names = here.map((row) =>
      row['deleted_ms'] === null ? String(row['key']) : `.stowage-trash/${row['version']}`,
    )
    const { '.stowage-directory': _mark, ...local } = tree(path.join(base, 'files'))
    assert.deepEqual(Object.keys(local), names.sort(compareKeys), 'the local directory')
    const queued = new Set(jobs.map((row) => row['key']))
    for (const remote of ['one', 'two']) {
      const found = tree(path.join(base, remote))
      const expected: Record<string, unknown> = {}
      for (const row of replicas.filter((each) => each['remote'] === remote)) {
        const [file, name] = [byKey.get(row['key'] as string), String(row['remote_key'])]
        const isCurrent = row['state'] === 'present' && row['version'] === file?.['version']
        // What is not current may wait for its removal; and when the file is lost, it is all that is left of it.
        const mayBeOld = queued.has(`${remote}:${name}`) || (file && isLost.includes(file))
        expected[name] = isCurrent ? file?.['sha256'] : mayBeOld ? found[name] : `${row['state']}, of another version`
      }
      for (const [name, digest] of Object.entries(expected)) if (digest === undefined) delete expected[name]
      assert.deepEqual(found, expected, `the remote ${remote}`)
    }
  }
}

function isAs(result: Result, state: State): boolean {
  return digestIn(result) === (state.is === 'file' ? state.digest : 'absent')
}

function digestIn({ digest, code }: Result): string {
  return digest ?? (code === 'NOT_FOUND' ? 'absent' : 'a failure')
}

function told({ digest, code, message, error }: Result): string {
  return digest ?? error ?? `${code}: ${message}`
}

/** Every file below a directory with the digest of its bytes. */
function tree(directory: string): Record<string, string> {
  const entries = fs.existsSync(directory) ? fs.readdirSync(directory, { recursive: true, withFileTypes: true }) : []
  const files = entries.flatMap((entry) => {
    const file = path.join(entry.parentPath, entry.name)
    return entry.isFile() ? [[path.relative(directory, file), digestOf(fs.readFileSync(file))]] : []
  })
  return Object.fromEntries(files.sort(([a = ''], [b = '']) => (a < b ? -1 : 1)))
}
