/** What a process owes those who look after it: a file with its id, and word to systemd that it is ready and alive. */
import { spawn } from 'node:child_process'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { diskError } from '../core/disk-error.ts'
import { StowageError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'

/**
 * Writes the id of this process to a file, and removes it when disposed of. Rejects with BUSY when the file names another
 * process that lives; one that has ended is replaced.
 */
export function holdPidFile(file: string): Disposable {
  const holder = pidIn(file)
  if (holder !== undefined && holder !== process.pid && isAlive(holder))
    throw new StowageError('BUSY', `${file} belongs to the process ${holder}, which runs.`, {
      hint: 'Stop that first, or give each its own --pid-file.',
    })
  try {
    writeFileSync(file, `${process.pid}\n`, { mode: 0o644 })
  } catch (error) {
    throw diskError(error, `Cannot write ${file}`) ?? error
  }
  return {
    [Symbol.dispose]: () => {
      if (pidIn(file) === process.pid) rmSync(file, { force: true })
    },
  }
}

function pidIn(file: string): number | undefined {
  try {
    return Number(/^\d+/.exec(readFileSync(file, 'utf8'))?.[0]) || undefined
  } catch {
    return undefined
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

/**
 * Tells systemd how it is (sd_notify(3)), where it wants to know: NOTIFY_SOCKET. Node cannot write to such sockets, so
 * `systemd-notify` does. Alone it does nothing.
 */
export class ServiceManager {
  readonly #log: Log
  readonly #isListening: boolean
  #watchdog: NodeJS.Timeout | undefined
  #hasFailed = false

  constructor(log: Log, environment: NodeJS.ProcessEnv = process.env) {
    this.#log = log
    this.#isListening = environment['NOTIFY_SOCKET'] !== undefined && process.platform === 'linux'
  }

  ready(): void {
    this.#tell('READY=1')
  }

  stopping(): void {
    this.#tell('STOPPING=1')
  }

  /** A line that `systemctl status` shows. */
  status(text: string): void {
    this.#tell(`STATUS=${text.replaceAll('\n', ' ')}`)
  }

  /** Says from time to time that all is well, as long as `isWell` resolves; systemd starts us again when it hears nothing. */
  watch(isWell: () => Promise<unknown>, environment: NodeJS.ProcessEnv = process.env): void {
    const microseconds = Number(environment['WATCHDOG_USEC'])
    if (!this.#isListening || !(microseconds > 0)) return
    clearInterval(this.#watchdog)
    const ask = async () => {
      try {
        await isWell()
        this.#tell('WATCHDOG=1')
      } catch (error) {
        this.#log.error(`The watchdog is not told that all is well: ${(error as Error).message}`)
      }
    }
    this.#watchdog = setInterval(() => void ask(), microseconds / 3000)
    this.#watchdog.unref()
  }

  [Symbol.dispose](): void {
    clearInterval(this.#watchdog)
  }

  #tell(text: string) {
    if (!this.#isListening) return
    const teller = spawn('systemd-notify', [`--pid=${process.pid}`, text], { stdio: 'ignore' })
    teller.on('error', (error) => {
      if (!this.#hasFailed) this.#log.warn(`systemd cannot be told anything: ${error.message}`)
      this.#hasFailed = true
    })
    teller.unref()
  }
}
