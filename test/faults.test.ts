/**
 * Every driver over connections that break, end, fall silent and turn bits over: a proxy before a real server does it at
 * chosen bytes. Whatever happens, a file is whole, old or new; what cannot be done is an error that says so; and the
 * driver works again when the network does. STOWAGE_FAULT_ROUNDS and STOWAGE_FAULT_SEED govern the random rounds,
 * STOWAGE_FAULT_KINDS (s3,webdav,…) which kinds are tried.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { describe, test } from 'node:test'
import { collect } from '../src/core/bytes.ts'
import { codeOf, StowageError, type ErrorCode } from '../src/core/errors.ts'
import type { Driver, Entry } from '../src/store/driver.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { type Fault, type FaultProxy, type Way } from './servers/fault-proxy.ts'
import { kinds, type Limits, type Row } from './servers/fault-rows.ts'

function testRow(row: Row) {
  for (const [patience, wrap] of Object.entries({ plain, patient })) {
    for (const body of row.bodies) testCutWrites(row, body, patience, wrap)
    if (!row.writer) testLostAnswers(row, patience, wrap)
    testCutReads(row, patience, wrap)
    if (row.files > 0) testCutListings(row, row.files, patience, wrap)
  }
  testStalls(row)
  testConnecting(row)
  testFlips(row)
  testRandomly(row)
}

type Wrap = (driver: Driver) => Driver

function plain(driver: Driver): Driver {
  return driver
}

/** As `openDriver` does it, but quicker. */
function patient(driver: Driver): Driver {
  return retrying(driver, { attempts: 4, baseMs: 1 })
}

/** Everything for one fault: a proxy, a driver through it, and one that knows the truth and can change it. */
interface Scene extends AsyncDisposable {
  proxy: FaultProxy
  driver: Driver
  direct: Driver
}

let scenes = 0

async function prepare(place: Row, { wrap = plain, ...limits }: Limits & { wrap?: Wrap } = {}): Promise<Scene> {
  const directory = `scene-${scenes++}`
  const proxy = await place.front()
  const driver = wrap(place.open(directory, proxy, limits))
  const direct = place.writer?.(directory) ?? place.open(directory)
  const close = async () => {
    await driver.close()
    await direct.close()
    await proxy[Symbol.asyncDispose]()
  }
  return { proxy, driver, direct, [Symbol.asyncDispose]: close }
}

/** How many bytes a call moves each way. Now and then it has to ask twice, so it is called twice. */
async function measure(proxy: FaultProxy, work: () => Promise<unknown>): Promise<Record<Way, number>> {
  const before = { ...proxy.bytes }
  await work()
  const between = { ...proxy.bytes }
  await work()
  const least = (way: Way) => Math.min(between[way] - before[way], proxy.bytes[way] - between[way])
  return { up: least('up'), down: least('down') }
}

/** Cuts of a call of that many bytes: at its start, in the middle, before its last byte; once, and as often as it is tried. */
function cuts(total: Record<Way, number>): Fault[] {
  return (['up', 'down'] as const).flatMap((way) =>
    [0, 1, Math.floor(total[way] / 2), total[way] - 1].flatMap((place) =>
      (['reset', 'end'] as const).flatMap((how) =>
        [1, Infinity].map((times): Fault => ({ how, way, after: place, times })),
      ),
    ),
  )
}

/** Answers carry times and versions, so that their lengths may differ by some bytes from one to the next. */
function assertStruck({ struck }: FaultProxy, fault: Fault, total: Record<Way, number>) {
  const isAtEnd = 'after' in fault && fault.after >= total[fault.way] - 1
  assert.ok(struck > 0 || isAtEnd, `it did not strike: ${JSON.stringify(fault)}`)
}

/** Does it for each, some at once, and tells all failures together. */
async function forEach<T>(all: readonly T[], work: (each: T) => Promise<void>): Promise<void> {
  const left = all.entries()
  const failures: string[] = []
  const worker = async () => {
    for (const [, each] of left)
      await work(each).catch((error: unknown) =>
        failures.push(`${JSON.stringify(each)}: ${error instanceof Error ? error.stack : String(error)}`),
      )
  }
  await Promise.all(Array.from({ length: 16 }, worker))
  assert.ok(failures.length === 0, `${failures.length} of ${all.length} failed:\n${failures.join('\n')}`)
}

async function codeWhen(work: Promise<unknown>): Promise<ErrorCode | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => {
      if (error instanceof StowageError) return error.code
      throw error
    },
  )
}

async function write(driver: Driver, key: string, bytes: Buffer, announced = true, signal?: AbortSignal) {
  const options = { ...(announced ? { size: bytes.byteLength } : {}), ...(signal ? { signal } : {}) }
  if (driver.writeBytes && announced && bytes.byteLength < 10_000) return driver.writeBytes(key, bytes, options)
  return driver.write(key, pieces(bytes), options)
}

async function* pieces(bytes: Buffer) {
  for (let at = 0; at < bytes.byteLength; at += 65_536) yield bytes.subarray(at, at + 65_536)
}

async function read(driver: Driver, key: string): Promise<Buffer> {
  return collect((await driver.read(key)).body)
}

/** The network is well again: what is stored is one of these, alone in its directory, and the driver works. */
async function assertSound({ proxy, driver, direct }: Scene, key: string, allowed: readonly Buffer[]) {
  await proxy.set(undefined)
  const stored = await read(direct, key)
  assert.ok(
    allowed.some((bytes) => bytes.equals(stored)),
    `${stored.byteLength} bytes that nobody wrote`,
  )
  const listed = await Array.fromAsync(direct.list(''))
  assert.deepEqual(
    listed.map((entry) => entry.key),
    [key],
  )
  const fresh = randomBytes(1_000)
  const writer = driver.supports.write ? driver : direct
  await write(writer, key, fresh)
  const again = await read(driver, key)
  assert.ok(again.equals(fresh), `${again.byteLength} bytes instead of ${fresh.byteLength}`)
  await writer.delete(key)
  await assert.rejects(driver.stat(key), { code: 'NOT_FOUND' })
}

/** May a call that met this fault fail with this? What a server answers to half a request is its own affair. */
function assertTold({ how, ...fault }: Fault, code: ErrorCode | undefined) {
  if (code === undefined || (how === 'end' && 'way' in fault && fault.way === 'up')) return
  const fits: ErrorCode[] = how === 'end' ? ['UNREACHABLE', 'TIMEOUT', 'CORRUPT'] : ['UNREACHABLE']
  assert.ok(fits.includes(code), code)
}

function testCutWrites(place: Row, body: { size: number; isAnnounced: boolean }, patience: string, wrap: Wrap) {
  const { size, isAnnounced } = body
  const what = `${patience}: a write of ${size} bytes, ${isAnnounced ? 'announced' : 'of unknown length'}`
  test(`${what}, that is cut stores all or nothing, and says which`, async () => {
    await using rehearsal = await prepare(place, { wrap })
    await write(rehearsal.driver, 'a', randomBytes(3))
    const bytes = randomBytes(size)
    const total = await measure(rehearsal.proxy, async () => write(rehearsal.driver, 'a', bytes, isAnnounced))
    await forEach(cuts(total), async (fault) => {
      await using scene = await prepare(place, { wrap, timeoutMs: 5_000 })
      const old = randomBytes(100)
      await write(scene.driver, 'a', old)
      await scene.proxy.set(fault)
      const code = await codeWhen(write(scene.driver, 'a', bytes, isAnnounced))
      assertStruck(scene.proxy, fault, total)
      assertTold(fault, code)
      await assertSound(scene, 'a', code === undefined ? [bytes] : [old, bytes])
    })
  })
}

/** Whoever tries again meets what he has written himself, and must not take it for somebody else's. */
function testLostAnswers(place: Row, patience: string, wrap: Wrap) {
  for (const size of [3_000, 300_000])
    test(`${patience}: a write of ${size} bytes under a condition, whose answer is lost, does not find itself in its own way`, async (t) => {
      await using rehearsal = await prepare(place, { wrap })
      if (!rehearsal.driver.supports.ifAbsent) return t.skip('supports.ifAbsent is false')
      const bytes = randomBytes(size)
      const writeNew = async ({ driver }: Scene, key: string) =>
        size < 10_000 && driver.writeBytes
          ? driver.writeBytes(key, bytes, { size, ifAbsent: true })
          : driver.write(key, pieces(bytes), { size, ifAbsent: true })
      await writeNew(rehearsal, 'a')
      let keys = 0
      const total = await measure(rehearsal.proxy, async () => writeNew(rehearsal, `b${keys++}`))
      await forEach(
        cuts(total).filter(({ how }) => how === 'reset'),
        async (fault) => {
          await using scene = await prepare(place, { wrap })
          await scene.driver.delete('warm')
          await scene.proxy.set(fault)
          const code = await codeWhen(writeNew(scene, 'a'))
          assertTold(fault, code)
          await scene.proxy.set(undefined)
          if (code === undefined) await assertSound(scene, 'a', [bytes])
        },
      )
    })
}

/** What arrives before an error, if there is one. */
async function readSome(driver: Driver, key: string): Promise<{ bytes: Buffer; code?: ErrorCode }> {
  const chunks: Uint8Array[] = []
  const reading = (async () => {
    for await (const chunk of (await driver.read(key)).body as AsyncIterable<Uint8Array>) chunks.push(chunk)
  })()
  const code = await codeWhen(reading)
  return { bytes: Buffer.concat(chunks), ...(code === undefined ? {} : { code }) }
}

function testCutReads(place: Row, patience: string, wrap: Wrap) {
  for (const size of [2_000, 400_000])
    test(`${patience}: a read of ${size} bytes that is cut fails, or is whole`, async () => {
      await using rehearsal = await prepare(place, { wrap })
      const bytes = randomBytes(size)
      await write(rehearsal.direct, 'a', bytes)
      await rehearsal.driver.stat('a')
      const total = await measure(rehearsal.proxy, async () => read(rehearsal.driver, 'a'))
      await forEach(cuts(total), async (fault) => {
        await using scene = await prepare(place, { wrap, timeoutMs: 5_000 })
        await write(scene.direct, 'a', bytes)
        await scene.driver.stat('a')
        await scene.proxy.set(fault)
        const { bytes: received, code } = await readSome(scene.driver, 'a')
        assertStruck(scene.proxy, fault, total)
        assert.ok(received.equals(bytes.subarray(0, received.byteLength)), 'bytes that are not of the file')
        if (code === undefined) assert.equal(received.byteLength, size)
        assertTold(fault, code)
        await assertSound(scene, 'a', [bytes])
      })
    })
}

function testCutListings(place: Row, files: number, patience: string, wrap: Wrap) {
  test(`${patience}: a listing of ${files} files that is cut fails, or is whole`, async () => {
    await using rehearsal = await prepare(place, { wrap, timeoutMs: 5_000 })
    const { proxy, driver, direct } = rehearsal
    const keys = Array.from({ length: files }, (_, i) => `${i % 3}/${'x'.repeat(50)}${i}`)
    await forEach(keys, async (key) => void (await write(direct, key, Buffer.from('x'))))
    const whole = (await Array.fromAsync(direct.list(''))).map(({ key }) => key)
    assert.equal(whole.length, files)
    await driver.stat(keys[0] ?? '')
    const total = await measure(proxy, async () => Array.fromAsync(driver.list('')))
    for (const fault of cuts(total)) {
      await proxy.set(fault)
      const listed: string[] = []
      const code = await codeWhen(
        (async () => {
          for await (const { key } of driver.list('')) listed.push(key)
        })(),
      )
      const label = JSON.stringify(fault)
      assertStruck(proxy, fault, total)
      assert.deepEqual(listed, code === undefined ? whole : whole.slice(0, listed.length), label)
      assertTold(fault, code)
      await proxy.set(undefined)
    }
    assert.equal((await Array.fromAsync(driver.list(''))).length, files)
  })
}

/** Each kind of call. */
function calls(driver: Driver, signal?: AbortSignal): Record<string, () => Promise<unknown>> {
  const options = signal ? { signal } : {}
  const bytes = randomBytes(200_000)
  return {
    read: async () => collect((await driver.read('a', options)).body),
    stat: async () => driver.stat('a', options),
    list: async () => Array.fromAsync<Entry>(driver.list('', options)),
    write: async () => write(driver, 'a', bytes, true, signal),
    'write of unknown length': async () => write(driver, 'a', bytes, false, signal),
    delete: async () => driver.delete('absent', options),
  }
}

function callNames(row: Row): string[] {
  return row.writer ? ['read', 'stat'] : Object.keys(calls({} as Driver))
}

/** Time limits that servers keep as long as nothing is wrong. */
function brief({ answersWithinMs: timeoutMs = 500 }: Row): Limits {
  return { timeoutMs, connectTimeoutMs: timeoutMs }
}

/** Silence at the start of a request, and of its answer; in the middle of the longer one, where there is a middle. */
const stalls: Fault[] = [
  { how: 'stall', way: 'up', after: 0, times: Infinity },
  { how: 'stall', way: 'down', after: 0, times: Infinity },
  { how: 'stall', way: 'up', after: 100, times: Infinity },
  { how: 'stall', way: 'down', after: 100, times: Infinity },
]

function testStalls(place: Row) {
  for (const name of callNames(place)) {
    test(`${name}: what stalls is a TIMEOUT, and leaves no connection open`, async () =>
      forEach(stalls, async (fault) => {
        await using scene = await prepare(place, { ...brief(place) })
        const { proxy, driver, direct } = scene
        const old = randomBytes(300_000)
        await write(direct, 'a', old)
        await driver.stat('a')
        await proxy.set(fault)
        assert.equal(await codeWhen(calls(driver)[name]?.() ?? Promise.resolve()), 'TIMEOUT')
        await proxy.set(undefined)
        await proxy.until('nothing but a connection at rest is open', ({ live }) => live <= 1)
        if (!name.startsWith('write')) await assertSound(scene, 'a', [old])
      }))
    test(`${name}: what stalls ends at once when it is cancelled, and leaves no connection open`, async () =>
      forEach(stalls, async (fault) => {
        await using scene = await prepare(place)
        const { proxy, driver, direct } = scene
        const old = randomBytes(300_000)
        await write(direct, 'a', old)
        await driver.stat('a')
        await proxy.set(fault)
        const controller = new AbortController()
        const ended = codeWhen(calls(driver, controller.signal)[name]?.() ?? Promise.resolve())
        await proxy.until('the fault has struck', ({ struck }) => struck > 0)
        controller.abort()
        assert.equal(await ended, 'ABORTED')
        await proxy.set(undefined)
        await proxy.until('nothing but a connection at rest is open', ({ live }) => live <= 1)
        if (!name.startsWith('write')) await assertSound(scene, 'a', [old])
        await driver.close()
        await proxy.until('all connections are closed', ({ live }) => live === 0)
      }))
  }
}

function testConnecting(place: Row) {
  const meetings = [
    { how: 'refuse', code: 'UNREACHABLE' },
    { how: 'reset on connect', code: 'UNREACHABLE' },
    { how: 'silent', code: 'TIMEOUT' },
  ] as const
  for (const { how, code } of meetings)
    test(`every call is ${code} when connections meet: ${how}`, async () =>
      forEach(callNames(place), async (name) => {
        await using scene = await prepare(place, { ...brief(place) })
        const { proxy, driver, direct } = scene
        const old = randomBytes(1_000)
        await write(direct, 'a', old)
        for (const isFirst of [true, false]) {
          await proxy.set({ how })
          const met = await codeWhen(calls(driver)[name]?.() ?? Promise.resolve())
          // What is not sent twice may have gone to a connection in the moment that it was reset.
          assert.ok(met === code || (!isFirst && met === 'UNREACHABLE'), `${met}, first: ${isFirst}`)
          await proxy.set(undefined)
          assert.equal((await driver.stat('a')).size, 1_000)
        }
        await assertSound(scene, 'a', [old])
      }))
}

function testFlips(place: Row) {
  const notices = place.noticesFlips
  if (!place.writer)
    test(`a wrong bit in a body on its way up is ${notices.up ? '' : 'not '}noticed`, async () => {
      await using scene = await prepare(place, { timeoutMs: 2_000 })
      const [old, bytes] = [randomBytes(1_000), randomBytes(300_000)]
      await write(scene.driver, 'a', old)
      await scene.proxy.set({ how: 'flip', way: 'up', after: 150_000, times: notices.up ? Infinity : 1 })
      const code = await codeWhen(write(scene.driver, 'a', bytes))
      assert.ok(scene.proxy.struck > 0)
      if (notices.up) {
        assert.ok(code === 'CORRUPT' || code === 'UNREACHABLE', code)
        await assertSound(scene, 'a', [old])
      } else {
        assert.equal(code, undefined)
        assert.ok(!(await read(scene.direct, 'a')).equals(bytes))
      }
    })
  test(`a wrong bit in a body on its way down is ${notices.down ? '' : 'not '}noticed`, async () => {
    await using scene = await prepare(place, { timeoutMs: 2_000 })
    const bytes = randomBytes(300_000)
    await write(scene.direct, 'a', bytes)
    const { down } = await measure(scene.proxy, async () => read(scene.driver, 'a'))
    await scene.proxy.set({ how: 'flip', way: 'down', after: down - 100_000 })
    const { bytes: received, code } = await readSome(scene.driver, 'a')
    assert.equal(scene.proxy.struck, 1)
    if (notices.down) {
      assert.ok(code === 'CORRUPT' || code === 'UNREACHABLE', code)
      assert.ok(received.equals(bytes.subarray(0, received.byteLength)))
    } else {
      assert.equal(code, undefined)
      assert.ok(!received.equals(bytes))
    }
    await assertSound(scene, 'a', [bytes])
  })
}

/** Numbers below one that only depend on the seed (mulberry32). */
function randomFrom(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

function testRandomly(place: Row) {
  const rounds = Number(process.env['STOWAGE_FAULT_ROUNDS'] ?? 30)
  test(`${rounds} random calls with random faults leave only what was written whole`, async (t) => {
    const seed = Number(process.env['STOWAGE_FAULT_SEED'] ?? randomBytes(4).readUInt32LE())
    t.diagnostic(`STOWAGE_FAULT_SEED=${seed}`)
    const random = randomFrom(seed)
    const below = (limit: number) => Math.floor(random() * limit)
    await using scene = await prepare(place, { wrap: patient, ...brief(place) })
    const { proxy, driver, direct } = scene
    const keys = ['a', 'd/b', 'd/e/c']
    const written = new Map(keys.map((key) => [key, new Set<string>(['absent'])]))
    const writer = driver.supports.write ? driver : direct
    const check = (key: string, content: string) =>
      assert.ok(written.get(key)?.has(content), `${key} has ${content.length} hex digits that nobody wrote`)
    const operations: ((key: string) => Promise<unknown>)[] = [
      async (key) => {
        const bytes = randomBytes(below(2) ? below(300_000) : below(3_000))
        written.get(key)?.add(bytes.toString('hex'))
        await write(writer, key, bytes, below(2) > 0)
      },
      async (key) => check(key, (await read(driver, key)).toString('hex')),
      async (key) => driver.stat(key),
      async () => Array.fromAsync<Entry>((driver.supports.list ? driver : direct).list('')),
      async (key) => writer.delete(key),
    ]
    const known: (ErrorCode | undefined)[] = [undefined, 'UNREACHABLE', 'TIMEOUT', 'CORRUPT', 'NOT_FOUND', 'CONFLICT']
    for (let round = 0; round < rounds; round++) {
      const how = (['reset', 'end', 'stall', 'delay', 'refuse', 'reset on connect'] as const)[below(6)] ?? 'reset'
      const way = below(2) ? 'up' : 'down'
      const fault: Fault =
        how === 'delay'
          ? { how, way, ms: below(3) }
          : how === 'refuse' || how === 'reset on connect'
            ? { how }
            : { how, way, after: Math.floor(300_000 ** random()), times: 1 + below(3) }
      await proxy.set(fault)
      const key = keys[below(keys.length)] ?? 'a'
      const operation = below(operations.length)
      const code = await codeWhen(operations[operation]?.(key) ?? Promise.resolve())
      await proxy.set(undefined)
      assert.ok(how === 'end' || known.includes(code), `round ${round}: ${code}`)
      const stored = await read(direct, key).catch((error: unknown) => {
        assert.equal(codeOf(error), 'NOT_FOUND')
        return undefined
      })
      check(key, stored?.toString('hex') ?? 'absent')
      if (operation === 0 && code === undefined) assert.ok(stored, `round ${round}: a write was lost`)
    }
    const listed = await Array.fromAsync(direct.list(''))
    assert.ok(listed.every((entry) => keys.includes(entry.key)))
  })
}

const wanted = process.env['STOWAGE_FAULT_KINDS']?.split(',') ?? Object.keys(kinds)
const all = await Promise.all(wanted.map(async (kind) => [kind, (await kinds[kind]?.()) ?? {}] as const))
for (const [kind, rows] of all) {
  if (Object.keys(rows).length === 0) test(kind, { skip: 'its server is not installed' }, () => {})
  for (const [name, row] of Object.entries(rows))
    describe(`${name}, over a bad network`, { concurrency: 3 }, () => testRow(row))
}
