/** `stowage check [WHERE…]`: what works with these credentials, and why not. */
import type { CallOptions, Driver } from '../store/driver.ts'
import { checkPlace, type Finding } from '../store/check.ts'
import { isLocations } from '../store/locations.ts'
import type { Context } from './main.ts'
import { errorText, exitCodes, type Output } from './output.ts'
import { Places } from './places.ts'

interface Options {
  readOnly?: boolean
  key?: string
}

/** A place that was looked at, and what was found. */
interface Report {
  store: string
  location: string
  findings: Finding[]
  ok: boolean
}

/**
 * Tries each place of each store. Without WHERE the configuration is checked and every store in it. Exit status 1 when
 * something that should work does not.
 */
export async function run({ config, output, signal }: Context, wheres: string[], options: Options): Promise<number> {
  await using places = new Places(config)
  const reports: Report[] = []
  for (const where of wheres.length > 0 ? wheres : await places.names()) {
    const { store } = await places.directory(where)
    const drivers = isLocations(store.driver) ? store.driver.places : [store.driver]
    for (const driver of drivers) reports.push(await report(where, driver, { ...options, signal }, output))
  }
  output.object(reports)
  return reports.every(({ ok }) => ok) ? exitCodes.done : exitCodes.failed
}

async function report(where: string, driver: Driver, options: Options & CallOptions, output: Output): Promise<Report> {
  const { location } = driver
  output.line(location)
  const findings: Finding[] = []
  for await (const finding of checkPlace(driver, options)) {
    findings.push(finding)
    output.line(findingLines(findings).at(-1) ?? '')
  }
  return {
    store: /:\/\//.test(where) ? location : where,
    location,
    findings,
    ok: !findings.some(({ state }) => state === 'fails'),
  }
}

/** A line for each finding; a reason that was just told is not repeated. */
export function findingLines(findings: readonly Finding[]): string[] {
  let told: string | undefined
  return findings.map(({ ability, state, why }) => {
    const reason = why === undefined ? state : why === told ? 'as above' : errorText(new Error(why))
    told = why ?? told
    return `  ${marks[state]} ${ability.padEnd(10)}  ${reason}`
  })
}

const marks: Record<Finding['state'], string> = { works: '✔', fails: '✖', unsupported: '–', untried: '?' }
