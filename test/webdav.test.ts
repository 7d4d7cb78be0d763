/** The webdav driver against two real servers that do the same in different ways. */
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { webdavDriver, webdavFromUrl } from '../src/drivers/webdav/webdav.ts'
import type { Driver } from '../src/store/driver.ts'
import { prefixed } from '../src/store/wrappers/prefix.ts'
import { testDriver } from '../src/testing/index.ts'
import { startServer, type Started } from './servers/start.ts'

interface DavServer {
  host: string
  port: number
  tlsPort: number
  ca: string
  user: string
  password: string
}

const apache = startServer<DavServer>('dav', ['apache2', 'openssl'])
const nginx = startServer<DavServer>('web', ['nginx', 'openssl'])
after(() => {
  apache?.stop()
  nginx?.stop()
})
if (apache && nginx) testServers(apache, nginx)
else
  test('webdav', {
    skip: 'the Debian packages apache2, nginx-light, libnginx-mod-http-dav-ext and openssl are not installed',
  }, () => {})

/** A folder of its own, which is not there yet. */
function opened({ host, port, tlsPort, ca, user, password }: DavServer, folder: string, tls = false): Driver {
  const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
  const place = tls ? `webdavs://${login}@${host}:${tlsPort}` : `webdav://${login}@${host}:${port}`
  return webdavFromUrl(parseStorageUrl(`${place}/${folder}/${randomUUID()}/b c${tls ? `?ca=${ca}` : ''}`))
}

function testServers(apache: Started<DavServer>, nginx: Started<DavServer>) {
  testDriver('webdav', async () => ({ driver: opened(apache, 'basic') }))
  testDriver('webdav with Digest', async () => ({ driver: opened(apache, 'digest') }))
  testDriver('webdavs', async () => ({ driver: opened(apache, 'basic', true) }))
  testDriver('webdav by temporary names, of a server that takes away what is replaced', async () => {
    const { host, port, user, password } = apache
    const home = `basic/${randomUUID()}`
    const options = { host, port, tls: false, login: { user, password }, home, directPut: 'never' as const }
    return { driver: prefixed(webdavDriver(options), home) }
  })
  testDriver('webdav of nginx', async () => {
    const driver = opened(nginx, 'dav')
    const refuses = [{ pattern: /(^|\/)\./, reason: 'It lists no names that begin with a dot.' }]
    return { driver: { ...driver, supports: { ...driver.supports, refuses } } }
  })
}
