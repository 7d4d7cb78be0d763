/** Packages that are only needed by those who use them. */
import { StowageError } from '../../core/errors.ts'

/** Loads a package when it is first used. Rejects with INVALID_CONFIG, saying what to run, when it cannot be loaded. */
export async function optionalPackage<T>(name: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load()
  } catch (error) {
    const isAbsent = (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND'
    const [reason = ''] = (error as Error).message.split('\n')
    throw new StowageError(
      'INVALID_CONFIG',
      `The processor needs the package ${name}, which ${isAbsent ? 'is not installed' : `cannot be loaded: ${reason}`}.`,
      { cause: error, hint: `Run: npm install ${name}` },
    )
  }
}
