/** What a filestore tells of itself while it works. */
import type { Log } from '../core/log.ts'
import type { FileInfo } from '../store/driver.ts'

/** What is told, by its name. */
export interface FilestoreEvents {
  /** A file was stored locally, by a call or by somebody who wrote into the directory. */
  stored: { key: string; info: FileInfo; isForeign: boolean }
  /** It waits for its upload until then, in milliseconds since the epoch. */
  queued: { key: string; remote: string; dueMs: number }
  /** It is at a remote, verified and recorded. */
  uploaded: { key: string; remote: string; bytes: number }
  /** Bytes of it came from a remote, for whoever asked or because it was called back. */
  fetched: { key: string; remote: string; bytes: number }
  /** The cache made room for others. */
  evicted: { key: string; bytes: number }
  /** It was deleted; `isFinal` when it can no longer be restored. */
  deleted: { key: string; isFinal: boolean }
  /** Something could not be done. Whatever can be tried again, is. */
  failed: { key: string; operation: 'upload' | 'fetch' | 'recall' | 'migrate' | 'delete'; error: unknown }
}

type Listener<Name extends keyof FilestoreEvents> = (event: FilestoreEvents[Name]) => void

/** Listeners by the name of what they want to hear of. */
export class Events {
  readonly #listeners: { [Name in keyof FilestoreEvents]?: Set<Listener<Name>> } = {}
  readonly #log: Log

  constructor(log: Log) {
    this.#log = log
  }

  /** Calls the listener whenever it happens. Returns how to stop that. */
  on<Name extends keyof FilestoreEvents>(name: Name, listener: Listener<Name>): () => void {
    const listeners: Set<Listener<Name>> = (this.#listeners[name] ??= new Set() as never)
    listeners.add(listener)
    return () => listeners.delete(listener)
  }

  /** A listener that throws disturbs nobody. */
  emit<Name extends keyof FilestoreEvents>(name: Name, event: FilestoreEvents[Name]): void {
    for (const listener of this.#listeners[name] ?? [])
      try {
        listener(event)
      } catch (error) {
        this.#log.error(`A listener of ${name} failed: ${(error as Error).message}`)
      }
  }
}
