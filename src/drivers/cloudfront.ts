/**
 * CloudFront before a bucket, through AWS's own client, which is loaded when it is needed and is no dependency: who uses
 * this installs it (docs.aws.amazon.com/cloudfront/latest/APIReference).
 */
import { randomUUID } from 'node:crypto'
import type { CloudFrontClient, Distribution as Described } from '@aws-sdk/client-cloudfront'
import { systemClock, type Clock } from '../core/clock.ts'
import { StowageError, type ErrorCode } from '../core/errors.ts'
import { urlBelow } from '../core/public-url.ts'
import type { StorageUrl } from '../core/storage-url.ts'
import type { CallOptions } from '../store/driver.ts'

/** How CloudFront is reached. */
export interface CloudFrontOptions {
  /** Default: the usual chain of AWS (environment, profile, workload identity). */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
  /** Another address of the API. Default: AWS_ENDPOINT_URL_CLOUDFRONT, else AWS. */
  endpoint?: string
  /** How long one request may take, in milliseconds. Default 30 s. */
  timeLimitMs?: number
  clock?: Clock
}

/** What is known about a distribution. */
export interface Distribution {
  id: string
  domainName: string
  origin: string
  /** `InProgress` until it is everywhere, then `Deployed`. */
  status: string
  comment: string
}

/** What a new distribution is made of. */
export interface NewDistribution {
  /** The bucket's own domain name: `NAME.s3.amazonaws.com`. */
  bucket: string
  comment?: string
  /** Id of the origin access control by which a bucket that is not public knows CloudFront. */
  originAccessControl?: string
}

/** CloudFront's own policy for files (Managed-CachingOptimized): what the files say of caching counts, a day if nothing. */
const cachingOptimized = '658327ea-f89d-4fab-a63d-7e88639e58f6'
/** So many paths may be on their way at once in one distribution; more are left to one wildcard. */
const mostPaths = 3000
const pollMs = 5000

type Module = typeof import('@aws-sdk/client-cloudfront')

/** The distributions of one account. Close it at the end. */
export class CloudFront {
  readonly #options: CloudFrontOptions
  readonly #clock: Clock
  #opened: Promise<{ sdk: Module; client: CloudFrontClient }> | undefined

  constructor(options: CloudFrontOptions = {}) {
    this.#options = options
    this.#clock = options.clock ?? systemClock
  }

  /** Makes a distribution that shows a bucket, over HTTPS. It is not deployed yet, see {@link deployed}. */
  async create(wanted: NewDistribution, options: CallOptions = {}): Promise<Distribution> {
    const { bucket, comment = '', originAccessControl } = wanted
    const answer = await this.#call(options, `create a distribution of ${bucket}`, async ({ sdk, client }, how) =>
      client.send(
        new sdk.CreateDistributionCommand({
          DistributionConfig: {
            CallerReference: randomUUID(),
            Comment: comment,
            Enabled: true,
            HttpVersion: 'http2and3',
            Origins: {
              Quantity: 1,
              Items: [
                {
                  Id: bucket,
                  DomainName: bucket,
                  S3OriginConfig: { OriginAccessIdentity: '' },
                  ...(originAccessControl && { OriginAccessControlId: originAccessControl }),
                },
              ],
            },
            DefaultCacheBehavior: {
              TargetOriginId: bucket,
              ViewerProtocolPolicy: 'redirect-to-https',
              CachePolicyId: cachingOptimized,
              Compress: true,
            },
          },
        }),
        how,
      ),
    )
    return distributionOf(answer.Distribution)
  }

  /** What is known about a distribution. Rejects with NOT_FOUND. */
  async get(id: string, options: CallOptions = {}): Promise<Distribution> {
    const answer = await this.#call(options, `look at the distribution ${id}`, async ({ sdk, client }, how) =>
      client.send(new sdk.GetDistributionCommand({ Id: id }), how),
    )
    return distributionOf(answer.Distribution)
  }

  /** Resolves when a distribution is deployed, which takes minutes. Asks every five seconds. */
  async deployed(
    id: string,
    options: CallOptions & { onPoll?: (distribution: Distribution) => void } = {},
  ): Promise<Distribution> {
    for (;;) {
      const found = await this.get(id, options)
      if (found.status === 'Deployed') return found
      options.onPoll?.(found)
      await this.#clock.sleep(pollMs, options.signal)
    }
  }

  /**
   * Makes CloudFront forget paths, as they stand in URLs: `/a%20b.css`, or `/css/*` for all that begin so. Of more than
   * 3,000 it forgets everything below the directory they share. Returns the ids of the invalidations.
   */
  async invalidate(distribution: string, paths: Iterable<string>, options: CallOptions = {}): Promise<string[]> {
    const all = [...new Set(paths)].sort()
    if (all.length === 0) return []
    const Items = all.length > mostPaths ? [sharedWildcard(all)] : all
    const answer = await this.#call(options, `invalidate paths of ${distribution}`, async ({ sdk, client }, how) =>
      client.send(
        new sdk.CreateInvalidationCommand({
          DistributionId: distribution,
          InvalidationBatch: { CallerReference: randomUUID(), Paths: { Quantity: Items.length, Items } },
        }),
        how,
      ),
    )
    return answer.Invalidation?.Id === undefined ? [] : [answer.Invalidation.Id]
  }

  /** Releases connections. */
  async close(): Promise<void> {
    const opened = await this.#opened?.catch(() => undefined)
    opened?.client.destroy()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #call<T>(
    { signal }: CallOptions,
    what: string,
    work: (opened: { sdk: Module; client: CloudFrontClient }, how: { abortSignal: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    const limit = AbortSignal.timeout(this.#options.timeLimitMs ?? 30_000)
    const opened = await (this.#opened ??= this.#open())
    try {
      return await work(opened, { abortSignal: signal ? AbortSignal.any([signal, limit]) : limit })
    } catch (error) {
      throw explain(error, `CloudFront did not ${what}`, signal, limit)
    }
  }

  async #open() {
    const { credentials, endpoint } = this.#options
    const sdk = await load()
    // There is one CloudFront for all regions, signed for as that of us-east-1.
    const client = new sdk.CloudFrontClient({
      region: 'us-east-1',
      ...(credentials && { credentials }),
      ...(endpoint !== undefined && { endpoint }),
    })
    return { sdk, client }
  }
}

/**
 * The public URL of a store whose URL names a distribution (`cloudfront_domain`): the distribution shows the bucket, and
 * the store is a prefix in it. Undefined where none is named.
 */
export function cloudFrontUrl({ path, parameters }: StorageUrl): string | undefined {
  const domain = parameters.text('cloudfront_domain')
  if (domain === undefined) return undefined
  if (!/^[a-z0-9-]+(\.[a-z0-9-]+)+$/i.test(domain))
    throw new StowageError('INVALID_ARGUMENT', 'The parameter cloudfront_domain is not a domain name.', {
      hint: 'Write for example cloudfront_domain=d111111abcdef8.cloudfront.net.',
    })
  return urlBelow(`https://${domain}`, path)
}

async function load(): Promise<Module> {
  try {
    return await import('@aws-sdk/client-cloudfront')
  } catch (error) {
    throw new StowageError('UNSUPPORTED', 'The client of CloudFront is not installed.', {
      cause: error,
      hint: 'Run: npm install @aws-sdk/client-cloudfront',
    })
  }
}

/** The wildcard of the longest directory that all paths share. */
function sharedWildcard(sorted: readonly string[]): string {
  const [first = '/', last = '/'] = [sorted[0], sorted.at(-1)]
  let length = 0
  while (length < first.length && first[length] === last[length]) length++
  return `${first.slice(0, first.lastIndexOf('/', length - 1) + 1)}*`
}

function distributionOf(described: Described | undefined): Distribution {
  const { Id, DomainName, Status, DistributionConfig } = described ?? {}
  if (Id === undefined || DomainName === undefined)
    throw new StowageError('UNKNOWN', 'CloudFront answered without a distribution.')
  return {
    id: Id,
    domainName: DomainName,
    origin: DistributionConfig?.Origins?.Items?.[0]?.DomainName ?? '',
    status: Status ?? '',
    comment: DistributionConfig?.Comment ?? '',
  }
}

/** The service's errors by their names, in our words. */
const codes: Record<string, ErrorCode> = {
  __proto__: null as never,
  AccessDenied: 'DENIED',
  AccessDeniedException: 'DENIED',
  CredentialsProviderError: 'DENIED',
  ExpiredToken: 'DENIED',
  InvalidClientTokenId: 'DENIED',
  SignatureDoesNotMatch: 'DENIED',
  NoSuchDistribution: 'NOT_FOUND',
  DistributionAlreadyExists: 'EXISTS',
  TooManyInvalidationsInProgress: 'THROTTLED',
  Throttling: 'THROTTLED',
  ThrottlingException: 'THROTTLED',
  TimeoutError: 'TIMEOUT',
}

function explain(error: unknown, what: string, signal: AbortSignal | undefined, limit: AbortSignal): unknown {
  if (error instanceof StowageError) return error
  if (signal?.aborted) return new StowageError('ABORTED', 'The call was cancelled.', { cause: error })
  const { name, message, $metadata, code } = error as Error & {
    $metadata?: { httpStatusCode?: number }
    code?: string
  }
  const status = $metadata?.httpStatusCode
  const found = limit.aborted ? 'TIMEOUT' : (codes[name] ?? codeOfStatus(status, code))
  const reason = [name === 'Error' ? code : name, message].filter(Boolean).join(': ').replace(/\.?$/, '.')
  const hint = name === 'CredentialsProviderError' ? 'Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.' : undefined
  return new StowageError(found, `${what}: ${reason}`, { cause: error, ...(hint !== undefined && { hint }) })
}

function codeOfStatus(status: number | undefined, errno: string | undefined): ErrorCode {
  if (status === undefined) return errno === undefined ? 'UNKNOWN' : 'UNREACHABLE'
  if (status === 429) return 'THROTTLED'
  if (status >= 500) return 'UNREACHABLE'
  if (status === 401 || status === 403) return 'DENIED'
  return status === 404 ? 'NOT_FOUND' : 'INVALID_ARGUMENT'
}
