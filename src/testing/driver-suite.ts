/** The conformance suite of drivers: each promise of `Driver` as one test. Skips come from `supports` alone. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { collect, toBody } from '../core/bytes.ts'
import { compareKeys } from '../core/keys.ts'
import type { ByteRange, Driver, Entry, ListOptions } from '../store/driver.ts'

/** Declares the suite for one driver. `open` is called once and must give an empty place; `close` runs after the driver's own. */
export function testDriver(name: string, open: () => Promise<{ driver: Driver; close?: () => Promise<void> }>): void {
  describe(`driver ${name}`, () => {
    let opened: Awaited<ReturnType<typeof open>>
    const driver = () => opened.driver
    before(async () => {
      opened = await open()
    })
    after(async () => {
      await opened.driver.close()
      await opened.close?.()
    })
    testRoundTrips(driver)
    testRanges(driver)
    testAbsence(driver)
    testFailingWrites(driver)
    testConditions(driver)
    testListing(driver)
  })
}

type Get = () => Driver

function testRoundTrips(driver: Get) {
  for (const size of [0, 1, 65_535, 65_536, 65_537, 1_100_000])
    test(`${size} bytes come back as they went in`, async () => {
      const bytes = randomBytes(size)
      const written = await driver().write(`round/${size}`, toBody(bytes))
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
    'quo\'te"<>',
    'new\nline',
    `${'x'.repeat(200)}/y`,
  ])
    test(`the key ${JSON.stringify(key.slice(0, 20))} is kept byte for byte`, async () => {
      await driver().write(`keys/${key}`, toBody(key))
      assert.equal((await collect((await driver().read(`keys/${key}`)).body)).toString(), key)
      const listed = await list(driver(), 'keys')
      assert.ok(listed.some((entry) => entry.key === `keys/${key}`))
    })
  test('a write replaces what was there', async () => {
    await driver().write('replace', toBody('a long first version'))
    await driver().write('replace', toBody('second'))
    assert.equal(await text(driver(), 'replace'), 'second')
  })
}

function testRanges(driver: Get) {
  const ranges: ByteRange[] = [{ start: 0, end: 1 }, { start: 2, end: 5 }, { start: 5 }, { start: 9, end: 100 }]
  for (const range of ranges)
    test(`the range ${JSON.stringify(range)} gives just its bytes`, async () => {
      await driver().write('range', toBody('0123456789'))
      const { info, body } = await driver().read('range', { range })
      assert.equal(info.size, 10)
      assert.equal((await collect(body)).toString(), '0123456789'.slice(range.start, range.end))
    })
  test('a reader that leaves early does not disturb the next', async () => {
    await driver().write('dropped', toBody(randomBytes(500_000)))
    const { body } = await driver().read('dropped')
    body.destroy()
    assert.equal((await collect((await driver().read('dropped')).body)).byteLength, 500_000)
  })
}

function testAbsence(driver: Get) {
  test('reading and asking for an absent file reject with NOT_FOUND', async () => {
    await assert.rejects(driver().read('absent'), { code: 'NOT_FOUND' })
    await assert.rejects(driver().stat('absent/too'), { code: 'NOT_FOUND' })
  })
  test('deleting twice is success, and the file is gone', async () => {
    await driver().write('gone', toBody('x'))
    await driver().delete('gone')
    await driver().delete('gone')
    await assert.rejects(driver().stat('gone'), { code: 'NOT_FOUND' })
  })
  test('a directory is not a file', async () => {
    await driver().write('directory/file', toBody('x'))
    await assert.rejects(driver().stat('directory'), { code: 'NOT_FOUND' })
    await assert.rejects(driver().read('directory'), { code: 'NOT_FOUND' })
  })
}

function testFailingWrites(driver: Get) {
  test('a body that fails stores nothing and its error comes through', async () => {
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
    test(`a body of 4 bytes announced with ${size} stores nothing`, async () => {
      await assert.rejects(driver().write('announced', toBody('four'), { size }), { code: 'CORRUPT' })
      await assert.rejects(driver().stat('announced'), { code: 'NOT_FOUND' })
    })
  test('a write cancelled half-way stores nothing', async () => {
    const controller = new AbortController()
    const body = async function* () {
      yield Buffer.from('half')
      controller.abort()
      yield Buffer.from('never')
    }
    await assert.rejects(driver().write('cancelled', body(), { signal: controller.signal }), { code: 'ABORTED' })
    await assert.rejects(driver().stat('cancelled'), { code: 'NOT_FOUND' })
  })
  test('of two writers at once one wins whole', async () => {
    const bodies = ['a', 'b', 'c', 'd'].map((letter) => letter.repeat(200_000))
    await Promise.all(bodies.map((body) => driver().write('contested', toBody(body))))
    assert.ok(bodies.includes(await text(driver(), 'contested')))
  })
}

function testConditions(driver: Get) {
  test('of eight writers with ifAbsent exactly one wins', async (t) => {
    if (!driver().supports.ifAbsent) return t.skip('supports.ifAbsent is false')
    const tries = Array.from({ length: 8 }, (_, i) => driver().write('reserved', toBody(`${i}`), { ifAbsent: true }))
    const results = await Promise.allSettled(tries)
    assert.equal(results.filter((result) => result.status === 'fulfilled').length, 1)
    for (const result of results) if (result.status === 'rejected') assert.equal(result.reason.code, 'EXISTS')
  })
  test('ifMatch replaces the version it names and no other', async (t) => {
    if (!driver().supports.ifMatch) {
      await assert.rejects(driver().write('versioned', toBody('x'), { ifMatch: 'any' }), { code: 'UNSUPPORTED' })
      return t.skip('supports.ifMatch is false, and the condition is refused rather than ignored')
    }
    const { etag } = await driver().write('versioned', toBody('one'))
    await driver().write('versioned', toBody('two'), { ifMatch: etag })
    await assert.rejects(driver().write('versioned', toBody('three'), { ifMatch: etag }), { code: 'CONFLICT' })
    assert.equal(await text(driver(), 'versioned'), 'two')
  })
  test('content type and metadata are kept', async (t) => {
    const { contentType, metadata } = driver().supports
    if (!contentType || !metadata) return t.skip('supports.contentType or supports.metadata is false')
    await driver().write('typed', toBody('x'), { contentType: 'text/css', metadata: { origin: 'here' } })
    const info = await driver().stat('typed')
    assert.deepEqual([info.contentType, info.metadata], ['text/css', { origin: 'here' }])
  })
}

function testListing(driver: Get) {
  const keys = ['z', 'a/b', 'a-b', 'a.b', 'ab', 'a/b2/c', 'a/b2/d', 'é', '\u{1f600}', '\uffee'].map(
    (key) => `list/${key}`,
  )
  before(async () => {
    for (const key of keys) await driver().write(key, toBody(key))
  })
  test('a listing has every file below, in the order of UTF-8 bytes', async () => {
    const listed = await list(driver(), 'list')
    assert.deepEqual(
      listed.map((entry) => entry.key),
      keys.toSorted(compareKeys),
    )
  })
  test('one level shows directories once, in order with the files', async () => {
    const listed = await list(driver(), 'list/a', { recursive: false })
    assert.deepEqual(
      listed.map(({ kind, key }) => [kind, key]),
      [
        ['file', 'list/a/b'],
        ['directory', 'list/a/b2'],
      ],
    )
  })
  test('a listing goes on after a given key', async () => {
    const sorted = keys.toSorted(compareKeys)
    const listed = await list(driver(), 'list', { after: sorted[3] })
    assert.deepEqual(
      listed.map((entry) => entry.key),
      sorted.slice(4),
    )
  })
  test('an absent directory is empty', async () => {
    assert.deepEqual(await list(driver(), 'nowhere'), [])
  })
}

async function list(driver: Driver, directory: string, options?: ListOptions): Promise<Entry[]> {
  return Array.fromAsync(driver.list(directory, options))
}

async function text(driver: Driver, key: string): Promise<string> {
  return (await collect((await driver.read(key)).body)).toString()
}
