import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from './clock.ts'

test('whoever sets the clock of the machine makes nothing be due early, or never', (t) => {
  const [real, before] = [Date.now, systemClock.now()]
  assert.ok(Math.abs(before - real()) < 60_000)
  for (const days of [100, -100]) {
    t.mock.method(Date, 'now', () => real() + days * 86_400_000)
    const passed = systemClock.now() - before
    assert.ok(passed >= 0 && passed < 60_000, `${passed} ms`)
  }
})
