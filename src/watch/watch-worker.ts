/**
 * Listens to the kernel in a thread of its own, because reading events blocks. Knows which directory each watch
 * belongs to, and tells paths: what to look at, not what happened; the looking is done by others.
 */
import * as fs from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { ignoreMatcher, type IsIgnored } from './ignore.ts'
import { flags, loadInotify, parseEvents, type Inotify, type KernelEvent } from './inotify.ts'

/** What the thread is given. */
export interface WatchRequest {
  root: string
  ignore: readonly string[]
  /** Becomes 1 when the watching is to end; then somebody ends a watch of the system's root to wake us. */
  closing: Int32Array
}

/** What the thread sends. */
export type WatchMessage =
  | { kind: 'open'; descriptor: number }
  | { kind: 'ready' }
  /** Paths something may have happened to. */
  | { kind: 'news'; paths: string[] }
  | { kind: 'overflow' }
  | { kind: 'gone' }
  /** The kernel grants no more watches: parts of the tree are not heard. */
  | { kind: 'deaf' }
  | { kind: 'warning'; message: string }
  | { kind: 'failed'; message: string }

const mask =
  flags.closeWrite |
  flags.attrib |
  flags.movedFrom |
  flags.movedTo |
  flags.create |
  flags.delete |
  flags.deleteSelf |
  flags.moveSelf |
  flags.onlyDirectory |
  flags.dontFollow |
  flags.exclUnlink

const ENOSPC = 28

/** The watches of one tree. */
export class WatchedTree {
  readonly #inotify: Inotify
  readonly #root: string
  readonly #isIgnored: IsIgnored
  readonly #send: (message: WatchMessage) => void
  readonly #directories = new Map<number, string>()
  readonly #watches = new Map<string, number>()
  readonly #warned = new Set<string>()
  readonly descriptor: number
  #news = new Set<string>()

  constructor(inotify: Inotify, request: Omit<WatchRequest, 'closing'>, send: (message: WatchMessage) => void) {
    this.#inotify = inotify
    this.#root = request.root
    this.#isIgnored = ignoreMatcher(request.ignore)
    this.#send = send
    this.descriptor = inotify.open()
  }

  /** Watches the whole tree. */
  start(): void {
    if (!this.#watch('')) throw new Error('it is not there, or may not be read')
    this.#send({ kind: 'open', descriptor: this.descriptor })
    this.#adopt('', false)
    this.#send({ kind: 'ready' })
  }

  /** Takes in what was read from the descriptor. */
  take(bytes: Buffer): void {
    for (const event of parseEvents(bytes)) this.#take(event)
    if (this.#news.size === 0) return
    this.#send({ kind: 'news', paths: [...this.#news] })
    this.#news = new Set()
  }

  #take(event: KernelEvent) {
    if (event.mask & flags.overflow) {
      // Directories made meanwhile have no watch yet; after this they do, and a scan finds the files.
      this.#adopt('', false)
      this.#send({ kind: 'overflow' })
      return
    }
    const directory = this.#directories.get(event.watch)
    if (directory === undefined) return
    if (event.mask & flags.ignored) this.#forget(event.watch, directory)
    else if (event.name.byteLength === 0) this.#takeOfDirectory(event, directory)
    else this.#takeOfChild(event, directory)
  }

  #takeOfDirectory({ mask: happened }: KernelEvent, directory: string) {
    const isGone = happened & (flags.deleteSelf | flags.moveSelf | flags.unmount)
    if (isGone && directory === '') this.#send({ kind: 'gone' })
    else if (happened & flags.unmount) this.#send({ kind: 'overflow' })
  }

  #takeOfChild({ mask: happened, name: raw }: KernelEvent, directory: string) {
    const name = this.#decode(raw, directory)
    if (name === undefined) return
    const path = directory === '' ? name : `${directory}/${name}`
    const isDirectory = (happened & flags.isDirectory) !== 0
    if (this.#isIgnored(path, isDirectory)) return
    if (isDirectory) {
      if (happened & (flags.create | flags.movedTo)) this.#adopt(path, true)
      else if (happened & (flags.delete | flags.movedFrom)) this.#abandon(path)
    } else if (!(happened & flags.create) || this.#isWhole(path)) this.#news.add(path)
  }

  /** A file that was just made is told again when its writer closes it. A second name of another file is not. */
  #isWhole(path: string): boolean {
    const stats = fs.lstatSync(`${this.#root}/${path}`, { throwIfNoEntry: false })
    return stats !== undefined && (stats.nlink > 1 || !stats.isFile())
  }

  /** Watches a directory and all below it. What is already in there is news when the directory itself is. */
  #adopt(directory: string, isNews: boolean) {
    const pending = [directory]
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      // First the watch, then the listing: what appears in between is then seen twice rather than never.
      if (!this.#watch(next)) continue
      let entries: fs.Dirent[]
      try {
        entries = fs.readdirSync(`${this.#root}/${next}`, { withFileTypes: true })
      } catch {
        continue // it is gone again, or a scan will say that it cannot be read
      }
      for (const entry of entries) {
        const path = next === '' ? entry.name : `${next}/${entry.name}`
        if (this.#isIgnored(path, entry.isDirectory())) continue
        if (entry.isDirectory()) pending.push(path)
        else if (isNews && entry.isFile()) this.#news.add(path)
      }
    }
  }

  /** A directory is gone: its files are news, and it is not to be heard under this name any more. */
  #abandon(directory: string) {
    this.#news.add(directory)
    for (const [path, watch] of this.#watches)
      if (path === directory || path.startsWith(`${directory}/`)) {
        this.#forget(watch, path)
        this.#inotify.remove(this.descriptor, watch)
      }
  }

  #watch(directory: string): boolean {
    const watch = this.#inotify.add(this.descriptor, `${this.#root}/${directory}`, mask)
    if (watch < 0) {
      if (watch === -ENOSPC) this.#deafen()
      return false
    }
    const before = this.#directories.get(watch)
    if (before !== undefined && before !== directory) this.#watches.delete(before)
    this.#directories.set(watch, directory)
    this.#watches.set(directory, watch)
    return true
  }

  #forget(watch: number, directory: string) {
    this.#directories.delete(watch)
    if (this.#watches.get(directory) === watch) this.#watches.delete(directory)
  }

  #deafen() {
    if (this.#warned.has('deaf')) return
    this.#warned.add('deaf')
    this.#send({ kind: 'deaf' })
  }

  #decode(raw: Buffer, directory: string): string | undefined {
    const name = raw.toString()
    if (!name.includes('\ufffd') || Buffer.from(name).equals(raw)) return name
    const shown = `${directory}/${raw.toString('latin1').replace(/[^\x20-\x7e]/g, (c) => `\\x${c.charCodeAt(0).toString(16)}`)}`
    if (this.#warned.size < 1000 && !this.#warned.has(shown)) {
      this.#warned.add(shown)
      this.#send({
        kind: 'warning',
        message: `Skipped ${shown}: its name is not UTF-8. Rename it to have it delivered.`,
      })
    }
    return undefined
  }
}

/** Reads until somebody wants it to end. */
function listen(request: WatchRequest, send: (message: WatchMessage) => void) {
  const inotify = loadInotify()
  if (!inotify) return send({ kind: 'failed', message: 'inotify is not to be had' })
  const tree = new WatchedTree(inotify, request, send)
  try {
    tree.start()
    const buffer = Buffer.allocUnsafeSlow(256 * 1024)
    while (Atomics.load(request.closing, 0) === 0) {
      const length = fs.readSync(tree.descriptor, buffer, 0, buffer.byteLength, null)
      if (Atomics.load(request.closing, 0) === 0) tree.take(buffer.subarray(0, length))
    }
  } finally {
    fs.closeSync(tree.descriptor)
  }
}

if (parentPort) {
  const port = parentPort
  const send = (message: WatchMessage) => port.postMessage(message)
  try {
    listen(workerData as WatchRequest, send)
  } catch (error) {
    send({ kind: 'failed', message: (error as Error).message })
  }
}
