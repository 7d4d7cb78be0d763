/** Asks the daemon that runs, or the state itself when none does. */
import { StowageError } from '../core/errors.ts'
import { silentLog, type Log } from '../core/log.ts'
import { loadConfig, type Config } from '../daemon/config.ts'
import { askDaemon } from '../daemon/control.ts'
import { startDaemon, type Daemon } from '../daemon/daemon.ts'
import { SavedStores } from '../daemon/saved-stores.ts'
import type { TaskReport } from '../daemon/tasks.ts'
import { openDatabase } from '../state/database.ts'

interface Answered<T> {
  answer: T
  isRunning: boolean
}

/** Trying a place takes its time. */
const trialLimitMs = 180_000

/** The answer to a question that a daemon and a state that rests can both answer. */
export async function ask<T>(
  file: string | undefined,
  method: string,
  parameters: object,
  alone: (daemon: Daemon) => Promise<T>,
): Promise<Answered<T>> {
  return asked(file, { method, parameters }, async (config) => {
    await using daemon = await startDaemon({ config, log: silentLog })
    return await alone(daemon)
  })
}

/** The same of the stores that are saved, which may be what keeps a daemon from starting. */
export async function askSavedStores<T>(
  file: string | undefined,
  method: string,
  parameters: object,
  alone: (saved: SavedStores) => Promise<T>,
): Promise<Answered<T>> {
  return asked(file, { method, parameters, limitMs: trialLimitMs }, async (config) => {
    const database = await openDatabase(config.state)
    try {
      return await alone(new SavedStores({ config, database }))
    } finally {
      await database.close()
    }
  })
}

async function asked<T>(
  file: string | undefined,
  { method, parameters, limitMs }: { method: string; parameters: object; limitMs?: number },
  alone: (config: Config) => Promise<T>,
): Promise<Answered<T>> {
  // A daemon that runs has its secrets; who asks it need not.
  const config = await loadConfig(file, undefined, { secrets: false })
  const answer = await askDaemon(`${config.state}.sock`, method, parameters, limitMs)
  if (answer !== undefined) return { answer: answer as T, isRunning: true }
  return { answer: await alone(config), isRunning: false }
}

/** Whoever answers several questions in a row: the daemon that runs, or the state itself. */
export interface Client extends AsyncDisposable {
  isRunning: boolean
  /** The names of the filestores of the configuration. */
  filestores: string[]
  call<T>(method: string, parameters?: object): Promise<T>
  /** Has a filestore look through its directory. A daemon does so by itself. */
  scan(filestore: string): Promise<void>
  /** Has a filestore work until the client is disposed of. Nothing happens where a daemon runs. */
  start(filestore: string): Promise<void>
}

/**
 * Reaches the daemon, or opens the state when none runs. What happens in the state is told to the log. `check` may throw
 * before anything is opened.
 */
export async function connect(
  file: string | undefined,
  log: Log,
  check: (config: Config) => void = () => undefined,
): Promise<Client> {
  const config = await loadConfig(file, undefined, { secrets: false })
  check(config)
  const filestores = Object.keys(config.filestores)
  const socket = `${config.state}.sock`
  const isRunning = (await askDaemon(socket, 'filestore.status')) !== undefined
  if (isRunning) {
    const call = async <T>(method: string, parameters: object = {}) => {
      const answer = await askDaemon(socket, method, parameters)
      if (answer !== undefined) return answer as T
      throw new StowageError('UNREACHABLE', 'The daemon has ended meanwhile.', {
        hint: 'What was begun goes on when it runs again.',
      })
    }
    const nothing = async () => {}
    return { isRunning, filestores, call, scan: nothing, start: nothing, [Symbol.asyncDispose]: nothing }
  }
  const daemon = await startDaemon({ config, log })
  const methods = daemon.methods()
  return {
    isRunning,
    filestores,
    call: async <T>(method: string, parameters: object = {}) => (await methods[method]?.(parameters as never)) as T,
    scan: async (name) => void (await daemon.filestores.get(name).scan()),
    start: async (name) => daemon.filestores.get(name).start(),
    [Symbol.asyncDispose]: async () => daemon.close(),
  }
}

/** What a task finds, as it finds it. Rejects with ABORTED when the signal fires; the task ends then. */
export async function* itemsOf<T>(
  client: Client,
  method: string,
  parameters: object,
  { signal, onProgress }: { signal: AbortSignal; onProgress?: (progress: number) => void },
): AsyncGenerator<T> {
  const id = await client.call<string>(method, parameters)
  let isEnded = false
  try {
    while (!isEnded) {
      const report = await client.call<TaskReport>('task.report', { id })
      isEnded = report.isEnded
      onProgress?.(report.progress)
      yield* report.items as T[]
      if (report.error) throw new StowageError(report.error.code, report.error.message)
      if (signal.aborted) throw new StowageError('ABORTED', 'Stopped. What was done so far stays done.')
    }
  } finally {
    if (!isEnded) await client.call('task.cancel', { id }).catch(() => undefined)
  }
}
