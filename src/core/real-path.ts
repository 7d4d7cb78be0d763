/** Where a path really leads. */
import { realpathSync } from 'node:fs'
import * as path from 'node:path'

/** The absolute path without symbolic links, as far as it exists; the rest is appended as it is. */
export function realPath(file: string): string {
  const absolute = path.resolve(file)
  try {
    return realpathSync(absolute)
  } catch {
    const parent = path.dirname(absolute)
    return parent === absolute ? absolute : path.join(realPath(parent), path.basename(absolute))
  }
}
