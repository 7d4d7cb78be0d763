/** The kernel's file events on Linux (inotify(7)), reached through koffi, which is optional: without it other ways are used. */
import { createRequire } from 'node:module'

/** Bits of an event's mask, from linux/inotify.h. */
export const flags = {
  attrib: 0x4,
  closeWrite: 0x8,
  movedFrom: 0x40,
  movedTo: 0x80,
  create: 0x100,
  delete: 0x200,
  deleteSelf: 0x400,
  moveSelf: 0x800,
  unmount: 0x2000,
  overflow: 0x4000,
  ignored: 0x8000,
  onlyDirectory: 0x1000000,
  dontFollow: 0x2000000,
  exclUnlink: 0x4000000,
  isDirectory: 0x40000000,
} as const

/** One event as the kernel tells it. */
export interface KernelEvent {
  /** Which watch; -1 for an overflow. */
  watch: number
  mask: number
  /** The raw name within the watched directory; empty for events of the directory itself. */
  name: Buffer
}

/** The calls we need. All are synchronous and quick. */
export interface Inotify {
  /** A descriptor to read events from; reading blocks. */
  open(): number
  /** The watch of a directory, or the negated errno. */
  add(descriptor: number, directory: string, mask: number): number
  /** Ends a watch. The reader of the descriptor is told, so this also wakes it. */
  remove(descriptor: number, watch: number): void
}

const closeOnExec = 0o2000000

/** Undefined where the kernel or koffi does not have it. */
export function loadInotify(): Inotify | undefined {
  if (process.platform !== 'linux') return undefined
  try {
    const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
    const libc = koffi.load(null)
    const init = libc.func('int inotify_init1(int flags)') as (flags: number) => number
    const add = libc.func('int inotify_add_watch(int fd, str pathname, uint32_t mask)') as (...of: unknown[]) => number
    const remove = libc.func('int inotify_rm_watch(int fd, int wd)') as (...of: unknown[]) => number
    return {
      open: () => {
        const descriptor = init(closeOnExec)
        if (descriptor < 0) throw new Error(`inotify_init1 failed with errno ${koffi.errno()}`)
        return descriptor
      },
      add: (descriptor, directory, mask) => {
        const watch = add(descriptor, directory, mask)
        return watch < 0 ? -koffi.errno() : watch
      },
      remove: (descriptor, watch) => void remove(descriptor, watch),
    }
  } catch {
    return undefined
  }
}

/** The events in a buffer that was read from the descriptor: `struct inotify_event` in the machine's byte order. */
export function* parseEvents(bytes: Buffer): Generator<KernelEvent> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const isLittle = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1
  for (let at = 0; at + 16 <= bytes.byteLength; ) {
    const length = view.getUint32(at + 12, isLittle)
    const padded = bytes.subarray(at + 16, at + 16 + length)
    const end = padded.indexOf(0)
    yield {
      watch: view.getInt32(at, isLittle),
      mask: view.getUint32(at + 4, isLittle),
      name: end < 0 ? padded : padded.subarray(0, end),
    }
    at += 16 + length
  }
}
