/** Reaching a container with the official client, which is loaded when it is first needed, and signing URLs for it. */
import type { TokenCredential } from '@azure/identity'
import type { ContainerClient, StorageSharedKeyCredential } from '@azure/storage-blob'
import { StowageError } from '../../core/errors.ts'

/** Who we are. */
export type AzureLogin =
  | { kind: 'key'; key: string }
  | { kind: 'sas'; token: string }
  | { kind: 'principal'; tenantId: string; clientId: string; clientSecret: string }
  /** What the environment, the machine or the command line of Azure say. */
  | { kind: 'ambient' }
  | { kind: 'anonymous' }

/** Where a container is. */
export interface AzureAccount {
  /** Name of the account. */
  account: string
  /** Address of the account, without a slash at its end: `https://acme.blob.core.windows.net`. */
  endpoint: string
  container: string
  login: AzureLogin
}

type Blobs = typeof import('@azure/storage-blob')

/** A container, and what signs for it. */
export interface Opened {
  blobs: Blobs
  container: ContainerClient
  sharedKey: StorageSharedKeyCredential | undefined
}

/** A signature works from so long before it was made, because clocks differ. */
const skewMs = 5 * 60_000

/** Opens a container. Nothing is contacted yet. Rejects with INVALID_CONFIG where a package is missing. */
export async function openContainer({ account, endpoint, container, login }: AzureAccount): Promise<Opened> {
  const blobs = await loaded('@azure/storage-blob', async () => import('@azure/storage-blob'))
  const sharedKey = login.kind === 'key' ? new blobs.StorageSharedKeyCredential(account, login.key) : undefined
  const credential = sharedKey ?? (await tokenOf(login)) ?? new blobs.AnonymousCredential()
  const address = `${endpoint}/${encodeURIComponent(container)}${login.kind === 'sas' ? `?${login.token}` : ''}`
  // What is worth repeating is repeated by whoever opened us, for all kinds of stores alike.
  const client = new blobs.ContainerClient(address, credential, { retryOptions: { maxTries: 1 } })
  return { blobs, container: client, sharedKey }
}

/** A URL that works without credentials until it expires (docs: "Create a service SAS", "Create a user delegation SAS"). */
export async function signUrl(
  { account, endpoint, login }: AzureAccount,
  { blobs, container, sharedKey }: Opened,
  key: string,
  { method, expiresInSeconds }: { method: 'GET' | 'PUT'; expiresInSeconds: number },
): Promise<string> {
  const values = {
    containerName: container.containerName,
    blobName: key,
    permissions: blobs.BlobSASPermissions.parse(method === 'GET' ? 'r' : 'cw'),
    startsOn: new Date(Date.now() - skewMs),
    expiresOn: new Date(Date.now() + expiresInSeconds * 1000),
    ...(endpoint.startsWith('https:') ? { protocol: blobs.SASProtocol.Https } : {}),
  }
  const { url } = container.getBlobClient(key)
  if (sharedKey) return `${url}?${blobs.generateBlobSASQueryParameters(values, sharedKey).toString()}`
  const token = await tokenOf(login)
  if (!token)
    throw new StowageError('UNSUPPORTED', `URLs of ${endpoint} cannot be signed without a key or an identity.`, {
      hint: 'Give access_key, or tenant_id, client_id and client_secret.',
    })
  const service = new blobs.BlobServiceClient(endpoint, token, { retryOptions: { maxTries: 1 } })
  const delegated = await service.getUserDelegationKey(values.startsOn, values.expiresOn)
  return `${url}?${blobs.generateBlobSASQueryParameters(values, delegated, account).toString()}`
}

async function tokenOf(login: AzureLogin): Promise<TokenCredential | undefined> {
  if (login.kind !== 'principal' && login.kind !== 'ambient') return undefined
  const identity = await loaded('@azure/identity', async () => import('@azure/identity'))
  if (login.kind === 'ambient') return new identity.DefaultAzureCredential()
  return new identity.ClientSecretCredential(login.tenantId, login.clientId, login.clientSecret)
}

async function loaded<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new StowageError('INVALID_CONFIG', `Azure needs the package ${name}, which is not installed.`, {
      hint: `Run: npm install ${name}`,
    })
  }
}
