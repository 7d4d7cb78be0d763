/**
 * An application that trusts a filestore with its photographs: it stores them, sees them offloaded, loses its own disk, and
 * serves every one of them all the same.
 *
 *     node examples/photographs/photographs.ts DIRECTORY
 *
 * takes 500 photographs from the directory. PHOTOGRAPHS_REMOTE is where they are offloaded to, a storage URL (default: a
 * directory), PHOTOGRAPHS_DIR where everything else is kept (default: .photographs beside this file). It may be killed at
 * any moment and started again.
 */
import { createHash } from 'node:crypto'
import { createReadStream, rmSync } from 'node:fs'
import { glob } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import * as path from 'node:path'
import { pipeline } from 'node:stream/promises'
import { formatBytes, isNotFound, Limit, openFilestore, Store, textLog } from '../../src/index.ts' // in your project: from 'stowage'
import type { Filestore } from '../../src/index.ts'

const [from] = process.argv.slice(2)
if (from === undefined) {
  console.error('Say which directory has the photographs: node examples/photographs/photographs.ts DIRECTORY')
  process.exit(2)
}
const wanted = 500
const atOnce = new Limit(16)
const base = process.env['PHOTOGRAPHS_DIR'] ?? path.join(import.meta.dirname, '.photographs')
const [directory, cache] = [path.join(base, 'files'), path.join(base, 'cache')]

const originals = await choose(from)
await using filestore = await openFilestore({
  state: path.join(base, 'photographs.db'),
  directory,
  remotes: { cloud: process.env['PHOTOGRAPHS_REMOTE'] ?? `file://${path.resolve(base, 'cloud')}` },
  cache: { directory: cache },
  coolDownMs: 1000, // a real application waits longer: ten minutes are the default
  log: textLog(process.stderr, 'warn'),
})
const store = new Store(filestore.driver)

await storeAll()
await tell('stored')
await offloadAll()
await tell('offloaded')
rmSync(directory, { recursive: true, force: true })
rmSync(cache, { recursive: true, force: true })
await tell('after the local directory and the cache were lost')
const wrong = await serveAll()
await tell('served')
console.log(wrong.length === 0 ? `All ${wanted} came back byte for byte.` : `Not as they were: ${wrong.join(', ')}`)
if (wrong.length > 0) process.exitCode = 1

/** The first so many photographs that differ, by their digests. */
async function choose(directory: string): Promise<Map<string, { file: string; digest: string }>> {
  const found = new Map<string, { file: string; digest: string }>()
  const digests = new Set<string>()
  const files = await Array.fromAsync(glob('**/*.{jpg,jpeg,png,webp}', { cwd: directory }))
  for (const name of files.sort()) {
    if (found.size === wanted) break
    const file = path.join(directory, name)
    const digest = await digestOf(createReadStream(file))
    if (!digests.has(digest)) found.set(`photographs/${name}`, { file, digest })
    digests.add(digest)
  }
  if (found.size === wanted) return found
  console.error(`${directory} has ${found.size} different photographs, not ${wanted}.`)
  process.exit(2)
}

/** Stores what is not stored yet. */
async function storeAll() {
  await each(async (key, { file, digest }) => {
    const known = await store.find(key)
    if (known?.digests?.sha256 !== digest) await store.put(key, createReadStream(file))
  })
}

/** Waits until everything is in the cloud. */
async function offloadAll() {
  let bytes = 0
  let files = 0
  const stop = filestore.on('uploaded', (uploaded) => {
    bytes += uploaded.bytes
    files++
    if (files % 100 === 0) console.log(`  ${files} uploaded, ${formatBytes(bytes)}`)
  })
  await filestore.idle()
  stop()
}

/** Asks for every photograph over HTTP. Returns the keys of those that are not what was stored. */
async function serveAll(): Promise<string[]> {
  const server = createServer((request, response) => {
    const key = decodeURIComponent(new URL(request.url ?? '/', 'http://localhost').pathname.slice(1))
    store
      .open(key)
      .then(async ({ info, body }) => {
        response.setHeader('content-length', info.size)
        await pipeline(body, response)
      })
      .catch((error: unknown) => {
        if (!response.headersSent) response.writeHead(isNotFound(error) ? 404 : 502).end()
        else response.destroy()
      })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  const wrong: string[] = []
  await each(async (key, { digest }) => {
    const response = await fetch(`http://127.0.0.1:${port}/${encodeURIComponent(key)}`)
    if (response.body === null || (await digestOf(response.body)) !== digest) wrong.push(key)
  })
  server.close()
  return wrong
}

/** Prints how the filestore is, after making sure that its numbers add up. */
async function tell(when: string) {
  const { media, local, cloud, both, lost, queues } = await statusOf(filestore)
  const waiting = queues.reduce((sum, queue) => sum + queue.waiting + queue.running, 0)
  const show = ({ files, bytes }: { files: number; bytes: number }) => `${files} (${formatBytes(bytes)})`
  console.log(
    `${when}: media ${show(media)}, local ${show(local)}, cloud ${show(cloud)}, both ${show(both)}, queued ${waiting}`,
  )
  if (lost.files > 0) throw new Error(`${lost.files} photographs are lost.`)
}

async function statusOf(filestore: Filestore) {
  const status = await filestore.status()
  const { media, local, cloud, both, lost } = status
  for (const unit of ['files', 'bytes'] as const)
    if (media[unit] !== local[unit] + cloud[unit] - both[unit] + lost[unit])
      throw new Error('The numbers do not add up.')
  if (media.files !== wanted) throw new Error(`${media.files} photographs are known, not ${wanted}.`)
  return status
}

async function each(work: (key: string, original: { file: string; digest: string }) => Promise<void>) {
  await Promise.all([...originals].map(async ([key, original]) => atOnce.run(async () => work(key, original))))
}

async function digestOf(body: AsyncIterable<Uint8Array>): Promise<string> {
  const hash = createHash('sha256')
  for await (const bytes of body) hash.update(bytes)
  return hash.digest('hex')
}
