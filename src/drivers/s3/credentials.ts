/** Where credentials come from when the URL has none: the places AWS's own tools look, in their order. */
import { readFileSync } from 'node:fs'
import { homedir } from 'node:os'
import * as path from 'node:path'
import { StowageError } from '../../core/errors.ts'
import type { Credentials } from './sign.ts'
import { readXml, textOf } from './xml.ts'

/** Gives credentials, fresh ones when the last are about to end. */
export type CredentialSource = () => Promise<Credentials>

/** Credentials that are about to end are replaced so long before. */
const marginMs = 5 * 60_000
const patienceMs = 5_000

interface Step {
  name: string
  /** Undefined when this place has nothing to say. */
  find: (region: string) => Promise<Credentials | undefined>
}

const steps: Step[] = [
  { name: 'the environment (AWS_ACCESS_KEY_ID)', find: async () => fromEnvironment() },
  { name: 'a web identity (AWS_WEB_IDENTITY_TOKEN_FILE)', find: fromWebIdentity },
  { name: 'the shared files (~/.aws/credentials)', find: async () => fromSharedFiles() },
  { name: 'the container (AWS_CONTAINER_CREDENTIALS_FULL_URI)', find: fromContainer },
  { name: 'the instance (IMDSv2)', find: fromInstance },
]

/** Always the same ones. */
export function fixedCredentials(credentials: Credentials): CredentialSource {
  return async () => credentials
}

/**
 * Looks at each place in turn, and remembers what it found until five minutes before that ends. However many ask at
 * once, there is one search. Rejects with DENIED naming all places.
 */
export function credentialChain(region: string): CredentialSource {
  let known: Credentials | undefined
  let searching: Promise<Credentials> | undefined
  const renew = async () => {
    try {
      known = await search(region)
      return known
    } catch (error) {
      // They are renewed early so that a failure of those who renew them can be lived with for a while.
      if (known?.expiresMs !== undefined && known.expiresMs > Date.now()) return known
      throw error
    } finally {
      searching = undefined
    }
  }
  return async () => {
    if (known && (known.expiresMs === undefined || known.expiresMs - marginMs > Date.now())) return known
    searching ??= renew()
    return searching
  }
}

async function search(region: string): Promise<Credentials> {
  const tried: string[] = []
  for (const { name, find } of steps)
    try {
      const credentials = await find(region)
      if (credentials) return credentials
      tried.push(name)
    } catch (error) {
      tried.push(`${name}: ${(error as Error).message}`)
    }
  throw new StowageError('DENIED', `There are no credentials for S3. Looked at ${tried.join('; ')}.`, {
    hint: 'Put them into the URL as s3://env:KEY:env:SECRET@host/…, or into one of these places.',
  })
}

function fromEnvironment(): Credentials | undefined {
  const {
    AWS_ACCESS_KEY_ID: accessKeyId,
    AWS_SECRET_ACCESS_KEY: secretAccessKey,
    AWS_SESSION_TOKEN: sessionToken,
  } = process.env
  if (!accessKeyId || !secretAccessKey) return undefined
  return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) }
}

function fromSharedFiles(): Credentials | undefined {
  const profile = process.env['AWS_PROFILE'] || 'default'
  const home = path.join(homedir(), '.aws')
  const files = [
    [process.env['AWS_SHARED_CREDENTIALS_FILE'] || path.join(home, 'credentials'), profile],
    [
      process.env['AWS_CONFIG_FILE'] || path.join(home, 'config'),
      profile === 'default' ? profile : `profile ${profile}`,
    ],
  ] as const
  for (const [file, section] of files) {
    const values = readSection(file, section)
    const {
      aws_access_key_id: accessKeyId,
      aws_secret_access_key: secretAccessKey,
      aws_session_token: sessionToken,
    } = values
    if (accessKeyId && secretAccessKey)
      return { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) }
  }
  return undefined
}

function readSection(file: string, wanted: string): Record<string, string> {
  const values: Record<string, string> = Object.create(null)
  let section = ''
  let text = ''
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    return values
  }
  for (const line of text.split(/\r?\n/)) {
    const header = /^\s*\[\s*(.+?)\s*\]/.exec(line)?.[1]
    const [, name, value] = /^([\w-]+)\s*=\s*(.*?)\s*$/.exec(line) ?? []
    if (header !== undefined) section = header.replace(/\s+/g, ' ')
    else if (section === wanted && name && value !== undefined) values[name] = value
  }
  return values
}

async function fromWebIdentity(region: string): Promise<Credentials | undefined> {
  const { AWS_WEB_IDENTITY_TOKEN_FILE: file, AWS_ROLE_ARN: role, AWS_ROLE_SESSION_NAME: session } = process.env
  if (!file || !role) return undefined
  const form = new URLSearchParams({
    Action: 'AssumeRoleWithWebIdentity',
    Version: '2011-06-15',
    RoleArn: role,
    RoleSessionName: session || 'stowage',
    WebIdentityToken: readFileSync(file, 'utf8').trim(),
  })
  const domain = region.startsWith('cn-') ? 'amazonaws.com.cn' : 'amazonaws.com'
  const endpoint = process.env['AWS_ENDPOINT_URL_STS'] || `https://sts.${region}.${domain}/`
  const response = await ask(endpoint, { method: 'POST', body: form })
  const tree = readXml(Buffer.from(await response.arrayBuffer()))
  const credentials = tree.children['AssumeRoleWithWebIdentityResult']?.[0]?.children['Credentials']?.[0]
  if (!credentials) throw new Error('the answer has no credentials')
  return checked({
    AccessKeyId: textOf(credentials, 'AccessKeyId'),
    SecretAccessKey: textOf(credentials, 'SecretAccessKey'),
    Token: textOf(credentials, 'SessionToken'),
    Expiration: textOf(credentials, 'Expiration'),
  })
}

async function fromContainer(): Promise<Credentials | undefined> {
  const { AWS_CONTAINER_CREDENTIALS_FULL_URI: full, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: relative } = process.env
  const url = full || (relative ? `http://169.254.170.2${relative}` : undefined)
  if (!url) return undefined
  const file = process.env['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE']
  const token = file ? readFileSync(file, 'utf8').trim() : process.env['AWS_CONTAINER_AUTHORIZATION_TOKEN']
  const response = await ask(url, { headers: token ? { authorization: token } : {} })
  return checked((await response.json()) as Answer)
}

async function fromInstance(): Promise<Credentials | undefined> {
  if (process.env['AWS_EC2_METADATA_DISABLED']?.toLowerCase() === 'true') return undefined
  const base = process.env['AWS_EC2_METADATA_SERVICE_ENDPOINT'] || 'http://169.254.169.254'
  const ttl = { 'x-aws-ec2-metadata-token-ttl-seconds': '21600' }
  // Elsewhere than on such a machine nobody answers; that is no reason to wait long.
  const response = await ask(`${base}/latest/api/token`, {
    method: 'PUT',
    headers: ttl,
    signal: AbortSignal.timeout(1000),
  }).catch(() => undefined)
  if (!response) return undefined
  const headers = { 'x-aws-ec2-metadata-token': await response.text() }
  const roles = `${base}/latest/meta-data/iam/security-credentials/`
  const role = (await (await ask(roles, { headers })).text()).split('\n')[0]
  return checked((await (await ask(roles + role, { headers })).json()) as Answer)
}

interface Answer {
  AccessKeyId?: string | undefined
  SecretAccessKey?: string | undefined
  Token?: string | undefined
  Expiration?: string | undefined
}

function checked({ AccessKeyId, SecretAccessKey, Token, Expiration }: Answer): Credentials {
  if (!AccessKeyId || !SecretAccessKey) throw new Error('the answer has no credentials')
  return {
    accessKeyId: AccessKeyId,
    secretAccessKey: SecretAccessKey,
    ...(Token ? { sessionToken: Token } : {}),
    ...(Expiration ? { expiresMs: Date.parse(Expiration) } : {}),
  }
}

async function ask(url: string, options: RequestInit): Promise<Response> {
  const response = await fetch(url, { signal: AbortSignal.timeout(patienceMs), redirect: 'error', ...options })
  if (!response.ok) throw new Error(`${new URL(url).host} answered ${response.status}`)
  return response
}
