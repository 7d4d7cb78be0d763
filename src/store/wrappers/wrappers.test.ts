/** Every wrapper and composite passes the suite of drivers, and does what it is for. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { collect, toBody } from '../../core/bytes.ts'
import { StowageError } from '../../core/errors.ts'
import { Limit } from '../../core/limit.ts'
import { fileDriver } from '../../drivers/file.ts'
import { memoryDriver } from '../../drivers/memory.ts'
import { testDriver } from '../../testing/index.ts'
import { locations, PartialFailure } from '../locations.ts'
import { mounted } from '../mounts.ts'
import { faulty, type FaultMoment } from './faults.ts'
import { limited } from './limit.ts'
import { prefixed } from './prefix.ts'
import { readOnly } from './read-only.ts'
import { replaceable } from './replaceable.ts'
import { retrying } from './retry.ts'
import { sharded } from './shard.ts'

const clock = { now: () => 0, sleep: async () => undefined }

testDriver('retrying', async () => ({ driver: retrying(memoryDriver()) }))
testDriver('limited', async () => ({ driver: limited(memoryDriver(), new Limit(2)) }))
testDriver('prefixed', async () => ({ driver: prefixed(memoryDriver(), 'a/b') }))
testDriver('faulty without faults', async () => ({ driver: faulty(memoryDriver(), { strike: () => undefined }) }))
testDriver('replaceable', async () => ({ driver: replaceable(memoryDriver()) }))
testDriver('replaceable, after it was replaced', async () => {
  const driver = replaceable(readOnly(memoryDriver()))
  await driver.replace(memoryDriver())
  return { driver }
})
testDriver('sharded', async () => ({ driver: sharded(memoryDriver(), 4) }))
testDriver('read-only', async () => {
  const writer = memoryDriver()
  return { driver: readOnly(writer), writer }
})
testDriver('mounted', async () => {
  const [all, some, few] = [memoryDriver(), memoryDriver(), memoryDriver()]
  return { driver: mounted({ '': all, many: some, 'list/a': few, 'round/nothing/below': memoryDriver() }) }
})
testDriver('locations of two memories', async () => ({ driver: locations([memoryDriver(), memoryDriver()]) }))
testDriver('locations of a directory and a memory', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'stowage-locations-'))
  const driver = locations([fileDriver({ directory, fsync: false }), memoryDriver()])
  return { driver, close: async () => rmSync(directory, { recursive: true, force: true }) }
})

/** Each call fails once at the given moment, then works. */
function failsOnce(moment: FaultMoment) {
  const struck = new Set<string>()
  const strike = (operation: string, key: string) => {
    const name = `${operation} ${key}`
    if (struck.has(name)) return undefined
    struck.add(name)
    return moment
  }
  return { strike, struck }
}

for (const moment of ['before', 'during', 'after'] as const)
  test(`reads, stats, lists and deletes survive a connection that breaks off ${moment} each first call`, async () => {
    const inner = memoryDriver()
    for (let i = 0; i < 5; i++) await inner.write(`d/${i}`, toBody(Buffer.alloc(200_000, i)))
    const driver = retrying(faulty(inner, failsOnce(moment)), { clock })
    assert.ok((await collect((await driver.read('d/1')).body)).equals(Buffer.alloc(200_000, 1)))
    assert.equal((await driver.stat('d/2')).size, 200_000)
    assert.equal((await Array.fromAsync(driver.list('d'))).length, 5)
    await driver.delete('d/3')
    await assert.rejects(inner.stat('d/3'), { code: 'NOT_FOUND' })
  })

test('a write whose body was not touched is repeated, one whose body was used is not', async () => {
  const driver = retrying(faulty(memoryDriver(), failsOnce('before')), { clock })
  await driver.write('a', toBody('x'))
  const used = retrying(faulty(memoryDriver(), failsOnce('during')), { clock })
  await assert.rejects(used.write('a', toBody('xyz')), { code: 'UNREACHABLE' })
})

test('a file that changes while a broken read is resumed is not mixed', async () => {
  const inner = memoryDriver()
  await inner.write('a', toBody(Buffer.alloc(200_000, 1)))
  const driver = retrying(faulty(inner, failsOnce('during')), { clock })
  const { body } = await driver.read('a')
  await inner.write('a', toBody(Buffer.alloc(200_000, 2)))
  await assert.rejects(collect(body), { code: 'CONFLICT' })
})

test('no more calls at once than the limit, reads included until their body ends', async () => {
  const limit = new Limit(1)
  const driver = limited(memoryDriver(), limit)
  await driver.write('a', toBody('x'))
  const { body } = await driver.read('a')
  assert.equal(limit.running, 1)
  const second = driver.stat('a')
  body.destroy()
  assert.equal((await second).size, 1)
})

test('keys outside the prefix are out of reach', async () => {
  const inner = memoryDriver()
  await inner.write('other', toBody('x'))
  const driver = prefixed(inner, 'mine')
  await driver.write('a', toBody('y'))
  assert.deepEqual(
    (await Array.fromAsync(driver.list(''))).map(({ key }) => key),
    ['a'],
  )
  assert.equal((await inner.stat('mine/a')).size, 1)
})

const down = (code: 'UNREACHABLE' | 'DENIED') =>
  faulty(memoryDriver(), { strike: () => 'before', error: () => new StowageError(code, 'no') })

test('a location that is down is passed over with a warning, and absent is only said when all could be asked', async () => {
  const warnings: string[] = []
  const say = (message: string) => void warnings.push(message)
  const far = memoryDriver()
  await far.write('a', toBody('x'))
  const driver = locations([down('UNREACHABLE'), far], { log: { debug: say, info: say, warn: say, error: say } })
  assert.equal((await driver.stat('a')).size, 1)
  assert.equal(warnings.length, 1)
  await assert.rejects(driver.stat('absent'), { code: 'UNREACHABLE' })
  await assert.rejects(locations([memoryDriver(), down('DENIED')]).stat('absent'), { code: 'DENIED' })
  await assert.rejects(locations([memoryDriver(), far]).stat('absent'), { code: 'NOT_FOUND' })
})

test('a change that one location refuses says which has it and which not', async () => {
  const near = memoryDriver()
  const driver = locations([near, down('UNREACHABLE')])
  await assert.rejects(driver.write('a', toBody('x')), (error: unknown) => {
    assert.ok(error instanceof PartialFailure)
    assert.deepEqual(
      error.outcomes.map(({ error: reason }) => reason !== undefined),
      [false, true],
    )
    assert.ok(error.retryable)
    return true
  })
  assert.equal((await near.stat('a')).size, 1)
})

test('near and far are single places, and a read-only one takes no writes', async () => {
  const [near, far] = [memoryDriver(), memoryDriver()]
  await far.write('old', toBody('x'))
  const driver = locations([near, readOnly(far)])
  await driver.write('new', toBody('y'))
  await assert.rejects(driver.at('far').stat('new'), { code: 'NOT_FOUND' })
  await assert.rejects(driver.at('near').stat('old'), { code: 'NOT_FOUND' })
  assert.deepEqual(
    (await Array.fromAsync(driver.at('all').list(''))).map(({ key }) => key),
    ['new', 'old'],
  )
})
