/** What the operating system says about files of this machine, in our words. */
import { StowageError, type ErrorCode } from './errors.ts'

const codes: Record<string, ErrorCode> = {
  __proto__: null as never,
  ENOENT: 'NOT_FOUND',
  ENOTDIR: 'CONFLICT',
  EISDIR: 'CONFLICT',
  EEXIST: 'EXISTS',
  ENOTEMPTY: 'CONFLICT',
  ELOOP: 'DENIED',
  EACCES: 'DENIED',
  EPERM: 'DENIED',
  EROFS: 'READ_ONLY',
  ENOSPC: 'NO_SPACE',
  EDQUOT: 'NO_SPACE',
  EMFILE: 'BUSY',
  ENFILE: 'BUSY',
  ENAMETOOLONG: 'INVALID_KEY',
  ABORT_ERR: 'ABORTED',
}

const reasons: Record<string, string> = {
  __proto__: null as never,
  ENOENT: 'it is not there',
  ENOTDIR: 'a directory of its path is a file',
  EISDIR: 'there is a directory of that name',
  EEXIST: 'there is such a file already',
  ELOOP: 'it is a symbolic link',
  EACCES: 'permission denied. Check the owner and mode of the directory',
  EPERM: 'permission denied. Check the owner and mode of the directory',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota is used up',
  EMFILE: 'too many files are open',
  ENFILE: 'too many files are open',
  ENAMETOOLONG: 'the name is longer than this file system takes',
  ABORT_ERR: 'the call was cancelled',
}

/**
 * The failure of a call of the operating system, as ours: `what` says what was tried and becomes the start of the
 * sentence. Undefined for an error that is no such failure, such as one of a body that was being written.
 */
export function diskError(error: unknown, what: string): StowageError | undefined {
  if (error instanceof StowageError || !(error instanceof Error) || !('code' in error)) return undefined
  const errno = error.code
  if (typeof errno !== 'string' || errno.startsWith('ERR_')) return undefined
  return new StowageError(codes[errno] ?? 'UNKNOWN', `${what}: ${reasons[errno] ?? errno}.`, { cause: error })
}
