/** Deleting many objects at once (docs.openstack.org/swift, "Bulk Delete"). */
import { StowageError } from '../../core/errors.ts'
import { Limit } from '../../core/limit.ts'
import { codeOfStatus, encodePath, unlessAbsent, type Service } from './service.ts'

/** Within one request Swift deletes only two at a time. */
const batchPaths = 200
const batchesAtOnce = 8
const singlesAtOnce = 16

/** Deletes the objects of the paths and nothing they refer to; absent ones are success. Tries all, then rejects with the first failure. */
export async function removeAll(service: Service, paths: readonly string[], signal?: AbortSignal): Promise<void> {
  const batches: (readonly string[])[] = []
  for (let at = 0; at < paths.length; at += batchPaths) batches.push(paths.slice(at, at + batchPaths))
  await each(batches, batchesAtOnce, async (batch) => removeBatch(service, batch, signal), signal)
}

/** Deletes the object of a path; absent is success. */
export async function remove(service: Service, path: string, signal?: AbortSignal): Promise<void> {
  const response = await service.request({ method: 'DELETE', path, signal }).catch(unlessAbsent)
  await response?.bytes()
}

/** Works on all, some at once, and rejects with the first failure after trying all. */
export async function each<T, R>(
  all: readonly T[],
  atOnce: number,
  work: (one: T) => Promise<R>,
  signal?: AbortSignal,
): Promise<R[]> {
  const limit = new Limit(atOnce)
  const results = await Promise.allSettled(all.map(async (one) => limit.run(async () => work(one), signal)))
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}

interface Report {
  'Number Deleted'?: number
  'Number Not Found'?: number
  Errors?: [path: string, status: string][]
}

/**
 * Who cannot delete in bulk may take the request for something else and say that all is well, so only a report that counts
 * every path is believed.
 */
async function removeBatch(service: Service, paths: readonly string[], signal: AbortSignal | undefined) {
  const [only] = paths
  if (paths.length === 1 && only !== undefined) return remove(service, only, signal)
  const response = await service.request({
    method: 'POST',
    path: '',
    query: { 'bulk-delete': '' },
    headers: { 'content-type': 'text/plain', accept: 'application/json' },
    body: Buffer.from(paths.map(encodePath).join('\n')),
    signal,
    accept: [400, 403, 404, 405, 406, 411, 412, 413, 501],
  })
  const report = reportOf(await response.bytes())
  const [first] = report.Errors ?? []
  if (first) throw failureOf(first, report.Errors?.length ?? 1, paths.length)
  if ((report['Number Deleted'] ?? 0) + (report['Number Not Found'] ?? 0) === paths.length) return
  await each(paths, singlesAtOnce, async (path) => remove(service, path, signal), signal)
}

function reportOf(bytes: Buffer): Report {
  try {
    return (JSON.parse(bytes.toString()) ?? {}) as Report
  } catch {
    return {}
  }
}

function failureOf([path, status]: [string, string], failed: number, all: number): StowageError {
  const code = codeOfStatus(Number.parseInt(status, 10), 'DELETE')
  return new StowageError(
    code,
    `${failed} of ${all} files were not deleted, the first being ${decodeURIComponent(path)}: ${status}.`,
    code === 'CONFLICT' ? { retryable: true } : {},
  )
}
