/** `stowage rm WHERE…`: files that are no longer wanted. */
import { createInterface } from 'node:readline/promises'
import { codeOf, isNotFound, StowageError } from '../core/errors.ts'
import type { Context } from './main.ts'
import { errorText, exitCodes } from './output.ts'
import { Places, type Place } from './places.ts'

interface Options {
  recursive?: boolean
  yes?: boolean
}

/** So many keys are deleted in one go where the place can. */
const batch = 1000

/** Deletes each file, or with -r everything below each directory. Exit status 3 when only some could be deleted. */
export async function run(context: Context, wheres: string[], options: Options): Promise<number> {
  const { config, output, signal } = context
  await using places = new Places(config)
  const { recursive = false, yes = false } = options
  // All of them are understood before the first is deleted.
  const found = []
  for (const where of wheres) found.push(recursive ? await places.directory(where) : await places.file(where))
  if (recursive && !yes) await confirm(found, signal)
  let deleted = 0
  let failed = 0
  for (const [index, place] of found.entries())
    try {
      const below = recursive ? await removeBelow(place, signal) : 0
      const isFile = !recursive || (below === 0 && (await looksLikeFile(places, wheres[index] ?? '')))
      deleted += isFile ? await removeFile(recursive ? await places.file(wheres[index] ?? '') : place, signal) : below
    } catch (error) {
      if (signal.aborted || wheres.length === 1) throw error
      failed++
      output.note(`stowage: ${errorText(error)}`)
    }
  output.object({ deleted, failed })
  output.line(`Deleted ${deleted} ${deleted === 1 ? 'file' : 'files'}.`)
  if (failed === 0) return exitCodes.done
  return deleted > 0 ? exitCodes.someFailed : exitCodes.failed
}

async function looksLikeFile(places: Places, where: string): Promise<boolean> {
  try {
    await places.file(where)
    return true
  } catch {
    return false // the root of a store
  }
}

/** A store does not mind the deletion of what is not there; a person who mistyped does. */
async function removeFile({ store, key }: Place, signal: AbortSignal): Promise<number> {
  try {
    await store.stat(key, { signal })
  } catch (error) {
    // Not being allowed to look does not mean not being allowed to delete.
    if (isNotFound(error) || codeOf(error) !== 'DENIED') throw error
  }
  await store.delete(key, { signal })
  return 1
}

async function removeBelow({ store, key }: Place, signal: AbortSignal): Promise<number> {
  const keys: string[] = []
  let count = 0
  const flush = async () => {
    const these = keys.splice(0)
    await store.deleteMany(these, { signal })
    count += these.length
  }
  for await (const entry of store.list(key, { signal })) {
    if (entry.kind === 'file') keys.push(entry.key)
    if (keys.length >= batch) await flush()
  }
  if (keys.length > 0) await flush()
  return count
}

async function confirm(found: readonly Place[], signal: AbortSignal) {
  const what = found.map(({ store, key }) => `${store.location}${key === '' ? '' : `, ${key}`}`).join('; ')
  if (!process.stdin.isTTY || !process.stderr.isTTY)
    throw new StowageError('INVALID_ARGUMENT', `Everything below ${what} would be deleted.`, {
      hint: 'Add --yes to do so.',
    })
  const asking = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await asking.question(`Delete everything below ${what}? [y/N] `, { signal })
    if (!/^y(es)?$/i.test(answer.trim())) throw new StowageError('ABORTED', 'Nothing was deleted.')
  } finally {
    asking.close()
  }
}
