/**
 * What is in the cache, on disk: a log with a line for each entry, the last line of an id counting. It is not synced: what
 * a crash takes from it is fetched again, and what it says of blocks is checked when they are read.
 */
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { crc32 } from 'node:zlib'
import type { FileInfo } from '../store/driver.ts'

/** What is remembered of an entry. */
export interface Line {
  /** Names the file with its blocks. */
  id: string
  /** Of which store. */
  store: string
  info: FileInfo
  blockBytes: number
  /** As `Blocks.encode` tells them. */
  blocks: string
  usedMs: number
}

/** The log of one cache directory. */
export class Catalogue {
  readonly #file: string
  #pending: string[] = []
  /** Bytes of the log, and of it when it was last begun anew. */
  #size = 0
  #freshSize = 0
  #writing: Promise<void> = Promise.resolve()

  constructor(directory: string) {
    this.#file = path.join(directory, 'catalogue')
  }

  /** Reads the log. Lines that are damaged, and a log that is not there, are passed over. */
  async read(): Promise<Line[]> {
    const text = await fs.readFile(this.#file, 'utf8').catch(() => '')
    const lines = new Map<string, Line | undefined>()
    for (const row of text.split('\n')) {
      const line = decode(row)
      if (!line) continue
      // An entry that was used again is the youngest again.
      lines.delete(line.id)
      lines.set(line.id, 'info' in line ? line : undefined)
    }
    return [...lines.values()].filter((line) => line !== undefined)
  }

  /** Is most of the log about what is no longer so? */
  get isLong(): boolean {
    return this.#size > 2 * this.#freshSize + (1 << 20)
  }

  /** Begins a new log with these lines alone. What was noted and not written is forgotten. */
  async rewrite(lines: Iterable<Line>): Promise<void> {
    this.#pending = []
    return this.#next(async () => {
      let size = 0
      await fs.mkdir(path.dirname(this.#file), { recursive: true, mode: 0o700 })
      const handle = await fs.open(`${this.#file}.new`, 'w')
      try {
        for (const line of lines) size += (await handle.write(encode(line))).bytesWritten
      } finally {
        await handle.close()
      }
      await fs.rename(`${this.#file}.new`, this.#file)
      this.#size = this.#freshSize = size
    })
  }

  /** Notes what an entry is now; written by `flush`. */
  add(line: Line): void {
    this.#pending.push(encode(line))
  }

  /** Notes that an entry is gone; written by `flush`. */
  remove(id: string): void {
    this.#pending.push(encode({ id }))
  }

  /** Writes what was noted. Rejects when that cannot be done, as on a full disk; it is forgotten then. */
  async flush(): Promise<void> {
    const text = this.#pending.join('')
    this.#pending = []
    if (text === '') return this.#writing
    return this.#next(async () => {
      await fs.appendFile(this.#file, text)
      this.#size += Buffer.byteLength(text)
    })
  }

  /** One after another; what fails does not keep the next from being done. */
  #next(work: () => Promise<void>): Promise<void> {
    const done = this.#writing.then(work)
    this.#writing = done.catch(() => undefined)
    return done
  }
}

function encode(line: Line | { id: string }): string {
  const text = JSON.stringify(line)
  return `${crc32(text).toString(16)} ${text}\n`
}

function decode(row: string): Line | { id: string } | undefined {
  const space = row.indexOf(' ')
  const text = row.slice(space + 1)
  if (space < 1 || crc32(text).toString(16) !== row.slice(0, space)) return undefined
  const line = JSON.parse(text) as Line | { id: string }
  if ('info' in line && line.info.modified) line.info.modified = new Date(line.info.modified)
  return line
}
