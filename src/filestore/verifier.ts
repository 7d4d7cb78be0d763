/** Is everything really where the registry says, as it was stored? And what can be done where it is not. */
import { createReadStream } from 'node:fs'
import { codeOf } from '../core/errors.ts'
import type { CallOptions } from '../store/driver.ts'
import { throwIfAborted } from '../store/driving.ts'
import { queueName, type Context } from './context.ts'
import type { Fetcher } from './fetcher.ts'
import type { Levelling } from './levelling.ts'
import { Fingerprint } from './fingerprint.ts'
import type { Mover } from './mover.ts'
import type { FileRow, Replica } from './registry.ts'

/** Something that is not as it should be. */
export interface Fault {
  key: string
  /** `local`, or the name of a remote. */
  where: string
  /**
   * `missing`: not there; `damaged`: not what was stored; `lost`: there is no copy anywhere; `unchecked`: the place could not
   * be asked.
   */
  problem: 'missing' | 'damaged' | 'lost' | 'unchecked'
  why?: string
  /** What was done about it; absent when nothing could be, or was to be. */
  repaired?: 'brought back' | 'queued for upload'
}

/** What is looked at, and how closely. */
export interface VerifyOptions extends CallOptions {
  /** The beginning of the keys; default: everything. */
  prefix?: string
  /** Read every copy and compare its bytes. Default: only what can be told without reading. */
  content?: boolean
  /** Do what can be done. Default false. */
  repair?: boolean
  /** Called now and then with the number of files that were looked at. */
  onProgress?: (files: number) => void
}

/** So many files at once. */
const together = 16

/** Looks at files one by one. */
export class Verifier {
  readonly #context: Context
  readonly #parts: { levelling: Levelling; fetcher: Fetcher; mover: Mover }

  constructor(context: Context, parts: { levelling: Levelling; fetcher: Fetcher; mover: Mover }) {
    this.#context = context
    this.#parts = parts
  }

  /** The faults there are, in the order of the keys. Files that are all right are not told of. */
  async *verify(options: VerifyOptions): AsyncGenerator<Fault> {
    if (options.repair) await this.#parts.levelling.settleDirectory({ isGivenUp: true })
    let batch: FileRow[] = []
    let files = 0
    const check = async () => {
      const faults = await Promise.all(batch.map(async (row) => this.#check(row, options)))
      files += batch.length
      batch = []
      options.onProgress?.(files)
      return faults.flat()
    }
    for await (const row of this.#context.registry.walk(options.prefix ?? '', { which: 'all' })) {
      throwIfAborted(options.signal)
      if (row.deletedMs === undefined) batch.push(row)
      if (batch.length === together) yield* await check()
    }
    yield* await check()
  }

  async #check({ key }: FileRow, options: VerifyOptions): Promise<Fault[]> {
    const { registry, local } = this.#context
    const before = await registry.find(key)
    let row: FileRow | undefined
    try {
      row = await this.#parts.levelling.look(key)
    } catch (error) {
      return [{ key, where: 'local', problem: 'unchecked', why: (error as Error).message }]
    }
    if (!before || before.deletedMs !== undefined) return []
    if (!row) return [{ key, where: 'local', problem: 'lost', ...(await this.#rescue(before, options)) }]
    const faults: Fault[] = []
    if (before.local !== undefined && row.local === undefined && local.isThere)
      faults.push({ key, where: 'local', problem: 'missing', ...(await this.#bringBack(row, options)) })
    const isDamaged = row.local !== undefined && options.content === true && !(await this.#isIntact(row))
    const replicas = (await registry.replicas(key)).filter(
      ({ state, version }) => state === 'present' && version === row.version,
    )
    for (const replica of replicas) {
      const fault = await this.#checkReplica(row, replica, options)
      if (fault) faults.push({ ...fault, ...(await this.#sendAgain(row, replica, fault, isDamaged, options)) })
    }
    if (isDamaged) faults.push({ key, where: 'local', problem: 'damaged', ...(await this.#replace(row, options)) })
    return faults
  }

  /** Are the bytes of a local file still those that were stored? Where nobody knows them yet, they are. */
  async #isIntact({ key, sha256 }: FileRow): Promise<boolean> {
    if (sha256 === undefined) return true
    const print = new Fingerprint()
    try {
      const file = createReadStream(this.#context.local.pathOf(key), { highWaterMark: 1 << 20 })
      for await (const bytes of file as AsyncIterable<Buffer>) print.update(bytes)
    } catch {
      return false
    }
    return print.end().sha256 === sha256
  }

  async #checkReplica(
    row: FileRow,
    { remote, remoteKey, etag }: Replica,
    { content = false, signal }: VerifyOptions,
  ): Promise<Fault | undefined> {
    const { key } = row
    try {
      const driver = await this.#context.routes.open(remote)
      const info = await driver.stat(remoteKey, signal ? { signal } : {})
      if (info.size !== row.size)
        return { key, where: remote, problem: 'damaged', why: `It has ${info.size} bytes instead of ${row.size}.` }
      // Somebody may have written the same bytes anew; only reading tells.
      if (content || (etag !== undefined && info.etag !== etag)) await this.#read(row, remote, signal)
      return undefined
    } catch (error) {
      throwIfAborted(signal)
      const problem = ({ NOT_FOUND: 'missing', CORRUPT: 'damaged' } as const)[codeOf(error) as 'NOT_FOUND' | 'CORRUPT']
      return { key, where: remote, problem: problem ?? 'unchecked', why: (error as Error).message }
    }
  }

  /** Reads a replica to its end. Rejects with CORRUPT when it is not what was stored. */
  async #read(row: FileRow, remote: string, signal: AbortSignal | undefined): Promise<void> {
    await this.#context.registry.resetFailures(row.key)
    const { body } = await this.#parts.fetcher.fetch(row, { remote, ...(signal && { signal }) })
    for await (const _bytes of body);
  }

  /** Forgets a replica that is no good, and has the file uploaded again from where it is right. */
  async #sendAgain(
    row: FileRow,
    replica: Replica,
    { problem }: Fault,
    isDamaged: boolean,
    { repair = false, signal }: VerifyOptions,
  ): Promise<Pick<Fault, 'repaired'>> {
    if (!repair || problem === 'unchecked' || isDamaged) return {}
    const { registry, queue, cache, name } = this.#context
    const { key, version } = row
    const copies = (await registry.replicas(key)).filter((each) => each.version === version && each.state === 'present')
    const hasOther = copies.length > 1 || cache?.has(name, key, version)
    if (row.local === undefined && !hasOther) return {}
    if (row.local === undefined) await this.#parts.mover.bringHome(row, { signal, not: replica.remote })
    if (this.#context.local.stateOf(key) === undefined) return {}
    await registry.transaction(async (tx) => {
      await registry.putReplica({ ...replica, state: 'pending' }, tx)
      await queue.add({ queue: queueName(this.#context, 'offload'), key, group: replica.remote }, tx)
    })
    return { repaired: 'queued for upload' }
  }

  /** Brings back a local file that is not there, where local files are kept. */
  async #bringBack(row: FileRow, options: VerifyOptions): Promise<Pick<Fault, 'repaired'>> {
    if (!options.repair || !this.#context.settings.keepLocal) return {}
    await this.#parts.mover.bringHome(row, { signal: options.signal })
    return { repaired: 'brought back' }
  }

  /** Puts a good copy in the place of a damaged local file. */
  async #replace(row: FileRow, { repair = false, signal }: VerifyOptions): Promise<Pick<Fault, 'repaired'>> {
    const { registry } = this.#context
    if (!repair || !row.cloud) return {}
    const state = await this.#parts.mover.bringHome(
      { ...row, local: undefined },
      { signal, ...(row.local !== undefined && { instead: row.local }) },
    )
    const now = await registry.find(row.key)
    return state !== undefined && now?.local === state ? { repaired: 'brought back' } : {}
  }

  /** A file of which no copy is recorded may still be in the cache, or at a remote by an upload that was not recorded. */
  async #rescue(row: FileRow, { repair = false, signal }: VerifyOptions): Promise<Pick<Fault, 'repaired'>> {
    const { registry, cache, name } = this.#context
    if (!repair) return {}
    const pending = (await registry.replicas(row.key)).filter(
      (each) => each.version === row.version && each.state === 'pending' && row.checksums !== undefined,
    )
    for (const replica of pending) {
      await registry.transaction(async (tx) => registry.putReplica({ ...replica, state: 'present' }, tx))
      if (
        await this.#read(row, replica.remote, signal).then(
          () => true,
          () => false,
        )
      )
        return { repaired: 'brought back' }
      await registry.transaction(async (tx) => registry.putReplica(replica, tx))
    }
    if (!cache?.has(name, row.key, row.version)) return {}
    const state = await this.#parts.mover.bringHome(row, { signal })
    return state === undefined ? {} : { repaired: 'brought back' }
  }
}
