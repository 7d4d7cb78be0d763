/** Many small files and a large one by FTP to ProFTPD on loopback, beside rclone. Needs proftpd-core, rclone, time. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import * as path from 'node:path'
import { measure } from './measure.ts'
import { makeTree, rclone, report, stowage, workplace } from './scene.ts'
import { startFtp } from './servers.ts'

const base = workplace()
const { host, port, home } = startFtp()
const password = 'se"cret'
const url = (directory: string) =>
  `ftp://ftp:${encodeURIComponent(password)}@${host}:${port}/${directory}?connections=16`
const obscured = execFileSync('rclone', ['obscure', password], { encoding: 'utf8' }).trim()
const remote = `:ftp,host=${host},port=${port},user=ftp,pass=${obscured},concurrency=17`
const prepare = () => {
  for (const name of ['ours', 'theirs']) rmSync(path.join(home, name), { recursive: true, force: true })
}

const small = path.join(base, 'small')
makeTree(small, 2000, 4096)
report(
  '2,000 files of 4 KiB to FTP',
  measure(
    [
      stowage('stowage cp (sizes compared)', ['cp', '-r', '--max-connections', '16', small, url('ours')], prepare),
      stowage('stowage cp --verify', ['cp', '-r', '--max-connections', '16', '--verify', small, url('ours')], prepare),
      rclone(
        'rclone, 16 transfers, not verified',
        [
          'copy',
          small,
          `${remote}:theirs`,
          '--transfers',
          '16',
          '--checkers',
          '16',
          '--no-check-dest',
          '--ignore-checksum',
          '--size-only',
        ],
        undefined,
        prepare,
      ),
    ],
    3,
  ),
)

prepare()
mkdirSync(path.join(home, 'large'), { recursive: true })
writeFileSync(path.join(home, 'large/file'), randomBytes(256 << 20))
const target = path.join(base, 'fetched')
const empty = () => rmSync(target, { recursive: true, force: true })
report(
  'one file of 256 MiB from FTP',
  measure(
    [
      stowage('stowage get', ['get', url('large/file'), path.join(target, 'file')], empty),
      rclone(
        'rclone',
        [
          'copyto',
          `${remote}:large/file`,
          path.join(target, 'file'),
          '--ignore-checksum',
          '--multi-thread-streams',
          '0',
        ],
        undefined,
        empty,
      ),
    ],
    3,
  ),
)
