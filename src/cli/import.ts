/** `stowage import fileconveyor CONFIG.XML`: carries over the configuration of another program. */
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { stringify } from 'yaml'
import { diskError } from '../core/disk-error.ts'
import { StowageError } from '../core/errors.ts'
import { silentLog } from '../core/log.ts'
import type { FormerDelivery } from '../conveyor/takeover.ts'
import { checkConfig, loadConfig } from '../daemon/config.ts'
import { startDaemon } from '../daemon/daemon.ts'
import { formerDeliveries, importFileConveyor, type Imported } from '../daemon/fileconveyor.ts'
import type { Context } from './main.ts'

/** Writes our configuration, and its secrets as files that nobody else may read. Files that exist are not touched. */
export async function run(
  { output }: Context,
  [program = '', file = '']: string[],
  options: { output?: string; data?: string },
): Promise<undefined> {
  if (program !== 'fileconveyor')
    throw new StowageError('INVALID_ARGUMENT', `${JSON.stringify(program)} cannot be imported from.`, {
      hint: 'Known is: fileconveyor.',
    })
  const target = path.resolve(options.output ?? 'stowage.config.yaml')
  if (existsSync(target))
    throw new StowageError('EXISTS', `There is a file ${target} already.`, { hint: 'Move it away, or give --output.' })
  const secretsDirectory = path.join(path.dirname(target), '.stowage-secrets')
  // Looked at first: what cannot be read should not leave half of an import.
  if (options.data !== undefined) formerDeliveries(options.data, new Map())
  const imported = importFileConveyor(readConfig(file), { name: file, secretsDirectory })
  writeSecrets(imported.secrets, secretsDirectory)
  checkConfig(imported.config, path.dirname(target), 'What was imported')
  writeFileSync(target, textOf(imported, file), { flag: 'wx' })
  output.object({ file: target, secrets: [...imported.secrets.keys()], notes: imported.notes })
  output.line(`Wrote ${target}${imported.secrets.size > 0 ? `, and its secrets below ${secretsDirectory}` : ''}.`)
  for (const note of imported.notes) output.line(`Look at this: ${note}`)
  if (options.data !== undefined) await takeOver(output, target, formerDeliveries(options.data, imported.servers))
  output.line('Then try the stores with `stowage check`, and deliver once with `stowage sync`.')
  return undefined
}

/** What was delivered is not sent again. */
async function takeOver(output: Context['output'], file: string, former: FormerDelivery[]) {
  await using daemon = await startDaemon({ config: await loadConfig(file), log: silentLog })
  const { taken, changed, missing, unmatched } = await daemon.takeOver(former)
  output.object({ taken, changed, missing, unmatched })
  output.line(
    `Of ${former.length} deliveries ${taken} are taken over; ${changed} have changed since, of ${missing} a file is missing, and for ${unmatched} there is no rule.`,
  )
}

function readConfig(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    throw diskError(error, `Cannot read ${file}`) ?? error
  }
}

function writeSecrets(secrets: ReadonlyMap<string, string>, directory: string) {
  if (secrets.size === 0) return
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  chmodSync(directory, 0o700)
  for (const [file, secret] of secrets) {
    if (existsSync(file) && readFileSync(file, 'utf8').trim() !== secret)
      throw new StowageError('EXISTS', `There is another secret in ${file} already.`, { hint: 'Move it away first.' })
    writeFileSync(file, `${secret}\n`, { mode: 0o600 })
  }
}

function textOf({ config, notes }: Imported, file: string): string {
  const comments = [`Imported from ${path.basename(file)} of File Conveyor.`, ...notes]
  return `${comments.map((line) => `# ${line}\n`).join('')}\n${stringify(config, { lineWidth: 110 })}`
}
