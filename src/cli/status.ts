/** `stowage status`: what is watched, what waits, what was set aside. */
import type { Status } from '../daemon/daemon.ts'
import { statusLines } from './filestore-status.ts'
import type { Context } from './main.ts'
import { ask } from './state.ts'

/** Prints the status of the running daemon, or of the state when none runs. */
export async function run({ config, output }: Context): Promise<undefined> {
  const { answer: status, isRunning } = await ask<Status>(config, 'status', {}, async (daemon) => daemon.status())
  output.object({ running: isRunning, ...status })
  for (const line of linesOf(status, isRunning)) output.line(line)
  return undefined
}

/** A status for people. */
export function linesOf(status: Status, isRunning: boolean): string[] {
  const { sources, stores, filestores, queues, setAside } = status
  return [
    isRunning ? `Running since ${status.since}, process ${status.pid}.` : 'Not running. `stowage up` starts it.',
    ...sources.map(
      ({ name, directory, watching, files }) =>
        `source ${name}: ${directory}, ${files} files${isRunning ? `, ${watching}` : ''}`,
    ),
    ...stores.map(
      ({ name, location, state, until, reason }) =>
        `store ${name}: ${location}, ${state}${until ? ` until ${until}` : ''}${reason ? `: ${reason}` : ''}`,
    ),
    ...filestores.flatMap((report) => statusLines(report, Date.now())),
    ...queues.map(
      ({ queue, waiting, running, setAside: aside }) =>
        `queue ${queue}: ${waiting} waiting, ${running} running, ${aside} set aside`,
    ),
    ...(queues.length === 0 ? ['Nothing waits.'] : []),
    ...setAside.map(({ key, reason, attempts, at }) => `set aside: ${key}, ${attempts} attempts, ${at}: ${reason}`),
    ...(setAside.length > 0 ? ['When the reasons are gone: stowage retry'] : []),
  ]
}
