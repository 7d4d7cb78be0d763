/** Processors that only rename: spaces in names trouble URLs. */
import type { Processor } from '../processor.ts'

/** `a file.css` becomes `a_file.css`. */
export const spacesToUnderscores: Processor = replaceSpaces('filename.spacesToUnderscores', '_')

/** `a file.css` becomes `a-file.css`. */
export const spacesToDashes: Processor = replaceSpaces('filename.spacesToDashes', '-')

function replaceSpaces(name: string, by: string): Processor {
  return {
    name,
    version: '1',
    process: async (input) => ({ name: input.name.replaceAll(' ', by) }),
  }
}
