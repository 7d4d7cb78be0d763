/** Asset URLs in Hono: `c.get('assetUrl')`. */
import type { MiddlewareHandler } from 'hono'
import type { AssetUrl, AssetUrls } from '../conveyor/assets.ts'
import { redirectCaching, redirectOf, type AssetMiddlewareOptions } from './redirect.ts'

/** A middleware that sets the variable `assetUrl`. The asset URLs stay the caller's to close. */
export function assets(
  urls: AssetUrls,
  { redirect = false }: AssetMiddlewareOptions = {},
): MiddlewareHandler<{ Variables: { assetUrl: AssetUrl } }> {
  return async (context, next) => {
    context.set('assetUrl', urls.assetUrl)
    const { pathname, search, host } = new URL(context.req.url)
    const target = redirect ? redirectOf(urls, context.req.method, pathname + search, host) : undefined
    if (target === undefined) return next()
    context.header('cache-control', redirectCaching)
    return context.redirect(target, 302)
  }
}
