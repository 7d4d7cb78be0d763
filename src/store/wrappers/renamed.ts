/** What wrappers that change keys have in common. */
import type { Driver, FileInfo } from '../driver.ts'
import { shortcutsOf } from '../driving.ts'

/** How keys are called inside a driver, and outside of it. */
export interface Names {
  inner: (key: string) => string
  outer: (key: string) => string
}

/** The driver under other keys: they go in by `inner` and come out by `outer`. Listings are left to the wrapper. */
export function renamed(driver: Driver, { inner, outer }: Names): Omit<Driver, 'list'> {
  const told = <T extends FileInfo>(info: T): T => ({ ...info, key: outer(info.key) })
  const { copy, move, deleteMany, writeBytes, signedUrl, localPath } = shortcutsOf(driver)
  return {
    location: driver.location,
    supports: driver.supports,
    read: async (key, call) => {
      const { info, body } = await driver.read(inner(key), call)
      return { info: told(info), body }
    },
    write: async (key, body, call) => told(await driver.write(inner(key), body, call)),
    stat: async (key, call) => told(await driver.stat(inner(key), call)),
    delete: async (key, call) => driver.delete(inner(key), call),
    close: async () => driver.close(),
    ...(copy && { copy: async (from, to, call) => told(await copy(inner(from), inner(to), call)) }),
    ...(move && { move: async (from, to, call) => told(await move(inner(from), inner(to), call)) }),
    ...(deleteMany && { deleteMany: async (keys, call) => deleteMany(keys.map(inner), call) }),
    ...(writeBytes && { writeBytes: async (key, bytes, call) => told(await writeBytes(inner(key), bytes, call)) }),
    ...(signedUrl && { signedUrl: async (key, how) => signedUrl(inner(key), how) }),
    ...(localPath && { localPath: (key) => localPath(inner(key)) }),
  } satisfies Omit<Driver, 'list'>
}
