/** `stowage store list|test|set|unset`: where stores are, as far as that is saved in the state. */
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline/promises'
import { Writable } from 'node:stream'
import { text } from 'node:stream/consumers'
import { StowageError } from '../core/errors.ts'
import { holdsSecret } from '../core/storage-url.ts'
import type { ListedStore, Trial } from '../daemon/saved-stores.ts'
import { findingLines } from './check.ts'
import type { Context } from './main.ts'
import { errorText, exitCodes } from './output.ts'
import { askSavedStores } from './state.ts'

/** Does one of the four. Exit status 1 when what is tested, or is to be saved, does not work. */
export async function run(context: Context, [action = '', name, url]: string[]): Promise<number> {
  if (action === 'list' && name === undefined) return list(context)
  const actions: Record<string, (context: Context, name: string, url?: string) => Promise<number>> = {
    __proto__: null as never,
    test,
    set,
    unset,
  }
  const act = actions[action]
  if (!act || name === undefined || (url !== undefined && action !== 'set'))
    throw invalid(
      `${JSON.stringify(action)} is not asked for like this.`,
      'There are: list, test NAME, set NAME [URL] and unset NAME.',
    )
  return act(context, name, url)
}

async function list({ config, output }: Context): Promise<number> {
  const { answer: stores } = await askSavedStores<ListedStore[]>(config, 'store.list', {}, async (saved) =>
    saved.list(),
  )
  output.object(stores)
  for (const store of stores) output.line(describe(store))
  return exitCodes.done
}

function describe({ name, from, location = 'no place yet', savedAt, problem }: ListedStore): string {
  const origins: Record<ListedStore['from'], string> = {
    configuration: `fixed by the configuration${savedAt ? ', what was saved is not used' : ''}`,
    saved: `saved ${savedAt}`,
    default: 'default of the configuration, nothing saved',
    none: `nothing saved: stowage store set ${name}`,
    nowhere: `saved ${savedAt}, not in the configuration: stowage store unset ${name}`,
  }
  return `${name}: ${location} (${origins[from]})${problem === undefined ? '' : ` ✖ ${errorText(new Error(problem))}`}`
}

async function test({ config, output, signal }: Context, name: string): Promise<number> {
  const { answer: trials } = await askSavedStores<Trial[]>(config, 'store.test', { name }, async (saved) =>
    saved.test(name, { signal }),
  )
  output.object(trials)
  for (const trial of trials) for (const line of [trial.location, ...findingLines(trial.findings)]) output.line(line)
  return trials.every(({ ok }) => ok) ? exitCodes.done : exitCodes.failed
}

async function set({ config, output, signal }: Context, name: string, given?: string): Promise<number> {
  const settings = { url: await urlFrom(given, name, signal) }
  const { answer: trial, isRunning } = await askSavedStores<Trial>(
    config,
    'store.save',
    { name, settings },
    async (saved) => saved.save(name, settings, { signal }),
  )
  output.object({ ...trial, inUse: isRunning })
  for (const line of findingLines(trial.findings)) output.line(line)
  output.line(`Saved: ${name} is at ${trial.location}${isRunning ? ', in use from now on' : ''}.`)
  return exitCodes.done
}

async function unset({ config, output }: Context, name: string): Promise<number> {
  const { answer: removed } = await askSavedStores<boolean>(config, 'store.remove', { name }, async (saved) =>
    saved.remove(name),
  )
  output.object({ store: name, removed })
  output.line(removed ? `Forgotten: what was saved for ${name}.` : `Nothing was saved for ${name}.`)
  return exitCodes.done
}

/** The storage URL: from standard input, an environment variable or a file, so that no secret is in the list of processes. */
async function urlFrom(given: string | undefined, name: string, signal: AbortSignal): Promise<string> {
  const read = given === undefined || given === '-' ? await fromInput(name, signal) : fromArgument(given)
  const url = read.trim()
  if (url === '') throw invalid('The URL is empty.', `To forget what was saved: stowage store unset ${name}`)
  if (/[\r\n]/.test(url)) throw invalid('There are several lines; a store that is saved has one URL.')
  return url
}

function fromArgument(given: string): string {
  if (given.startsWith('env:')) {
    const value = process.env[given.slice(4)]
    if (value === undefined) throw invalid(`The environment variable ${given.slice(4)} is not set.`)
    return value
  }
  if (/^file:(?!\/\/)/.test(given)) {
    try {
      return readFileSync(given.slice(5), 'utf8')
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw invalid(
        `The file ${given.slice(5)}, which should hold the URL, cannot be read: ${code}.`,
        'A directory as the place itself is written file:///path.',
      )
    }
  }
  if (holdsSecret(given))
    throw invalid(
      'The URL holds a secret, which every user of this machine can see in the list of processes.',
      'Give it on standard input, or as env:NAME or file:PATH; change the secret if others use this machine.',
    )
  return given
}

/** What is typed at a terminal is not shown. */
async function fromInput(name: string, signal: AbortSignal): Promise<string> {
  if (!process.stdin.isTTY) return text(process.stdin)
  process.stderr.write(`Storage URL of ${name} (not shown): `)
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() })
  const asking = createInterface({ input: process.stdin, output: silent, terminal: true })
  // A terminal that is read key by key sends no signal by itself.
  asking.on('SIGINT', () => process.kill(process.pid, 'SIGINT'))
  try {
    return await asking.question('', { signal })
  } catch (error) {
    throw new StowageError('ABORTED', 'Nothing was saved.', { cause: error })
  } finally {
    asking.close()
    process.stderr.write('\n')
  }
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, hint === undefined ? {} : { hint })
}
