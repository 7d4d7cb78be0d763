/** `stowage url WHERE`: the address of a stored file. */
import { StowageError } from '../core/errors.ts'
import { parseDuration } from '../core/units.ts'
import type { Context } from './main.ts'
import { Places } from './places.ts'

interface Options {
  signed?: string
  upload?: boolean
}

/** Prints the public address, or with --signed one that works without credentials until it expires. */
export async function run({ config, output }: Context, [where = '']: string[], options: Options): Promise<undefined> {
  const { signed, upload = false } = options
  if (upload && signed === undefined)
    throw new StowageError('INVALID_ARGUMENT', '--upload needs --signed with how long the address is to work.')
  await using places = new Places(config)
  const { store, key } = await places.file(where)
  const url =
    signed === undefined
      ? store.url(key)
      : await store.signedUrl(key, {
          method: upload ? 'PUT' : 'GET',
          expiresInSeconds: Math.floor(parseDuration(signed) / 1000),
        })
  output.object({ url })
  output.line(url)
  return undefined
}
