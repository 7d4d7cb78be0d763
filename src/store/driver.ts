/** The interface a kind of place implements. Small on purpose: `Store` does the rest. */
import type { Readable } from 'node:stream'

/** What a driver can do, as data. The Store and the conformance suite read it; nothing else decides what is skipped. */
export interface Supports {
  /** Takes write and delete. */
  readonly write: boolean
  /** Can list keys. */
  readonly list: boolean
  /** Serves a byte range without sending the rest. */
  readonly range: boolean
  /** A write is seen whole or not at all, and replaces in one step. */
  readonly atomicWrite: boolean
  /** The place itself decides `ifAbsent`, without a race. */
  readonly ifAbsent: boolean
  /** The place itself decides `ifMatch` on writes, without a race. */
  readonly ifMatch: boolean
  /** Keeps the content type given at write. */
  readonly contentType: boolean
  /** Keeps user metadata given at write. */
  readonly metadata: boolean
  /** Keys `a` and `a/b` can exist side by side. */
  readonly keyUnderFile: boolean
  /** Longest key in UTF-8 bytes. */
  readonly maxKeyBytes: number
  /** Longest part between slashes in UTF-8 bytes. */
  readonly maxPartBytes: number
  /** Writes with `verify` are read back before they are seen. Default: false. */
  readonly verify?: boolean
  /** Every write is confirmed by a checksum that the place compares, so that what it says it has stored is what was sent. Default: false. */
  readonly confirms?: boolean
  /** Keys that cannot be stored there although they are clean, each with why, as a sentence. Default: none. */
  readonly refuses?: readonly { readonly pattern: RegExp; readonly reason: string }[]
}

/** A name that leads to a file, or a second name of the file itself. */
export type LinkKind = 'symlink' | 'hard'

/** Options of every call. */
export interface CallOptions {
  /** Cancels the call; it rejects with ABORTED. */
  signal?: AbortSignal
}

/** Half-open range of bytes: `start` included, `end` excluded. `end` absent or past the file means to its end. */
export interface ByteRange {
  start: number
  end?: number
}

/** Options of a read. */
export interface ReadOptions extends CallOptions {
  range?: ByteRange
}

/** Options of a write. A place that cannot keep a condition refuses it; what else it cannot keep is dropped, see {@link Supports}. */
export interface WriteOptions extends CallOptions {
  /** The number of bytes the body will have, when known. A body of another length stores nothing and rejects with CORRUPT. */
  size?: number
  contentType?: string
  /** Cache-Control header for places that serve over HTTP. */
  cacheControl?: string
  /** Small user metadata, lower-case ASCII names. */
  metadata?: Record<string, string>
  /** Create only: rejects with EXISTS when the key is taken. */
  ifAbsent?: boolean
  /** Replace only the version with this etag: rejects with CONFLICT otherwise. */
  ifMatch?: string
  /** Modification time to keep where the place can keep one. */
  modified?: Date
  /** Read back what was stored before anybody sees it: another content stores nothing and rejects with CORRUPT. See {@link Supports}. */
  verify?: boolean
}

/** Options of a listing. */
export interface ListOptions extends CallOptions {
  /** Everything below (default), or only one level with directories as entries. */
  recursive?: boolean
  /** Start after this place in the order: a file's key, or a directory's key with a slash. */
  after?: string
}

/** What is known about a stored file. Optional fields are absent where the place does not tell. */
export interface FileInfo {
  key: string
  /** In bytes. */
  size: number
  modified?: Date
  /** Opaque version; changes when the content changes. */
  etag?: string
  contentType?: string
  metadata?: Record<string, string>
  /** Digests the place vouches for, lower-case hex. */
  digests?: { md5?: string; sha256?: string }
}

/** One line of a listing. Directories appear only when `recursive` is false; their key has no trailing slash. */
export type Entry = ({ kind: 'file' } & FileInfo) | { kind: 'directory'; key: string }

/** An opened file. The caller reads `body` to its end or destroys it; either releases the connection. */
export interface OpenFile {
  /** Of the whole file, also when a range was asked for. */
  info: FileInfo
  body: Readable
}

/** The bytes of a write: consumed once, front to back. */
export type Body = AsyncIterable<Uint8Array>

/**
 * One kind of place. Keys arrive checked and clean (`core/keys.ts`), ranges sane. Implementations throw `StowageError`
 * with NOT_FOUND, DENIED and UNREACHABLE kept apart, never create half a file, and never retry by themselves what
 * `wrappers/retry.ts` retries.
 */
export interface Driver {
  /** Where it points, safe to print: credentials removed. */
  readonly location: string
  readonly supports: Supports
  /** Opens a file: info and body in one round trip. Rejects with NOT_FOUND. */
  read(key: string, options?: ReadOptions): Promise<OpenFile>
  /** Stores the body under the key, replacing what is there. A body that fails stores nothing and its error comes through. */
  write(key: string, body: Body, options?: WriteOptions): Promise<FileInfo>
  /** Rejects with NOT_FOUND. */
  stat(key: string, options?: CallOptions): Promise<FileInfo>
  /** Entries below a directory (`''` = the root) in order of their keys' UTF-8 bytes. An absent directory is empty. */
  list(directory: string, options?: ListOptions): AsyncIterable<Entry>
  /** Absent is success. */
  delete(key: string, options?: CallOptions): Promise<void>
  /** Releases connections and timers. Calls after it reject with CLOSED. */
  close(): Promise<void>

  /** Copies within the place, where it can without sending the bytes through us. */
  copy?(from: string, to: string, options?: CallOptions & { ifAbsent?: boolean }): Promise<FileInfo>
  /** Renames within the place, where it can in one step. */
  move?(from: string, to: string, options?: CallOptions & { ifAbsent?: boolean }): Promise<FileInfo>
  /** Deletes many keys in few requests. Rejects with the first failure after trying all. */
  deleteMany?(keys: readonly string[], options?: CallOptions): Promise<void>
  /** A signed URL that works without credentials until it expires. */
  signedUrl?(key: string, options: { method: 'GET' | 'PUT'; expiresInSeconds: number }): Promise<string>
  /**
   * Puts a link to a file of this machine under a key instead of its bytes, replacing what is there in one step. Rejects
   * with UNSUPPORTED where it cannot be linked; copying it may still work.
   */
  link?(key: string, file: string, kind: LinkKind, options?: CallOptions): Promise<FileInfo>
  /** The file's own path, for places on this machine's disk. */
  localPath?(key: string): string
  /**
   * Stores a small file that is whole in memory: the fast path of many small files. Same promises as `write`.
   * Optional; `Store` falls back to `write`.
   */
  writeBytes?(key: string, bytes: Uint8Array, options?: WriteOptions): Promise<FileInfo>
}
