/** A cache in front of a driver, as a driver. */
import { isNotFound } from '../core/errors.ts'
import type { CallOptions, Driver, FileInfo, ReadOptions } from '../store/driver.ts'
import { shortcutsOf } from '../store/driving.ts'
import type { Cache, Origin } from './cache.ts'

/** Settings of {@link cached}. */
export interface CachedOptions {
  cache: Cache
  /** Tells the files of several stores in one cache apart. Default: the driver's location. */
  name?: string
  /**
   * So long, in milliseconds, a file is taken for unchanged before the driver is asked again. Default 0: it is asked at each
   * read, and only the bytes come from the cache. Infinity suits files that never change under their names.
   */
  freshMs?: number
  /** Milliseconds of a steady clock. Default performance.now. */
  now?: () => number
}

/** How many files it is remembered of when they were asked about. */
const rememberedAtMost = 100_000

/**
 * The driver with its reads through a cache; what is changed through it is forgotten there. Closing it closes the driver
 * and not the cache, which others may use.
 */
export function cached(driver: Driver, { cache, name, freshMs = 0, now }: CachedOptions): Driver {
  const { supports } = driver
  const origin: Origin = {
    store: name ?? driver.location,
    range: supports.range,
    read: async (key, call) => driver.read(key, call),
  }
  const checked = new Freshness(freshMs, now ?? (() => performance.now()))
  const forget = async (...keys: string[]) => {
    for (const key of keys) {
      checked.delete(key)
      await cache.drop(origin.store, key)
    }
  }
  /** Also when it fails: it may have happened all the same. */
  const changing = async <T>(keys: string[], work: () => Promise<T>): Promise<T> => {
    await forget(...keys)
    try {
      return await work()
    } finally {
      await forget(...keys)
    }
  }
  /** What the file is now, where the cache has one that may have changed since. */
  const currentOf = async (key: string, call: CallOptions): Promise<FileInfo | undefined> => {
    if (!cache.find(origin.store, key) || checked.has(key)) return undefined
    try {
      return await driver.stat(key, call)
    } catch (error) {
      if (isNotFound(error)) await forget(key)
      throw error
    }
  }
  const { copy, move, deleteMany, writeBytes, signedUrl } = shortcutsOf(driver)
  return {
    location: driver.location,
    supports: { ...supports, range: true },
    read: async (key, call: ReadOptions = {}) => {
      const current = await currentOf(key, call)
      const opened = await cache.open(origin, key, { ...call, ...(current && { current }) })
      checked.add(key)
      return opened
    },
    stat: async (key, call) => driver.stat(key, call),
    list: (directory, call) => driver.list(directory, call),
    write: async (key, body, call) => changing([key], async () => driver.write(key, body, call)),
    delete: async (key, call) => changing([key], async () => driver.delete(key, call)),
    close: async () => driver.close(),
    ...(writeBytes && {
      writeBytes: async (key, bytes, call) => changing([key], async () => writeBytes(key, bytes, call)),
    }),
    ...(copy && { copy: async (from, to, call) => changing([to], async () => copy(from, to, call)) }),
    ...(move && { move: async (from, to, call) => changing([from, to], async () => move(from, to, call)) }),
    ...(deleteMany && { deleteMany: async (keys, call) => changing([...keys], async () => deleteMany(keys, call)) }),
    ...(signedUrl && { signedUrl }),
  } satisfies Driver
}

/** When files were last known to be current. */
class Freshness {
  readonly #freshMs: number
  readonly #now: () => number
  readonly #until = new Map<string, number>()

  constructor(freshMs: number, now: () => number) {
    this.#freshMs = freshMs
    this.#now = now
  }

  has(key: string): boolean {
    return (this.#until.get(key) ?? 0) > this.#now()
  }

  add(key: string): void {
    if (this.#freshMs === 0 || this.has(key)) return
    this.#until.delete(key)
    this.#until.set(key, this.#now() + this.#freshMs)
    for (const [oldest] of this.#until) {
      if (this.#until.size <= rememberedAtMost) return
      this.#until.delete(oldest)
    }
  }

  delete(key: string): void {
    this.#until.delete(key)
  }
}
