/** `stowage verify`: is everything that was delivered where it should be? */
import type { DeliveryFault } from '../conveyor/verify.ts'
import { count } from './filestore-order.ts'
import type { Context } from './main.ts'
import { exitCodes, type Output } from './output.ts'
import { connect, itemsOf } from './state.ts'

interface Options {
  content?: boolean
  url?: boolean
  repair?: boolean
}

/** What was found. Of what may be very many, such as all files of a place that is down, only the number is kept. */
interface Findings {
  deliveries: number
  faults: DeliveryFault[]
  /** For each place, with the first reason there was. */
  unchecked: Map<string, { deliveries: number; why: string }>
  pending: number
  unaddressed: number
}

/** Looks at every delivery. Exit status 3 when some are not as they should be, or could not be looked at. */
export async function run(
  { config, output, signal }: Context,
  [source]: (string | undefined)[],
  options: Options,
): Promise<number> {
  const found: Findings = { deliveries: 0, faults: [], unchecked: new Map(), pending: 0, unaddressed: 0 }
  await using client = await connect(config, output.log('warn'))
  const onProgress = (deliveries: number) => {
    found.deliveries = deliveries
    output.progress(() => `${deliveries} deliveries looked at`, { everywhere: true })
  }
  const question = { ...options, ...(source !== undefined && { source }) }
  for await (const fault of itemsOf<DeliveryFault>(client, 'verify', question, { signal, onProgress })) {
    note(found, fault)
    if (found.faults.at(-1) === fault) output.line(describe(fault))
  }
  const repaired = found.faults.filter((fault) => fault.repaired !== undefined).length
  output.object({ ...found, unchecked: Object.fromEntries(found.unchecked), repaired })
  summarize(found, repaired, options, output)
  if (repaired > 0 && !client.isRunning)
    output.line('No daemon runs: `stowage up` or `stowage sync` delivers what is queued.')
  return found.faults.length > 0 || found.unchecked.size > 0 ? exitCodes.someFailed : exitCodes.done
}

function note(found: Findings, fault: DeliveryFault) {
  const { problem, destination, why = '' } = fault
  if (problem === 'pending' || problem === 'unaddressed') found[problem]++
  else if (problem === 'unchecked') {
    const place = found.unchecked.get(destination) ?? { deliveries: 0, why }
    found.unchecked.set(destination, { ...place, deliveries: place.deliveries + 1 })
  } else found.faults.push(fault)
}

function describe({ path, destination, key, problem, why, repaired }: DeliveryFault): string {
  const done = repaired === undefined ? '' : `; ${repaired}`
  return `${path}: ${problem} at ${destination}:${key}${why === undefined ? '' : ` (${why})`}${done}`
}

function summarize(found: Findings, repaired: number, { content, repair }: Options, output: Output) {
  const { deliveries, faults, unchecked, pending, unaddressed } = found
  for (const [place, each] of unchecked)
    output.line(`${place}: ${count(each.deliveries, 'file')} could not be looked at (${each.why})`)
  const isWell = faults.length === 0 && unchecked.size === 0 && pending === 0
  const numbers = `${count(faults.length, 'fault')}${repair ? `, ${repaired} queued for delivery` : ''}`
  const looked = deliveries === 1 ? '1 delivery' : `${deliveries.toLocaleString('en')} deliveries`
  output.line(`${looked} looked at${content ? ' and read' : ''}, ${isWell ? 'all is well' : numbers}.`)
  if (pending > 0) output.line(`${count(pending, 'file')} still to be delivered: \`stowage status\`.`)
  if (unaddressed > 0) output.line(`${count(unaddressed, 'file')} without a public address.`)
  const isMendable = faults.some(({ problem }) => problem === 'missing' || problem === 'damaged')
  if (isMendable && !repair) output.line('To have them delivered again: --repair')
}
