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
    const url = this.#urlOf(distribution)
    // The place of a store may be replaced, and then so are its credentials.
    const name = `${distribution} ${url}`
    let cloudFront = this.#opened.get(name)
    if (!cloudFront) {
      cloudFront = new CloudFront(optionsOf(url))
      this.#opened.set(name, cloudFront)
    }
    await cloudFront.invalidate(distribution, paths, { signal })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#opened.values()].map(async (each) => each.close()))
  }

  #urlOf(distribution: string): string | undefined {
    const destinations = this.#config.rules.flatMap((rule) => rule.destinations)
    const store = destinations.find((to) => to.invalidate === distribution)?.store ?? ''
    return [this.#config.stores[store]?.url ?? []].flat().find((each) => each.startsWith('s3:'))
  }
}

/** A bucket that is reached with a key of its own has a distribution that is, too. */
function optionsOf(url: string | undefined): CloudFrontOptions {
  const { user, password, parameters } = url === undefined ? {} : parseStorageUrl(url)
  const sessionToken = parameters?.text('session_token')
  if (user === undefined || password === undefined) return {}
  return { credentials: { accessKeyId: user, secretAccessKey: password, ...(sessionToken && { sessionToken }) } }
}
