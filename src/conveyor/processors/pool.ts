/**
 * Heavy work in processes of its own. The event loop, and the few threads that read files and databases, stay free for
 * everybody else; what crashes or never ends takes a process with it and nothing more; and memory goes back afterwards.
 */
import { fork, type ChildProcess } from 'node:child_process'
import * as os from 'node:os'
import { onAbort } from '../../core/abort.ts'
import { StowageError } from '../../core/errors.ts'
import { Limit } from '../../core/limit.ts'
import type { Task, TaskOutcome } from './pool-process.ts'

/** Limits of a pool. */
export interface PoolOptions {
  /** Processes at once, one task each. Default: as many as there are cores. */
  size?: number
  /** Tasks that may wait for their turn; more are refused. Default 1000. */
  maxWaiting?: number
  /** How long a process that has nothing to do is kept, in milliseconds. Default 10 s. */
  idleMs?: number
}

/** What stderr may hold for the message about a crash. */
const maxLastWords = 500

/** Processes that are started when there is work, and end when there is none. */
export class ProcessPool {
  readonly #limit: Limit
  readonly #maxWaiting: number
  readonly #idleMs: number
  readonly #idle: TaskProcess[] = []

  constructor(options: PoolOptions = {}) {
    this.#limit = new Limit(options.size ?? os.availableParallelism())
    this.#maxWaiting = options.maxWaiting ?? 1000
    this.#idleMs = options.idleMs ?? 10_000
  }

  /**
   * Runs a task when its turn comes. A StowageError it throws arrives as one. Rejects with BUSY when too many wait, with
   * CORRUPT when the task brings its process down, and with ABORTED once the signal has fired and the process is gone.
   */
  async run<T>(task: Task, signal?: AbortSignal): Promise<T> {
    if (this.#limit.waiting >= this.#maxWaiting)
      throw new StowageError('BUSY', `${this.#maxWaiting} files wait for the processors already.`)
    return this.#limit.run(async () => {
      const process = this.#idle.pop() ?? new TaskProcess()
      try {
        return (await process.run(task, signal)) as T
      } finally {
        this.#keep(process)
      }
    }, signal)
  }

  /** Ends the processes that have nothing to do. Those at work end by their signals. */
  async close(): Promise<void> {
    await Promise.all(this.#idle.splice(0).map(async (process) => process.end()))
  }

  #keep(process: TaskProcess) {
    if (process.isGone) return
    this.#idle.push(process)
    process.whenIdleFor(this.#idleMs, () => {
      const index = this.#idle.indexOf(process)
      if (index >= 0) this.#idle.splice(index, 1)
    })
  }
}

/** The pool that all processors of this program share. */
export const sharedPool = new ProcessPool()

/** One process, which does one task at a time. */
class TaskProcess {
  readonly #child: ChildProcess
  readonly #gone = Promise.withResolvers<void>()
  #isGone = false
  #pending: PromiseWithResolvers<TaskOutcome> | undefined
  #lastWords = ''
  #timer: NodeJS.Timeout | undefined

  constructor() {
    const entry = new URL(`./pool-process${import.meta.url.slice(-3)}`, import.meta.url)
    this.#child = fork(entry, [], {
      serialization: 'advanced',
      execArgv: [],
      // A group of its own, so that the programs it starts end with it.
      detached: process.platform !== 'win32',
      env: pick(process.env, ['PATH', 'TMPDIR', 'TEMP', 'LD_LIBRARY_PATH', 'SystemRoot']),
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    })
    this.#child.on('message', (outcome) => this.#pending?.resolve(outcome as TaskOutcome))
    this.#child.once('error', (error) => this.#ended(error.message))
    this.#child.once('exit', (code, signal) => this.#ended(signal ?? `status ${code}`))
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#lastWords = (this.#lastWords + text).slice(-maxLastWords)
    })
    this.#lowerPriority()
  }

  get isGone(): boolean {
    return this.#isGone
  }

  async run(task: Task, signal: AbortSignal | undefined): Promise<unknown> {
    clearTimeout(this.#timer)
    this.#hold(true)
    const pending = Promise.withResolvers<TaskOutcome>()
    this.#pending = pending
    const stopListening = onAbort(signal, () => this.#kill())
    try {
      this.#child.send(task, (error) => error && pending.reject(error))
      const outcome = await pending.promise
      if ('value' in outcome) return outcome.value
      const { code, message, retryable } = outcome
      throw code === undefined ? new Error(message) : new StowageError(code, message, { retryable })
    } catch (error) {
      if (!signal?.aborted) throw error
      await this.end()
      throw new StowageError('ABORTED', 'The work was cancelled.', { cause: signal.reason })
    } finally {
      stopListening()
      this.#hold(false)
    }
  }

  /** Ends the process after a time without work, and tells so. */
  whenIdleFor(ms: number, told: () => void): void {
    this.#timer = setTimeout(() => {
      told()
      this.#kill()
    }, ms).unref()
  }

  /** Ends the process, and resolves when it is gone. */
  async end(): Promise<void> {
    clearTimeout(this.#timer)
    this.#hold(true)
    this.#kill()
    await this.#gone.promise
  }

  /** Somebody who ends it from outside, such as a kernel short of memory, says nothing about the task. */
  #ended(reason: string) {
    this.#isGone = true
    this.#gone.resolve()
    const isOutside = reason === 'SIGKILL' || reason === 'SIGTERM'
    const said = this.#lastWords.trim().split('\n').at(-1)
    this.#pending?.reject(
      new StowageError(
        isOutside ? 'UNKNOWN' : 'CORRUPT',
        `The process that worked on it ended with ${reason}${said ? `: ${said}` : ''}.`,
        { retryable: isOutside },
      ),
    )
  }

  /** Only work keeps our own process alive. */
  #hold(isBusy: boolean) {
    const change = isBusy ? 'ref' : 'unref'
    this.#child[change]()
    this.#child.channel?.[change]()
    const stderr = this.#child.stderr as { ref?: () => void; unref?: () => void } | null
    stderr?.[change]?.()
  }

  /** Events and deliveries come first. */
  #lowerPriority() {
    try {
      if (this.#child.pid !== undefined) os.setPriority(this.#child.pid, os.constants.priority.PRIORITY_BELOW_NORMAL)
    } catch {
      // It works at the same priority, or is gone already.
    }
  }

  #kill() {
    const { pid } = this.#child
    if (pid === undefined || this.#isGone) return
    try {
      if (process.platform === 'win32') this.#child.kill('SIGKILL')
      else process.kill(-pid, 'SIGKILL')
    } catch {
      this.#child.kill('SIGKILL') // the group is not there yet, or no longer
    }
  }
}

function pick(environment: NodeJS.ProcessEnv, names: readonly string[]): NodeJS.ProcessEnv {
  return Object.fromEntries(
    names.flatMap((name) => (environment[name] === undefined ? [] : [[name, environment[name]]])),
  )
}
