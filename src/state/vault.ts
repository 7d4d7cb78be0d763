/** Secrets in the state: encrypted where they rest, with a key that is kept elsewhere. */
import { createCipheriv, createDecipheriv, createHmac, randomBytes, randomUUID } from 'node:crypto'
import * as fs from 'node:fs'
import * as path from 'node:path'
import { diskError } from '../core/disk-error.ts'
import { StowageError } from '../core/errors.ts'

/** Where the key may be given: 32 bytes as base64 or hex. */
const variable = 'STOWAGE_KEY'
const keyBytes = 32
const nonceBytes = 12
const tagBytes = 16
const version = 'v1'
const howToMakeOne = 'Make one with: openssl rand -base64 32'

/**
 * Encrypts small texts with AES-256-GCM. The key is that of the environment variable `STOWAGE_KEY`, or else of a file
 * beside the state, which is made when something is sealed for the first time. It is looked up at the first use.
 */
export class Vault {
  readonly #file: string
  readonly #given: string | undefined
  #key: Buffer | undefined

  /** `state` is the file of the state; the key is beside it, as `STATE.key`. */
  constructor(state: string, environment: NodeJS.ProcessEnv = process.env) {
    this.#file = `${state}.key`
    this.#given = environment[variable]
  }

  /**
   * Encrypts a text under a name; the same name opens it. Throws INVALID_CONFIG when the key is malformed or may be read
   * by others.
   */
  seal(name: string, text: string): string {
    const key = this.#keyTo('seal')
    const nonce = randomBytes(nonceBytes)
    const cipher = createCipheriv('aes-256-gcm', key, nonce, { authTagLength: tagBytes })
    cipher.setAAD(Buffer.from(name))
    const sealed = Buffer.concat([nonce, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
    return [version, idOf(key), sealed.toString('base64')].join(':')
  }

  /**
   * The text that was sealed under a name. Throws INVALID_CONFIG when there is no key, or another one; CORRUPT when the
   * text is damaged or was sealed under another name; UNSUPPORTED when a newer version of Stowage sealed it.
   */
  open(name: string, sealed: string): string {
    const [form, id, text = ''] = sealed.split(':')
    if (form !== version)
      throw new StowageError('UNSUPPORTED', `${name} was encrypted by another version of Stowage.`, {
        hint: 'Update this installation, or save it anew.',
      })
    const key = this.#keyTo('open')
    if (id !== idOf(key)) throw invalid(`${name} was encrypted with another key than ${this.#origin}.`, lostKey)
    const bytes = Buffer.from(text, 'base64')
    try {
      if (bytes.byteLength < nonceBytes + tagBytes) throw new Error('too short')
      const end = bytes.byteLength - tagBytes
      const options = { authTagLength: tagBytes }
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, nonceBytes), options)
      decipher.setAAD(Buffer.from(name))
      decipher.setAuthTag(bytes.subarray(end))
      return Buffer.concat([decipher.update(bytes.subarray(nonceBytes, end)), decipher.final()]).toString()
    } catch (error) {
      const hint = 'Restore the state from a backup, or save it anew.'
      throw new StowageError('CORRUPT', `${name} is damaged, or belongs to another name.`, { cause: error, hint })
    }
  }

  get #origin(): string {
    return this.#given === undefined ? `that of ${this.#file}` : `that of ${variable}`
  }

  #keyTo(purpose: 'seal' | 'open'): Buffer {
    this.#key ??= this.#given === undefined ? this.#keyOfFile(purpose) : parseKey(this.#given, variable)
    return this.#key
  }

  #keyOfFile(purpose: 'seal' | 'open'): Buffer {
    const found = readKey(this.#file)
    if (found) return found
    if (purpose === 'open')
      throw invalid(`The key of the saved secrets is missing: there is neither ${this.#file} nor ${variable}.`, lostKey)
    makeKey(this.#file)
    return readKey(this.#file) as Buffer
  }
}

const lostKey = 'Bring the key back, or save the secrets anew: stowage store set NAME.'

/** Tells keys apart and says nothing about them. */
function idOf(key: Buffer): string {
  return createHmac('sha256', key).update('stowage key id').digest('hex').slice(0, 16)
}

function parseKey(text: string, place: string): Buffer {
  const trimmed = text.trim()
  if (/^[0-9a-f]{64}$/i.test(trimmed)) return Buffer.from(trimmed, 'hex')
  if (/^[A-Za-z0-9+/]{43}=$/.test(trimmed)) return Buffer.from(trimmed, 'base64')
  throw invalid(`${place} is no key: it must be ${keyBytes} bytes as base64 or hex.`, howToMakeOne)
}

/** The key of a file; undefined where there is none. It is looked at through one descriptor: what is checked is what is read. */
function readKey(file: string): Buffer | undefined {
  let descriptor: number | undefined
  try {
    descriptor = fs.openSync(file, 'r')
    const stats = fs.fstatSync(descriptor)
    const mode = (stats.mode & 0o777).toString(8)
    if (process.platform !== 'win32' && (stats.mode & 0o077) !== 0)
      throw invalid(`${file} holds a key, and others may read it (mode ${mode}).`, `Run: chmod 600 ${file}`)
    return parseKey(fs.readFileSync(descriptor, 'utf8'), file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw diskError(error, `Cannot read the key ${file}`) ?? error
  } finally {
    if (descriptor !== undefined) fs.closeSync(descriptor)
  }
}

/** Makes a key that is whole and on the disk before anything is encrypted with it. One that is there stays. */
function makeKey(file: string) {
  const part = `${file}.${randomUUID()}.part`
  try {
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(part, `${randomBytes(keyBytes).toString('base64')}\n`, { mode: 0o600, flag: 'wx', flush: true })
    fs.linkSync(part, file)
    syncDirectory(path.dirname(file))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST')
      throw diskError(error, `Cannot write the key ${file}`) ?? error
  } finally {
    fs.rmSync(part, { force: true })
  }
}

function syncDirectory(directory: string) {
  if (process.platform === 'win32') return
  const descriptor = fs.openSync(directory, 'r')
  try {
    fs.fsyncSync(descriptor)
  } finally {
    fs.closeSync(descriptor)
  }
}

function invalid(message: string, hint: string): StowageError {
  return new StowageError('INVALID_CONFIG', message, { hint })
}
