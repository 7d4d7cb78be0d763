/** Options of processors, as they stand in the configuration. */
import * as z from 'zod'
import { StowageError } from '../../core/errors.ts'

/** Checks options against what the processor takes, and fills in the defaults. Throws INVALID_CONFIG naming each mistake. */
export function parseOptions<Schema extends z.ZodType>(
  name: string,
  schema: Schema,
  options: unknown,
): z.output<Schema> {
  const result = schema.safeParse(options)
  if (result.success) return result.data
  const mistakes = result.error.issues.map(({ path, message }) => [path.join('.'), message].filter(Boolean).join(': '))
  throw new StowageError('INVALID_CONFIG', `The options of the processor ${name} are wrong: ${mistakes.join('; ')}.`)
}
