/** Starts the server of a script beside this file for a test file, or says that it cannot. */
import { execFileSync } from 'node:child_process'
import * as path from 'node:path'

/** A running server: what its script printed, and how to say that it is needed no more. */
export type Started<T> = T & { stop: () => void }

/**
 * Runs `KIND.sh up`. Undefined where one of the programs it needs is not installed; never in CI, where that is a
 * failure. Several test files may use a server at once: it ends when the last has stopped it, or died.
 */
export function startServer<T extends object>(kind: string, programs: readonly string[]): Started<T> | undefined {
  if (!process.env['CI'] && !programs.every(isInstalled)) return undefined
  const script = path.join(import.meta.dirname, `${kind}.sh`)
  const found = JSON.parse(execFileSync(script, ['up', `${process.pid}`], { encoding: 'utf8' })) as T
  return { ...found, stop: () => void execFileSync(script, ['release', `${process.pid}`]) }
}

/** Is there such a program? Servers are in directories that not every user searches. */
function isInstalled(program: string): boolean {
  try {
    execFileSync('sh', ['-c', 'PATH=$PATH:/usr/sbin:/sbin command -v "$1"', 'sh', program], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
