/** What the measurements share: a place to work, trees of files, servers, our compiled program and rclone. */
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import * as path from 'node:path'
import type { Contestant, Figures } from './measure.ts'

/** The compiled program: what users run. */
export const program = path.resolve(import.meta.dirname, '../bin/stowage.js')

/** A directory that is removed when the process ends. In memory where there is room: disks of test machines are noisy. */
export function workplace(base = existsSync('/dev/shm') ? '/dev/shm' : '/tmp'): string {
  const directory = mkdtempSync(path.join(base, 'stowage-bench-'))
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }))
  return directory
}

/** Makes `count` files of `size` random bytes, a hundred to a directory. */
export function makeTree(directory: string, count: number, size: number): void {
  for (let i = 0; i < count; i++) {
    if (i % 100 === 0) mkdirSync(path.join(directory, `d${i / 100}`), { recursive: true })
    writeFileSync(path.join(directory, `d${Math.floor(i / 100)}`, `f${i}`), randomBytes(size))
  }
}

/** Our program with these arguments. */
export function stowage(name: string, args: readonly string[], prepare?: () => void): Contestant {
  return {
    name,
    command: [process.execPath, program, ...args],
    environment: { STOWAGE_COMPILED: '1' },
    ...(prepare ? { prepare } : {}),
  }
}

/** A configuration that delivers one source to one store, and the arguments that name it. */
export function configure(
  directory: string,
  source: string,
  store: string,
  more: object = {},
  processors: readonly string[] = [],
): string[] {
  const file = path.join(directory, 'stowage.config.json')
  const config = {
    state: path.join(directory, 'state/stowage.db'),
    stores: { out: store },
    sources: { site: { directory: source, settle: '0ms' } },
    rules: [{ label: 'all', source: 'site', processors, destinations: [{ store: 'out', ...more }] }],
  }
  writeFileSync(file, JSON.stringify(config))
  return ['--config', file]
}

/** rclone without a configuration of its own, its remote `sink:` being the S3 sink at this port. */
export function rclone(name: string, args: readonly string[], port?: number, prepare?: () => void): Contestant {
  const environment: Record<string, string> =
    port === undefined
      ? {}
      : {
          RCLONE_CONFIG_SINK_TYPE: 's3',
          RCLONE_CONFIG_SINK_PROVIDER: 'Other',
          RCLONE_CONFIG_SINK_ENDPOINT: `http://127.0.0.1:${port}`,
          RCLONE_CONFIG_SINK_ACCESS_KEY_ID: 'key',
          RCLONE_CONFIG_SINK_SECRET_ACCESS_KEY: 'secret',
        }
  // A bundle of certificates in the environment makes this old rclone stop.
  const command = ['env', '-u', 'AWS_CA_BUNDLE', 'rclone', '--config', '', ...args]
  return { name, command, environment, ...(prepare ? { prepare } : {}) }
}

/** Starts the S3-shaped sink and returns its port. It ends with this process. */
export function startSink(port = 24_210): number {
  const script = path.join(import.meta.dirname, 'servers/sink.sh')
  const env = {
    ...process.env,
    STOWAGE_BENCH_SERVERS: `${existsSync('/dev/shm') ? '/dev/shm' : '/tmp'}/stowage-bench-${process.pid}`,
  }
  execFileSync(script, ['up', String(port)], { env })
  process.on('exit', () => execFileSync(script, ['down'], { env }))
  return port
}

/** Starts a proxy that adds latency to a port and returns its own. It ends with this process. */
export async function startDelay(target: number, delayMs: number, port = target + 1): Promise<number> {
  const script = path.join(import.meta.dirname, 'servers/delay-proxy.ts')
  const child = spawn(process.execPath, [script, String(port), String(target), String(delayMs)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  process.on('exit', () => child.kill())
  await once(child.stdout, 'data')
  child.unref()
  return port
}

/** Prints figures as a table; the ratios are to the last line, the peer. */
export function report(title: string, figures: readonly Figures[]): void {
  const peer = figures.at(-1)
  console.log(`\n${title}\n${'-'.repeat(title.length)}`)
  for (const { name, wallSeconds, cpuSeconds, peakMegabytes } of figures) {
    const ratios =
      peer && peer.name !== name
        ? `  ${ratio(wallSeconds, peer.wallSeconds)} time, ${ratio(cpuSeconds, peer.cpuSeconds)} CPU`
        : ''
    const values = [`${wallSeconds.toFixed(2)} s`, `${cpuSeconds.toFixed(2)} s CPU`, `${peakMegabytes.toFixed(0)} MB`]
    console.log(`${name.padEnd(44)} ${values.join('  ')}${ratios}`)
  }
}

function ratio(ours: number, theirs: number): string {
  return `${(ours / theirs).toFixed(2)}x`
}
