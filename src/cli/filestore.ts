/** `stowage filestore …`: what operators ask of a filestore. */
import { StowageError } from '../core/errors.ts'
import { formatBytes } from '../core/units.ts'
import type { Config } from '../daemon/config.ts'
import type { Deleted, FilestoreReport, Restored } from '../daemon/filestores.ts'
import type { Orphan } from '../filestore/orphans.ts'
import type { Fault } from '../filestore/verifier.ts'
import { moveFiles } from './filestore-move.ts'
import {
  count,
  invalid,
  prefixFrom,
  quoted,
  reportOf,
  type FilestoreCliOptions,
  type Order,
} from './filestore-order.ts'
import { statusLines } from './filestore-status.ts'
import type { Context } from './main.ts'
import { exitCodes } from './output.ts'
import { connect, itemsOf } from './state.ts'

type OptionName = keyof FilestoreCliOptions

interface Action {
  /** How many values may follow the name. */
  values: number
  options: OptionName[]
  act: (order: Order) => Promise<number>
}

const moving: OptionName[] = ['dryRun', 'rate', 'stop', 'wait']
const actions: Record<string, Action> = {
  __proto__: null as never,
  status: { values: 0, options: [], act: status },
  offload: { values: 1, options: moving, act: moveFiles },
  recall: { values: 1, options: [...moving, 'drop'], act: moveFiles },
  migrate: { values: 1, options: [...moving, 'from', 'to', 'keep'], act: moveFiles },
  pause: { values: 0, options: ['remote'], act: pause },
  resume: { values: 0, options: ['remote'], act: pause },
  restore: { values: Infinity, options: ['prefix', 'list'], act: restore },
  verify: { values: 1, options: ['repair', 'content'], act: verify },
  gc: { values: 0, options: ['delete', 'unknown'], act: gc },
}

/** Does one of the actions. Exit status 3 when some files are not as they should be. */
export async function run(
  { config, output, signal }: Context,
  [action = '', ...rest]: (string | undefined)[],
  options: Record<string, unknown>,
): Promise<number> {
  const known = actions[action]
  if (!known) throw invalid(`${quoted(action)} is nothing to do.`, `There are: ${Object.keys(actions).join(', ')}.`)
  const stray = Object.keys(options).find(
    (each) => !known.options.includes(each as OptionName) && !(each === 'wait' && options[each] === true),
  )
  if (stray !== undefined) throw invalid(`${action} has no option --${optionName(stray)}.`)
  await using client = await connect(config, output.log('warn'), checkFilestores)
  const given = rest.filter((each) => each !== undefined)
  const { name, values } = nameFrom(given, client.filestores, action === 'status')
  const stranger = values[known.values]
  if (stranger !== undefined) {
    const what = known.values === 0 ? `There is no filestore ${quoted(stranger)}.` : `${quoted(stranger)} is too much.`
    throw invalid(what, `There ${client.filestores.length === 1 ? 'is' : 'are'}: ${client.filestores.join(', ')}.`)
  }
  const settings = { wait: true, ...options } as FilestoreCliOptions
  return await known.act({ action, name, values, options: settings, client, output, signal })
}

function checkFilestores({ filestores }: Config) {
  if (Object.keys(filestores).length > 0) return
  throw new StowageError('INVALID_CONFIG', 'The configuration has no filestore.', {
    hint: 'Add for example stores: { uploads: { filestore: { directory: "uploads", remote: "cold" } } }.',
  })
}

/** The name of a filestore may be left out when there is only one. */
function nameFrom(given: readonly string[], names: readonly string[], mayBeAll: boolean) {
  const [first, ...rest] = given
  if (first !== undefined && names.includes(first)) return { name: first, values: rest }
  const [only = '', another] = names
  if (another === undefined) return { name: only, values: [...given] }
  if (first === undefined && mayBeAll) return { name: '', values: [] }
  const what = first === undefined ? 'Which filestore?' : `There is no filestore ${quoted(first)}.`
  throw invalid(what, `There are: ${names.join(', ')}.`)
}

async function status({ name, client, output }: Order): Promise<number> {
  const all = await client.call<FilestoreReport[]>('filestore.status')
  const wanted = all.filter((each) => name === '' || each.name === name)
  output.object({ running: client.isRunning, filestores: wanted })
  for (const report of wanted) for (const line of statusLines(report, Date.now())) output.line(line)
  if (!client.isRunning)
    output.line('No daemon runs: nothing is offloaded, and new files are not noticed. `stowage up` starts one.')
  return exitCodes.done
}

async function pause({ action, name, options: { remote }, client, output }: Order): Promise<number> {
  await client.call(`filestore.${action}`, { name, ...(remote !== undefined && { remote }) })
  const { paused } = await reportOf(client, name)
  output.object({ filestore: name, paused })
  const what = paused.includes('*') ? 'any remote' : paused.join(', ')
  output.line(
    paused.length === 0
      ? `Nothing is paused: ${name} sends files again.`
      : `Nothing of ${name} is sent to ${what} until \`stowage filestore resume\`. Reading goes on.`,
  )
  return exitCodes.done
}

async function restore(order: Order): Promise<number> {
  const { name, values: keys, options, client, output, signal } = order
  const { prefix, list = false } = options
  if (list && keys.length > 0) throw invalid('--list takes no keys.', 'Use: restore --list [--prefix P]')
  if (list) return listDeleted(order)
  if (keys.length > 0 === (prefix !== undefined))
    throw invalid('What is to be restored?', 'Name keys, or give --prefix P; --list shows what there is.')
  const failed: Restored[] = []
  const restored: string[] = []
  const which = prefix === undefined ? { keys } : { prefix }
  for await (const each of itemsOf<Restored>(client, 'filestore.restore', { name, ...which }, { signal })) {
    if (each.error) failed.push(each)
    else restored.push(each.key)
    if (each.error) output.note(`stowage: ${each.error.message}`)
    else output.line(`restored ${each.key}`)
  }
  output.object({ restored, failed })
  output.line(`${count(restored.length, 'file')} restored${failed.length > 0 ? `, ${failed.length} not` : ''}.`)
  if (failed.length === 0) return exitCodes.done
  return restored.length > 0 ? exitCodes.someFailed : exitCodes.failed
}

async function listDeleted({ name, options: { prefix }, client, output, signal }: Order): Promise<number> {
  const which = prefix === undefined ? {} : { prefix }
  let files = 0
  let bytes = 0
  for await (const each of itemsOf<Deleted>(client, 'filestore.deleted', { name, ...which }, { signal })) {
    files++
    bytes += each.size
    const until = each.untilMs === undefined ? 'for ever' : `until ${moment(each.untilMs)}`
    output.object(each)
    output.line(`${formatBytes(each.size).padStart(10)}  deleted ${moment(each.deletedMs)}, ${until}  ${each.key}`)
  }
  output.line(`${count(files, 'file')} can be restored, ${formatBytes(bytes)}.`)
  return exitCodes.done
}

async function verify({ name, values, options, client, output, signal }: Order): Promise<number> {
  const { repair = false, content = false } = options
  const prefix = prefixFrom(values)
  let files = 0
  const onProgress = (now: number) => {
    files = now
    output.progress(() => `${now} files looked at`, { everywhere: true })
  }
  const faults: Fault[] = []
  const question = { name, repair, content, ...(prefix !== undefined && { prefix }) }
  for await (const fault of itemsOf<Fault>(client, 'filestore.verify', question, { signal, onProgress })) {
    faults.push(fault)
    output.line(describeFault(fault))
  }
  const repaired = faults.filter((fault) => fault.repaired !== undefined).length
  output.object({ files, faults, repaired })
  const found = faults.length === 0 ? 'all is well' : `${count(faults.length, 'fault')}, ${repaired} repaired`
  output.line(`${count(files, 'file')} looked at${content ? ' and read' : ''}, ${found}.`)
  if (faults.length > repaired && !repair) output.line('To have done what can be done: --repair')
  return faults.length > repaired ? exitCodes.someFailed : exitCodes.done
}

function describeFault({ key, where, problem, why, repaired }: Fault): string {
  const place = problem === 'lost' ? 'lost, there is no copy of it' : `${problem} at ${where}`
  return `${key}: ${place}${why === undefined ? '' : ` (${why})`}${repaired === undefined ? '' : `; ${repaired}`}`
}

async function gc({ name, options, client, output, signal }: Order): Promise<number> {
  const { delete: isDeleted = false, unknown = false } = options
  const question = { name, delete: isDeleted, unknown }
  const orphans: Orphan[] = []
  const strangers = new Map<string, number>()
  for await (const orphan of itemsOf<Orphan>(client, 'filestore.gc', question, { signal })) {
    if (orphan.kind === 'unknown' && !unknown) {
      strangers.set(orphan.where, (strangers.get(orphan.where) ?? 0) + 1)
      continue
    }
    orphans.push(orphan)
    const size = orphan.size === undefined ? '' : `, ${formatBytes(orphan.size)}`
    output.line(`${orphan.where}: ${orphan.name}, ${orphan.kind}${size}${orphan.isRemoved ? ', removed' : ''}`)
  }
  output.object({ orphans, unknown: Object.fromEntries(strangers) })
  output.line(`${count(orphans.length, 'file')} left over${isDeleted ? ', removed' : ''}.`)
  if (orphans.length > 0 && !isDeleted) output.line('To remove them: --delete')
  for (const [remote, files] of strangers)
    output.line(`At ${remote} the registry does not know ${count(files, 'file')}. To see them: --unknown`)
  return exitCodes.done
}

function optionName(name: string): string {
  const plain = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
  return name === 'wait' ? 'no-wait' : plain
}

function moment(ms: number): string {
  return new Date(ms).toISOString().slice(0, 16).replace('T', ' ')
}
