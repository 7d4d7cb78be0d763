/** What is told to the person who operates it. */

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

/**
 * Text that is safe to print on a terminal: control characters become `\n`, `\x1b` and the like, and so do the ones that
 * change the direction of writing. Nothing is taken away: two names that differ look different.
 */
export function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu, (character) => {
    const code = character.charCodeAt(0)
    return named[character] ?? (code > 255 ? `\\u${code.toString(16)}` : `\\x${code.toString(16).padStart(2, '0')}`)
  })
}

const named: Record<string, string> = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

function make(least: Level, say: (level: Level, message: string, fields?: Record<string, unknown>) => void): Log {
  const from = levels.indexOf(least)
  const entries = levels.map((level, index) => [
    level,
    index < from ? () => {} : (message: string, fields?: Record<string, unknown>) => say(level, message, fields),
  ])
  return Object.fromEntries(entries) as Log
}
