/** `stowage stat WHERE`: what is known about a stored file. */
import { formatBytes } from '../core/units.ts'
import type { Context } from './main.ts'
import { Places } from './places.ts'

/** Prints size, time, version, type, metadata and digests, as far as the place tells. */
export async function run({ config, output, signal }: Context, [where = '']: string[]): Promise<undefined> {
  await using places = new Places(config)
  const { store, key } = await places.file(where)
  const info = await store.stat(key, { signal })
  output.object({ ...info, location: store.location })
  const { size, modified, etag, contentType, metadata = {}, digests = {} } = info
  const rows: [string, string | undefined][] = [
    ['key', info.key],
    ['location', store.location],
    ['size', `${size} bytes${size < 1024 ? '' : ` (${formatBytes(size)})`}`],
    ['modified', modified?.toISOString()],
    ['version', etag],
    ['content type', contentType],
    ...Object.entries(digests),
    ...Object.entries(metadata).map(([name, value]): [string, string] => [`metadata ${name}`, value]),
  ]
  for (const [name, value] of rows) if (value !== undefined) output.line(`${name.padEnd(13)} ${value}`)
  return undefined
}
