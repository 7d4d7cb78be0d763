/** What becomes of a file that a processor cannot do its work on. */
import * as z from 'zod'
import { codeOf } from '../../core/errors.ts'
import type { ProcessorInput, ProcessorOutput } from '../processor.ts'

/** `pass`: it is delivered as it is, with a warning. `fail`: it is held back, and set aside with the reason. */
export const onErrorOption = z.enum(['pass', 'fail'])

/** Does the work; when the file itself is at fault (CORRUPT, UNSUPPORTED) it is passed or fails as configured. */
export async function unlessUnfit(
  onError: z.output<typeof onErrorOption>,
  input: ProcessorInput,
  work: () => Promise<ProcessorOutput | undefined>,
): Promise<ProcessorOutput | undefined> {
  try {
    return await work()
  } catch (error) {
    const isOfTheFile = codeOf(error) === 'CORRUPT' || codeOf(error) === 'UNSUPPORTED'
    if (onError === 'fail' || !isOfTheFile) throw error
    input.warn(`${(error as Error).message} It is delivered as it is.`)
    return undefined
  }
}
