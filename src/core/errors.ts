/** The one error type of Stowage, and the codes programs look at. */

/** What went wrong, for programs. Messages are for people and are never parsed. */
export type ErrorCode =
  | 'NOT_FOUND' // no such file
  | 'DENIED' // credentials are missing, wrong or not sufficient
  | 'UNREACHABLE' // the place did not answer, or broke off
  | 'TIMEOUT' // a time limit ran out
  | 'THROTTLED' // the place asked for fewer requests
  | 'EXISTS' // `ifAbsent` was asked for and the key is taken
  | 'CONFLICT' // the file is not the one that was expected
  | 'CORRUPT' // size or digest is not what it must be
  | 'NO_SPACE' // the disk or the quota is full
  | 'READ_ONLY' // the place does not take writes
  | 'UNSUPPORTED' // the place cannot do this
  | 'INVALID_KEY' // the key is not a clean relative path
  | 'INVALID_ARGUMENT' // a range, option or URL is malformed
  | 'INVALID_CONFIG' // the configuration is wrong
  | 'NO_PUBLIC_URL' // the store has no public address
  | 'ABORTED' // the caller's signal fired
  | 'CLOSED' // used after close()
  | 'BUSY' // somebody else holds it
  | 'UNKNOWN' // anything else; keeps its cause

/** What an error may carry besides its message. */
export interface ErrorDetails {
  /** What raised it. */
  cause?: unknown
  /** May the same call succeed later? Default: true for UNREACHABLE, TIMEOUT, THROTTLED and BUSY. */
  retryable?: boolean
  /** How long the place asked us to wait, in milliseconds. */
  retryAfterMs?: number
  /** What to do about it, one sentence. */
  hint?: string
}

const retryableCodes: ReadonlySet<ErrorCode> = new Set(['UNREACHABLE', 'TIMEOUT', 'THROTTLED', 'BUSY'])

/** Every failure Stowage reports. `message` is a sentence for the person on call and contains no secret. */
export class StowageError extends Error {
  override readonly name = 'StowageError'
  readonly code: ErrorCode
  readonly retryable: boolean
  readonly retryAfterMs: number | undefined
  readonly hint: string | undefined

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(details.hint ? `${message} ${details.hint}` : message, { cause: details.cause })
    this.code = code
    this.retryable = details.retryable ?? retryableCodes.has(code)
    this.retryAfterMs = details.retryAfterMs
    this.hint = details.hint
  }
}

/** The code of any thrown value: `UNKNOWN` unless it is a {@link StowageError}. */
export function codeOf(error: unknown): ErrorCode {
  return error instanceof StowageError ? error.code : 'UNKNOWN'
}

/** Is this the answer "there is no such file"? */
export function isNotFound(error: unknown): boolean {
  return codeOf(error) === 'NOT_FOUND'
}
