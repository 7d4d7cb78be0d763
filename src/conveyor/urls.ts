/** The public address of what was delivered. */
import { codeOf } from '../core/errors.ts'
import { urlBelow } from '../core/public-url.ts'
import type { Store } from '../store/store.ts'

/** Below the base that the destination has for itself, else below the store's; undefined where there is neither. */
export function findUrl(store: Store, key: string, base: string | undefined): string | undefined {
  try {
    return urlAt(store, key, base)
  } catch (error) {
    if (codeOf(error) === 'NO_PUBLIC_URL') return undefined
    throw error
  }
}

/** Like {@link findUrl}; throws NO_PUBLIC_URL where there is neither. */
export function urlAt(store: Store, key: string, base: string | undefined): string {
  return base === undefined ? store.url(key) : urlBelow(base, key)
}
