/** What the middlewares have in common: where a request for a plain asset is sent in development. */
import type { AssetUrls } from '../conveyor/assets.ts'

/** Settings of the middlewares. */
export interface AssetMiddlewareOptions {
  /**
   * Send requests for the plain address of a delivered asset there (302, not to be cached). For development: pages that
   * name assets without `assetUrl` work too. Default false.
   */
  redirect?: boolean
}

/** Caches must ask again: the next delivery may have another address. */
export const redirectCaching = 'no-cache'

/**
 * Where a request goes; undefined when it is not for a delivered asset, when it does not only read, or when it has
 * arrived there. `target` is the path with the query, as it stands in the request.
 */
export function redirectOf(
  urls: AssetUrls,
  method: string,
  target: string,
  host: string | undefined,
): string | undefined {
  if (method !== 'GET' && method !== 'HEAD') return undefined
  const [pathname, query] = splitOnce(target, '?')
  const delivered = urls.delivered(decoded(pathname))
  if (delivered === undefined) return undefined
  const there = URL.parse(delivered, `http://${host}`)
  // Without a sane host nobody can tell whether it is here already.
  if (!there || (there.pathname === pathname && there.host === host)) return undefined
  return query === undefined ? delivered : `${delivered}?${query}`
}

function splitOnce(text: string, separator: string): [string, string?] {
  const at = text.indexOf(separator)
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
}

/** What is not properly encoded is nobody's name. */
function decoded(pathname: string): string {
  try {
    return decodeURIComponent(pathname)
  } catch {
    return ''
  }
}
