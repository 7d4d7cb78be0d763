/** What Swift and Keystone say in JSON. */
import { StowageError } from '../../core/errors.ts'

/** Parses an answer. Throws UNREACHABLE when it is not JSON, as when something between us and the service answers. */
export function readJson(bytes: Buffer): unknown {
  try {
    return JSON.parse(bytes.toString())
  } catch {
    const start = JSON.stringify(bytes.toString('utf8', 0, 80))
    throw new StowageError('UNREACHABLE', `The answer is not the JSON that Swift sends: ${start}.`)
  }
}
