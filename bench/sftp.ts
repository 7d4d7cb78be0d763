/** Many small files and a large one by SFTP to OpenSSH on loopback, beside rclone. Needs openssh-server, proftpd-core, rclone, time. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import * as path from 'node:path'
import { measure } from './measure.ts'
import { makeTree, rclone, report, stowage, workplace } from './scene.ts'
import { startSftp } from './servers.ts'

const base = workplace()
const { host, port, user, home } = startSftp()
const root = path.join(home, 'files')
const url = (directory: string, more = '') =>
  `sftp://${user}@${host}:${port}${root}/${directory}?private_key=${home}/client&known_hosts=${home}/known_hosts${more}`
const remote = `:sftp,host=${host},port=${port},user=${user},key_file=${home}/client`
// Its best flags: nothing is looked at before or after.
const quick = `${remote},disable_hashcheck=true,set_modtime=false,shell_type=none`
const clean = () => rmSync(root, { recursive: true, force: true })
const prepare = () => {
  clean()
  mkdirSync(root, { recursive: true })
}

const small = path.join(base, 'small')
makeTree(small, 2000, 4096)
report(
  '2,000 files of 4 KiB to SFTP; ours are read back and compared, its are not',
  measure(
    [
      stowage('stowage cp --verify', ['cp', '-r', '--verify', small, url('ours')], prepare),
      stowage(
        'stowage cp --verify, without fsync',
        ['cp', '-r', '--verify', small, url('ours', '&fsync=false')],
        prepare,
      ),
      stowage('stowage cp, without fsync', ['cp', '-r', small, url('ours', '&fsync=false')], prepare),
      rclone(
        'rclone, 32 transfers, not verified',
        [
          'copy',
          small,
          `${quick}:${root}/theirs`,
          '--transfers',
          '32',
          '--checkers',
          '32',
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

clean()
mkdirSync(path.join(root, 'large'), { recursive: true })
writeFileSync(path.join(root, 'large/file'), randomBytes(256 << 20))
const target = path.join(base, 'fetched')
const empty = () => rmSync(target, { recursive: true, force: true })
report(
  'one file of 256 MiB from SFTP',
  measure(
    [
      stowage('stowage get', ['get', url('large/file'), path.join(target, 'file')], empty),
      rclone(
        'rclone',
        [
          'copyto',
          `${remote},disable_hashcheck=true:${root}/large/file`,
          path.join(target, 'file'),
          '--ignore-checksum',
        ],
        undefined,
        empty,
      ),
    ],
    3,
  ),
)
