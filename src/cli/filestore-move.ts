/** `stowage filestore offload|recall|migrate`: moves are begun, followed and stopped. */
import { parseSize, formatBytes } from '../core/units.ts'
import type { Begun, FilestoreReport } from '../daemon/filestores.ts'
import type { MoveOrder, MoveProgress } from '../filestore/mover.ts'
import type { Count } from '../filestore/registry.ts'
import { count, invalid, prefixFrom, reportOf, type Order } from './filestore-order.ts'
import { nameOfMove, progressOf, span } from './filestore-status.ts'
import { bar, exitCodes } from './output.ts'

/** So often somebody who waits is told how far it is. */
const lookEveryMs = 250

/**
 * Begins a move and follows it to its end; whoever stops to follow does not stop a move that a daemon does. Exit status 3
 * when some files could not be moved, 1 when the move was ended by somebody.
 */
export async function moveFiles(order: Order): Promise<number> {
  const { action, name, options, client, output } = order
  if (options.stop) return stop(order)
  const move = orderFrom(order)
  await client.scan(name)
  if (options.dryRun) {
    const measured = await client.call<Count>('filestore.measure', { name, order: move })
    output.object({ ...measured, dryRun: true })
    output.line(`${count(measured.files, 'file')}, ${formatBytes(measured.bytes)}, would be part of the ${action}.`)
    return exitCodes.done
  }
  const begun = await client.call<Begun>('filestore.move', { name, order: move })
  if (begun.stopped) output.note(`The ${nameOfMove(begun.stopped.order)}, which was under way, has ended.`)
  if (begun.isKnown) output.note(`This is under way already: ${progressOf(begun.move)}`)
  if (options.wait) return follow(order, begun.move)
  output.object(begun.move)
  const when = client.isRunning ? 'the daemon does it' : 'it is done by `stowage up`'
  output.line(`Noted: ${nameOfMove(begun.move.order)}, ${count(begun.move.total.files, 'file')}; ${when}.`)
  return exitCodes.done
}

function orderFrom({ action, values, options }: Order): MoveOrder {
  const { from, to, keep, drop, rate } = options
  const prefix = prefixFrom(values)
  const common = {
    ...(prefix !== undefined && { prefix }),
    ...(rate !== undefined && { bytesPerSecond: parseRate(rate) }),
  }
  if (action === 'offload') return { kind: 'offload', ...common }
  if (action === 'recall') return { kind: 'recall', ...common, ...(drop && { drop }) }
  if (from === undefined || to === undefined)
    throw invalid('From where to where?', 'Use: stowage filestore migrate --from STORE --to STORE')
  return { kind: 'migrate', from, to, ...common, ...(keep && { drop: false }) }
}

function parseRate(text: string): number {
  const rate = parseSize(text.replace(/\/s$/, ''))
  if (rate < 1) throw invalid('--rate must let something pass.', 'To hold everything back: stowage filestore pause')
  return rate
}

async function stop({ action, name, client, output }: Order): Promise<number> {
  const { move } = await reportOf(client, name)
  const running = move?.state === 'running' ? move : undefined
  const isStopped = running?.order.kind === action && (await client.call<boolean>('filestore.stop', { name }))
  output.object({ filestore: name, stopped: isStopped, ...(move && { move }) })
  if (isStopped) output.line(`Ended: ${nameOfMove(running.order)}, ${progressOf(running)}`)
  else output.line(`No ${action} is under way${running ? `, but ${nameOfMove(running.order, true)} is` : ''}.`)
  return exitCodes.done
}

/** Says how far a move is until it has ended. */
async function follow(order: Order, begun: MoveProgress): Promise<number> {
  const { name, client, output, signal } = order
  if (!client.isRunning) await client.start(name)
  const pace = paceFrom(begun)
  let told = ''
  for (;;) {
    const report = await reportOf(client, name)
    const { move } = report
    if (move?.id !== begun.id) {
      output.note(`It has ended: ${move ? nameOfMove(move.order, true) : 'something else'} took its place.`)
      return exitCodes.failed
    }
    if (move.state !== 'running') return ended(order, report, move)
    if (signal.aborted) return left(order, move)
    const obstacle = obstacleOf(report)
    if (obstacle !== told && obstacle !== '') output.note(obstacle)
    told = obstacle
    output.progress(() => `${bar(move.done.files, move.total.files)} ${progressOf(move)}${pace(move)}`, {
      everywhere: true,
    })
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, lookEveryMs)
      signal.addEventListener('abort', () => (clearTimeout(timer), resolve()), { once: true })
    })
  }
}

/** How fast it is since we look, and how long it will take like this. */
function paceFrom({ done: before }: MoveProgress) {
  const begun = performance.now()
  return ({ done, total }: MoveProgress) => {
    const seconds = (performance.now() - begun) / 1000
    const rate = (done.bytes - before.bytes) / seconds
    if (rate < 1) return ''
    const left = Math.max(0, total.bytes - done.bytes)
    return `, ${formatBytes(Math.round(rate))}/s, ${span((left / rate) * 1000)} left`
  }
}

/** Why nothing may happen for a while. */
function obstacleOf({ paused, troubles }: FilestoreReport): string {
  const [remote] = paused
  if (remote !== undefined)
    return `Nothing is sent ${remote === '*' ? 'anywhere' : `to ${remote}`} until \`stowage filestore resume\`.`
  const [trouble] = troubles
  return trouble ? `${trouble.remote} is in trouble, and tried again now and then: ${trouble.reason}` : ''
}

function ended({ action, output }: Order, { setAside }: FilestoreReport, move: MoveProgress): number {
  const { done, failed, state, startedMs, endedMs = Date.now() } = move
  output.object(move)
  const time = span(endedMs - startedMs)
  const words = state === 'done' ? 'Done' : 'Ended by somebody'
  output.line(
    `${words}: ${nameOfMove(move.order)}, ${count(done.files, 'file')}, ${formatBytes(done.bytes)} in ${time}; ${failed} failed.`,
  )
  if (state !== 'done') return exitCodes.failed
  const reasons = setAside.filter(({ queue }) => queue.startsWith('move:'))
  for (const { key, reason } of failed > 0 ? reasons.slice(0, 20) : []) output.line(`  ${key}: ${reason}`)
  if (failed > 0) output.line(`When the reasons are gone: stowage retry, or the same ${action} again.`)
  return failed > 0 ? exitCodes.someFailed : exitCodes.done
}

/** Whoever leaves is told what becomes of the move. */
function left({ name, action, client, output }: Order, move: MoveProgress): number {
  output.object(move)
  output.note(`Left at ${progressOf(move)}`)
  output.note(
    client.isRunning
      ? `The daemon goes on with it. To look: stowage filestore status ${name}. To end it: stowage filestore ${action} ${name} --stop`
      : 'What is in hand is finished. The rest is done when this is said again, or by `stowage up`.',
  )
  return exitCodes.interrupted
}
