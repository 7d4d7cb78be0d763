/** Asset URLs in Express: `res.locals.assetUrl`, which templates see as `assetUrl`. */
import type { RequestHandler } from 'express'
import type { AssetUrl, AssetUrls } from '../conveyor/assets.ts'
import { redirectCaching, redirectOf, type AssetMiddlewareOptions } from './redirect.ts'

declare global {
  // oxlint-disable-next-line typescript/no-namespace -- Express is extended by this namespace.
  namespace Express {
    interface Locals {
      assetUrl: AssetUrl
    }
  }
}

/** A middleware that gives every response `locals.assetUrl`. The asset URLs stay the caller's to close. */
export function assets(urls: AssetUrls, { redirect = false }: AssetMiddlewareOptions = {}): RequestHandler {
  return (request, response, next) => {
    response.locals.assetUrl = urls.assetUrl
    const target = redirect ? redirectOf(urls, request.method, request.originalUrl, request.get('host')) : undefined
    if (target === undefined) next()
    else response.set('cache-control', redirectCaching).redirect(302, target)
  }
}
