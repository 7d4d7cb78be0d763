/** The place of a store that has none yet. */
import { StowageError } from '../core/errors.ts'
import { maxKeyBytes } from '../core/keys.ts'
import type { Driver } from './driver.ts'

/**
 * A driver of which every call rejects with UNREACHABLE, saying that the store has no place and what to do. That passes
 * as soon as it is given one, so whatever needs the store waits.
 */
export function nowhere(name: string): Driver {
  const refuse = async (): Promise<never> => {
    throw new StowageError('UNREACHABLE', `The store ${name} has no place yet.`, {
      hint: `Save one: stowage store set ${name}`,
    })
  }
  return {
    location: 'no place yet',
    supports: {
      write: true,
      list: true,
      range: true,
      atomicWrite: true,
      ifAbsent: true,
      ifMatch: true,
      contentType: true,
      metadata: true,
      keyUnderFile: true,
      maxKeyBytes,
      maxPartBytes: maxKeyBytes,
    },
    read: refuse,
    write: refuse,
    stat: refuse,
    list: async function* () {
      yield await refuse()
    },
    delete: refuse,
    close: async () => undefined,
  }
}
