/** Asset URLs in Fastify: `request.assetUrl`. */
import type { FastifyPluginAsync } from 'fastify'
import type { AssetUrl, AssetUrls } from '../conveyor/assets.ts'
import { redirectCaching, redirectOf, type AssetMiddlewareOptions } from './redirect.ts'

declare module 'fastify' {
  interface FastifyRequest {
    assetUrl: AssetUrl
  }
}

/** A plugin that gives every request `assetUrl`, also those of routes outside of it. The asset URLs stay the caller's to close. */
export function assets(urls: AssetUrls, { redirect = false }: AssetMiddlewareOptions = {}): FastifyPluginAsync {
  const plugin: FastifyPluginAsync = async (server) => {
    server.decorateRequest('assetUrl', urls.assetUrl)
    if (!redirect) return
    server.addHook('onRequest', async (request, reply) => {
      const target = redirectOf(urls, request.method, request.originalUrl, request.headers.host)
      return target === undefined ? undefined : reply.header('cache-control', redirectCaching).redirect(target, 302)
    })
  }
  // What a plugin decorates is its own, unless it says that it is meant for who registers it.
  return Object.assign(plugin, {
    [Symbol.for('skip-override')]: true,
    [Symbol.for('fastify.display-name')]: 'stowage-assets',
  })
}
