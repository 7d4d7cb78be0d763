/** `stowage up`: everything that is configured, until told to stop. */
import { loadConfig } from '../daemon/config.ts'
import { startDaemon } from '../daemon/daemon.ts'
import { formatBytes } from '../core/units.ts'
import type { Context } from './main.ts'
import { exitCodes } from './output.ts'

/** Runs the daemon in the foreground. SIGTERM finishes what is in hand; the exit status is then 0. */
export async function run(
  { config: file, output, signal }: Context,
  _: string[],
  options: { verbose?: boolean },
): Promise<number> {
  const config = await loadConfig(file)
  const log = output.log('info')
  await using daemon = await startDaemon({ config, log })
  if (options.verbose || output.json)
    daemon.onDelivered((event) => {
      log.info(`${event.path} → ${event.store}:${event.key} (${formatBytes(event.size)})`, { ...event })
    })
  if (options.verbose || output.json)
    for (const [name, filestore] of daemon.filestores)
      filestore.on('uploaded', (event) => {
        log.info(`${name}:${event.key} → ${event.remote} (${formatBytes(event.bytes)})`, { filestore: name, ...event })
      })
  const stopped = new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
  const started = daemon.up().then(() => {
    if (!signal.aborted)
      log.info(
        `Watching ${[...Object.values(config.sources), ...Object.values(config.filestores)]
          .map(({ directory }) => directory)
          .join(', ')}.`,
      )
  })
  await Promise.race([Promise.all([started, stopped]), stopped])
  log.info('Stopping: what is in hand is finished first.')
  return signal.reason === 'SIGINT' ? exitCodes.interrupted : exitCodes.done
}
