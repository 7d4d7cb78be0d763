import assert from 'node:assert/strict'
import { test } from 'node:test'
import { collect, toBody } from '../../core/bytes.ts'
import { memoryDriver } from '../../drivers/memory.ts'
import { readOnly } from './read-only.ts'

test('a read-only store gives what is there and refuses every change', async () => {
  const inner = memoryDriver()
  await inner.write('a', toBody('x'))
  const driver = readOnly(inner)
  assert.equal((await collect((await driver.read('a')).body)).toString(), 'x')
  assert.equal((await Array.fromAsync(driver.list(''))).length, 1)
  await assert.rejects(driver.write('a', toBody('y')), { code: 'READ_ONLY' })
  await assert.rejects(driver.delete('a'), { code: 'READ_ONLY' })
  assert.equal((await driver.stat('a')).size, 1)
  for (const shortcut of ['copy', 'move', 'writeBytes']) assert.ok(!(shortcut in driver), shortcut)
})
