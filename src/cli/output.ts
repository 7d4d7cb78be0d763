/** What the command line says: lines for people, JSON for programs. */
import { jsonLog, printable, textLog, type Log } from '../core/log.ts'

/** The exit statuses of every verb. */
export const exitCodes = { done: 0, failed: 1, wrongUsage: 2, someFailed: 3 } as const

/** Where a verb's answer goes. */
export class Output {
  readonly json: boolean
  readonly isTerminal: boolean
  #hasProgress = false

  constructor(json: boolean) {
    this.json = json
    this.isTerminal = !json && Boolean(process.stderr.isTTY)
  }

  /** A line for people; control characters, as in file names, are escaped. */
  line(text: string): void {
    this.#clear()
    if (!this.json) process.stdout.write(`${printable(text)}\n`)
  }

  /** The answer for programs, as one line of JSON. */
  object(value: unknown): void {
    if (this.json) process.stdout.write(`${JSON.stringify(value)}\n`)
  }

  /** Messages on the way, on standard error. */
  log(level: 'debug' | 'info' | 'warn' = 'warn'): Log {
    const stream = {
      write: (text: string) => {
        this.#clear()
        return process.stderr.write(text)
      },
    }
    return this.json ? jsonLog(stream, level) : textLog(stream, level)
  }

  /** A line that is written over by the next, on terminals only. */
  progress(text: string): void {
    if (!this.isTerminal) return
    const width = (process.stderr.columns ?? 80) - 1
    process.stderr.write(`\r\x1b[K${printable(text).slice(0, width)}`)
    this.#hasProgress = true
  }

  #clear() {
    if (this.#hasProgress) process.stderr.write('\r\x1b[K')
    this.#hasProgress = false
  }
}

/** A bar of `width` characters. */
export function bar(done: number, total: number, width = 24): string {
  const full = total > 0 ? Math.round((Math.min(done, total) / total) * width) : 0
  return `[${'#'.repeat(full)}${'.'.repeat(width - full)}]`
}
