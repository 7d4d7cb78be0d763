/** Asset URLs in the frameworks themselves, each listening on this machine. */
import assert from 'node:assert/strict'
import * as fs from 'node:fs'
import * as http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { serve } from '@hono/node-server'
import express from 'express'
import fastify from 'fastify'
import { Hono } from 'hono'
import { AssetUrls } from '../conveyor/assets.ts'
import { assets as expressAssets } from './express.ts'
import { assets as fastifyAssets } from './fastify.ts'
import { assets as honoAssets } from './hono.ts'
import type { AssetMiddlewareOptions } from './redirect.ts'

/** An application with a page that shows an address, and a static file; resolves to its port. */
type Start = (t: TestContext, urls: AssetUrls, options?: AssetMiddlewareOptions) => Promise<number>

const frameworks: Record<string, Start> = {
  express: async (t, urls, options) => {
    const app = express()
    app.use(expressAssets(urls, options))
    app.get('/page', (_, response) => void response.send(response.locals.assetUrl('css/x.css')))
    app.all('/here/x.css', (_, response) => void response.send('the file'))
    return new Promise((resolve) => {
      const server = app.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port))
      t.after(() => server.close())
    })
  },
  fastify: async (t, urls, options) => {
    const app = fastify()
    await app.register(fastifyAssets(urls, options))
    app.get('/page', async (request) => request.assetUrl('css/x.css'))
    app.all('/here/x.css', async () => 'the file')
    t.after(async () => app.close())
    await app.listen({ port: 0, host: '127.0.0.1' })
    return (app.server.address() as AddressInfo).port
  },
  hono: async (t, urls, options) => {
    const app = new Hono().use(honoAssets(urls, options))
    app.get('/page', (c) => c.text(c.get('assetUrl')('css/x.css')))
    app.all('/here/x.css', (c) => c.text('the file'))
    return new Promise((resolve) => {
      const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) => resolve(port))
      t.after(() => server.close())
    })
  },
}

const manifest = {
  default: {
    url: 'https://static.example.com/',
    assets: { 'css/x.css': 'https://cdn.example.com/css/x_abc.css', 'a ü.css': '/delivered/a%20%C3%BC.css' },
  },
  here: { url: '/here', assets: { 'x.css': '/here/x.css' } },
}

async function urlsOf(t: TestContext): Promise<AssetUrls> {
  const directory = fs.mkdtempSync(path.join(tmpdir(), 'stowage-middleware-'))
  t.after(() => fs.rmSync(directory, { recursive: true }))
  const file = path.join(directory, 'assets.json')
  fs.writeFileSync(file, JSON.stringify({ format: 1, domains: manifest }))
  return AssetUrls.open({ manifest: file })
}

interface Answer {
  status: number | undefined
  location: string | undefined
  caching: string | undefined
  text: string
}

/** One request, its path sent as it is written. */
async function ask(port: number, target: string, method = 'GET', host = `127.0.0.1:${port}`): Promise<Answer> {
  const request = http.request({ host: '127.0.0.1', port, path: target, method, headers: { host }, agent: false })
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    request.on('response', resolve).on('error', reject).end()
  })
  const text = (await response.toArray()).join('')
  const { location, 'cache-control': caching } = response.headers
  return { status: response.statusCode, location, caching, text }
}

for (const [name, start] of Object.entries(frameworks))
  describe(name, { timeout: 30_000 }, () => {
    test('a request has assetUrl at hand', async (t) => {
      const port = await start(t, await urlsOf(t))
      assert.equal((await ask(port, '/page')).text, 'https://cdn.example.com/css/x_abc.css')
      assert.equal((await ask(port, '/css/x.css')).status, 404)
    })

    test('the plain address of a delivered asset leads there, and caches ask again', async (t) => {
      const port = await start(t, await urlsOf(t), { redirect: true })
      for (const method of ['GET', 'HEAD']) {
        const { status, location, caching } = await ask(port, '/css/x.css?v=1', method)
        assert.equal(status, 302)
        assert.equal(location, 'https://cdn.example.com/css/x_abc.css?v=1')
        assert.equal(caching, 'no-cache')
      }
      assert.equal((await ask(port, '/a%20%C3%BC.css')).location, '/delivered/a%20%C3%BC.css')
      assert.equal((await ask(port, '/page')).text, 'https://cdn.example.com/css/x_abc.css')
    })

    test('what is no asset, changes something, or has arrived is left alone', async (t) => {
      const port = await start(t, await urlsOf(t), { redirect: true })
      assert.equal((await ask(port, '/css/y.css')).status, 404)
      assert.equal((await ask(port, '/css/x.css', 'POST')).status, 404)
      assert.equal((await ask(port, '/here/x.css')).text, 'the file')
      assert.equal((await ask(port, '//css/x.css')).location, undefined)
      const { status } = await ask(port, '/here/x.css', 'GET', 'no host at all')
      assert.ok(status === 200 || status === 400, `a nonsensical host is answered with ${status}`)
      // A path that no name can have is answered by the framework.
      assert.ok([400, 404].includes((await ask(port, '/%zz')).status ?? 0))
    })
  })
