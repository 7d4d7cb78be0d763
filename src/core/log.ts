/** What is told to the person who operates it. */
import { stripVTControlCharacters } from 'node:util'

/** How urgent a message is. */
export type Level = 'debug' | 'info' | 'warn' | 'error'

/** Takes messages. Fields are for programs; the message alone must make sense. Neither may hold a secret. */
export type Log = Record<Level, (message: string, fields?: Record<string, unknown>) => void>

const levels: readonly Level[] = ['debug', 'info', 'warn', 'error']

/** Says nothing. */
export const silentLog: Log = { debug() {}, info() {}, warn() {}, error() {} }

/** One line of text a message: time, level, message. Control characters, as in file names, are escaped. */
export function textLog(stream: { write(text: string): unknown }, least: Level = 'info'): Log {
  return make(least, (level, message) => {
    stream.write(`${new Date().toISOString()} ${level.padEnd(5)} ${printable(message)}\n`)
  })
}

/** One JSON object a line: time, level, message, and the fields. */
export function jsonLog(stream: { write(text: string): unknown }, least: Level = 'info'): Log {
  return make(least, (level, message, fields) => {
    stream.write(`${JSON.stringify({ ...fields, time: new Date().toISOString(), level, message })}\n`)
  })
}

/** Text that is safe to print on a terminal: control characters become `\n`, `\x1b` and the like. */
export function printable(text: string): string {
  return stripVTControlCharacters(text).replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) =>
    character === '\n'
      ? '\\n'
      : character === '\t'
        ? '\\t'
        : `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`,
  )
}

function make(least: Level, say: (level: Level, message: string, fields?: Record<string, unknown>) => void): Log {
  const from = levels.indexOf(least)
  const entries = levels.map((level, index) => [
    level,
    index < from ? () => {} : (message: string, fields?: Record<string, unknown>) => say(level, message, fields),
  ])
  return Object.fromEntries(entries) as Log
}
