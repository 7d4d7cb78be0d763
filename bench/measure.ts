/** Runs commands in turn, A B A B …, and tells wall time, CPU time and peak memory of each as medians. */
import { spawnSync } from 'node:child_process'

/** One command to be measured, as an argument list: no shell is involved. */
export interface Contestant {
  name: string
  command: readonly string[]
  environment?: Record<string, string>
  /** Brings the scene back to its start before each run; not measured. */
  prepare?: () => void
}

/** Medians over the runs. */
export interface Figures {
  name: string
  wallSeconds: number
  cpuSeconds: number
  peakMegabytes: number
}

/** Measures all contestants `runs` times in turn, after one run each that does not count. Throws when a command fails. */
export function measure(contestants: readonly Contestant[], runs = 5): Figures[] {
  const samples = contestants.map(() => [] as Omit<Figures, 'name'>[])
  for (let run = -1; run < runs; run++)
    for (const [index, contestant] of contestants.entries()) {
      contestant.prepare?.()
      const figures = once(contestant)
      if (run >= 0) samples[index]?.push(figures)
    }
  return contestants.map(({ name }, index) => {
    const mine = samples[index] ?? []
    return {
      name,
      wallSeconds: median(mine.map((figures) => figures.wallSeconds)),
      cpuSeconds: median(mine.map((figures) => figures.cpuSeconds)),
      peakMegabytes: median(mine.map((figures) => figures.peakMegabytes)),
    }
  })
}

/** GNU time does the accounting, so that children count too. */
function once({ name, command, environment }: Contestant): Omit<Figures, 'name'> {
  const result = spawnSync('/usr/bin/time', ['-q', '-f', '%e %U %S %M', '--', ...command], {
    env: { ...process.env, ...environment },
    encoding: 'utf8',
    maxBuffer: 64 << 20,
    timeout: 10 * 60_000,
  })
  const lines = result.stderr.trimEnd().split('\n')
  const [wall, user, system, peak] = (lines.at(-1) ?? '').split(' ').map(Number)
  if (result.status !== 0 || wall === undefined || user === undefined || system === undefined || peak === undefined)
    throw new Error(`${name} failed with status ${result.status}: ${lines.slice(-5).join(' | ')}`)
  return { wallSeconds: wall, cpuSeconds: user + system, peakMegabytes: peak / 1024 }
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
