/** Asks the daemon that runs, or the state itself when none does. */
import { silentLog } from '../core/log.ts'
import { loadConfig } from '../daemon/config.ts'
import { askDaemon } from '../daemon/control.ts'
import { startDaemon, type Daemon } from '../daemon/daemon.ts'

/** The answer to a question that a daemon and a state that rests can both answer. */
export async function ask<T>(
  file: string | undefined,
  method: string,
  parameters: object,
  alone: (daemon: Daemon) => Promise<T>,
): Promise<{ answer: T; isRunning: boolean }> {
  // A daemon that runs has its secrets; who asks it need not.
  const config = await loadConfig(file, undefined, { secrets: false })
  const answer = await askDaemon(`${config.state}.sock`, method, parameters)
  if (answer !== undefined) return { answer: answer as T, isRunning: true }
  await using daemon = await startDaemon({ config, log: silentLog })
  return { answer: await alone(daemon), isRunning: false }
}
