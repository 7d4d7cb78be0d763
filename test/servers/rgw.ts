/** Starts the S3 server of rgw.sh for a test file, or says why it cannot. */
import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { s3Driver, type S3Options } from '../../src/drivers/s3/s3.ts'
import { fixedCredentials } from '../../src/drivers/s3/credentials.ts'
import { Service } from '../../src/drivers/s3/service.ts'
import type { Driver } from '../../src/store/driver.ts'
import { startServer } from './start.ts'

/** A running S3 server and two of its users. */
export interface TestServer {
  host: string
  port: number
  tlsPort: number
  ca: string
  /** The name of a bucket of this run: the server may have been running before. */
  named(bucket: string): string
  /** Everything a driver needs to reach a bucket. */
  options(bucket: string, more?: Partial<S3Options>): S3Options
  /** Makes a bucket and opens it. */
  bucket(name: string, more?: Partial<S3Options>): Promise<Driver>
  /** Speaks to a bucket without a driver. */
  service(bucket: string): Service
  /** Says that this test file needs the server no more. */
  stop(): void
}

const programs = ['radosgw', 'ceph-mon', 'ceph-osd', 'ceph-authtool', 'openssl']

/** Undefined where the server is not installed; never in CI, where that is a failure. */
export function startS3(): TestServer | undefined {
  const found = startServer<{ host: string; port: number; tlsPort: number; ca: string }>('rgw', programs)
  if (!found) return undefined
  const { host, port, tlsPort, stop } = found
  const ca = readFileSync(found.ca, 'utf8')
  const run = randomBytes(4).toString('hex')
  const named = (bucket: string) => `${bucket}-${run}`
  const options = (bucket: string, more: Partial<S3Options> = {}): S3Options => ({
    host,
    port,
    tls: false,
    bucket: named(bucket),
    region: 'us-east-1',
    pathStyle: true,
    signPayload: false,
    accessKeyId: 'testkey',
    secretAccessKey: 'testsecret',
    ...more,
  })
  const service = (bucket: string) =>
    new Service({
      ...options(bucket),
      credentials: fixedCredentials({ accessKeyId: 'testkey', secretAccessKey: 'testsecret' }),
    })
  return {
    host,
    port,
    tlsPort,
    ca,
    named,
    options,
    service,
    bucket: async (name, more) => {
      const maker = service(name)
      await (await maker.request({ method: 'PUT' })).bytes()
      await maker.close()
      return s3Driver(options(name, more))
    },
    stop,
  }
}
