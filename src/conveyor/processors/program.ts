/** Runs other programs: with a list of arguments and no shell, a small environment, and limits. */
import { spawn, type ChildProcess } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { open, stat, type FileHandle } from 'node:fs/promises'
import * as path from 'node:path'
import { onAbort } from '../../core/abort.ts'
import { StowageError } from '../../core/errors.ts'
import { formatBytes } from '../../core/units.ts'

/** One run of a program. */
export interface ProgramRun {
  /** The program and its arguments. */
  command: readonly string[]
  /** Where it runs: its home and the place of its temporary files, too. */
  directory: string
  /** The file it makes. */
  output: string
  /** The file it reads as its standard input. Default: nothing. */
  stdin?: string
  /** What it prints is the output. */
  isPrinting?: boolean
  /** It is ended when its output is larger. */
  maxBytes: number
  /** Names of variables it gets besides the usual ones. */
  environment?: readonly string[]
  signal: AbortSignal
}

/** Nothing else of our environment, where secrets may be, reaches a program. */
const usual = ['PATH', 'LANG', 'LC_ALL', 'TZ', 'LD_LIBRARY_PATH', 'JAVA_HOME', 'SystemRoot']
/** How often the size of an output is looked at, in milliseconds. */
const lookMs = 200
/** How much is remembered of what a program complains about. */
const maxWords = 4000

/**
 * Runs a program until it ends. Rejects with CORRUPT when it ends with another status than 0, makes nothing, or makes too
 * much; with INVALID_CONFIG when it cannot be started; with ABORTED when the signal fires: then it, and all it started,
 * are ended.
 */
export async function runProgram(run: ProgramRun): Promise<void> {
  const { command, output, maxBytes, signal } = run
  signal.throwIfAborted()
  const name = path.basename(command[0] ?? '')
  const { child, end } = await start(run)
  let isTooLarge = false
  const kill = () => endGroup(child)
  const stopListening = onAbort(signal, kill)
  const timer = setInterval(() => {
    void sizeOf(output).then((size = 0) => {
      if (size <= maxBytes) return
      isTooLarge = true
      kill()
    })
  }, lookMs)
  try {
    const { how, words } = await end
    if (signal.aborted) throw new StowageError('ABORTED', `${name} was stopped.`, { cause: signal.reason })
    const size = await sizeOf(output)
    if (isTooLarge || (size ?? 0) > maxBytes)
      throw new StowageError('CORRUPT', `${name} made more than ${formatBytes(maxBytes)}.`)
    if (how !== 0) throw new StowageError('CORRUPT', `${name} ended with ${describe(how)}${words && `: ${words}`}.`)
    if (!size) throw new StowageError('CORRUPT', `${name} made nothing${words && `: ${words}`}.`)
  } finally {
    clearInterval(timer)
    stopListening()
    kill()
  }
}

/** The first of some programs that is in the PATH. Throws INVALID_CONFIG when none is. */
export function findProgram(names: readonly string[], hint: string): string {
  const directories = (process.env['PATH'] ?? '').split(path.delimiter)
  const found = names.flatMap((name) => directories.map((each) => path.join(each, name))).find(isExecutable)
  if (found !== undefined) return found
  throw new StowageError('INVALID_CONFIG', `There is no ${names.join(' or ')} in the PATH.`, { hint })
}

async function start({ command, directory, output, stdin, isPrinting, environment = [] }: ProgramRun) {
  const files: FileHandle[] = []
  const use = async (file: string, flags: string) => {
    files.push(await open(file, flags))
    return files.at(-1)?.fd
  }
  try {
    const input = stdin === undefined ? 'ignore' : await use(stdin, 'r')
    const printed = isPrinting ? await use(output, 'w') : 'ignore'
    const known = Object.entries(process.env).filter(([name]) => usual.includes(name) || environment.includes(name))
    const [program = '', ...args] = command
    const child = spawn(program, args, {
      cwd: directory,
      env: { ...Object.fromEntries(known), HOME: directory, TMPDIR: directory },
      stdio: [input, printed, 'pipe'],
      // A group of its own, so that what it starts ends with it.
      detached: process.platform !== 'win32',
      windowsHide: true,
    })
    const end = endOf(child, program)
    // It may fail before somebody waits for it.
    end.catch(() => undefined)
    return { child, end }
  } finally {
    // The program has its own copies.
    await Promise.all(files.map(async (file) => file.close()))
  }
}

type How = number | NodeJS.Signals

/** Waits for the program itself; what it has left behind may hold its output open for ever. */
async function endOf(child: ChildProcess, program: string): Promise<{ how: How; words: string }> {
  let words = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    words = (words + text).slice(-maxWords)
  })
  const how = await new Promise<How>((resolve, reject) => {
    child.once('exit', (status, signal) => resolve(status ?? signal ?? 'SIGKILL'))
    child.once('error', (error: NodeJS.ErrnoException) => reject(notStarted(program, error)))
  })
  // What it said last may still be on its way.
  await new Promise((resolve) => setImmediate(resolve))
  child.stderr?.destroy()
  const lines = words.split('\n').filter((line) => line.trim() !== '' && !/^\s+at /.test(line))
  return { how, words: lines.slice(-3).join(' | ').slice(-500) }
}

function notStarted(program: string, cause: NodeJS.ErrnoException): StowageError {
  const isAbsent = cause.code === 'ENOENT'
  const reason = isAbsent ? 'is not installed, or not in the PATH' : `cannot be started: ${cause.code}`
  return new StowageError('INVALID_CONFIG', `The program ${program} ${reason}.`, { cause })
}

function describe(how: How): string {
  return typeof how === 'number' ? `status ${how}` : how
}

function endGroup(child: ChildProcess) {
  if (child.pid === undefined) return
  try {
    if (process.platform === 'win32') child.kill('SIGKILL')
    else process.kill(-child.pid, 'SIGKILL')
  } catch {
    // All of it has ended.
  }
}

async function sizeOf(file: string): Promise<number | undefined> {
  return stat(file).then(
    ({ size }) => size,
    () => undefined,
  )
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}
