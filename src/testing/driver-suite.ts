/** The conformance suite of drivers: each promise of `Driver` as one test. Skips come from `supports` alone. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { collect, toBody } from '../core/bytes.ts'
import { compareKeys } from '../core/keys.ts'
import type { ByteRange, Driver, Entry, ListOptions } from '../store/driver.ts'
import { Store } from '../store/store.ts'

/** An empty place for the suite. */
export interface Opened {
  driver: Driver
  /** Fills the place where the driver takes no writes. */
  writer?: Driver
  /** Runs after the drivers are closed. */
  close?: () => Promise<void>
}

/** Declares the suite for one driver. `open` is called once and must give an empty place. */
export function testDriver(name: string, open: () => Promise<Opened>): void {
  describe(`driver ${name}`, () => {
    let opened: Opened
    const driver = () => opened.driver
    const writer = () => opened.writer ?? opened.driver
    before(async () => {
      opened = await open()
    })
    after(async () => {
      await opened.driver.close()
      await opened.writer?.close()
      await opened.close?.()
    })
    testRoundTrips(driver, writer)
    testRanges(driver, writer)
    testAbsence(driver, writer)
    testReadOnly(driver)
    testListing(driver, writer)
    testFailingWrites(driver)
    testConditions(driver)
    testManyFiles(driver)
    testNames(driver)
    testCopies(driver)
    testShortcuts(driver)
    testCancelled(driver)
    testClosing(driver)
  })
}

type Get = () => Driver

/** Declares a test of what a driver need not be able to. */
function testIf(driver: Get, abilities: Ability | Ability[], name: string, work: () => Promise<void>) {
  test(name, async (t) => {
    const missing = [abilities].flat().find((ability) => !driver().supports[ability])
    return missing ? t.skip(`supports.${missing} is false`) : work()
  })
}

type Ability = 'write' | 'list' | 'range' | 'ifAbsent' | 'contentType' | 'metadata'

function testRoundTrips(driver: Get, writer: Get) {
  for (const size of [0, 1, 65_535, 65_536, 65_537, 1_100_000])
    test(`${size} bytes come back as they went in`, async () => {
      const bytes = randomBytes(size)
      const written = await writer().write(`round/${size}`, toBody(bytes))
      assert.equal(written.size, size)
      const { info, body } = await driver().read(`round/${size}`)
      assert.equal(info.size, size)
      assert.ok((await collect(body)).equals(bytes))
      assert.equal((await driver().stat(`round/${size}`)).size, size)
    })
  for (const key of [
    'sp ace',
    'ünïcødé/日本.txt',
    '100%25',
    'a#b?c+d&e=f',
    '..dots..',
    '%2e%2e',
    ' spaces at its ends ',
    'composed \u00e9',
    'decomposed e\u0301',
    'back\\slash',
    'quo\'te"<>',
    'new\nline',
    `${'x'.repeat(200)}/y`,
  ])
    test(`the key ${JSON.stringify(key.slice(0, 20))} is kept byte for byte`, async (t) => {
      const refused = driver().supports.refuses?.find(({ pattern }) => pattern.test(`keys/${key}`))
      if (refused) {
        await assert.rejects(new Store(driver()).put(`keys/${key}`, key), { code: 'INVALID_KEY' })
        return t.skip(`supports.refuses such keys: ${refused.reason}`)
      }
      await writer().write(`keys/${key}`, toBody(key))
      assert.equal((await collect((await driver().read(`keys/${key}`)).body)).toString(), key)
      if (!driver().supports.list) return
      const listed = await list(driver(), 'keys')
      assert.ok(listed.some((entry) => entry.key === `keys/${key}`))
    })
  test('a write replaces what was there', async () => {
    await writer().write('replace', toBody('a long first version'))
    await writer().write('replace', toBody('second'))
    assert.equal(await text(driver(), 'replace'), 'second')
  })
}

function testRanges(driver: Get, writer: Get) {
  const ranges: ByteRange[] = [{ start: 0, end: 1 }, { start: 2, end: 5 }, { start: 5 }, { start: 9, end: 100 }]
  for (const range of ranges)
    testIf(driver, 'range', `the range ${JSON.stringify(range)} gives just its bytes`, async () => {
      await writer().write('range', toBody('0123456789'))
      const { info, body } = await driver().read('range', { range })
      assert.equal(info.size, 10)
      assert.equal((await collect(body)).toString(), '0123456789'.slice(range.start, range.end))
    })
  test('a reader that leaves early does not disturb the next', async () => {
    await writer().write('dropped', toBody(randomBytes(500_000)))
    const { body } = await driver().read('dropped')
    body.destroy()
    assert.equal((await collect((await driver().read('dropped')).body)).byteLength, 500_000)
  })
}

function testAbsence(driver: Get, writer: Get) {
  test('reading and asking for an absent file reject with NOT_FOUND', async () => {
    await assert.rejects(driver().read('absent'), { code: 'NOT_FOUND' })
    await assert.rejects(driver().stat('absent/too'), { code: 'NOT_FOUND' })
  })
  testIf(driver, 'write', 'deleting twice is success, and the file is gone', async () => {
    await driver().write('gone', toBody('x'))
    await driver().delete('gone')
    await driver().delete('gone')
    await assert.rejects(driver().stat('gone'), { code: 'NOT_FOUND' })
  })
  test('a directory is not a file', async () => {
    await writer().write('directory/file', toBody('x'))
    await assert.rejects(driver().stat('directory'), { code: 'NOT_FOUND' })
    await assert.rejects(driver().read('directory'), { code: 'NOT_FOUND' })
  })
}

function testReadOnly(driver: Get) {
  test('a place that takes no writes says so, in every way of writing', async (t) => {
    if (driver().supports.write) return t.skip('supports.write is true')
    const changes: (keyof ReturnType<typeof calls>)[] = ['write', 'write of bytes', 'delete', 'copy', 'move']
    for (const name of changes)
      await assert.rejects(calls(driver())[name] as () => Promise<unknown>, { code: 'READ_ONLY' }, name)
  })
}

function testFailingWrites(driver: Get) {
  testIf(driver, 'write', 'a body that fails stores nothing and its error comes through', async () => {
    await driver().write('kept', toBody('old'))
    const failing = async function* () {
      yield Buffer.from('half of the new')
      throw new Error('the source broke')
    }
    await assert.rejects(driver().write('kept', failing()), /the source broke/)
    await assert.rejects(driver().write('never', failing()), /the source broke/)
    assert.equal(await text(driver(), 'kept'), 'old')
    await assert.rejects(driver().stat('never'), { code: 'NOT_FOUND' })
  })
  for (const size of [3, 5])
    testIf(driver, 'write', `a body of 4 bytes announced with ${size} stores nothing`, async () => {
      await assert.rejects(driver().write('announced', toBody('four'), { size }), { code: 'CORRUPT' })
      await assert.rejects(driver().stat('announced'), { code: 'NOT_FOUND' })
    })
  testIf(driver, 'write', 'a write cancelled half-way stores nothing', async () => {
    const controller = new AbortController()
    const body = async function* () {
      yield Buffer.from('half')
      controller.abort()
      yield Buffer.from('never')
    }
    await assert.rejects(driver().write('cancelled', body(), { signal: controller.signal }), { code: 'ABORTED' })
    await assert.rejects(driver().stat('cancelled'), { code: 'NOT_FOUND' })
  })
  testIf(driver, 'write', 'of two writers at once one wins whole', async () => {
    const bodies = ['a', 'b', 'c', 'd'].map((letter) => letter.repeat(200_000))
    await Promise.all(bodies.map((body) => driver().write('contested', toBody(body))))
    assert.ok(bodies.includes(await text(driver(), 'contested')))
  })
}

function testConditions(driver: Get) {
  testIf(driver, ['write', 'ifAbsent'], 'of eight writers with ifAbsent exactly one wins', async () => {
    const tries = Array.from({ length: 8 }, (_, i) => driver().write('reserved', toBody(`${i}`), { ifAbsent: true }))
    const results = await Promise.allSettled(tries)
    assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
    for (const result of results) if (result.status === 'rejected') assert.equal(result.reason.code, 'EXISTS')
  })
  test('ifMatch replaces the version it names and no other', async (t) => {
    if (!driver().supports.write) return t.skip('supports.write is false')
    if (!driver().supports.ifMatch) {
      await assert.rejects(driver().write('versioned', toBody('x'), { ifMatch: 'any' }), { code: 'UNSUPPORTED' })
      return t.skip('supports.ifMatch is false, and the condition is refused rather than ignored')
    }
    const { etag } = await driver().write('versioned', toBody('one'))
    await driver().write('versioned', toBody('two'), { ifMatch: etag })
    await assert.rejects(driver().write('versioned', toBody('three'), { ifMatch: etag }), { code: 'CONFLICT' })
    assert.equal(await text(driver(), 'versioned'), 'two')
  })
  testIf(driver, ['write', 'contentType', 'metadata'], 'content type and metadata are kept', async () => {
    await driver().write('typed', toBody('x'), { contentType: 'text/css', metadata: { origin: 'here' } })
    const info = await driver().stat('typed')
    assert.deepEqual([info.contentType, info.metadata], ['text/css', { origin: 'here' }])
  })
}

function testListing(driver: Get, writer: Get) {
  const keys = ['z', 'a/b', 'a-b', 'a.b', 'ab', 'a/b2/c', 'a/b2/d', 'é', '\u{1f600}', '\uffee'].map(
    (key) => `list/${key}`,
  )
  before(async () => {
    for (const key of keys) await writer().write(key, toBody(key))
  })
  testIf(driver, 'list', 'a listing has every file below, in the order of UTF-8 bytes', async () => {
    const listed = await list(driver(), 'list')
    assert.deepEqual(
      listed.map((entry) => entry.key),
      keys.toSorted(compareKeys),
    )
  })
  testIf(driver, 'list', 'one level shows directories once, in order with the files', async () => {
    const listed = await list(driver(), 'list/a', { recursive: false })
    assert.deepEqual(
      listed.map(({ kind, key }) => [kind, key]),
      [
        ['file', 'list/a/b'],
        ['directory', 'list/a/b2'],
      ],
    )
  })
  testIf(driver, 'list', 'a listing goes on after a given key', async () => {
    const sorted = keys.toSorted(compareKeys)
    const listed = await list(driver(), 'list', { after: sorted[3] })
    assert.deepEqual(
      listed.map((entry) => entry.key),
      sorted.slice(4),
    )
  })
  testIf(
    driver,
    'list',
    'one level goes on after a file or a directory, wherever directories stand in the order',
    async () => {
      const all = await list(driver(), 'list', { recursive: false })
      for (const [index, { kind, key }] of all.entries()) {
        const after = kind === 'directory' ? `${key}/` : key
        const rest = await list(driver(), 'list', { recursive: false, after })
        assert.deepEqual(
          rest.map((entry) => entry.key),
          all.slice(index + 1).map((entry) => entry.key),
        )
      }
    },
  )
  testIf(driver, 'list', 'an absent directory is empty', async () => {
    assert.deepEqual(await list(driver(), 'nowhere'), [])
  })
}

function testManyFiles(driver: Get) {
  const keys = Array.from({ length: 300 }, (_, i) => `many/${i % 7}/${i}`)
  before(async () => {
    if (!driver().supports.write) return
    const outcomes = keys.map(async (key) => new Store(driver()).put(key, key))
    await Promise.all(outcomes)
  })
  testIf(driver, ['write', 'list'], '300 files are listed once each, however many pages that takes', async () => {
    const sorted = keys.toSorted(compareKeys)
    assert.deepEqual(
      (await list(driver(), 'many')).map((entry) => entry.key),
      sorted,
    )
    assert.deepEqual(
      (await list(driver(), 'many', { after: sorted[149] })).map((entry) => entry.key),
      sorted.slice(150),
    )
    assert.equal((await list(driver(), 'many', { recursive: false })).length, 7)
  })
  testIf(driver, ['write', 'list'], 'a listing that is left early does not disturb the next', async () => {
    for await (const entry of driver().list('many')) {
      assert.equal(entry.key, 'many/0/0')
      break
    }
    assert.equal((await list(driver(), 'many/0')).length, 43)
  })
  testIf(driver, ['write', 'list'], 'files may be deleted while they are listed', async () => {
    let count = 0
    for await (const { key } of driver().list('many/1')) {
      await driver().delete(key)
      count++
    }
    assert.equal(count, 43)
    assert.deepEqual(await list(driver(), 'many/1'), [])
  })
  testIf(driver, ['write', 'list'], 'many files are deleted at once, absent ones included, and no others', async () => {
    await new Store(driver()).deleteMany([...keys.filter((key) => !key.startsWith('many/2/')), 'many/absent'])
    assert.equal((await list(driver(), 'many')).length, 43)
  })
}

function testNames(driver: Get) {
  testIf(driver, 'write', 'the longest name is stored, found and listed', async () => {
    const key = longestKey(driver(), 'ü')
    await driver().write(key, toBody('x'))
    assert.equal((await driver().stat(key)).key, key)
    const [directory = ''] = key.split('/')
    const listed = directory === key ? await list(driver(), '') : await list(driver(), directory)
    assert.ok(listed.some((entry) => entry.key === key))
    await driver().delete(key)
  })
  testIf(driver, 'write', 'a name that is longer is refused as INVALID_KEY', async () => {
    const { maxPartBytes } = driver().supports
    const store = new Store(driver())
    await assert.rejects(store.put(`${longestKey(driver(), 'x')}x`, 'x'), { code: 'INVALID_KEY' })
    await assert.rejects(store.put('x'.repeat(maxPartBytes + 1), 'x'), { code: 'INVALID_KEY' })
  })
  test('a file and files below its name stand side by side, or the second is refused', async (t) => {
    if (!driver().supports.write) return t.skip('supports.write is false')
    await driver().write('under', toBody('file'))
    if (!driver().supports.keyUnderFile) {
      await driver().write('over/file', toBody('below'))
      await assert.rejects(driver().write('under/file', toBody('x')), { code: 'CONFLICT' })
      await assert.rejects(driver().write('over', toBody('x')), { code: 'CONFLICT' })
      assert.deepEqual([await text(driver(), 'under'), await text(driver(), 'over/file')], ['file', 'below'])
      return t.skip('supports.keyUnderFile is false, and the second is refused')
    }
    await driver().write('under/file', toBody('below'))
    assert.deepEqual([await text(driver(), 'under'), await text(driver(), 'under/file')], ['file', 'below'])
    await driver().delete('under')
    assert.equal(await text(driver(), 'under/file'), 'below')
  })
}

function testCopies(driver: Get) {
  testIf(driver, 'write', 'a copy has the content and what is known of it, and the original stays', async () => {
    const store = new Store(driver())
    const { contentType, metadata } = driver().supports
    await store.put('copy/from', 'content', {
      ...(contentType ? { contentType: 'text/css' } : {}),
      ...(metadata ? { metadata: { origin: 'here' } } : {}),
    })
    assert.equal((await store.copy('copy/from', 'copy/to')).size, 7)
    const info = await store.stat('copy/to')
    if (contentType) assert.equal(info.contentType, 'text/css')
    if (metadata) assert.deepEqual(info.metadata, { origin: 'here' })
    assert.deepEqual([await text(driver(), 'copy/from'), await text(driver(), 'copy/to')], ['content', 'content'])
  })
  testIf(driver, 'write', 'a moved file is under its new name only', async () => {
    const store = new Store(driver())
    await store.put('move/from', 'content')
    await store.put('move/to', 'what is replaced')
    assert.equal((await store.move('move/from', 'move/to')).size, 7)
    assert.equal(await text(driver(), 'move/to'), 'content')
    await assert.rejects(driver().stat('move/from'), { code: 'NOT_FOUND' })
  })
  testIf(driver, 'write', 'copying and moving an absent file reject with NOT_FOUND and change nothing', async () => {
    const store = new Store(driver())
    await store.put('untouched', 'x')
    await assert.rejects(store.copy('absent', 'untouched'), { code: 'NOT_FOUND' })
    await assert.rejects(store.move('absent', 'untouched'), { code: 'NOT_FOUND' })
    assert.equal(await text(driver(), 'untouched'), 'x')
  })
  testIf(driver, ['write', 'ifAbsent'], 'a copy or a move with ifAbsent replaces nothing', async () => {
    const store = new Store(driver())
    await store.put('taken/from', 'new')
    await store.put('taken/to', 'old')
    await assert.rejects(store.copy('taken/from', 'taken/to', { ifAbsent: true }), { code: 'EXISTS' })
    await assert.rejects(store.move('taken/from', 'taken/to', { ifAbsent: true }), { code: 'EXISTS' })
    assert.deepEqual([await text(driver(), 'taken/from'), await text(driver(), 'taken/to')], ['new', 'old'])
  })
}

function testShortcuts(driver: Get) {
  testIf(driver, 'write', 'a URL is signed, or it is said that the place cannot', async () => {
    await driver().write('signed', toBody('x'))
    const signing = new Store(driver()).signedUrl('signed', { expiresInSeconds: 60 })
    if (driver().signedUrl) assert.ok(URL.canParse(await signing))
    else await assert.rejects(signing, { code: 'UNSUPPORTED' })
  })
  for (const size of [0, 1, 4096, 300_000])
    testIf(driver, 'write', `${size} bytes in memory are stored like a stream of them`, async () => {
      const bytes = randomBytes(size)
      const written = await new Store(driver()).put(`bytes/${size}`, bytes)
      assert.equal(written.size, size)
      assert.deepEqual((await driver().stat(`bytes/${size}`)).etag, written.etag)
      assert.ok((await collect((await driver().read(`bytes/${size}`)).body)).equals(bytes))
    })
  testIf(driver, 'write', 'bytes announced with another size store nothing', async () => {
    await assert.rejects(new Store(driver()).put('bytes/wrong', 'four', { size: 5 }), { code: 'CORRUPT' })
    await assert.rejects(driver().stat('bytes/wrong'), { code: 'NOT_FOUND' })
  })
}

/** Each call, as it would be made of a key; `options` go through. */
function calls(driver: Driver, options: { signal?: AbortSignal } = {}): Record<string, () => Promise<unknown>> {
  return {
    read: async () => driver.read('calls', options),
    stat: async () => driver.stat('calls', options),
    list: async () => Array.fromAsync(driver.list('', options)),
    write: async () => driver.write('calls', toBody('new'), options),
    'write of bytes': async () => new Store(driver).put('calls', 'new', options),
    delete: async () => driver.delete('calls', options),
    'delete of many': async () => new Store(driver).deleteMany(['calls'], options),
    copy: async () => new Store(driver).copy('calls', 'calls-copy', options),
    move: async () => new Store(driver).move('calls', 'calls-moved', options),
  }
}

function testCancelled(driver: Get) {
  testIf(
    driver,
    'write',
    'calls that were cancelled before they began reject with ABORTED and change nothing',
    async () => {
      await driver().write('calls', toBody('old'))
      for (const [name, call] of Object.entries(calls(driver(), { signal: AbortSignal.abort() })))
        await assert.rejects(call, { code: 'ABORTED' }, name)
      assert.equal(await text(driver(), 'calls'), 'old')
      for (const key of ['calls-copy', 'calls-moved']) await assert.rejects(driver().stat(key), { code: 'NOT_FOUND' })
    },
  )
}

/** Must be the last: nothing works afterwards. */
function testClosing(driver: Get) {
  test('a closed driver rejects every call with CLOSED, and may be closed again', async () => {
    await driver().close()
    const { supports } = driver()
    const { read, stat, list, ...changes } = calls(driver())
    const all = { read, stat, ...(supports.list && { list }), ...(supports.write && changes) }
    for (const [name, call] of Object.entries(all))
      await assert.rejects(call as () => Promise<unknown>, { code: 'CLOSED' }, name)
    await driver().close()
  })
}

/** A key of as many bytes as the place takes, in parts of as many as it takes, filled up with a letter of two bytes. */
function longestKey({ supports: { maxKeyBytes, maxPartBytes } }: Driver, letter: string): string {
  const fill = (bytes: number) => {
    const width = Buffer.byteLength(letter)
    return letter.repeat(Math.floor(bytes / width)).padEnd(Math.floor(bytes / width) + (bytes % width), 'y')
  }
  const parts: string[] = []
  // A key does not end in a slash, so the last part takes at least one byte.
  for (let left = maxKeyBytes; left > 0; left -= Math.min(left, maxPartBytes) + 1)
    parts.push(fill(Math.min(left, maxPartBytes)))
  return parts.join('/')
}

async function list(driver: Driver, directory: string, options?: ListOptions): Promise<Entry[]> {
  return Array.fromAsync(driver.list(directory, options))
}

async function text(driver: Driver, key: string): Promise<string> {
  return (await collect((await driver.read(key)).body)).toString()
}
