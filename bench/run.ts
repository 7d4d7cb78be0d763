/** `npm run bench -- NAME…`: runs the measurements of these names, or all, one after another. */
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'
import * as path from 'node:path'

const parts = ['measure', 'scene', 'servers', 'run']
const all = globSync('*.ts', { cwd: import.meta.dirname }).map((file) => path.parse(file).name)
const known = all.filter((name) => !parts.includes(name)).sort()
const wanted = process.argv.slice(2)
const unknown = wanted.filter((name) => !known.includes(name))
if (unknown.length > 0) {
  console.error(`There is no measurement ${unknown.join(', ')}. There are: ${known.join(', ')}.`)
  process.exit(2)
}
for (const name of wanted.length > 0 ? wanted : known) {
  const { status } = spawnSync(process.execPath, [path.join(import.meta.dirname, `${name}.ts`)], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
