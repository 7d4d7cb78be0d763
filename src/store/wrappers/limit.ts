/** At most so many calls at once. */
import { finished } from 'node:stream'
import type { Limit } from '../../core/limit.ts'
import type { Driver, OpenFile } from '../driver.ts'
import { shortcutsAround } from '../driving.ts'

/** The driver with its calls taking turns. A read keeps its place until its body has ended or was destroyed. */
export function limited(driver: Driver, limit: Limit): Driver {
  return {
    location: driver.location,
    supports: driver.supports,
    read: async (key, call) => {
      const opened = Promise.withResolvers<OpenFile>()
      const whole = limit.run(async () => {
        const file = await driver.read(key, call)
        opened.resolve(file)
        await new Promise<void>((resolve) => finished(file.body, () => resolve()))
      }, call?.signal)
      whole.catch((error: unknown) => opened.reject(error))
      return opened.promise
    },
    write: async (key, body, call) => limit.run(async () => driver.write(key, body, call), call?.signal),
    stat: async (key, call) => limit.run(async () => driver.stat(key, call), call?.signal),
    list: (directory, call) => driver.list(directory, call),
    delete: async (key, call) => limit.run(async () => driver.delete(key, call), call?.signal),
    close: async () => driver.close(),
    ...shortcutsAround(driver, async (work, call) => limit.run(work, call?.signal)),
  }
}
