/** `stowage cat WHERE`: a stored file, to standard output. */
import { pipeline } from 'node:stream/promises'
import type { Context } from './main.ts'
import { Places } from './places.ts'

/** Streams the file. What breaks off half-way fails, with the exit status saying so. */
export async function run({ config, signal }: Context, [where = '']: string[]): Promise<undefined> {
  await using places = new Places(config)
  const { store, key } = await places.file(where)
  const { body } = await store.open(key, { signal })
  await pipeline(body, process.stdout, { end: false, signal })
  return undefined
}
