/** Sends a file to a remote, and proves that what arrived is what was meant. */
import { createHash } from 'node:crypto'
import { isNotFound, StowageError } from '../core/errors.ts'
import type { Transaction } from '../state/database.ts'
import type { Body, Driver, FileInfo, WriteOptions } from '../store/driver.ts'
import type { Context } from './context.ts'
import type { Digests } from './fingerprint.ts'
import type { FileRow, Replica } from './registry.ts'

/** What is sent, and to where. */
export interface Sending {
  row: FileRow
  replica: Replica
  driver: Driver
  body: Body
  /** What the body came to; asked when it has ended. */
  digests: () => Pick<Digests, 'sha256' | 'size'>
  contentType: string | undefined
  signal: AbortSignal
}

/** The file is not the one any more that was to be sent, or not under this key. */
export class Changed extends StowageError {
  constructor() {
    super('CONFLICT', 'The file changed while it was sent.')
  }
}

/**
 * Records that a file is about to be at a remote, before the first byte is sent: whatever happens from then on, it is known
 * to be ours. Then nobody else writes under that name until `work` has ended. A name that another file has there is not
 * touched. Rejects with {@link Changed}, and with BUSY, retryable, while the former copy of this name is being removed.
 */
export async function claimed<T>(
  context: Context,
  row: FileRow,
  { remote, driver }: { remote: string; driver: Driver },
  work: (replica: Replica) => Promise<T>,
): Promise<T> {
  const replica = await claim(context, row, remote, driver)
  const { remoteKey, version } = replica
  return context.sending.run(`${remote}:${remoteKey}`, async () => {
    const now = await context.registry.replicaAt(remote, remoteKey)
    // While we waited for others, the name may have been claimed for what the file is now.
    if (now?.state !== 'pending' || now.version !== version) throw new Changed()
    return work(replica)
  })
}

async function claim(context: Context, row: FileRow, remote: string, driver: Driver): Promise<Replica> {
  const { registry, routes } = context
  const { key, version } = row
  return registry.transaction(async (tx) => {
    const now = await registry.find(key, tx)
    if (now?.version !== version || now.deletedMs !== undefined) throw new Changed()
    const all = (await registry.replicas(key, tx)).filter((each) => each.remote === remote)
    const own = all.find(({ state }) => state !== 'deleting') ?? all[0]
    if (own?.state === 'deleting')
      throw new StowageError('BUSY', `The former copy of ${key} at ${remote} is just being removed.`)
    const remoteKey = own?.remoteKey ?? (await freeName(context, routes.nameOf(key), row, { remote, driver }, tx))
    const replica: Replica = { remote, remoteKey, key, location: driver.location, version, state: 'pending' }
    await registry.putReplica(replica, tx)
    return replica
  })
}

/** A name that no other file has there. Where no file can be below another, it is not in the way of one either. */
async function freeName(
  { registry }: Context,
  name: string,
  { version }: FileRow,
  { remote, driver }: { remote: string; driver: Driver },
  tx: Transaction,
): Promise<string> {
  const { keyUnderFile, maxPartBytes } = driver.supports
  const isTaken = async (each: string) => (await registry.replicaAt(remote, each, tx)) !== undefined
  const other = (each: string) => distinct(each, `~${version}`, maxPartBytes)
  let free = name
  for (let slash = name.indexOf('/'); slash > 0 && !keyUnderFile; slash = name.indexOf('/', slash + 1)) {
    const directory = name.slice(0, slash)
    if (await isTaken(directory)) free = other(directory) + name.slice(slash)
  }
  const isDirectory = !keyUnderFile && (await registry.hasBelow(remote, free, tx))
  return isDirectory || (await isTaken(free)) ? other(free) : free
}

/** A name with an end of its own, and its last part as long as may be. */
function distinct(name: string, end: string, maxPartBytes: number): string {
  const slash = name.lastIndexOf('/') + 1
  const characters = Array.from(name.slice(slash))
  while (Buffer.byteLength(characters.join('')) + end.length > maxPartBytes) characters.pop()
  return name.slice(0, slash) + characters.join('') + end
}

/** Records that what was claimed is there. Rejects with BUSY, retryable, when it was given up while it was on its way. */
export async function confirm({ registry }: Context, replica: Replica, tx: Transaction): Promise<void> {
  if (!(await registry.confirmReplica(replica, tx)))
    throw new StowageError('BUSY', `The copy of ${replica.key} at ${replica.remote} was given up while it was sent.`)
}

/**
 * Sends, and resolves when the place has proven to have it: by size, and by a digest, its own or one of reading it back. What
 * did not arrive, or as something else, rejects with CORRUPT, retryable.
 */
export async function send(sending: Sending): Promise<FileInfo> {
  try {
    return await sendAndCompare(sending)
  } catch (error) {
    // Of a file that was just sent this says that it got lost.
    throw isNotFound(error) ? differs(sending.row.key, sending.replica.remote, error) : error
  }
}

async function sendAndCompare({ row, replica, driver, body, digests, contentType, signal }: Sending) {
  const { supports } = driver
  const mayReadBack = supports.verify ?? false
  const options: WriteOptions = {
    size: row.size,
    modified: new Date(row.modifiedMs),
    signal,
    ...(contentType === undefined ? {} : { contentType }),
    ...(row.metadata && supports.metadata && { metadata: row.metadata }),
    ...(mayReadBack && !supports.confirms && { verify: true }),
  }
  await driver.write(replica.remoteKey, body, options)
  const { size, sha256 } = digests()
  // The file there, not the answer to the write, is what will be read one day.
  const info = await driver.stat(replica.remoteKey, { signal })
  if (size !== row.size || info.size !== size) throw differs(row.key, replica.remote)
  if (info.digests?.sha256 !== undefined) {
    if (info.digests.sha256 !== sha256) throw differs(row.key, replica.remote)
  } else if (!supports.confirms && !mayReadBack) await readBack(driver, { row, replica, sha256 }, signal)
  return info
}

async function readBack(
  driver: Driver,
  { row, replica, sha256 }: { row: FileRow; replica: Replica; sha256: string },
  signal: AbortSignal,
) {
  const hash = createHash('sha256')
  for await (const bytes of (await driver.read(replica.remoteKey, { signal })).body as AsyncIterable<Uint8Array>)
    hash.update(bytes)
  if (hash.digest('hex') !== sha256) throw differs(row.key, replica.remote)
}

function differs(key: string, remote: string, cause?: unknown): StowageError {
  const what = cause === undefined ? 'arrived as something else than what was sent' : 'is not there after it was sent'
  return new StowageError('CORRUPT', `${key} at ${remote} ${what}.`, {
    hint: 'It is sent again.',
    retryable: true,
    cause,
  })
}
