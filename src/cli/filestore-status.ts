/** How a filestore is, in lines for people. */
import { formatBytes } from '../core/units.ts'
import type { FilestoreReport } from '../daemon/filestores.ts'
import type { MoveOrder, MoveProgress } from '../filestore/mover.ts'

/** The lines of one filestore; `now` in milliseconds since the epoch. */
export function statusLines(report: FilestoreReport, now: number): string[] {
  const { name, directory, remotes, queues, paused, troubles, move, cache, setAside } = report
  const rows = [
    ['media', report.media],
    ['local', report.local],
    ['cloud', report.cloud],
    ['both', report.both],
    ['lost', report.lost],
    ['deleted', report.deleted],
  ] as const
  return [
    `${name}: ${directory}, offloaded to ${remotes.join(', ')}`,
    `  ${''.padEnd(8)}${'files'.padStart(12)}${'size'.padStart(13)}`,
    ...rows.map(
      ([kind, { files, bytes }]) =>
        `  ${kind.padEnd(8)}${files.toLocaleString('en').padStart(12)}${formatBytes(bytes).padStart(13)}`,
    ),
    ...queues
      .filter(({ waiting, running, setAside: aside }) => waiting + running + aside > 0)
      .map((queue) => `  ${describeQueue(queue, now)}`),
    ...paused.map((remote) => `  paused: nothing is sent ${remote === '*' ? 'anywhere' : `to ${remote}`}`),
    ...troubles.map(({ remote, reason, untilMs }) => `  ${remote} is left alone for ${span(untilMs - now)}: ${reason}`),
    ...(move ? [`  ${describeMove(move)}`] : []),
    ...setAside.slice(0, 5).map(({ key, reason }) => `  set aside: ${key}: ${reason}`),
    ...(setAside.length > 5 ? ['  … and more. When the reasons are gone: stowage retry'] : []),
    ...(cache ? [`  cache: ${formatBytes(cache.bytes)} of ${formatBytes(cache.maxBytes)}${describeHits(cache)}`] : []),
  ]
}

/** What a move does, such as `an offload of photos/`; without the article for `The …`. */
export function nameOfMove(order: MoveOrder, article = false): string {
  const which = order.prefix ? ` of ${order.prefix}` : ''
  const word = article ? `${order.kind === 'offload' ? 'an' : 'a'} ${order.kind}` : order.kind
  return `${word}${which}${order.kind === 'migrate' ? ` from ${order.from} to ${order.to}` : ''}`
}

/** How far a move is: files and bytes. */
export function progressOf({ done, total, failed }: MoveProgress): string {
  const files = `${done.files.toLocaleString('en')} of ${total.files.toLocaleString('en')} files`
  const bytes = `${formatBytes(done.bytes)} of ${formatBytes(total.bytes)}`
  return `${files}, ${bytes}${failed > 0 ? `, ${failed} failed` : ''}`
}

/** A time that passes, roughly: `5 min`. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1000))
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`
  return `${Math.round(seconds / 86_400)} days`
}

function describeQueue(
  { queue, waiting, running, setAside, oldestMs }: FilestoreReport['queues'][number],
  now: number,
) {
  const words: Record<typeof queue, string> = {
    offload: 'to be offloaded',
    move: 'to be moved',
    remove: 'to be removed',
  }
  const late = oldestMs === undefined ? 0 : now - oldestMs
  const oldest = oldestMs === undefined ? '' : late > 0 ? `, due for ${span(late)}` : `, the first in ${span(-late)}`
  return `${words[queue]}: ${waiting} wait${oldest}, ${running} under way, ${setAside} set aside`
}

function describeHits({ hits, misses }: NonNullable<FilestoreReport['cache']>): string {
  return hits + misses === 0 ? '' : `, ${hits} hits, ${misses} misses`
}

function describeMove(move: MoveProgress): string {
  const ended = move.endedMs === undefined ? '' : ` ${new Date(move.endedMs).toISOString()}`
  const states = { running: 'under way', done: `done${ended}`, stopped: `stopped${ended}` }
  return `${nameOfMove(move.order)}, ${states[move.state]}: ${progressOf(move)}`
}
