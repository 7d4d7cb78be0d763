/** Many small files and few large ones to an S3-shaped sink on loopback, beside rclone. Needs nginx-light, rclone, time. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import * as path from 'node:path'
import { measure } from './measure.ts'
import { configure, makeTree, rclone, report, startDelay, startSink, stowage, workplace } from './scene.ts'

const base = workplace()
const port = startSink()
const url = (at: number) => `s3://key:secret@127.0.0.1:${at}/ours?s3_bucket=bench&use_ssl=false`
// Its best flags: nothing else is left for it to leave out.
const quick = ['--s3-no-head', '--no-check-dest', '--s3-no-check-bucket', '--s3-disable-checksum', '--ignore-checksum']

const small = path.join(base, 'small')
makeTree(small, 5000, 4096)
const fresh = () => rmSync(path.join(base, 'state'), { recursive: true, force: true })
const peers = (at: number, transfers: number) =>
  rclone(
    `rclone, ${transfers} transfers`,
    ['copy', small, 'sink:bench/theirs', '--transfers', String(transfers), '--checkers', '32', ...quick],
    at,
  )

report(
  '5,000 files of 4 KiB, no latency',
  measure([
    stowage('stowage cp', ['cp', '-r', small, url(port)]),
    stowage('stowage sync (with ledger)', ['sync', ...configure(base, small, url(port))], fresh),
    peers(port, 32),
  ]),
)

const slow = await startDelay(port, 20)
report(
  '5,000 files of 4 KiB, 20 ms latency',
  measure(
    [
      stowage('stowage cp, 32 connections', ['cp', '-r', '--max-connections', '32', small, url(slow)]),
      stowage('stowage cp, adapting', ['cp', '-r', small, url(slow)]),
      stowage('stowage sync, adapting', ['sync', ...configure(base, small, url(slow))], fresh),
      peers(slow, 32),
    ],
    3,
  ),
)

const large = path.join(base, 'large')
mkdirSync(large)
for (let i = 0; i < 4; i++) writeFileSync(path.join(large, `f${i}`), randomBytes(256 << 20))
report(
  '4 files of 256 MiB, no latency',
  measure(
    [
      stowage('stowage cp', ['cp', '-r', large, url(port)]),
      stowage('stowage sync (with ledger)', ['sync', ...configure(base, large, url(port))], fresh),
      rclone(
        'rclone, single PUT',
        ['copy', large, 'sink:bench/theirs', '--transfers', '4', '--s3-upload-cutoff', '5G', ...quick],
        port,
      ),
    ],
    3,
  ),
)
