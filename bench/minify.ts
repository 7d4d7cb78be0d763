/**
 * The style sheets and scripts of the demo's site through the conveyor with `minify.css` and `minify.js`, beside esbuild's
 * own command line: one call for each, two at a time, and one call for all. What a sync without processors takes is told
 * besides. The CPU time of esbuild's process beside ours is not counted: nobody waits for its end. Needs time.
 */
import * as fs from 'node:fs'
import * as path from 'node:path'
import { buildSite } from '../examples/demo/site.ts'
import { measure, type Contestant } from './measure.ts'
import { report, stowage, workplace } from './scene.ts'

const base = workplace()
const whole = buildSite(path.join(base, 'whole'))
const [site, ours, theirs] = ['site', 'ours', 'theirs'].map((name) => path.join(base, name)) as [string, string, string]
const files = fs.globSync('**/*.{css,js}', { cwd: whole }).sort()
for (const file of files) fs.cpSync(path.join(whole, file), path.join(site, file))

const argumentsFor = (name: string, processors: readonly string[]) => {
  const config = path.join(base, `${name}.json`)
  const settings = {
    state: path.join(base, 'state/stowage.db'),
    stores: { out: `file://${ours}?fsync=false` },
    sources: { site: { directory: site, settle: '0ms' } },
    rules: [{ source: 'site', processors, destinations: [{ store: 'out' }] }],
  }
  fs.writeFileSync(config, JSON.stringify(settings))
  return ['sync', '--config', config]
}
const clear = (...paths: string[]) => {
  for (const each of paths) fs.rmSync(each, { recursive: true, force: true })
}
const esbuild = path.resolve(import.meta.dirname, '../node_modules/esbuild/bin/esbuild')
const called = (name: string, command: string): Contestant => ({
  name,
  command: ['sh', '-c', `cd ${site}; ${command}`],
  prepare: () => clear(theirs),
})
const prepare = () => clear(ours, path.join(base, 'state'))
const plain = stowage('stowage sync, no processors', argumentsFor('plain', []), prepare)
const conveyor = stowage('stowage sync, minified', argumentsFor('minified', ['minify.css', 'minify.js']), prepare)
const each = `find . -type f -print0 | xargs -0 -P2 -I{} ${esbuild} {} --minify --log-level=error --outfile=${theirs}/{}`
const once = `find . -type f -print0 | xargs -0 ${esbuild} --minify --log-level=error --outbase=. --outdir=${theirs}`

const size = files.reduce((sum, file) => sum + fs.statSync(path.join(site, file)).size, 0)
const title = `${files.length} style sheets and scripts, ${(size / 1e6).toFixed(1)} MB`
report(`${title}; one call for each`, measure([conveyor, called('esbuild, a call for each, two at a time', each)], 3))
console.log(bytes())
report(`${title}; one call for all`, measure([plain, conveyor, called('esbuild, one call for all', once)]))
console.log(bytes())

function bytes(): string {
  const sum = (directory: string) =>
    files.reduce((total, file) => total + fs.statSync(path.join(directory, file)).size, 0)
  const [our, their] = [sum(ours), sum(theirs)]
  return `bytes that stay: ${our}, theirs ${their}; ${(our / their).toFixed(4)}x`
}
