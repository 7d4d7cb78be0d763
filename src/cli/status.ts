/** `stowage status`: what is watched, what waits, what was set aside. */
import type { Status } from '../daemon/daemon.ts'
import { statusLines } from './filestore-status.ts'
import type { Context } from './main.ts'
import { ask } from './state.ts'

/** Prints the status of the running daemon, or of the state when none runs. */
export async function run({ config, output }: Context): Promise<undefined> {
  const { answer: status, isRunning } = await ask<Status>(config, 'status', {}, async (daemon) => daemon.status())
  output.object({ running: isRunning, ...status })
  output.line(
    isRunning ? `Running since ${status.since}, process ${status.pid}.` : 'Not running. `stowage up` starts it.',
  )
  for (const { name, directory, watching, files } of status.sources)
    output.line(`source ${name}: ${directory}, ${files} files${isRunning ? `, ${watching}` : ''}`)
  for (const { name, location, state, until, reason } of status.stores)
    output.line(`store ${name}: ${location}, ${state}${until ? ` until ${until}` : ''}${reason ? `: ${reason}` : ''}`)
  for (const report of status.filestores) for (const line of statusLines(report, Date.now())) output.line(line)
  for (const { queue, waiting, running, setAside } of status.queues)
    output.line(`queue ${queue}: ${waiting} waiting, ${running} running, ${setAside} set aside`)
  if (status.queues.length === 0) output.line('Nothing waits.')
  for (const { key, reason, attempts, at } of status.setAside)
    output.line(`set aside: ${key}, ${attempts} attempts, ${at}: ${reason}`)
  if (status.setAside.length > 0) output.line('When the reasons are gone: stowage retry')
  return undefined
}
