/** Whose temporary things are these? A process, told from a later one that happens to have the same id. */
import { readFileSync } from 'node:fs'

/** Names this process: its id and when it began, `123-456789`. */
export const owner = `${process.pid}-${bornAt(process.pid) ?? 0}`

/** Is the process that calls itself this still running? Anything that is not such a name belongs to nobody we know: true. */
export function isOwnerAlive(name: string): boolean {
  const [, pid, born] = /^(\d+)-(\d+)$/.exec(name) ?? []
  return pid === undefined || bornAt(Number(pid)) === Number(born)
}

/** When a process began, in clock ticks since boot (proc(5), field 22); 0 where there is no /proc; undefined when it is dead. */
function bornAt(pid: number): number | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(text.slice(text.lastIndexOf(')') + 2).split(' ')[19])
  } catch {
    return isAlive(pid) ? 0 : undefined
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
