/** `stowage put FILE|- WHERE`: a local file, or standard input, into a store. */
import { createReadStream } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { addAbortSignal } from 'node:stream'
import { lookup } from 'mrmime'
import { StowageError } from '../core/errors.ts'
import { formatBytes } from '../core/units.ts'
import type { Context } from './main.ts'
import { Places } from './places.ts'

/** Stores the file under the key; under its own name where WHERE ends in a slash. */
export async function run({ config, output, signal }: Context, [file = '', where = '']: string[]): Promise<undefined> {
  await using places = new Places(config, { local: true })
  const isInput = file === '-'
  const { store, key } = await places.file(where, isInput ? undefined : path.basename(file))
  const size = isInput ? undefined : await sizeOf(file)
  // Stopping must not wait for whoever feeds us.
  const content = addAbortSignal(
    signal,
    isInput ? process.stdin : createReadStream(file, { highWaterMark: 256 * 1024 }),
  )
  const contentType = store.driver.supports.contentType ? lookup(key) : undefined
  const info = await store.put(key, content, {
    signal,
    ...(size === undefined ? {} : { size }),
    ...(contentType === undefined ? {} : { contentType }),
  })
  output.object({ ...info, location: store.location })
  output.line(`Stored ${key} in ${store.location}, ${formatBytes(info.size)}.`)
  return undefined
}

async function sizeOf(file: string): Promise<number | undefined> {
  const stats = await fs.stat(file)
  if (stats.isDirectory())
    throw new StowageError('INVALID_ARGUMENT', `${file} is a directory.`, { hint: 'Use: stowage cp -r' })
  return stats.isFile() ? stats.size : undefined
}
