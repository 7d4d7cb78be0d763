/** The CloudFront distributions that destinations name, each reached with the credentials of its store. */
import { parseStorageUrl } from '../core/storage-url.ts'
import { CloudFront, type CloudFrontOptions } from '../drivers/cloudfront.ts'
import type { Config } from './config.ts'

/** Connections to CloudFront, each made when it is first needed. */
export class Distributions {
  readonly #config: Config
  readonly #opened = new Map<string, CloudFront>()

  constructor(config: Config) {
    this.#config = config
  }

  /** Makes a distribution forget paths. */
  async invalidate(distribution: string, paths: readonly string[], signal: AbortSignal): Promise<void> {
    let cloudFront = this.#opened.get(distribution)
    if (!cloudFront) {
      cloudFront = new CloudFront(this.#optionsOf(distribution))
      this.#opened.set(distribution, cloudFront)
    }
    await cloudFront.invalidate(distribution, paths, { signal })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#opened.values()].map(async (each) => each.close()))
  }

  /** A bucket that is reached with a key of its own has a distribution that is, too. */
  #optionsOf(distribution: string): CloudFrontOptions {
    const destinations = this.#config.rules.flatMap((rule) => rule.destinations)
    const store = destinations.find((to) => to.invalidate === distribution)?.store ?? ''
    const url = [this.#config.stores[store]?.url ?? []].flat().find((each) => each.startsWith('s3:'))
    const { user, password, parameters } = url === undefined ? {} : parseStorageUrl(url)
    const sessionToken = parameters?.text('session_token')
    if (user === undefined || password === undefined) return {}
    return { credentials: { accessKeyId: user, secretAccessKey: password, ...(sessionToken && { sessionToken }) } }
  }
}
