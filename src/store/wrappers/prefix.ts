/** A directory of a store, as a store. */
import { cleanDirectory } from '../../core/keys.ts'
import type { Driver } from '../driver.ts'
import { renamed } from './renamed.ts'

/** The driver below a prefix: keys go in with it and come out without. Closing it closes the driver. */
export function prefixed(driver: Driver, prefix: string): Driver {
  const root = cleanDirectory(prefix)
  if (root === '') return driver
  const inner = (key: string) => (key === '' ? root : `${root}/${key}`)
  const outer = (key: string) => key.slice(root.length + 1)
  const { supports } = driver
  return {
    ...renamed(driver, { inner, outer }),
    location: `${driver.location.replace(/\/$/, '')}/${root}`,
    supports: { ...supports, maxKeyBytes: supports.maxKeyBytes - Buffer.byteLength(root) - 1 },
    list: async function* (directory, call = {}) {
      const after = call.after === undefined ? {} : { after: inner(call.after) }
      for await (const entry of driver.list(inner(directory), { ...call, ...after }))
        yield { ...entry, key: outer(entry.key) }
    },
  }
}
