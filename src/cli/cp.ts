/** `stowage cp FROM TO`: a file, or with -r a directory, from anywhere to anywhere. */
import * as path from 'node:path'
import { isNotFound, StowageError } from '../core/errors.ts'
import { formatBytes } from '../core/units.ts'
import { copyFile, copyTree, type Copied } from './copying.ts'
import type { Context } from './main.ts'
import { errorText, exitCodes } from './output.ts'
import { Places } from './places.ts'

interface Options {
  recursive?: boolean
  maxConnections?: string
  progress?: boolean
  verify?: boolean
}

/** Copies; files that are there already are replaced. Exit status 3 when only some files could be copied. */
export async function run(context: Context, [from = '', to = '']: string[], options: Options): Promise<number> {
  const maxConnections = options.maxConnections === undefined ? undefined : checkCount(options.maxConnections)
  await using places = new Places(context.config, { local: true })
  const { verify = false } = options
  if (!options.recursive) return copyOne(context, places, { from, to, verify })
  const { output, signal } = context
  const begun = performance.now()
  const pace = (copied: Copied) => {
    const seconds = (performance.now() - begun) / 1000
    const { files, bytes } = copied
    return `${files} files, ${formatBytes(bytes)} in ${seconds.toFixed(1)} s (${Math.round(files / seconds)} files/s, ${formatBytes(Math.round(bytes / seconds))}/s)`
  }
  const copied = await copyTree(await places.directory(from), await places.directory(to), {
    signal,
    verify,
    ...(maxConnections === undefined ? {} : { maxConnections }),
    onProgress: (now) => output.progress(() => pace(now), { everywhere: options.progress ?? false }),
    onFailure: (key, error) => output.note(`stowage: ${key}: ${errorText(error)}`),
  })
  const { files, bytes, failed } = copied
  output.object({ files, bytes, failed, milliseconds: Math.round(performance.now() - begun) })
  output.line(`Copied ${pace(copied)}${failed > 0 ? `; ${failed} failed` : ''}.`)
  if (failed === 0) return exitCodes.done
  return files > 0 ? exitCodes.someFailed : exitCodes.failed
}

async function copyOne(
  { output, signal }: Context,
  places: Places,
  { from, to, verify }: { from: string; to: string; verify: boolean },
): Promise<number> {
  const source = await places.file(from)
  const target = await places.file(to, path.posix.basename(source.key))
  try {
    const info = await copyFile(source, target, { signal, verify })
    output.object({ files: 1, bytes: info.size, failed: 0 })
    output.line(`Copied ${source.key} to ${target.key} in ${target.store.location}, ${formatBytes(info.size)}.`)
  } catch (error) {
    if (!isNotFound(error)) throw error
    const below = await source.store.list(source.key, { signal })[Symbol.asyncIterator]().next()
    if (below.done) throw error
    throw new StowageError('INVALID_ARGUMENT', `${source.key} in ${source.store.location} is a directory.`, {
      hint: 'Use: stowage cp -r',
    })
  }
  return exitCodes.done
}

function checkCount(text: string): number {
  const number = Number(text)
  if (!/^\d{1,4}$/.test(text) || number < 1 || number > 1024)
    throw new StowageError(
      'INVALID_ARGUMENT',
      `--max-connections ${JSON.stringify(text)} is not a number from 1 to 1024.`,
    )
  return number
}
