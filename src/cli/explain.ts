/** `stowage explain PATH`: what about this file? */
import * as path from 'node:path'
import type { Explanation } from '../conveyor/explain.ts'
import type { Context } from './main.ts'
import { ask } from './state.ts'

/** Prints which source and rules a file belongs to, where it was delivered, and what happens next. */
export async function run({ config, output }: Context, [file = '']: string[]): Promise<undefined> {
  const absolute = path.resolve(file)
  const { answer } = await ask<Explanation>(config, 'explain', { path: absolute }, async (daemon) =>
    daemon.explain(absolute),
  )
  output.object(answer)
  output.line(answer.path)
  for (const line of answer.lines) output.line(`  ${line}`)
  return undefined
}
