/** `stowage get WHERE [FILE|-]`: a stored file to this machine. */
import * as fs from 'node:fs/promises'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { formatBytes } from '../core/units.ts'
import type { Context } from './main.ts'
import { Places } from './places.ts'

/** Fetches the file, whole or not at all: to FILE, into the directory FILE, to stdout (-), or by default here. */
export async function run({ config, output, signal }: Context, [where = '', file]: string[]): Promise<undefined> {
  await using places = new Places(config, { local: true })
  const { store, key } = await places.file(where)
  if (file === '-') {
    await pipeline((await store.open(key, { signal })).body, process.stdout, { end: false, signal })
    return undefined
  }
  const target = await targetOf(file ?? '.', path.posix.basename(key))
  const info = await store.download(key, target, { signal })
  output.object({ ...info, file: path.resolve(target) })
  output.line(`Fetched ${target}, ${formatBytes(info.size)}.`)
  return undefined
}

async function targetOf(file: string, name: string): Promise<string> {
  const stats = await fs.stat(file).catch(() => undefined)
  return file.endsWith('/') || stats?.isDirectory() ? path.join(file, name) : file
}
