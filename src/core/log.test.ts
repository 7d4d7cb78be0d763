/** What the logs promise: levels, one line a message, nothing that moves a terminal's cursor. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { jsonLog, printable, silentLog, textLog } from './log.ts'

function sink() {
  const lines: string[] = []
  return { lines, write: (text: string) => lines.push(text) }
}

test('messages below the level are not written', () => {
  const stream = sink()
  const log = textLog(stream, 'warn')
  log.debug('a')
  log.info('b')
  log.warn('c')
  log.error('d')
  assert.deepEqual(
    stream.lines.map((line) => line.trim().split(/\s+/).slice(1).join(' ')),
    ['warn c', 'error d'],
  )
})

test('a message is one line whatever it holds', () => {
  const stream = sink()
  textLog(stream).info('cannot read a\nb\u001b[2J\u0007\u2028.txt')
  assert.equal(stream.lines.length, 1)
  assert.match(stream.lines[0] ?? '', /^\S+Z info {2}cannot read a\\nb\\x1b\[2J\\x07\\u2028\.txt\n$/)
})

test('what is escaped can be told apart, and nothing is taken away', () => {
  assert.equal(printable('a\tb\r\u009b31m\u007f'), 'a\\tb\\r\\x9b31m\\x7f')
  assert.equal(printable('ünïcødé 日本 "quoted"'), 'ünïcødé 日本 "quoted"')
  assert.notEqual(printable('file'), printable('f\u001b[0mile'))
})

test('text that runs backwards is shown as it is stored', () => {
  assert.equal(printable('invoice\u202efdp.exe'), 'invoice\\u202efdp.exe')
})

test('JSON lines hold the fields, and fields cannot replace the message', () => {
  const stream = sink()
  jsonLog(stream, 'debug').error('broken\n', { key: 'a.jpg', level: 'info', message: 'other' })
  assert.equal(stream.lines.length, 1)
  const { time, ...rest } = JSON.parse(stream.lines[0] ?? '') as Record<string, unknown>
  assert.deepEqual(rest, { key: 'a.jpg', level: 'error', message: 'broken\n' })
  assert.ok(!Number.isNaN(Date.parse(String(time))))
})

test('the silent log takes everything', () => {
  silentLog.error('nobody hears this', { at: 1 })
})
