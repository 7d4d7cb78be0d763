/** The only file that knows every kind of place: from a storage URL to a driver. */
import { StowageError } from '../core/errors.ts'
import { parseStorageUrl, type StorageUrl } from '../core/storage-url.ts'
import type { Driver } from '../store/driver.ts'
import { locations, type LocationsOptions } from '../store/locations.ts'
import { Store, type StoreOptions } from '../store/store.ts'
import { readOnly } from '../store/wrappers/read-only.ts'
import { retrying } from '../store/wrappers/retry.ts'
import { sharded } from '../store/wrappers/shard.ts'
import { cloudFrontUrl } from './cloudfront.ts'

type Open = (url: StorageUrl) => Promise<Driver>

const ftp: Open = async (url) => (await import('./ftp/ftp.ts')).ftpFromUrl(url)
const http: Open = async (url) => (await import('./http/http.ts')).httpFromUrl(url)
const swift: Open = async (url) => (await import('./swift/swift.ts')).swiftFromUrl(url)
const webdav: Open = async (url) => (await import('./webdav/webdav.ts')).webdavFromUrl(url)

/** The kinds of places, by the schemes of their URLs. Each is loaded when it is first used. */
const schemes: Record<string, Open> = {
  __proto__: null as never,
  azure: async (url) => (await import('./azure/azure.ts')).azureFromUrl(url),
  file: async (url) => (await import('./file.ts')).fileFromUrl(url),
  ftp,
  ftps: ftp,
  http,
  https: http,
  memory: async (url) => (await import('./memory.ts')).memoryFromUrl(url),
  sftp: async (url) => (await import('./sftp/sftp.ts')).sftpFromUrl(url),
  s3: async (url) => (await import('./s3/s3.ts')).s3FromUrl(url),
  swift,
  cloudfiles: swift,
  mosso: swift,
  webdav,
  webdavs: webdav,
}

/** The kinds of places there are. */
export const schemeNames: readonly string[] = Object.keys(schemes)

/** Places on this machine do not break off. */
const local = new Set(['file', 'memory'])

/** Where names of hashes may be spread over directories. */
const shardable = new Set(['file', 'ftp', 'ftps', 'sftp'])

/**
 * Opens a place by its URL. Nothing is contacted yet. Rejects with INVALID_ARGUMENT; secrets are not repeated. Every URL
 * may have `read_only=true`, and those of file systems `shard=LEVELS`, see `sharded`.
 */
export async function openDriver(text: string): Promise<Driver> {
  const url = parseStorageUrl(text)
  const open = schemes[url.scheme]
  if (!open)
    throw new StowageError('INVALID_ARGUMENT', `There is no kind of store ${JSON.stringify(url.scheme)}.`, {
      hint: `There are: ${schemeNames.join(', ')}. A directory is written file:///path.`,
    })
  const isReadOnly = url.parameters.flag('read_only', false)
  const levels = shardable.has(url.scheme) ? (url.parameters.number('shard') ?? 0) : 0
  if (levels > 8) throw new StowageError('INVALID_ARGUMENT', 'The parameter shard may be at most 8.')
  const driver = await open(url)
  const patient = local.has(url.scheme) ? driver : retrying(driver)
  const spread = levels > 0 ? sharded(patient, levels) : patient
  return isReadOnly ? readOnly(spread) : spread
}

/** What a store is opened with. */
export interface OpenOptions extends StoreOptions, LocationsOptions {
  /** Every change is refused. */
  readOnly?: boolean
}

/** Opens a store of one location, or of several, nearest first. */
export async function openStore(url: string | readonly string[], options: OpenOptions = {}): Promise<Store> {
  const drivers: Driver[] = []
  try {
    for (const each of [url].flat()) drivers.push(await openDriver(each))
  } catch (error) {
    await Promise.all(drivers.map(async (driver) => driver.close()))
    throw error
  }
  const places = options.readOnly ? drivers.map((driver) => readOnly(driver)) : drivers
  const [only] = places
  const publicUrl = options.publicUrl ?? publicUrlOf([url].flat())
  const driver = only && places.length === 1 ? only : locations(places, options)
  return new Store(driver, { ...options, ...(publicUrl !== undefined && { publicUrl }) })
}

/** The public address that one of the storage URLs itself names. */
export function publicUrlOf(urls: readonly string[]): string | undefined {
  const found = urls.find((each) => /[?&]cloudfront_domain=/.test(each))
  return found === undefined ? undefined : cloudFrontUrl(parseStorageUrl(found))
}
