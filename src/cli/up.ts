/** `stowage up`: everything that is configured, until told to stop. */
import { textLog, jsonLog, type Level, type Log } from '../core/log.ts'
import { formatBytes } from '../core/units.ts'
import { StowageError } from '../core/errors.ts'
import { loadConfig, type Config } from '../daemon/config.ts'
import { startDaemon, type Daemon } from '../daemon/daemon.ts'
import { holdPidFile, ServiceManager } from '../daemon/process.ts'
import type { Context } from './main.ts'
import { exitCodes, type Output } from './output.ts'
import { linesOf } from './status.ts'

interface Options {
  verbose?: boolean
  pidFile?: string
  logLevel?: string
  logFormat?: string
}

/**
 * Runs the daemon in the foreground. SIGTERM finishes what is in hand, and the exit status is 0; SIGHUP reads the configuration
 * anew; SIGUSR1 logs the status.
 */
export async function run({ config: file, output, signal }: Context, _: string[], options: Options): Promise<number> {
  const log = logOf(output, options)
  let config: Config | undefined = await loadConfig(file)
  using _pidFile = options.pidFile === undefined ? undefined : holdPidFile(options.pidFile)
  using manager = new ServiceManager(log)
  while (config)
    config = await runOnce(config, { file, log, signal, manager, isVerbose: options.verbose || output.json })
  return signal.reason === 'SIGINT' ? exitCodes.interrupted : exitCodes.done
}

interface Parts {
  file: string | undefined
  log: Log
  signal: AbortSignal
  manager: ServiceManager
  isVerbose: boolean
}

/** Runs with one configuration. Resolves to the next, or to undefined when it is to stop. */
async function runOnce(config: Config, { file, log, signal, manager, isVerbose }: Parts): Promise<Config | undefined> {
  await using daemon = await startDaemon({ config, log })
  if (isVerbose) tellDeliveries(daemon, log)
  using signals = new Signals(signal)
  signals.on('SIGUSR1', async () => {
    for (const line of linesOf(await daemon.status(), true)) log.info(line)
  })
  signals.on('SIGHUP', async () => {
    try {
      const next = await loadConfig(file)
      log.info('The configuration was read anew; what is in hand is finished first.')
      signals.end(next)
    } catch (error) {
      log.error(`The configuration stays as it was: ${(error as Error).message}`)
    }
  })
  const started = daemon.up().then(() => {
    if (signals.hasEnded) return
    const watched = [...Object.values(config.sources), ...Object.values(config.filestores)]
    log.info(`Watching ${watched.map(({ directory }) => directory).join(', ')}.`)
    manager.ready()
    manager.watch(async () => daemon.status())
  })
  const next = await Promise.race([started.then(async () => signals.ended), signals.ended])
  if (next) return next
  log.info('Stopping: what is in hand is finished first.')
  manager.stopping()
  return undefined
}

function tellDeliveries(daemon: Daemon, log: Log) {
  daemon.onDelivered((event) => {
    log.info(`${event.path} → ${event.store}:${event.key} (${formatBytes(event.size)})`, { ...event })
  })
  for (const [name, filestore] of daemon.filestores)
    filestore.on('uploaded', (event) => {
      log.info(`${name}:${event.key} → ${event.remote} (${formatBytes(event.bytes)})`, { filestore: name, ...event })
    })
}

/** What the operating system says to a daemon, for as long as one configuration holds. */
class Signals {
  readonly #handlers = new Map<NodeJS.Signals, () => void>()
  readonly #ended = Promise.withResolvers<Config | undefined>()
  hasEnded = false

  constructor(stop: AbortSignal) {
    const end = () => this.end(undefined)
    if (stop.aborted) end()
    else stop.addEventListener('abort', end, { once: true })
  }

  /** Resolves when it is over: to the next configuration, if there is one. */
  get ended(): Promise<Config | undefined> {
    return this.#ended.promise
  }

  end(next: Config | undefined): void {
    this.hasEnded = true
    this.#ended.resolve(next)
  }

  on(signal: NodeJS.Signals, work: () => Promise<void>): void {
    const handler = () => void work().catch(() => undefined)
    this.#handlers.set(signal, handler)
    process.on(signal, handler)
  }

  [Symbol.dispose](): void {
    for (const [signal, handler] of this.#handlers) process.off(signal, handler)
  }
}

const levels: readonly string[] = ['debug', 'info', 'warn', 'error'] satisfies Level[]

function logOf(output: Output, { logLevel = 'info', logFormat }: Options): Log {
  if (!levels.includes(logLevel))
    throw new StowageError('INVALID_ARGUMENT', `There is no level ${JSON.stringify(logLevel)}.`, {
      hint: `There are: ${levels.join(', ')}.`,
    })
  if (logFormat !== undefined && !['text', 'json'].includes(logFormat))
    throw new StowageError('INVALID_ARGUMENT', 'The format of the log can be text or json.')
  const isJson = logFormat === undefined ? output.json : logFormat === 'json'
  return (isJson ? jsonLog : textLog)(process.stderr, logLevel as Level)
}
