/** Tries again what failed for a passing reason, wherever that cannot do anything twice. */
import { Readable } from 'node:stream'
import { StowageError } from '../../core/errors.ts'
import { FileBody } from '../../core/file-body.ts'
import { isRefusal, retry, waitToRetry, type RetryOptions } from '../../core/retry.ts'
import type { Body, CallOptions, Driver, Entry, ListOptions, OpenFile, ReadOptions, WriteOptions } from '../driver.ts'
import { placeOf, shortcutsAround, shortcutsOf } from '../driving.ts'

/** Retry options with the call's signal. */
type Patience = (call: CallOptions | undefined) => RetryOptions

/** The driver, more patient. A write is repeated only while nothing of its body has been used. Closing it closes the driver. */
export function retrying(driver: Driver, options: Omit<RetryOptions, 'signal'> = {}): Driver {
  const patience: Patience = (call) => ({ ...options, ...(call?.signal ? { signal: call.signal } : {}) })
  const { move } = shortcutsOf(driver)
  return {
    location: driver.location,
    supports: driver.supports,
    read: async (key, call) => {
      const opened = await retry(async () => driver.read(key, call), patience(call))
      const body = Readable.from(resuming(driver, key, opened, call, patience(call)), { objectMode: false })
      return { info: opened.info, body }
    },
    write: async (key, body, call) => writeOnce(driver, key, body, call, patience(call)),
    stat: async (key, call) => retry(async () => driver.stat(key, call), patience(call)),
    list: (directory, call) => listing(driver, directory, call ?? {}, patience(call)),
    delete: async (key, call) => retry(async () => driver.delete(key, call), patience(call)),
    close: async () => driver.close(),
    ...shortcutsAround(driver, async (work, call) =>
      retry(work, { ...patience(call), ...(isConditional(call) && { isRepeatable: isRefusal }) }),
    ),
    // A move whose answer was lost would find its source gone, so it is not repeated.
    ...(move && { move }),
  }
}

function isConditional(call: WriteOptions | undefined): boolean {
  return call?.ifAbsent === true || call?.ifMatch !== undefined
}

/** Only whoever has the body can start it anew; so once a byte of it was taken, a failure is final. */
async function writeOnce(
  driver: Driver,
  key: string,
  body: Body,
  call: WriteOptions | undefined,
  options: RetryOptions,
) {
  let isTouched = false
  const noticed = async function* () {
    isTouched = true
    yield* body
  }
  for (let attempt = 1; ; attempt++)
    try {
      return await driver.write(key, body instanceof FileBody ? body : noticed(), call)
    } catch (error) {
      if (isTouched || (body instanceof FileBody && body.isUsed)) throw error
      await waitToRetry(error, attempt, options)
    }
}

/** The body of a read. When it breaks off, the rest is asked for: of the same version of the file, or not at all. */
async function* resuming(
  driver: Driver,
  key: string,
  { info, body }: OpenFile,
  call: ReadOptions | undefined,
  options: RetryOptions,
): AsyncGenerator<Uint8Array> {
  let at = call?.range?.start ?? 0
  const end = Math.min(call?.range?.end ?? Infinity, info.size)
  let current = body
  let failures = 0
  try {
    for (;;)
      try {
        for await (const chunk of current as AsyncIterable<Uint8Array>) {
          at += chunk.byteLength
          failures = 0
          yield chunk
        }
        return
      } catch (error) {
        if (!driver.supports.range || info.etag === undefined || at >= end) throw error
        await waitToRetry(error, ++failures, options)
        const range = { start: at, end }
        const next = await retry(async () => driver.read(key, { ...call, range }), options)
        current = next.body
        if (next.info.etag !== info.etag) throw changed(driver, key)
      }
  } finally {
    current.destroy()
  }
}

function changed(driver: Driver, key: string): StowageError {
  return new StowageError('CONFLICT', `${key} changed in ${driver.location} while it was being read.`, {
    retryable: true,
  })
}

/** A listing that breaks off goes on after the last entry it gave. */
async function* listing(
  driver: Driver,
  directory: string,
  call: ListOptions,
  options: RetryOptions,
): AsyncGenerator<Entry> {
  let { after } = call
  for (let failures = 0; ; )
    try {
      for await (const entry of driver.list(directory, { ...call, ...(after === undefined ? {} : { after }) })) {
        after = placeOf(entry)
        failures = 0
        yield entry
      }
      return
    } catch (error) {
      await waitToRetry(error, ++failures, options)
    }
}
