/** What Azure says, in our words (learn.microsoft.com/rest/api/storageservices, "Blob service error codes"). */
import { StowageError, type ErrorCode } from '../../core/errors.ts'

/** What a failure was about. */
export interface Subject {
  location: string
  container: string
  key?: string
  signal?: AbortSignal | undefined
  /** Did its time limit run out? */
  isLate?: boolean
}

const codes: Record<string, ErrorCode> = {
  AuthenticationFailed: 'DENIED',
  AuthorizationFailure: 'DENIED',
  BlobAlreadyExists: 'EXISTS',
  BlobNotFound: 'NOT_FOUND',
  ConditionNotMet: 'CONFLICT',
  ContainerBeingDeleted: 'INVALID_CONFIG',
  ContainerNotFound: 'INVALID_CONFIG',
  InsufficientAccountPermissions: 'DENIED',
  InvalidBlobOrBlock: 'CONFLICT',
  InvalidResourceName: 'INVALID_KEY',
  Md5Mismatch: 'CORRUPT',
  NoAuthenticationInformation: 'DENIED',
  OperationTimedOut: 'TIMEOUT',
  PublicAccessNotPermitted: 'DENIED',
  ResourceNotFound: 'NOT_FOUND',
  ServerBusy: 'THROTTLED',
}

const statuses: Record<number, ErrorCode> = {
  401: 'DENIED',
  403: 'DENIED',
  404: 'NOT_FOUND',
  409: 'CONFLICT',
  412: 'CONFLICT',
  429: 'THROTTLED',
  503: 'THROTTLED',
}

interface RestError extends Error {
  statusCode?: number
  code?: string
  response?: { headers?: { get?: (name: string) => string | undefined } }
}

/** A failure of the client as ours. Its request is not kept as a cause: the URL may hold a signature. */
export function explain(error: unknown, subject: Subject): unknown {
  if (error instanceof StowageError) return error
  const { location, container, key, signal, isLate } = subject
  if (signal?.aborted) return new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })
  if (isLate) return new StowageError('TIMEOUT', `${location} did not answer in time.`)
  const { name, statusCode, code, response } = error as RestError
  const what = key === undefined ? location : `${key} in ${location}`
  if (
    name === 'CredentialUnavailableError' ||
    name === 'AuthenticationError' ||
    name === 'AggregateAuthenticationError'
  )
    return new StowageError('DENIED', `No identity for ${location} could be had.`, {
      hint: 'Give access_key, or tenant_id, client_id and client_secret, or log in with the tools of Azure.',
    })
  // An answer without a body, as to HEAD, has its code in a header.
  const told = response?.headers?.get?.('x-ms-error-code') ?? code
  // Emulators have other names for a digest that does not match.
  const isCorrupt = statusCode === 400 && /md5/i.test((error as Error).message)
  const meaning =
    (isCorrupt ? 'CORRUPT' : codes[told ?? '']) ??
    statuses[statusCode ?? 0] ??
    (statusCode === undefined || statusCode >= 500 ? 'UNREACHABLE' : 'UNKNOWN')
  if (meaning === 'INVALID_CONFIG')
    return new StowageError(meaning, `There is no container ${container} at ${location}.`, { hint: 'Make it first.' })
  if (meaning === 'NOT_FOUND') return new StowageError(meaning, `There is no file ${what}.`)
  const said = [told, statusCode].filter((part) => part !== undefined).join(', ') || 'the connection broke off'
  const wait = Number(response?.headers?.get?.('retry-after'))
  return new StowageError(meaning, `Azure refused ${what}: ${said}.`, {
    ...(hints[told ?? ''] ? { hint: hints[told ?? ''] ?? '' } : {}),
    ...(wait > 0 ? { retryAfterMs: wait * 1000 } : {}),
    ...(meaning === 'CORRUPT' ? { retryable: true } : {}),
  })
}

const hints: Record<string, string> = {
  AuthenticationFailed: 'Check the key or the signature, and the clock of this machine.',
  AuthorizationPermissionMismatch: 'The identity needs a role such as Storage Blob Data Contributor.',
}
