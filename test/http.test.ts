/** The http driver against a real web server, in good and in bad manners. */
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { fileDriver } from '../src/drivers/file.ts'
import { httpFromUrl } from '../src/drivers/http/http.ts'
import { parseStorageUrl } from '../src/core/storage-url.ts'
import { testDriver } from '../src/testing/index.ts'
import { startServer, type Started } from './servers/start.ts'

interface WebServer {
  host: string
  port: number
  tlsPort: number
  mutualPort: number
  expiredPort: number
  files: string
  dav: string
  ca: string
  expiredCa: string
  identity: string
  user: string
  password: string
}

const server = startServer<WebServer>('web', ['nginx', 'openssl'])
if (server) testServer(server)
else
  test('http', {
    skip: 'the Debian packages nginx-light, libnginx-mod-http-dav-ext and openssl are not installed',
  }, () => {})

function testServer(web: Started<WebServer>) {
  after(() => web.stop())
  const { host, port, tlsPort, user, password } = web
  const login = `${encodeURIComponent(user)}:${encodeURIComponent(password)}`
  const suite = (name: string, base: string, parameters = '') =>
    testDriver(name, async () => {
      const place = randomUUID()
      return {
        driver: httpFromUrl(parseStorageUrl(`${base}/${place}${parameters}`)),
        writer: fileDriver({ directory: `${web.files}/${place}`, fsync: false }),
      }
    })
  suite('http', `http://${host}:${port}/files`)
  suite('https with a password', `https://${login}@${host}:${tlsPort}/private`, `?ca=${web.ca}`)
  suite('http without ranges', `http://${host}:${port}/no-ranges`)
  suite('http without sizes', `http://${host}:${port}/no-sizes`)
  suite('http without HEAD', `http://${host}:${port}/no-head`)
  suite('http without sizes and HEAD', `http://${host}:${port}/neither`)
}
