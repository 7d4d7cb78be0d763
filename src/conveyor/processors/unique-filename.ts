/** Processors that put a version into the name, so that a changed file has a new address and caches may keep the old one for ever. */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Processor } from '../processor.ts'

/**
 * `logo.png` becomes `logo_1700000000.png`: the seconds of the original's modification time. Two contents can have the same
 * time, as builds that set it show, so this does not count as versioned.
 */
export const mtime: Processor = {
  name: 'unique-filename.mtime',
  version: '1',
  process: async (input) => {
    const { mtimeMs } = await stat(input.sourceFile)
    return { name: insert(input.name, String(Math.floor(mtimeMs / 1000))) }
  },
}

/** `logo.png` becomes `logo_<md5>.png`: the digest of the original's bytes. */
export const md5: Processor = {
  name: 'unique-filename.md5',
  version: '1',
  process: async (input) => {
    const hash = createHash('md5')
    await pipeline(createReadStream(input.sourceFile, { highWaterMark: 256 * 1024 }), hash, { signal: input.signal })
    return { name: insert(input.name, hash.digest('hex')), versioned: true }
  },
}

function insert(name: string, version: string): string {
  const { name: stem, ext } = path.posix.parse(name)
  return `${stem}_${version}${ext}`
}
