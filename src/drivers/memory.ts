/** A store in this process's memory: for tests, and for what need not survive. */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { collect } from '../core/bytes.ts'
import { StowageError } from '../core/errors.ts'
import { compareKeys, maxKeyBytes } from '../core/keys.ts'
import type { StorageUrl } from '../core/storage-url.ts'
import type { CallOptions, Driver, FileInfo, WriteOptions } from '../store/driver.ts'
import { checkSize, entriesBelow, throwIfAborted } from '../store/driving.ts'

/** `memory:`; it has no parameters. */
export function memoryFromUrl({ parameters }: StorageUrl): Driver {
  parameters.end()
  return memoryDriver()
}

/** Opens an empty memory store. It lives as long as the driver does. */
export function memoryDriver(): Driver {
  const files = new Map<string, { info: FileInfo; bytes: Buffer }>()
  let isClosed = false
  const check = ({ signal }: CallOptions) => {
    if (isClosed) throw new StowageError('CLOSED', 'This memory: store was closed.')
    throwIfAborted(signal)
  }
  const get = (key: string, options: CallOptions) => {
    check(options)
    const file = files.get(key)
    if (!file) throw new StowageError('NOT_FOUND', `There is no file ${key} in memory:.`)
    return file
  }
  const put = (key: string, bytes: Buffer, options: WriteOptions) => {
    check(options)
    checkSize(key, bytes.byteLength, options.size)
    const old = files.get(key)
    if (options.ifAbsent && old) throw new StowageError('EXISTS', `The file ${key} is already in memory:.`)
    if (options.ifMatch !== undefined && options.ifMatch !== old?.info.etag)
      throw new StowageError('CONFLICT', `The file ${key} in memory: is not the version that was expected.`)
    const info = describe(key, bytes, options)
    files.set(key, { info, bytes })
    return info
  }
  return {
    location: 'memory:',
    supports: {
      write: true,
      list: true,
      range: true,
      atomicWrite: true,
      ifAbsent: true,
      ifMatch: true,
      contentType: true,
      metadata: true,
      keyUnderFile: true,
      maxKeyBytes,
      maxPartBytes: maxKeyBytes,
    },
    async read(key, options = {}) {
      const { info, bytes } = get(key, options)
      const { start = 0, end = bytes.byteLength } = options.range ?? {}
      return { info, body: Readable.from(slices(bytes.subarray(start, end)), { objectMode: false }) }
    },
    async write(key, body, options = {}) {
      check(options)
      return put(key, Buffer.from(await collect(body)), options)
    },
    async writeBytes(key, bytes, options = {}) {
      return put(key, Buffer.from(bytes), options)
    },
    async stat(key, options = {}) {
      return get(key, options).info
    },
    async *list(directory, options = {}) {
      check(options)
      const infos = [...files.values()].map((file) => file.info).sort((a, b) => compareKeys(a.key, b.key))
      for (const entry of entriesBelow(infos, directory, options)) {
        check(options)
        yield entry
      }
    },
    async delete(key, options = {}) {
      check(options)
      files.delete(key)
    },
    async copy(from, to, options = {}) {
      const { info, bytes } = get(from, options)
      return put(to, bytes, { ...options, contentType: info.contentType, metadata: info.metadata })
    },
    async close() {
      isClosed = true
      files.clear()
    },
  }
}

function describe(key: string, bytes: Buffer, options: WriteOptions): FileInfo {
  const md5 = createHash('md5').update(bytes).digest('hex')
  return {
    key,
    size: bytes.byteLength,
    modified: options.modified ?? new Date(),
    etag: md5,
    contentType: options.contentType,
    metadata: options.metadata,
    digests: { md5 },
  }
}

/** In pieces, so that readers are written for streams from the first test on. */
function* slices(bytes: Buffer, size = 65_536) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}
