/** What the command line says: lines for people, JSON for programs. Answers on stdout, everything else on stderr. */
import { StowageError } from '../core/errors.ts'
import { jsonLog, printable, textLog, type Log } from '../core/log.ts'

/** The exit statuses of every verb. */
export const exitCodes = { done: 0, failed: 1, wrongUsage: 2, someFailed: 3, interrupted: 130 } as const

/** How often the line of progress changes on a terminal, and how often there is one elsewhere. */
const redrawMs = 100
const repeatMs = 5000

/** Where a verb's answer goes. */
export class Output {
  readonly json: boolean
  readonly isTerminal: boolean
  #hasProgress = false
  #nextProgressMs: number

  constructor(json: boolean) {
    this.json = json
    this.isTerminal = !json && Boolean(process.stderr.isTTY)
    this.#nextProgressMs = this.isTerminal ? 0 : performance.now() + repeatMs
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

  /** Something people should know, which is no part of the answer. */
  note(text: string): void {
    this.#clear()
    process.stderr.write(`${printable(text)}\n`)
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

  /** A line that is written over by the next on a terminal. `everywhere`: elsewhere, a line now and then. */
  progress(make: () => string, options: { everywhere?: boolean } = {}): void {
    if (this.json || (!this.isTerminal && !options.everywhere)) return
    const now = performance.now()
    if (now < this.#nextProgressMs) return
    this.#nextProgressMs = now + (this.isTerminal ? redrawMs : repeatMs)
    const text = printable(make())
    const width = Math.max(20, (process.stderr.columns ?? 80) - 1)
    process.stderr.write(this.isTerminal ? `\r\x1b[K${text.slice(0, width)}` : `${text}\n`)
    this.#hasProgress = this.isTerminal
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

/** Takes out of a text what may be a secret in a storage URL. The last guard: messages should hold none to begin with. */
export function redact(text: string): string {
  return text
    .replace(/([a-z][a-z0-9+.-]*:\/\/)[^\s'"`]*@/gi, '$1***@')
    .replace(/([a-z][a-z0-9+.-]*:\/\/[^\s'"`?]*)\?[^\s'"`]*/gi, '$1?***')
}

const systemErrors: Record<string, string> = {
  __proto__: null as never,
  ENOENT: 'there is no such file or directory',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of the path is not a directory',
  ENOSPC: 'the disk is full',
  EEXIST: 'it exists already',
  EROFS: 'the file system is read-only',
  ELOOP: 'it is a symbolic link',
  ENAMETOOLONG: 'the name is too long',
}

/** An error in words, safe to print: what the operating system reports is put into a sentence. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return printable(redact(String(error)))
  const { code, path } = error as NodeJS.ErrnoException
  const reason = code === undefined ? undefined : systemErrors[code]
  const isOurs = error instanceof StowageError
  const text = !isOurs && reason !== undefined && path !== undefined ? `${path}: ${reason}.` : error.message
  // Only a list of mistakes has lines; elsewhere a line break is part of a name.
  const lines = isOurs && error.code === 'INVALID_CONFIG' ? text.split('\n') : [text]
  return lines.map((line) => printable(redact(line))).join('\n')
}
