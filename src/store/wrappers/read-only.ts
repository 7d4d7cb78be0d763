/** A store that gives and does not take: for what must not change, such as the old side of a migration. */
import { StowageError } from '../../core/errors.ts'
import type { Driver } from '../driver.ts'
import { shortcutsOf } from '../driving.ts'

/**
 * The driver with every change refused as READ_ONLY, signed URLs for writing included. What reads a local path may still
 * ask for it. Closing it closes the driver.
 */
export function readOnly(driver: Driver): Driver {
  const refuse = async (key: string): Promise<never> => {
    throw new StowageError('READ_ONLY', `Cannot change ${key}: ${driver.location} was opened read-only.`)
  }
  const { signedUrl, localPath } = shortcutsOf(driver)
  return {
    location: driver.location,
    supports: { ...driver.supports, write: false },
    read: (key, options) => driver.read(key, options),
    stat: (key, options) => driver.stat(key, options),
    list: (directory, options) => driver.list(directory, options),
    write: refuse,
    delete: refuse,
    close: () => driver.close(),
    ...(signedUrl && {
      signedUrl: async (key, options) => (options.method === 'GET' ? signedUrl(key, options) : refuse(key)),
    }),
    ...(localPath && { localPath }),
  } satisfies Driver
}
