/** Notices what others do in the directory of a filestore: from the kernel's events at once, from a scan in the end. */
import { codeOf } from '../core/errors.ts'
import { cleanKey } from '../core/keys.ts'
import { watch, type Watcher } from '../watch/watcher.ts'
import type { Context } from './context.ts'
import type { Levelling } from './levelling.ts'

/** How often it is looked, and what else. */
interface NoticingOptions {
  directory: string
  /** Compare all of it so often, in milliseconds; 0 is never. */
  scanEveryMs: number
  /** Listen for events. */
  watch: boolean
  onScanned: () => Promise<void>
}

/** Files and directories that are none of a filestore's files. */
const ignored = ['/.stowage-tmp', '/.stowage-trash', '/.stowage-directory']

/** So many are looked at side by side, so that they share a commit. */
const pathsTogether = 256

/** Keeps registry and directory level, from {@link start} on. */
export class Noticing {
  readonly #context: Context
  readonly #levelling: Levelling
  readonly #options: NoticingOptions
  readonly #stop = new AbortController()
  #watcher: Watcher | undefined
  #scanning: Promise<void> = Promise.resolve()
  #mustScan = false
  #wake: AbortController | undefined
  /** What was heard of and has not been looked at. */
  readonly #news = new Set<string>()
  #looking: Promise<void> = Promise.resolve()
  #isLooking = false

  constructor(context: Context, levelling: Levelling, options: NoticingOptions) {
    this.#context = context
    this.#levelling = levelling
    this.#options = options
  }

  /** Resolves when the directory is watched, if that can be, and has been scanned. */
  async start(): Promise<void> {
    await this.#watch()
    await this.#scan()
    this.#scanning = this.#keepScanning()
  }

  async close(): Promise<void> {
    this.#stop.abort()
    await this.#watcher?.close()
    await this.#scanning
    await this.#looking
  }

  /** A directory that is not there yet, or not any more, is tried again with the next scan. */
  async #watch() {
    const { local, log } = this.#context
    if (!this.#options.watch || this.#watcher || !local.isThere) return
    const watcher = watch(
      this.#options.directory,
      { ignore: ignored },
      {
        news: (paths) => this.#hear(paths),
        lost: () => this.#rescan(),
        gone: () => void this.#unwatch(),
        deaf: (reason) => log.warn(reason),
        warning: (message) => log.warn(message),
      },
    )
    this.#watcher = watcher
    await watcher.ready.catch(async (error: unknown) => {
      if (!this.#stop.signal.aborted) log.warn(`${(error as Error).message} Changes are noticed by scans.`)
      await this.#unwatch()
    })
  }

  async #unwatch() {
    const watcher = this.#watcher
    this.#watcher = undefined
    await watcher?.close()
  }

  #hear(paths: readonly string[]) {
    for (const each of paths) this.#news.add(each)
    if (!this.#isLooking) this.#looking = this.#look()
  }

  async #look() {
    this.#isLooking = true
    // What comes together is looked at together, and a file that is written in many steps not at each of them.
    await new Promise((resolve) => setImmediate(resolve))
    while (this.#news.size > 0 && !this.#stop.signal.aborted) {
      const batch = [...this.#news].slice(0, pathsTogether)
      for (const each of batch) this.#news.delete(each)
      await Promise.all(batch.map(async (each) => this.#notice(each)))
    }
    this.#isLooking = false
  }

  async #notice(name: string) {
    try {
      await this.#levelling.notice(cleanKey(name))
    } catch (error) {
      if (codeOf(error) !== 'CLOSED') this.#context.log.warn(`${name} was not noticed: ${(error as Error).message}`)
    }
  }

  /** Asks for a scan soon: the timer is woken. */
  #rescan() {
    this.#mustScan = true
    this.#wake?.abort()
  }

  async #keepScanning() {
    const { clock } = this.#context
    const { signal } = this.#stop
    while (!signal.aborted) {
      this.#wake = new AbortController()
      const waking = AbortSignal.any([signal, this.#wake.signal])
      const pause = this.#options.scanEveryMs > 0 ? this.#options.scanEveryMs : 2 ** 31 - 1
      if (!this.#mustScan) await clock.sleep(pause, waking).catch(() => undefined)
      this.#mustScan = false
      if (signal.aborted) return
      await this.#watch()
      await this.#scan()
    }
  }

  /** A directory that cannot be read now is read the next time. */
  async #scan() {
    try {
      await this.#levelling.scan({ signal: this.#stop.signal })
      await this.#options.onScanned()
    } catch (error) {
      if (!this.#stop.signal.aborted) this.#context.log.error(`The scan failed: ${(error as Error).message}`)
    }
  }
}
