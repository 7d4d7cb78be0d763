/** A driver that is replaced under its name while it works. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { collect, toBody } from '../../core/bytes.ts'
import { memoryDriver } from '../../drivers/memory.ts'
import type { Driver } from '../driver.ts'
import { Store } from '../store.ts'
import { prefixed } from './prefix.ts'
import { readOnly } from './read-only.ts'
import { replaceable } from './replaceable.ts'

/** A memory with one file, which says when it was closed. */
async function memory(content: string) {
  const driver = memoryDriver()
  await driver.write('file', toBody(content))
  const state = { isClosed: false }
  const close = async () => {
    state.isClosed = true
    await driver.close()
  }
  return { driver: { ...driver, close } as Driver, state }
}

/** Each begins a call and returns how to end it. */
const begin: Record<string, (driver: Driver) => Promise<() => Promise<void>>> = {
  'a body': async (driver) => {
    const { body } = await driver.read('file')
    return async () => assert.equal((await collect(body)).toString(), 'old')
  },
  'a body that is left': async (driver) => {
    const { body } = await driver.read('file')
    return async () => void body.destroy()
  },
  'a listing': async (driver) => {
    const listing = driver.list('')[Symbol.asyncIterator]()
    assert.equal((await listing.next()).value?.key, 'file')
    return async () => assert.equal((await listing.next()).done, true)
  },
  'a write': async (driver) => {
    const [wanted, rest] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    const writing = driver.write(
      'late',
      (async function* () {
        yield Buffer.from('la')
        wanted.resolve()
        await rest.promise
        yield Buffer.from('te')
      })(),
    )
    await wanted.promise
    return async () => {
      rest.resolve()
      assert.equal((await writing).size, 4)
    }
  },
}

for (const [what, start] of Object.entries(begin))
  test(`${what} under way ends on the old driver, which is closed only then; what comes later is for the new one`, async () => {
    const [old, next] = [await memory('old'), await memory('next')]
    const driver = replaceable(old.driver)
    const end = await start(driver)
    const replaced = driver.replace(next.driver)
    assert.equal((await new Store(driver).get('file')).toString(), 'next')
    assert.equal(old.state.isClosed, false)
    await end()
    await replaced
    assert.equal(old.state.isClosed, true)
    await assert.rejects(driver.stat('late'), { code: 'NOT_FOUND' })
    await driver.close()
    assert.equal(next.state.isClosed, true)
  })

test('a call that fails does not keep the old driver open', async () => {
  const old = await memory('old')
  const driver = replaceable(old.driver)
  await assert.rejects(driver.read('absent'), { code: 'NOT_FOUND' })
  await assert.rejects(driver.stat('absent'), { code: 'NOT_FOUND' })
  await driver.replace(memoryDriver())
  assert.equal(old.state.isClosed, true)
})

test('what can be seen and done is that of the present driver, also through a wrapper made before', async () => {
  const old = memoryDriver()
  const driver = replaceable({ ...old, move: async (_, to) => old.stat(to) })
  const early = prefixed(driver, 'p')
  const plain: Driver = { ...memoryDriver(), copy: undefined }
  await driver.replace(prefixed(plain, 'below'))
  assert.equal(driver.location, 'memory:/below')
  assert.deepEqual(['copy' in driver, 'move' in driver, 'writeBytes' in driver], [false, false, true])
  await early.write('a', toBody('x'))
  await early.copy?.('a', 'b')
  await early.move?.('b', 'c')
  assert.deepEqual(await Array.fromAsync(plain.list(''), ({ key }) => key), ['below/p/a', 'below/p/c'])
  await driver.replace(readOnly(memoryDriver()))
  assert.equal(driver.supports.write, false)
  assert.deepEqual(['writeBytes' in driver, 'deleteMany' in driver], [false, false])
})

test('closing ends the old ones too, whatever is still in hand, and nothing replaces what is closed', async () => {
  const [old, next, late] = [await memory('old'), await memory('next'), await memory('late')]
  const driver = replaceable(old.driver)
  const { body } = await driver.read('file')
  const replaced = driver.replace(next.driver)
  await driver.close()
  assert.deepEqual([old.state.isClosed, next.state.isClosed], [true, true])
  await assert.rejects(driver.replace(late.driver), { code: 'CLOSED' })
  assert.equal(late.state.isClosed, true)
  body.destroy()
  await replaced
})
