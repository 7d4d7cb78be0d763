/** Uploads what is local, and hands it over to the cache once the copy is verified and recorded. */
import { lookup } from 'mrmime'
import { diskError } from '../core/disk-error.ts'
import { StowageError } from '../core/errors.ts'
import { FileBody } from '../core/file-body.ts'
import { KeyLock } from '../core/key-lock.ts'
import type { Rate } from '../core/rate.ts'
import { fileVersion } from '../drivers/file.ts'
import type { Transaction } from '../state/database.ts'
import { queueName, queueRemoval, type Context } from './context.ts'
import type { Levelling } from './levelling.ts'
import { blockBytes, decodeChecksums, Fingerprint, type Digests } from './fingerprint.ts'
import type { Lanes } from './lanes.ts'
import { infoOf, type FileRow, type Replica } from './registry.ts'
import { Changed, claimed, confirm, send } from './sender.ts'

/** What is done in the transaction that records the end. */
type AtEnd = (tx: Transaction) => Promise<void>

/** The parts an uploader uses beside the context. */
interface Parts {
  levelling: Levelling
  lanes: Lanes
  rate: Rate
}

/** Uploads single files. */
export class Uploader {
  readonly #context: Context
  readonly #parts: Parts
  readonly #busy = new KeyLock()
  readonly #inHand = new Set<Upload>()

  constructor(context: Context, parts: Parts) {
    this.#context = context
    this.#parts = parts
  }

  /**
   * Brings a local file to its remote, if it is not there already, and hands it over unless local files are kept. What is no
   * longer local is left alone; what has changed must rest again, and what `mustRest` goes only when it has done so. `atEnd`
   * is run in the transaction that records it all.
   */
  async offload(key: string, signal: AbortSignal, atEnd: AtEnd, { mustRest = false } = {}): Promise<void> {
    const upload: Upload = { key, mustRest, signal, staysHere: false }
    this.#inHand.add(upload)
    try {
      await this.#busy.run(key, async () => this.#offload(upload, atEnd))
    } finally {
      this.#inHand.delete(upload)
    }
  }

  /** What is being uploaded now, below a prefix, is not handed over: it was called home meanwhile. */
  keepHere(prefix: string): void {
    for (const upload of this.#inHand) if (upload.key.startsWith(prefix)) upload.staysHere = true
  }

  async #offload(upload: Upload, atEnd: AtEnd) {
    const { key, mustRest, signal } = upload
    const { registry, routes } = this.#context
    const { levelling, lanes } = this.#parts
    const before = await registry.find(key)
    const row = await levelling.look(key)
    // What was noticed only now is queued for its own cool-down.
    const isSettled = row?.local !== undefined && row.version === before?.version
    const plan = isSettled ? await routes.plan(infoOf(row)) : undefined
    if (!row || !plan) return registry.transaction(atEnd)
    if (plan.delayMs > 0 || (mustRest && !this.#hasRested(row)) || lanes.isPaused(plan.remote))
      return registry.transaction(async (tx) => {
        // In this order the job is a new one, which waits for the remote the file is to go to now.
        await atEnd(tx)
        await levelling.enqueue(row, plan, tx)
      })
    try {
      const uploaded = (await this.#isThere(row, plan.remote))
        ? undefined
        : await this.#upload(row, plan.remote, signal)
      await this.#settle(upload, row, uploaded, atEnd)
    } catch (error) {
      if (!(error instanceof Changed)) throw error
      await levelling.look(key)
      await registry.transaction(atEnd)
    }
  }

  /** It may have changed since its job was due. By a clock that was set back nothing has to wait. */
  #hasRested({ changedMs }: FileRow): boolean {
    const { clock, settings } = this.#context
    const restedMs = clock.now() - changedMs
    return restedMs < 0 || restedMs >= settings.coolDownMs
  }

  async #isThere({ key, version, sha256 }: FileRow, remote: string): Promise<boolean> {
    const replicas = await this.#context.registry.replicas(key)
    const copy = replicas.find((each) => each.remote === remote && each.version === version)
    return copy?.state === 'present' && sha256 !== undefined
  }

  /** Sends a local file to a remote. Rejects with {@link Changed} when it changes meanwhile. */
  async #upload(row: FileRow, remote: string, signal: AbortSignal): Promise<Uploaded> {
    const { routes } = this.#context
    const driver = await routes.open(remote)
    const { lanes } = this.#parts
    return claimed(this.#context, row, { remote, driver }, async (replica) => {
      const print = new Fingerprint()
      let digests: Digests | undefined
      const ended = () => (digests ??= print.end())
      const sending = async () =>
        send({
          row,
          replica,
          driver,
          body: this.#body(row, print, signal),
          digests: () => this.#checked(row, ended()),
          contentType: row.contentType ?? lookup(row.key),
          signal,
        })
      const info = await lanes
        .of(remote)
        .run(sending, signal)
        .catch((error: unknown) => {
          throw vanishing.has((error as NodeJS.ErrnoException).code ?? '')
            ? new Changed()
            : (diskError(error, `Cannot read ${row.key}`) ?? error)
        })
      return { replica: { ...replica, etag: info.etag }, digests: ended() }
    })
  }

  /** The bytes of the local file, for as long as it is the one that is recorded. */
  #body(row: FileRow, print: Fingerprint, signal: AbortSignal) {
    const check = (stats: Parameters<typeof fileVersion>[0]) => {
      if (fileVersion(stats) !== row.local) throw new Changed()
    }
    const hooks = { onOpen: check, onBytes: (bytes: Uint8Array) => print.update(bytes), onEnd: check }
    const body = new FileBody(this.#context.local.pathOf(row.key), hooks)
    const { rate } = this.#parts
    return Number.isFinite(rate.bytesPerSecond) ? rate.paced(body, signal) : body
  }

  /** A file that has other bytes than were stored, although nobody has written it, was damaged where it is. */
  #checked({ key, sha256 }: FileRow, digests: Digests): Digests {
    if (sha256 === undefined || sha256 === digests.sha256) return digests
    throw new StowageError('CORRUPT', `${key} is damaged on the local disk: it is no longer what was stored.`, {
      hint: 'It is not offloaded. `stowage filestore verify --repair` puts back a good copy, if there is one.',
    })
  }

  /** Records where the file is, and lets go of the local one when the cache has it, or need not. */
  async #settle(upload: Upload, row: FileRow, uploaded: Uploaded | undefined, atEnd: AtEnd): Promise<void> {
    const { registry, queue, local, lock, settings, events } = this.#context
    const { key, version, local: state } = row
    await lock.run(key, async () => {
      const now = await registry.find(key)
      const isSame = now?.version === version && now.deletedMs === undefined
      const isUnchanged = isSame && state !== undefined && local.stateOf(key) === state
      const known = uploaded ? { ...row, ...uploaded.digests } : row
      let isHandedOver = isUnchanged && !settings.keepLocal && !upload.staysHere
      if (isHandedOver) await this.#fillCache(known)
      await registry.transaction(async (tx) => {
        if (uploaded) await this.#record(known, uploaded, now, tx)
        // A copy that was there before may have been given up in the meantime.
        isHandedOver &&= !upload.staysHere && (await registry.find(key, tx))?.cloud === true
        if (isHandedOver) await registry.setLocal(key, version, undefined, tx)
        // An upload that still waits for its cool-down, because somebody was in a hurry, has nothing left to do.
        if (isUnchanged) await queue.cancel(queueName(this.#context, 'offload'), { key }, tx)
        await atEnd(tx)
      })
      if (isHandedOver && state !== undefined) await local.remove(key, state)
    })
    if (uploaded) events.emit('uploaded', { key, remote: uploaded.replica.remote, bytes: row.size })
    if (local.stateOf(key) !== undefined) await this.#parts.levelling.look(key)
  }

  async #record(row: FileRow, { replica, digests }: Uploaded, now: FileRow | undefined, tx: Transaction) {
    const { registry } = this.#context
    const { key, version } = row
    await registry.setDigest(key, version, digests, tx)
    await confirm(this.#context, replica, tx)
    // It was deleted or replaced while it was on its way: it may be that nobody else removes it.
    if (now?.version !== version || now.deletedMs !== undefined) await queueRemoval(this.#context, replica, {}, tx)
    for (const other of await registry.replicas(key, tx))
      if (other.version !== version) await queueRemoval(this.#context, other, {}, tx)
  }

  /** From here on the cache has it too, so that there is no moment in which it would have to be fetched. */
  async #fillCache(row: FileRow): Promise<void> {
    const { cache, local, name, log } = this.#context
    const checksums = decodeChecksums(row.checksums ?? '')
    await cache
      ?.adopt(name, local.pathOf(row.key), infoOf(row), { checksums, blockBytes })
      .catch((error: unknown) => log.warn(`${row.key} was not taken into the cache: ${(error as Error).message}`))
  }
}

/** Codes of a file that was removed, or replaced by something else. */
const vanishing = new Set(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO'])

/** A file that is to be uploaded. */
interface Upload {
  readonly key: string
  readonly mustRest: boolean
  readonly signal: AbortSignal
  staysHere: boolean
}

/** What an upload came to. */
interface Uploaded {
  replica: Replica
  digests: Digests
}
