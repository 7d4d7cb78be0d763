/** A place that misbehaves on purpose, for tests of what stands on it. */
import { Readable } from 'node:stream'
import { StowageError } from '../../core/errors.ts'
import type { Driver } from '../driver.ts'

/** When a fault strikes: before the work, half-way through a body, or after the work so that only its answer is lost. */
export type FaultMoment = 'before' | 'during' | 'after'

/** Decides about each call. */
export interface FaultOptions {
  /** The moment at which this call fails, or undefined to let it be. */
  strike: (operation: 'read' | 'write' | 'stat' | 'list' | 'delete', key: string) => FaultMoment | undefined
  /** What it fails with. Default UNREACHABLE. */
  error?: () => Error
}

/** The driver with faults. Optional shortcuts are left out, so that everything passes through the five basic calls. */
export function faulty(driver: Driver, options: FaultOptions): Driver {
  const { strike, error = () => new StowageError('UNREACHABLE', 'The connection broke off (on purpose).') } = options
  const around = async <T>(operation: 'stat' | 'delete', key: string, work: () => Promise<T>): Promise<T> => {
    const moment = strike(operation, key)
    if (moment === 'before' || moment === 'during') throw error()
    const result = await work()
    if (moment === 'after') throw error()
    return result
  }
  const broken = async function* (body: AsyncIterable<Uint8Array>) {
    for await (const chunk of body) {
      yield chunk.subarray(0, Math.ceil(chunk.byteLength / 2))
      throw error()
    }
    throw error()
  }
  return {
    location: driver.location,
    supports: driver.supports,
    read: async (key, call) => {
      const moment = strike('read', key)
      if (moment === 'before') throw error()
      const { info, body } = await driver.read(key, call)
      if (moment === undefined) return { info, body }
      return { info, body: Readable.from(broken(body), { objectMode: false }) }
    },
    write: async (key, body, call) => {
      const moment = strike('write', key)
      if (moment === 'before') throw error()
      const info = await driver.write(key, moment === 'during' ? broken(body) : body, call)
      if (moment === 'after') throw error()
      return info
    },
    stat: async (key, call) => around('stat', key, async () => driver.stat(key, call)),
    list: async function* (directory, call) {
      const moment = strike('list', directory)
      if (moment === 'before') throw error()
      for await (const entry of driver.list(directory, call)) {
        yield entry
        if (moment === 'during') throw error()
      }
      if (moment === 'after') throw error()
    },
    delete: async (key, call) => around('delete', key, async () => driver.delete(key, call)),
    close: async () => driver.close(),
  }
}
