/** The ways to reach a place that test/faults.test.ts puts a proxy into, and what each protocol has against faults. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { after } from 'node:test'
import { fileDriver } from '../../src/drivers/file.ts'
import { httpDriver } from '../../src/drivers/http/http.ts'
import { s3Driver, type S3Options } from '../../src/drivers/s3/s3.ts'
import { Service } from '../../src/drivers/swift/service.ts'
import { swiftDriver, type SwiftOptions } from '../../src/drivers/swift/swift.ts'
import { webdavDriver, type WebdavOptions } from '../../src/drivers/webdav/webdav.ts'
import type { Driver } from '../../src/store/driver.ts'
import { prefixed } from '../../src/store/wrappers/prefix.ts'
import { FaultProxy, type Way } from './fault-proxy.ts'
import { startS3 } from './rgw.ts'
import { startServer } from './start.ts'

/** Time limits in milliseconds. */
export interface Limits {
  timeoutMs?: number
  connectTimeoutMs?: number
}

/** A way to reach a place. */
export interface Row {
  /** A proxy before its server. */
  front(): Promise<FaultProxy>
  /** A driver for one directory of it, straight or through a proxy. */
  open(directory: string, through?: FaultProxy, limits?: Limits): Driver
  /** Fills that directory, where the driver takes no writes. */
  writer?(directory: string): Driver
  /** Does anything notice that a bit of a body was turned over? Where not, the protocol carries nothing to notice it by. */
  noticesFlips: Record<Way, boolean>
  /** Bodies to write: bytes, and whether their number is announced. */
  bodies: { size: number; isAnnounced: boolean }[]
  /** Default 500. */
  answersWithinMs?: number
  /** Files in a listing; more than a page of it, where there are pages. */
  files: number
}

const run = randomBytes(4).toString('hex')
const sized = { size: 300_000, isAnnounced: true }
const bodies = [{ size: 3_000, isAnnounced: true }, sized, { size: 300_000, isAnnounced: false }]
/** Nothing on the way knows what the bytes should be. */
const unprotected = { up: false, down: false }

/** Each kind of place, with how it is reached; nothing where its server is not installed. */
export const kinds: Record<string, () => Promise<Record<string, Row>>> = {
  s3: s3Rows,
  http: async () => httpRows(),
  webdav: async () => webdavRows(),
  swift: swiftRows,
}

async function s3Rows(): Promise<Record<string, Row>> {
  const s3 = startS3()
  if (!s3) return {}
  after(() => s3.stop())
  const row = async (port: number, bucket: string, more: Partial<S3Options>) => {
    await (await s3.bucket(bucket)).close()
    return {
      front: async () => FaultProxy.open([port]),
      open: (directory: string, through?: FaultProxy, limits?: Limits) =>
        prefixed(s3Driver(s3.options(bucket, { ...more, ...limits, port: through?.port ?? port })), directory),
    }
  }
  const tls = { tls: true, host: 's3.localhost', ca: s3.ca, pathStyle: false }
  return {
    // The digest of every body is signed; what comes down over plain HTTP has nothing.
    s3: {
      ...(await row(s3.port, 'faults', { signPayload: true })),
      noticesFlips: { up: true, down: false },
      bodies: [...bodies, { size: 20 << 20, isAnnounced: true }],
      files: 1_200,
    },
    's3 over TLS': {
      ...(await row(s3.tlsPort, 'faults-tls', tls)),
      noticesFlips: { up: true, down: true },
      bodies: [sized],
      files: 30,
    },
  }
}

/** What the scripts of the web servers say. */
interface WebServer {
  host: string
  port: number
  tlsPort: number
  ca: string
  files: string
  user: string
  password: string
}

function httpRows(): Record<string, Row> {
  const web = startServer<WebServer>('web', ['nginx', 'openssl'])
  if (!web) return {}
  after(() => web.stop())
  const { host, port, tlsPort, files } = web
  const writer = (directory: string) => fileDriver({ directory: `${files}/faults-${run}/${directory}`, fsync: false })
  const row = (target: number, folder: string, more: { tls: boolean; ca?: string }) => ({
    front: async () => FaultProxy.open([target]),
    open: (directory: string, through?: FaultProxy, limits?: Limits) =>
      prefixed(
        httpDriver({ host, port: through?.port ?? target, ...more, ...limits }),
        `${folder}/faults-${run}/${directory}`,
      ),
    writer,
    bodies: [],
    files: 0,
  })
  return {
    http: { ...row(port, 'files', { tls: false }), noticesFlips: unprotected },
    'http without sizes': { ...row(port, 'no-sizes', { tls: false }), noticesFlips: unprotected },
    https: {
      ...row(tlsPort, 'files', { tls: true, ca: readFileSync(web.ca, 'utf8') }),
      noticesFlips: { up: true, down: true },
    },
  }
}

function webdavRows(): Record<string, Row> {
  const apache = startServer<WebServer>('dav', ['apache2', 'openssl'])
  const nginx = startServer<WebServer>('web', ['nginx', 'openssl'])
  if (!apache || !nginx) return {}
  after(() => {
    apache.stop()
    nginx.stop()
  })
  const row = ({ host, port, user, password }: WebServer, folder: string, more: Partial<WebdavOptions> = {}) => ({
    front: async () => FaultProxy.open([port]),
    open: (directory: string, through?: FaultProxy, limits?: Limits) => {
      const home = `${folder}/faults-${run}/${directory}`
      const options = { host, tls: false, login: { user, password }, home, ...more, ...limits }
      return prefixed(webdavDriver({ ...options, port: through?.port ?? port }), home)
    },
    noticesFlips: unprotected,
    bodies,
    files: 60,
  })
  return {
    webdav: row(apache, 'basic'),
    'webdav of a server where it has to rename': row(apache, 'basic', { directPut: 'never' }),
    'webdav of nginx': row(nginx, 'dav'),
  }
}

async function swiftRows(): Promise<Record<string, Row>> {
  const found = startServer<WebServer>('swift', ['swift-proxy-server', 'memcached', 'keystone-manage', 'curl'])
  if (!found) return {}
  after(() => found.stop())
  const { host, port } = found
  const container = `faults-${run}`
  const login = { version: 1, user: 'test:tester', key: 'testing' } as const
  const options: SwiftOptions = { host, port, tls: false, login, container }
  const service = new Service(options)
  await (await service.request({ method: 'PUT', path: `/${container}` })).bytes()
  await service.close()
  return {
    // The service compares the digest that goes up.
    swift: {
      front: async () => FaultProxy.open([port]),
      open: (directory, through, limits) =>
        prefixed(swiftDriver({ ...options, ...limits, port: through?.port ?? port, segmentSize: 200_000 }), directory),
      noticesFlips: { up: true, down: false },
      bodies,
      answersWithinMs: 2_000,
      files: 1_100,
    },
  }
}
