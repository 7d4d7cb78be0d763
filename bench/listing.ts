/**
 * Peak memory of listing 1,000 and 100,000 keys of every kind of store: it must not depend on the number. File systems are
 * real servers; of S3, Swift and Azure the pages are made up, because what is measured is the client. Needs openssh-server,
 * proftpd-core, apache2, time.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { measure } from './measure.ts'
import { report, stowage, workplace } from './scene.ts'
import { startFtp, startSftp } from './servers.ts'
import { startServer } from '../test/servers/start.ts'

const counts = [100_000, 1000]
const base = workplace()
const sftp = startSftp()
const ftp = startFtp()
const dav = startServer<{ host: string; port: number; home: string; user: string; password: string; files: string }>(
  'dav',
  ['apache2', 'openssl'],
)
if (!dav) throw new Error('apache2 is not installed.')
process.on('exit', () => dav.stop())
const pages = await startPages()

/** A process of its own: the measurements block this one. */
async function startPages(): Promise<number> {
  const script = path.join(import.meta.dirname, 'servers/pages.ts')
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'inherit'] })
  process.on('exit', () => child.kill())
  const [port] = (await once(child.stdout, 'data')) as [Buffer]
  return Number(port.toString())
}

/** Makes `count` empty files, a thousand to a directory. */
function fill(directory: string, count: number) {
  for (let i = 0; i < count; i++) {
    const below = path.join(directory, `d${String(Math.floor(i / 1000)).padStart(3, '0')}`)
    if (i % 1000 === 0) mkdirSync(below, { recursive: true })
    writeFileSync(path.join(below, `f${i}`), '')
  }
}

for (const count of counts) {
  fill(path.join(base, String(count)), count)
  fill(path.join(sftp.home, 'files', String(count)), count)
  fill(path.join(ftp.home, String(count)), count)
  fill(path.join(dav.files, 'basic', String(count)), count)
}

const kinds: Record<string, (count: number) => string> = {
  file: (count) => `file://${base}/${count}`,
  sftp: (count) =>
    `sftp://${sftp.user}@${sftp.host}:${sftp.port}${sftp.home}/files/${count}?private_key=${sftp.home}/client&known_hosts=${sftp.home}/known_hosts`,
  ftp: (count) => `ftp://ftp:${encodeURIComponent('se"cret')}@${ftp.host}:${ftp.port}/${count}`,
  webdav: (count) => `webdav://${dav.user}:${encodeURIComponent(dav.password)}@${dav.host}:${dav.port}/basic/${count}`,
  s3: (count) => `s3://key:secret@127.0.0.1:${pages}/?s3_bucket=keys-${count}&use_ssl=false`,
  swift: (count) => `swift://user:key@127.0.0.1:${pages}/?container=keys-${count}&use_ssl=false`,
  azure: (count) => `azure://127.0.0.1:${pages}/keys-${count}?use_ssl=false&account=account&access_key=a2V5`,
}

for (const [kind, url] of Object.entries(kinds))
  report(
    `ls -r of ${kind}`,
    measure(
      counts.map((count) => stowage(`${count} keys`, ['ls', '-r', '--json', url(count)])),
      1,
    ),
  )
process.exit()
