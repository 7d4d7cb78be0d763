/** The servers of the tests, for measurements. They end with this process. */
import { startServer } from '../test/servers/start.ts'

/** OpenSSH on loopback: an account with a key. */
export function startSftp() {
  const found = startServer<{ host: string; port: number; user: string; home: string }>('sftp', [
    'sshd',
    'proftpd',
    'openssl',
  ])
  if (!found) throw new Error('openssh-server and proftpd-core are not installed.')
  process.on('exit', () => found.stop())
  return found
}

/** ProFTPD on loopback. */
export function startFtp() {
  const found = startServer<{ host: string; port: number; home: string }>('ftp', ['proftpd', 'openssl'])
  if (!found) throw new Error('proftpd-core is not installed.')
  process.on('exit', () => found.stop())
  return found
}
