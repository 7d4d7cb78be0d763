/** The only file that knows every kind of place: from a storage URL to a driver. */
import * as path from 'node:path'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { parseStorageUrl, type StorageUrl } from '../core/storage-url.ts'
import type { Driver } from '../store/driver.ts'
import { locations } from '../store/locations.ts'
import { Store } from '../store/store.ts'
import { retrying } from '../store/wrappers/retry.ts'

const schemes: Record<string, (url: StorageUrl) => Promise<Driver>> = {
  __proto__: null as never,
  file: async (url) => {
    const { fileDriver } = await import('./file.ts')
    if (url.host !== '')
      throw new StowageError('INVALID_ARGUMENT', `file://${url.host}/… names another machine.`, {
        hint: 'Write file:///directory.',
      })
    const fsync = url.parameters.flag('fsync', true)
    url.parameters.end()
    const isAbsolute = url.printable.startsWith('file:/')
    return fileDriver({ directory: path.resolve(isAbsolute ? '/' : '.', url.path), fsync })
  },
  memory: async (url) => {
    url.parameters.end()
    return (await import('./memory.ts')).memoryDriver()
  },
  s3: async (url) => retrying((await import('./s3/s3.ts')).s3FromUrl(url)),
}

/** Opens a place by its URL. Nothing is contacted yet. Rejects with INVALID_ARGUMENT; secrets are not repeated. */
export async function openDriver(text: string): Promise<Driver> {
  const url = parseStorageUrl(text)
  const open = schemes[url.scheme]
  if (!open)
    throw new StowageError('INVALID_ARGUMENT', `There is no kind of store ${JSON.stringify(url.scheme)}.`, {
      hint: `There are: ${Object.keys(schemes).join(', ')}. A directory is written file:///path.`,
    })
  return open(url)
}

/** What a store is opened with. */
export interface OpenOptions {
  /** Public address below which the files are served. */
  publicUrl?: string
  /** Hears of locations that could not be asked. */
  log?: Log
}

/** Opens a store of one location, or of several, nearest first. */
export async function openStore(url: string | readonly string[], options: OpenOptions = {}): Promise<Store> {
  const urls = typeof url === 'string' ? [url] : url
  const drivers: Driver[] = []
  try {
    for (const each of urls) drivers.push(await openDriver(each))
  } catch (error) {
    await Promise.all(drivers.map(async (driver) => driver.close()))
    throw error
  }
  const [first] = drivers
  if (!first) throw new StowageError('INVALID_ARGUMENT', 'A store needs at least one location.')
  const { publicUrl, log } = options
  const driver = drivers.length === 1 ? first : locations(drivers, log ? { log } : {})
  return new Store(driver, publicUrl === undefined ? {} : { publicUrl })
}
