/** `stowage retry`: what was set aside is taken up again. */
import type { Context } from './main.ts'
import { ask } from './state.ts'

/** Puts jobs that were set aside back into their queues. */
export async function run({ config, output }: Context, [key]: string[]): Promise<undefined> {
  const filter = key === undefined ? {} : { key }
  const { answer: count, isRunning } = await ask<number>(config, 'retry', filter, async (daemon) =>
    daemon.retry(filter),
  )
  output.object({ retried: count })
  const next = isRunning || count === 0 ? '' : ' They are done by the next `stowage up` or `stowage sync`.'
  output.line(`${count} ${count === 1 ? 'job waits' : 'jobs wait'} for another try.${next}`)
  return undefined
}
