/** `stowage cloudfront`: distributions of buckets. */
import { StowageError } from '../core/errors.ts'
import { urlBelow } from '../core/public-url.ts'
import { CloudFront, type Distribution } from '../drivers/cloudfront.ts'
import type { Context } from './main.ts'
import { exitCodes } from './output.ts'

interface Options {
  bucket?: string
  comment?: string
  originAccessControl?: string
  wait?: boolean
}

/** Makes a distribution, or makes one forget keys. It uses the credentials of AWS's usual chain. */
export async function run(context: Context, values: string[], options: Options): Promise<number | undefined> {
  const [action, distribution, ...keys] = values
  if (action === 'create' && distribution === undefined) return create(context, options)
  if (action === 'invalidate') return invalidate(context, distribution, keys)
  throw invalid('cloudfront can create --bucket NAME, or invalidate DISTRIBUTION KEY….')
}

async function create({ output, signal }: Context, options: Options): Promise<number | undefined> {
  const { bucket, comment, originAccessControl, wait } = options
  if (bucket === undefined || !/^[a-z0-9.-]+\.s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?$/.test(bucket))
    throw invalid('--bucket must be the domain name of a bucket.', 'Write --bucket NAME.s3.amazonaws.com.')
  await using cloudFront = new CloudFront()
  const wanted = { bucket, ...(comment && { comment }), ...(originAccessControl && { originAccessControl }) }
  // Not cut short by Ctrl-C: what was made should be told.
  const made = await cloudFront.create(wanted)
  output.line('Created distribution')
  describe(made).forEach((line) => output.line(line))
  if (!wait) {
    output.object(made)
    return undefined
  }
  let asked = 0
  const onPoll = () => output.progress(() => `Deploying${'.'.repeat(++asked)}`, { everywhere: true })
  try {
    const deployed = await cloudFront.deployed(made.id, { signal, onPoll })
    output.line('The distribution has been deployed.')
    output.object(deployed)
    return undefined
  } catch (error) {
    output.object(made)
    output.note(`No longer waiting. The distribution ${made.id} is there, and goes on being deployed.`)
    if (signal.aborted) return exitCodes.interrupted
    throw error
  }
}

function describe({ id, domainName, origin, status, comment }: Distribution): string[] {
  return Object.entries({ 'domain name': domainName, origin, status, comment, id }).map(
    ([name, value]) => `  ${name}: ${value}`,
  )
}

async function invalidate(
  { output, signal }: Context,
  distribution: string | undefined,
  keys: string[],
): Promise<undefined> {
  if (distribution === undefined || keys.length === 0)
    throw invalid('cloudfront invalidate needs a distribution and keys.', 'A key may end in *.')
  // As in URLs. A star at the end is the service's own wildcard, and is not changed by this.
  const paths = keys.map((key) => urlBelow('', key.replace(/^\/+/, '')))
  await using cloudFront = new CloudFront()
  const invalidations = await cloudFront.invalidate(distribution, paths, { signal })
  output.object({ distribution, paths, invalidations })
  output.line(
    `${distribution} forgets ${paths.length} ${paths.length === 1 ? 'path' : 'paths'} (invalidation ${invalidations.join(', ')}).`,
  )
  return undefined
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, hint === undefined ? {} : { hint })
}
