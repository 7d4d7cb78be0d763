/** A sync that finds nothing changed among 100,000 files, beside rclone's check of the same tree. Needs rclone, time. */
import { execFileSync } from 'node:child_process'
import * as path from 'node:path'
import { measure } from './measure.ts'
import { configure, makeTree, program, rclone, report, stowage, workplace } from './scene.ts'

const base = workplace()
const tree = path.join(base, 'tree')
makeTree(tree, 100_000, 16)
const config = configure(base, tree, `file://${base}/ours?fsync=false`)
execFileSync(process.execPath, [program, 'sync', ...config])
execFileSync('rclone', ['--config', '', 'sync', tree, path.join(base, 'theirs')])

report(
  '100,000 files, nothing changed',
  measure([
    stowage('stowage sync', ['sync', ...config]),
    rclone('rclone sync, local to local', ['sync', '--checkers', '8', tree, path.join(base, 'theirs')]),
  ]),
)
