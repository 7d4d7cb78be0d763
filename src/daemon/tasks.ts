/**
 * Work that takes longer than anybody wants to wait for one answer: it is begun, and then asked for what it has found. Work
 * that nobody asks for any more ends.
 */
import { randomUUID } from 'node:crypto'
import { codeOf, StowageError, type ErrorCode } from '../core/errors.ts'

/** What came of a task since it was asked last. */
export interface TaskReport {
  items: unknown[]
  /** As the work tells it, such as files looked at. */
  progress: number
  isEnded: boolean
  /** Why it ended before its time. */
  error?: { code: ErrorCode; message: string }
}

/** What a task does: it yields what it finds, and may tell how far it is. */
export type Work = (options: { signal: AbortSignal; onProgress: (progress: number) => void }) => AsyncIterable<unknown>

/** So many items are kept until somebody asks; then the work waits. */
const itemsKept = 500
/** So long one question waits for news, and a task for the next question. */
const patience = { answerMs: 1000, questionMs: 60_000 }

/** The tasks of one process. */
export class Tasks {
  readonly #tasks = new Map<string, Task>()
  readonly #questionMs: number

  /** A task ends when it was not asked for `questionMs`, default 60 s. */
  constructor({ questionMs = patience.questionMs }: { questionMs?: number } = {}) {
    this.#questionMs = questionMs
  }

  /** Begins, and returns the name to ask by. */
  begin(work: Work): string {
    const id = randomUUID()
    const task = new Task(work, this.#questionMs)
    this.#tasks.set(id, task)
    void task.ended.then(() => this.#tasks.delete(id))
    return id
  }

  /** What came of a task since the last time; waits a second for news. Rejects with NOT_FOUND when it has ended. */
  async report(id: string): Promise<TaskReport> {
    const task = this.#tasks.get(id)
    if (!task) throw new StowageError('NOT_FOUND', 'This has ended, because nobody asked for it.')
    return task.report()
  }

  /** Ends a task before its time. */
  async cancel(id: string): Promise<void> {
    await this.#tasks.get(id)?.cancel()
  }

  async close(): Promise<void> {
    await Promise.all([...this.#tasks.values()].map(async (task) => task.cancel()))
  }
}

class Task {
  /** Resolves when nothing more will be asked. */
  readonly ended: Promise<void>
  readonly #end: () => void
  readonly #stop = new AbortController()
  readonly #questionMs: number
  readonly #done: Promise<void>
  #items: unknown[] = []
  #progress = 0
  #isDone = false
  #error: unknown
  #lease: NodeJS.Timeout | undefined
  #news = Promise.withResolvers<void>()
  #room = Promise.withResolvers<void>()

  constructor(work: Work, questionMs: number) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.ended = promise
    this.#end = resolve
    this.#questionMs = questionMs
    this.#renew()
    this.#done = this.#run(work)
  }

  async report(): Promise<TaskReport> {
    clearTimeout(this.#lease)
    if (this.#items.length === 0 && !this.#isDone) await this.#wait()
    const items = this.#items
    this.#items = []
    this.#room.resolve()
    this.#room = Promise.withResolvers()
    const isEnded = this.#isDone
    if (isEnded) this.#end()
    else this.#renew()
    const failure = isEnded && this.#error !== undefined && { error: described(this.#error) }
    return { items, progress: this.#progress, isEnded, ...failure }
  }

  async cancel(): Promise<void> {
    clearTimeout(this.#lease)
    this.#stop.abort()
    this.#room.resolve()
    await this.#done
    this.#end()
  }

  async #run(work: Work) {
    const { signal } = this.#stop
    const onProgress = (progress: number) => {
      this.#progress = progress
    }
    try {
      for await (const item of work({ signal, onProgress })) {
        this.#items.push(item)
        this.#news.resolve()
        if (this.#items.length >= itemsKept) await this.#room.promise
        if (signal.aborted) break
      }
    } catch (error) {
      this.#error = error
    }
    this.#isDone = true
    this.#news.resolve()
  }

  async #wait() {
    this.#news = Promise.withResolvers()
    const timer = setTimeout(() => this.#news.resolve(), patience.answerMs)
    await this.#news.promise
    clearTimeout(timer)
  }

  #renew() {
    this.#lease = setTimeout(() => void this.cancel(), this.#questionMs).unref()
  }
}

function described(error: unknown): { code: ErrorCode; message: string } {
  return { code: codeOf(error), message: error instanceof Error ? error.message : String(error) }
}
