/** A directory of a store, as a store. */
import { cleanDirectory } from '../../core/keys.ts'
import type { Driver, Entry, FileInfo } from '../driver.ts'
import { shortcutsOf } from '../driving.ts'

/** The driver below a prefix: keys go in with it and come out without. Closing it closes the driver. */
export function prefixed(driver: Driver, prefix: string): Driver {
  const root = cleanDirectory(prefix)
  if (root === '') return driver
  const inner = (key: string) => (key === '' ? root : `${root}/${key}`)
  const outer = <T extends FileInfo | Entry>(entry: T): T => ({ ...entry, key: entry.key.slice(root.length + 1) })
  const { supports } = driver
  const { copy, move, deleteMany, writeBytes, signedUrl, localPath } = shortcutsOf(driver)
  return {
    location: `${driver.location.replace(/\/$/, '')}/${root}`,
    supports: { ...supports, maxKeyBytes: supports.maxKeyBytes - Buffer.byteLength(root) - 1 },
    read: async (key, call) => {
      const { info, body } = await driver.read(inner(key), call)
      return { info: outer(info), body }
    },
    write: async (key, body, call) => outer(await driver.write(inner(key), body, call)),
    stat: async (key, call) => outer(await driver.stat(inner(key), call)),
    list: async function* (directory, call = {}) {
      const after = call.after === undefined ? {} : { after: inner(call.after) }
      for await (const entry of driver.list(inner(directory), { ...call, ...after })) yield outer(entry)
    },
    delete: async (key, call) => driver.delete(inner(key), call),
    close: async () => driver.close(),
    ...(copy && { copy: async (from, to, call) => outer(await copy(inner(from), inner(to), call)) }),
    ...(move && { move: async (from, to, call) => outer(await move(inner(from), inner(to), call)) }),
    ...(deleteMany && { deleteMany: async (keys, call) => deleteMany(keys.map(inner), call) }),
    ...(writeBytes && {
      writeBytes: async (key, bytes, call) => outer(await writeBytes(inner(key), bytes, call)),
    }),
    ...(signedUrl && { signedUrl: async (key, how) => signedUrl(inner(key), how) }),
    ...(localPath && { localPath: (key) => localPath(inner(key)) }),
  } satisfies Driver
}
