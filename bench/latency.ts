/** From a change to its delivery, settle time 0: the median of 200; and a burst of 5,000 files. Beside a watcher that only copies. */
import { cpSync, existsSync, mkdirSync, readFileSync, watch, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { checkConfig, silentLog, startDaemon } from '../src/index.ts'
import { workplace } from './scene.ts'

const base = workplace('/tmp')
const [site, out, copy] = ['site', 'out', 'copy'].map((name) => path.join(base, name)) as [string, string, string]
for (const directory of [site, out, copy]) mkdirSync(directory)

const daemon = await startDaemon({
  config: checkConfig({
    state: path.join(base, 'state.db'),
    stores: { out: `file://${out}` },
    sources: { site: { directory: site, settle: '0ms' } },
    rules: [{ source: 'site', destinations: [{ store: 'out' }] }],
  }),
  log: silentLog,
})
await daemon.up()

report('stowage, durable and recorded', await changes(out))
const begun = performance.now()
for (let i = 0; i < 5000; i++) writeFileSync(path.join(site, `burst${i}`), 'x'.repeat(100))
await until(() => existsSync(path.join(out, 'burst4999')))
await daemon.idle()
const arrived = Array.from({ length: 5000 }, (_, i) => existsSync(path.join(out, `burst${i}`))).filter(Boolean).length
console.log(`burst of 5,000 files: ${arrived} arrived, ${((performance.now() - begun) / 1000).toFixed(1)} s`)
await daemon.close()

const watcher = watch(site, (_, name) => {
  if (name) cpSync(path.join(site, name), path.join(copy, name))
})
report('fs.watch and copy, neither', await changes(copy))
watcher.close()

/** Milliseconds from writing a file to its content being at the destination, 200 times. */
async function changes(destination: string): Promise<number[]> {
  const times: number[] = []
  for (let i = 0; i < 200; i++) {
    const content = `version ${i} for ${destination}`
    const from = performance.now()
    writeFileSync(path.join(site, 'page.html'), content)
    await until(() => {
      const file = path.join(destination, 'page.html')
      return existsSync(file) && readFileSync(file, 'utf8') === content
    })
    times.push(performance.now() - from)
  }
  return times.sort((a, b) => a - b)
}

/** Looks again at every turn of the event loop: this measures, so it may be impatient. */
async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise((resolve) => setImmediate(resolve))
}

function report(name: string, times: number[]) {
  const at = (share: number) => (times[Math.floor(times.length * share)] ?? Number.NaN).toFixed(1)
  console.log(`${name}: median ${at(0.5)} ms, 95% within ${at(0.95)} ms`)
}
