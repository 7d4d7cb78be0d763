/** `stowage repair STORE`: make the locations of a store level again. */
import { StowageError } from '../core/errors.ts'
import { isLocations } from '../store/locations.ts'
import { repair, type Repaired } from '../store/repair.ts'
import type { Context } from './main.ts'
import { errorText, exitCodes } from './output.ts'
import { Places } from './places.ts'

interface Options {
  dryRun?: boolean
  content?: boolean
}

/** Copies to each location what it lacks. Exit status 3 when some files could not be made level. */
export async function run(
  { config, output, signal }: Context,
  [where = '']: string[],
  options: Options,
): Promise<number> {
  await using places = new Places(config)
  const { store, key } = await places.directory(where)
  if (!isLocations(store.driver))
    throw new StowageError(
      'INVALID_ARGUMENT',
      `${store.location} has one location only: there is nothing to make level.`,
      {
        hint: 'Name a store of the configuration with several URLs.',
      },
    )
  const { dryRun = false, content = false } = options
  const files: object[] = []
  const onRepair = (repaired: Repaired) => {
    const { error, ...rest } = repaired
    const failure = error === undefined ? {} : { error: errorText(error) }
    if (output.json) files.push({ ...rest, ...failure })
    output.line(describe(repaired, dryRun))
  }
  const onProgress = (checked: number) => output.progress(() => `${checked} files looked at`, { everywhere: true })
  const compare = content ? 'content' : 'size'
  const summary = await repair(store.driver, { directory: key, dryRun, compare, signal, onRepair, onProgress })
  output.object({ ...summary, dryRun, files })
  const { checked, repaired, failed } = summary
  output.line(`${checked} files looked at, ${repaired} ${dryRun ? 'would be repaired' : 'repaired'}, ${failed} failed.`)
  return failed > 0 ? exitCodes.someFailed : exitCodes.done
}

function describe({ key, location, why, from, error }: Repaired, dryRun: boolean): string {
  if (error !== undefined) return `failed: ${errorText(error)}`
  return `${dryRun ? 'would copy' : 'copied'} ${key} to ${location}, where it was ${why}, from ${from}`
}
