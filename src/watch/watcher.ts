/** Hears of changes below a directory: from the kernel's events where they can be had, from node's own otherwise. */
import * as fs from 'node:fs'
import * as path from 'node:path'
import { Worker } from 'node:worker_threads'
import { StowageError } from '../core/errors.ts'
import { ignoreMatcher } from './ignore.ts'
import { flags, loadInotify } from './inotify.ts'
import type { WatchMessage, WatchRequest } from './watch-worker.ts'

/** What a watcher tells. Paths are relative to the root, with slashes. */
export interface WatchListener {
  /** Something may have happened to these: a file was written, came or went, or a directory with all below it went. */
  news(paths: readonly string[]): void
  /** Events were lost, or may have been: only a scan tells what happened. */
  lost(reason: string): void
  /** The root itself is gone. That says nothing about its files. */
  gone(): void
  /** Parts of the tree cannot be heard: scan from time to time. */
  deaf(reason: string): void
  warning(message: string): void
}

/** A running watcher. */
export interface Watcher {
  /** How it hears. */
  readonly kind: 'inotify' | 'fs.watch'
  /** Resolves when everything below the root is heard. Rejects when the root cannot be watched. */
  readonly ready: Promise<void>
  close(): Promise<void>
}

/** What not to hear of, and which way to use (for tests; default the best there is). */
export interface WatchOptions {
  ignore?: readonly string[]
  way?: Watcher['kind']
}

/** Watches a directory and everything below it. Symbolic links are not followed. */
export function watch(root: string, options: WatchOptions, listener: WatchListener): Watcher {
  const way = options.way ?? (loadInotify() ? 'inotify' : 'fs.watch')
  return way === 'inotify' ? watchKernel(root, options, listener) : new NodeWatcher(root, options, listener)
}

const noWatches =
  'The kernel grants no more watches, so changes are noticed later. Raise fs.inotify.max_user_watches with sysctl.'

function watchKernel(root: string, { ignore = [] }: WatchOptions, listener: WatchListener): Watcher {
  const closing = new Int32Array(new SharedArrayBuffer(4))
  const request: WatchRequest = { root, ignore, closing }
  const worker = new Worker(new URL(`./watch-worker${import.meta.url.slice(-3)}`, import.meta.url), {
    workerData: request,
    trackUnmanagedFds: false, // the descriptor comes from the kernel, node does not know it
  })
  const { promise: ready, resolve, reject } = Promise.withResolvers<void>()
  const ended = new Promise<void>((end) => worker.once('exit', () => end()))
  const opened = Promise.withResolvers<number | undefined>()
  let isReady = false
  let closed: Promise<void> | undefined
  const hear: Record<WatchMessage['kind'], (message: never) => void> = {
    open: ({ descriptor }: { descriptor: number }) => opened.resolve(descriptor),
    ready: () => {
      isReady = true
      resolve()
    },
    news: ({ paths }: { paths: string[] }) => listener.news(paths),
    overflow: () => listener.lost('The kernel had more events than it could keep.'),
    gone: () => listener.gone(),
    deaf: () => listener.deaf(noWatches),
    warning: ({ message }: { message: string }) => listener.warning(message),
    failed: ({ message }: { message: string }) => fail(new Error(message)),
  }
  const fail = (error: Error) => {
    opened.resolve(undefined)
    reject(new StowageError('UNREACHABLE', `${root} cannot be watched: ${error.message}.`, { cause: error }))
    if (isReady && Atomics.load(closing, 0) === 0) listener.deaf(`${root} is not heard any more: ${error.message}.`)
  }
  ready.catch(() => undefined)
  worker.on('message', (message: WatchMessage) => {
    if (Atomics.load(closing, 0) === 0 || message.kind === 'open' || message.kind === 'failed')
      hear[message.kind](message as never)
  })
  worker.on('error', fail)
  worker.once('exit', () => {
    opened.resolve(undefined)
    // Who closes before it is ready waits for nothing any more.
    reject(new StowageError('CLOSED', `${root} is not watched any more.`))
  })
  const end = async () => {
    Atomics.store(closing, 0, 1)
    const descriptor = await opened.promise
    // The thread sits in a read that only an event ends. A watch of the system's root always works, and its end is one.
    const inotify = descriptor === undefined ? undefined : loadInotify()
    if (inotify && descriptor !== undefined && worker.threadId >= 0)
      inotify.remove(descriptor, inotify.add(descriptor, '/', flags.deleteSelf))
    await ended
  }
  return {
    kind: 'inotify',
    ready,
    close: async () => {
      closed ??= end()
      return closed
    },
  }
}

/** Without inotify: node's own events. Linux has them per directory; elsewhere the system watches trees by itself. */
class NodeWatcher implements Watcher {
  readonly kind = 'fs.watch'
  readonly ready: Promise<void>
  readonly #root: string
  readonly #isIgnored: ReturnType<typeof ignoreMatcher>
  readonly #listener: WatchListener
  readonly #watchers = new Map<string, fs.FSWatcher>()
  #isDeaf = false

  constructor(root: string, options: WatchOptions, listener: WatchListener) {
    this.#root = root
    this.#isIgnored = ignoreMatcher(options.ignore ?? [])
    this.#listener = listener
    this.ready = this.#start()
    this.ready.catch(() => undefined)
  }

  async close() {
    for (const watcher of this.#watchers.values()) watcher.close()
    this.#watchers.clear()
  }

  async #start() {
    const isRecursive = process.platform === 'darwin' || process.platform === 'win32'
    if (isRecursive) this.#listen('', true)
    else this.#adopt('', false)
    if (!this.#watchers.has('')) throw new StowageError('UNREACHABLE', `${this.#root} cannot be watched.`)
  }

  #listen(directory: string, recursive: boolean): boolean {
    try {
      const watcher = fs.watch(path.join(this.#root, directory), { recursive, encoding: 'buffer' }, (_, name) =>
        this.#hear(directory, name),
      )
      watcher.on('error', () => this.#drop(directory))
      this.#watchers.set(directory, watcher)
      return true
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if ((code === 'ENOSPC' || code === 'EMFILE') && !this.#isDeaf) {
        this.#isDeaf = true
        this.#listener.deaf(noWatches)
      }
      return false
    }
  }

  #hear(directory: string, raw: Buffer | null) {
    if (!raw) return this.#listener.lost('The system did not say which file has changed.')
    const name = raw.toString().split(path.sep).join('/')
    if (!Buffer.from(name).equals(raw))
      return this.#listener.warning(`Skipped a file in ${directory || this.#root}: its name is not UTF-8.`)
    const child = directory === '' ? name : `${directory}/${name}`
    const stats = fs.lstatSync(path.join(this.#root, child), { throwIfNoEntry: false })
    if (!stats && !fs.existsSync(this.#root)) return this.#listener.gone()
    if (this.#isIgnored(child, stats?.isDirectory() ?? false)) return
    if (stats?.isDirectory()) {
      // A directory of this name may have come back as another one, so its watches are made anew.
      this.#abandon(child)
      this.#listener.news(this.#adopt(child, true))
    } else {
      if (!stats) this.#abandon(child)
      this.#listener.news([child])
    }
  }

  /** Listens to a directory and all below it; returns the files that are already there. */
  #adopt(directory: string, isNews: boolean): string[] {
    const news: string[] = isNews ? [directory] : []
    const pending = [directory]
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      if (!this.#watchers.has(next) && !this.#listen(next, false)) continue
      let entries: fs.Dirent[] = []
      try {
        entries = fs.readdirSync(path.join(this.#root, next), { withFileTypes: true })
      } catch {
        continue
      }
      for (const entry of entries) {
        const child = next === '' ? entry.name : `${next}/${entry.name}`
        if (this.#isIgnored(child, entry.isDirectory())) continue
        if (entry.isDirectory()) pending.push(child)
        else if (isNews && entry.isFile()) news.push(child)
      }
    }
    return news
  }

  #abandon(directory: string) {
    for (const known of this.#watchers.keys())
      if (known === directory || known.startsWith(`${directory}/`)) this.#drop(known)
  }

  #drop(directory: string) {
    this.#watchers.get(directory)?.close()
    this.#watchers.delete(directory)
    if (directory === '') this.#listener.gone()
  }
}
