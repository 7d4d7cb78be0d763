/** Asks the daemon that runs, or the state itself when none does. */
import { silentLog } from '../core/log.ts'
import { loadConfig, type Config } from '../daemon/config.ts'
import { askDaemon } from '../daemon/control.ts'
import { startDaemon, type Daemon } from '../daemon/daemon.ts'
import { SavedStores } from '../daemon/saved-stores.ts'
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
    return alone(daemon)
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
