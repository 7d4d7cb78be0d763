/** A process of the pool: does what it is sent, one task after another, and ends when nobody is there to send more. */
import { StowageError, type ErrorCode } from '../../core/errors.ts'

/** A function to be called here: an export of a module. Its argument and its result must be clonable. */
export interface Task {
  /** URL of the module. */
  module: string
  /** The export. */
  name: string
  input: unknown
}

/** What it answers. Errors without a code are bugs. */
export type TaskOutcome = { value: unknown } | { code?: ErrorCode; message: string; retryable?: boolean }

async function outcomeOf({ module, name, input }: Task): Promise<TaskOutcome> {
  try {
    const loaded = (await import(module)) as Record<string, (input: unknown) => unknown>
    return { value: await loaded[name]?.(input) }
  } catch (error) {
    if (error instanceof StowageError) return { code: error.code, message: error.message, retryable: error.retryable }
    return { message: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
}

process.on('message', (message) => {
  void outcomeOf(message as Task).then((outcome) => process.send?.(outcome))
})
process.on('disconnect', () => process.exit())
// A stop of the whole service reaches everybody; who is at work is told by the one who gave the work.
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => undefined)
