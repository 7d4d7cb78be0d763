/** Real style sheets with their images and fonts, delivered and served: each reference in what is delivered is fetched. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { findReferences } from '../src/conveyor/processors/css-links.ts'
import { checkConfig, silentLog, startDaemon } from '../src/index.ts'

const packages = ['leaflet/dist', 'lightbox2/dist', 'jquery-ui-dist', 'bootstrap-icons/font']

test('every reference of every delivered style sheet leads somewhere, also after all images and fonts were replaced', async (t) => {
  const base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-links-'))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const site = path.join(base, 'site')
  for (const name of packages)
    fs.cpSync(path.resolve(import.meta.dirname, '../node_modules', name), path.join(site, name), { recursive: true })

  const out = path.join(base, 'out')
  const server = createServer((request, response) => {
    const file = path.join(out, decodeURIComponent(new URL(request.url ?? '', 'http://localhost').pathname))
    if (fs.existsSync(file)) fs.createReadStream(file).pipe(response)
    else response.writeHead(404).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())

  const publicUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const config = checkConfig(
    {
      state: path.join(base, 'state/stowage.db'),
      stores: { out: { url: `file://${out}`, publicUrl } },
      sources: { site: { directory: site, settle: '0ms' } },
      rules: [
        {
          source: 'site',
          processors: ['css-links', 'minify.css', 'minify.js', 'unique-filename.md5'],
          destinations: [{ store: 'out', path: 'static' }],
          supersededAfter: '0s',
        },
      ],
    },
    base,
  )
  await using daemon = await startDaemon({ config, log: silentLog })

  const fetchAll = async () => {
    const shown = new Map<string, Buffer>()
    for (const file of fs.globSync('**/*.css', { cwd: out }))
      for (const { value } of await findReferences(fs.readFileSync(path.join(out, file), 'utf8'))) {
        if (value.startsWith('data:') || value.startsWith('#')) continue
        assert.ok(value.startsWith(publicUrl), `${file} shows ${value}`)
        const response = await fetch(value)
        assert.equal(response.status, 200, `${file} shows ${value}`)
        shown.set(value, Buffer.from(await response.arrayBuffer()))
      }
    return shown
  }

  assert.equal((await daemon.sync()).failed, 0)
  const before = await fetchAll()
  assert.ok(before.size > 10, `${before.size} references`)
  const replaced = fs.globSync('**/*.{png,gif,svg,woff,woff2,ttf}', { cwd: site })
  for (const file of replaced) fs.appendFileSync(path.join(site, file), 'new')
  assert.equal((await daemon.sync()).failed, 0)
  const after = await fetchAll()
  assert.equal(after.size, before.size)
  for (const [address, content] of after) {
    assert.ok(!before.has(address))
    assert.ok(content.toString('latin1').endsWith('new'))
  }
  // Of what was shown before nothing is left.
  for (const address of before.keys()) assert.equal((await fetch(address)).status, 404)
})
