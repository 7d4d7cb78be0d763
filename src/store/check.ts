/** Trying out a place with the credentials at hand: what works, what does not, and why. */
import { randomBytes, randomUUID } from 'node:crypto'
import { collect, toBody } from '../core/bytes.ts'
import { codeOf, isNotFound, StowageError, type ErrorCode } from '../core/errors.ts'
import type { CallOptions, Driver } from './driver.ts'

/** What is tried, in this order. */
type Ability = 'write' | 'read' | 'range' | 'list' | 'signed URL' | 'delete'

/** What came of it. */
export interface Finding {
  ability: Ability
  /** `unsupported` is in the nature of the place, `untried` for want of something; `why` says what. */
  state: 'works' | 'fails' | 'unsupported' | 'untried'
  why?: string
  code?: ErrorCode
}

/** Settings of {@link checkPlace}. */
export interface CheckPlaceOptions extends CallOptions {
  /** Change nothing: read what is there. */
  readOnly?: boolean
  /** A file to read where none may be written and none can be found. */
  key?: string
  /** So long each step may take. Default 30 s. */
  timeoutMs?: number
}

const size = 100_000
const range = { start: 1000, end: 2000 }

/**
 * Tries each ability with a small file of a random name, and deletes it. It needs no other rights than the work itself:
 * nothing outside the place's own prefix is touched, no bucket is looked at or made, and an ability that is denied does
 * not keep the others from being tried. Never rejects, except with ABORTED when the signal fires.
 */
export async function* checkPlace(driver: Driver, options: CheckPlaceOptions = {}): AsyncGenerator<Finding> {
  const trial = new Trial(driver, options)
  let isReached = true
  for (const ability of ['write', 'read', 'range', 'list', 'signed URL', 'delete'] as const) {
    const finding: Finding = isReached
      ? await trial.find(ability)
      : { ability, state: 'untried', why: 'It cannot be reached.' }
    if (options.signal?.aborted) throw new StowageError('ABORTED', 'The check was cancelled.')
    yield finding
    // What has worked once is there, and what is not there need not be waited for again.
    isReached &&= trial.hasAnswered || !['UNREACHABLE', 'TIMEOUT'].includes(finding.code ?? '')
  }
}

/** Says why an ability cannot be tried. */
class Untried extends Error {}

class Trial {
  readonly #driver: Driver
  readonly #options: CheckPlaceOptions
  readonly #mayWrite: boolean
  readonly #content = randomBytes(size)
  /** The file there is to read, once it is known; ours or somebody's. */
  #key: string | undefined
  #isOurs = false
  hasAnswered = false

  constructor(driver: Driver, options: CheckPlaceOptions) {
    this.#driver = driver
    this.#options = options
    this.#mayWrite = driver.supports.write && !options.readOnly
    this.#key = options.key
  }

  async find(ability: Ability): Promise<Finding> {
    const steps: Record<Ability, (call: CallOptions) => Promise<void>> = {
      write: async (call) => this.#write(call),
      read: async (call) => this.#read(call),
      range: async (call) => this.#range(call),
      list: async (call) => this.#list(call),
      'signed URL': async (call) => this.#signedUrl(call),
      delete: async (call) => this.#delete(call),
    }
    const { signal, timeoutMs = 30_000 } = this.#options
    const limit = AbortSignal.timeout(timeoutMs)
    try {
      await steps[ability]({ signal: signal ? AbortSignal.any([signal, limit]) : limit })
      this.hasAnswered = true
      return { ability, state: 'works' }
    } catch (error) {
      const why = (error as Error).message
      if (error instanceof Untried) return { ability, state: 'untried', why }
      if (limit.aborted && codeOf(error) === 'ABORTED')
        return { ability, state: 'fails', code: 'TIMEOUT', why: `It took longer than ${timeoutMs / 1000} s.` }
      return { ability, state: codeOf(error) === 'UNSUPPORTED' ? 'unsupported' : 'fails', code: codeOf(error), why }
    }
  }

  async #write(call: CallOptions) {
    if (!this.#driver.supports.write) throw unsupported('It only gives.')
    if (!this.#mayWrite) throw new Untried('Nothing is to be changed.')
    const key = `stowage-check-${randomUUID()}`
    const info = await this.#driver.write(key, toBody(this.#content), { ...call, size })
    this.#isOurs = true
    this.#key = key
    if (info.size !== size) throw corrupt(`It says it has stored ${info.size} bytes of ${size}.`)
  }

  async #read(call: CallOptions) {
    const key = await this.#some(call)
    const { info, body } = await this.#driver.read(key, call)
    if (!this.#isOurs) {
      await body[Symbol.asyncIterator]().next()
      body.destroy()
      return
    }
    const bytes = await collect(body)
    if (info.size !== size || !bytes.equals(this.#content)) throw corrupt('It gives back other bytes than were stored.')
  }

  async #range(call: CallOptions) {
    if (!this.#driver.supports.range) throw unsupported('It sends files from their beginning.')
    const key = await this.#some(call)
    const wanted = this.#isOurs ? range : { start: 0, end: 1 }
    const bytes = await collect((await this.#driver.read(key, { ...call, range: wanted })).body)
    if (this.#isOurs && !bytes.equals(this.#content.subarray(range.start, range.end)))
      throw corrupt('It gives other bytes than were asked for.')
  }

  async #list(call: CallOptions) {
    if (!this.#driver.supports.list) throw unsupported('It has no listings.')
    // What comes just before ours in the order, so that not all there is has to be listed.
    const after = this.#isOurs && this.#key !== undefined ? { after: this.#key.slice(0, -1) } : {}
    for await (const { key } of this.#driver.list('', { ...call, recursive: false, ...after })) {
      if (!this.#isOurs || key === this.#key) return
      break
    }
    if (this.#isOurs) throw corrupt('The file that was stored is not in the listing.')
  }

  async #signedUrl(call: CallOptions) {
    if (!this.#driver.signedUrl) throw unsupported('It cannot sign URLs.')
    const key = await this.#some(call)
    const url = await this.#driver.signedUrl(key, { method: 'GET', expiresInSeconds: 60 })
    const response = await fetch(url, { signal: call.signal ?? null }).catch((error: unknown) => {
      throw new StowageError('UNREACHABLE', 'The signed URL cannot be reached.', { cause: error })
    })
    const bytes = response.ok && this.#isOurs ? Buffer.from(await response.arrayBuffer()) : undefined
    if (!bytes) await response.body?.cancel()
    if (!response.ok) throw new StowageError('DENIED', `The signed URL is answered with status ${response.status}.`)
    if (bytes && !bytes.equals(this.#content)) throw corrupt('The signed URL gives other bytes than were stored.')
  }

  async #delete(call: CallOptions) {
    if (!this.#driver.supports.write) throw unsupported('It only gives.')
    const key = this.#key
    if (!this.#isOurs || key === undefined) throw new Untried('There is nothing of ours to delete.')
    try {
      await this.#driver.delete(key, call)
    } catch (error) {
      const said = error instanceof StowageError ? error : undefined
      throw new StowageError(codeOf(error), `${said?.message ?? String(error)} The file ${key} is left there.`)
    }
    const isGone = await this.#driver.stat(key, call).then(() => false, isNotFoundOrDenied)
    if (!isGone) throw corrupt(`The file ${key} is still there.`)
  }

  /** The file to read: ours, the one that was named, or the first that is listed. */
  async #some(call: CallOptions): Promise<string> {
    if (this.#key !== undefined) return this.#key
    if (this.#driver.supports.list)
      for await (const { key } of this.#driver.list('', call)) {
        this.#key = key
        return key
      }
    throw new Untried('There is no file to read. Name one with --key.')
  }
}

/** Who may not list is not told what is absent either. */
function isNotFoundOrDenied(error: unknown): true {
  if (isNotFound(error) || codeOf(error) === 'DENIED') return true
  throw error
}

function unsupported(why: string): StowageError {
  return new StowageError('UNSUPPORTED', why)
}

function corrupt(why: string): StowageError {
  return new StowageError('CORRUPT', why)
}
