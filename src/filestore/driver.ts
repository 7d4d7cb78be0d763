/** A filestore as a driver: what applications, conveyors, servers and mounts hold. */
import { StowageError } from '../core/errors.ts'
import { maxKeyBytes } from '../core/keys.ts'
import type { CallOptions, Driver, Supports } from '../store/driver.ts'
import type { Files } from './files.ts'
import { ownNames } from './local.ts'

/** Longest name of a file or directory on the local disk. */
const maxPartBytes = 255

const supports: Supports = {
  write: true,
  list: true,
  range: true,
  atomicWrite: true,
  ifAbsent: true,
  ifMatch: true,
  contentType: true,
  metadata: true,
  keyUnderFile: false,
  maxKeyBytes,
  maxPartBytes,
  refuses: [{ pattern: ownNames, reason: 'The name is kept for files that are being written or were deleted.' }],
}

/** The driver of a filestore. Closing it ends its calls; the filestore itself works on until it is closed. */
export function filestoreDriver(files: Files, location: string): Driver {
  let isClosed = false
  const open = () => {
    if (isClosed) throw new StowageError('CLOSED', `${location} was closed.`)
  }
  const openFor = async <T>(work: () => Promise<T>): Promise<T> => {
    open()
    return work()
  }
  return {
    location,
    supports,
    read: async (key, options = {}) => openFor(async () => files.open(key, options)),
    write: async (key, body, options = {}) => openFor(async () => files.write(key, body, options)),
    writeBytes: async (key, bytes, options = {}) => openFor(async () => files.writeBytes(key, bytes, options)),
    stat: async (key, options: CallOptions = {}) => openFor(async () => files.stat(key, options)),
    async *list(directory, options = {}) {
      open()
      yield* files.list(directory, options)
    },
    delete: async (key, options: CallOptions = {}) => openFor(async () => files.delete(key, options)),
    move: async (from, to, options = {}) => openFor(async () => files.move(from, to, options)),
    close: async () => {
      isClosed = true
    },
  } satisfies Driver
}
