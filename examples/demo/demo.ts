/**
 * `npm run demo`: delivers a real site to two places, then keeps watching it. `--once` exits when all is delivered.
 * STOWAGE_DEMO_DIR chooses where everything is kept (default: .demo beside this file).
 */
import * as path from 'node:path'
import { formatBytes, loadConfig, startDaemon, textLog } from '../../src/index.ts' // in your project: from 'stowage'
import { buildSite } from './site.ts'

const isOnce = process.argv.includes('--once')
const unknown = process.argv.slice(2).filter((argument) => argument !== '--once')
if (unknown.length > 0) {
  console.error(`The demo knows --once, not ${unknown.join(' ')}.`)
  process.exit(2)
}

const base = process.env['STOWAGE_DEMO_DIR'] ?? path.join(import.meta.dirname, '.demo')
const site = buildSite(path.join(base, 'site'))
const config = await loadConfig(path.join(import.meta.dirname, 'stowage.config.ts'))
await using daemon = await startDaemon({ config, log: textLog(process.stderr, 'warn') })

console.log(`Delivering ${site} …`)
const { scanned, delivered, bytes, failed, milliseconds } = await daemon.sync()
console.log(
  `${scanned} files looked at; ${delivered} deliveries, ${formatBytes(bytes)}, in ${(milliseconds / 1000).toFixed(1)} s.`,
)
console.log(`As they are:           ${path.join(base, 'mirror')}`)
console.log(`Under versioned names: ${path.join(base, 'cdn')}`)
if (failed > 0) process.exitCode = 3

if (!isOnce) {
  daemon.onDelivered(({ path: file, store, key }) => console.log(`${file} → ${store}: ${key}`))
  await daemon.up()
  console.log(`Watching. Change something, for example: touch '${path.join(site, 'my page.html')}'. Ctrl-C ends.`)
  await new Promise<void>((resolve) => {
    process.once('SIGINT', resolve).once('SIGTERM', resolve)
  })
  console.log('Stopping.')
}
