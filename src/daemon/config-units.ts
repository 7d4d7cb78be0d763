/** Kinds of values that several parts of a configuration have: names, durations, sizes. */
import { z } from 'zod'
import { parseDuration, parseSize } from '../core/units.ts'

/** A name that can be typed on a command line. */
export const name = z
  .string()
  .regex(/^[A-Za-z][A-Za-z0-9_-]*$/, 'is not a name: begin with a letter, then letters, digits, "-" and "_"')

/** Milliseconds, written with a unit. */
export function duration(meaning: string) {
  return measured(parseDuration, `${meaning} A duration: 500ms, 10s, 10m, 2h, 3d or 5w.`)
}

/** The same, or `never`, which is Infinity. */
export function durationOrNever(meaning: string) {
  const parse = (value: string | number) => (value === 'never' ? Infinity : parseDuration(value))
  return measured(parse, `${meaning} A duration: 500ms, 10s, 10m, 2h, 3d or 5w.`)
}

/** Bytes, written with a unit. */
export function size(meaning: string) {
  return measured(parseSize, `${meaning} A size: 100B, 64KiB, 5MB or 10GiB.`)
}

function measured(parse: (value: string | number) => number, description: string) {
  return z
    .union([z.string(), z.number()])
    .transform((value, context) => {
      try {
        return parse(value)
      } catch (error) {
        context.addIssue({ code: 'custom', message: (error as Error).message })
        return z.NEVER
      }
    })
    .describe(description.trim())
}
