/** Storage URLs: one line that says where files are kept, with secrets that never come back out. */
import { readFileSync } from 'node:fs'
import { StowageError } from './errors.ts'

/** A parsed storage URL. Credentials are resolved: `env:NAME` and `file:PATH` have been followed. */
export interface StorageUrl {
  scheme: string
  host: string
  port: number | undefined
  user: string | undefined
  password: string | undefined
  /** Decoded, without slashes at its ends. */
  path: string
  parameters: Parameters
  /** Without credentials and parameters: safe to print. */
  printable: string
}

const form = /^([a-z][a-z0-9+.-]*):(?:\/\/([^/?#]*))?([^?#]*)(?:\?([^#]*))?(#.*)?$/i
/** A reference to a secret may hold a colon itself, so the pair is not simply split at the first one. */
const credentials = /^((?:env:|file:)?[^:]*)(?::((?:env:|file:)?[^:]*))?$/

/**
 * Takes a storage URL apart. Rejects with INVALID_ARGUMENT, naming what is wrong and never echoing what may be a secret.
 * Special characters in credentials and parameters are percent-encoded.
 */
export function parseStorageUrl(text: string): StorageUrl {
  const match = form.exec(text)
  if (!match?.[1])
    throw invalid('This is not a storage URL.', 'Write one such as file:///srv/media or s3://KEY:SECRET@host/prefix.')
  const [, scheme = '', authority = '', path = '', query = '', fragment] = match
  if (fragment !== undefined) throw unescaped(scheme, '"#"')
  const at = authority.lastIndexOf('@')
  const place = authority.slice(at + 1)
  const found = credentials.exec(at < 0 ? '' : authority.slice(0, at))
  if (!found || authority.indexOf('@') !== at || (at < 0 && place.startsWith('env:')))
    throw unescaped(scheme, '":" or "@"')
  const located = /^(\[[0-9a-f:]+\]|[^:]*)(?::(\d{1,5}))?$/i.exec(place)
  // A "/" within a secret ends the authority too early: what is left of it looks like a port that is no number.
  if (!located || (at < 0 && path.includes('@'))) throw unescaped(scheme, '"/", ":" or "@"')
  const [, host = '', port] = located
  return {
    scheme: scheme.toLowerCase(),
    host: host.toLowerCase(),
    port: port === undefined ? undefined : portOf(port),
    user: at < 0 ? undefined : resolveSecret(decode(found[1] ?? '', 'user'), 'user'),
    password: found[2] === undefined ? undefined : resolveSecret(decode(found[2], 'password'), 'password'),
    path: decode(path, 'path').replace(/^\/+|\/+$/g, ''),
    parameters: new Parameters(scheme.toLowerCase(), query),
    printable: `${scheme.toLowerCase()}:${match[2] === undefined ? '' : `//${place}`}${path}`,
  }
}

/** Parameters that are secrets, unless they are references to one. */
const secretParameter = /(?:secret|token|pass|password|access_key|temp_url_key|sig|signature)$/i

/**
 * Does a storage URL hold a secret itself, rather than saying where one is (`env:NAME`, `file:PATH`)? In doubt, as when it
 * is malformed around its credentials: true. What is no URL at all: false.
 */
export function holdsSecret(text: string): boolean {
  const match = form.exec(text)
  if (!match) return false
  const [, , authority = '', path = '', query = '', fragment] = match
  const at = authority.lastIndexOf('@')
  const found = credentials.exec(at < 0 ? '' : authority.slice(0, at))
  const isPlain = (value: string | undefined) => value !== undefined && value !== '' && !/^(?:env|file):/.test(value)
  const parameters = query.split('&').map((part) => part.split('='))
  return (
    fragment !== undefined ||
    path.includes('@') ||
    !found ||
    isPlain(found[2]) ||
    parameters.some(([name = '', ...value]) => secretParameter.test(name) && isPlain(value.join('=')))
  )
}

/** The parameters of a URL. Each is asked for by name; what nobody asked for is an error in the end. */
class Parameters {
  readonly #scheme: string
  readonly #values = new Map<string, string>()
  readonly #known = new Set<string>()

  constructor(scheme: string, query: string) {
    this.#scheme = scheme
    for (const part of query.split('&').filter((text) => text !== '')) {
      const equals = part.indexOf('=')
      const name = decode(equals < 0 ? part : part.slice(0, equals), 'parameter')
      if (this.#values.has(name)) throw invalid(`The parameter ${name} of the ${scheme} URL is given twice.`)
      this.#values.set(name, equals < 0 ? '' : decode(part.slice(equals + 1).replaceAll('+', ' '), name))
    }
  }

  /** A text; `env:` and `file:` references are followed. */
  text(name: string): string | undefined {
    this.#known.add(name)
    const value = this.#values.get(name)
    return value === undefined ? undefined : resolveSecret(value, name)
  }

  /** true, false, 1, 0, yes or no. */
  flag(name: string, otherwise: boolean): boolean
  flag(name: string, otherwise?: undefined): boolean | undefined
  flag(name: string, otherwise?: boolean): boolean | undefined {
    const value = this.text(name)?.toLowerCase()
    if (value === undefined) return otherwise
    if (['true', '1', 'yes'].includes(value)) return true
    if (['false', '0', 'no'].includes(value)) return false
    throw invalid(`The parameter ${name} of the ${this.#scheme} URL is neither true nor false.`)
  }

  /** A whole number, zero or more. */
  number(name: string): number | undefined {
    const value = this.text(name)
    if (value === undefined) return undefined
    if (!/^\d{1,15}$/.test(value))
      throw invalid(`The parameter ${name} of the ${this.#scheme} URL is not a whole number.`)
    return Number(value)
  }

  /** To be called when all known parameters were asked for: rejects the others by name. */
  end(): void {
    const unknown = [...this.#values.keys()].filter((name) => !this.#known.has(name))
    if (unknown.length === 0) return
    const known = [...this.#known].join(', ') || 'none'
    throw invalid(`The ${this.#scheme} URL has the unknown parameter ${unknown.join(', ')}.`, `It may have: ${known}.`)
  }
}

/** Follows `env:NAME` and `file:PATH`; anything else is the secret itself. `what` names it in errors. */
function resolveSecret(value: string, what: string): string {
  if (value.startsWith('env:')) {
    const name = value.slice(4)
    const found = process.env[name]
    if (found === undefined || found === '')
      throw new StowageError('INVALID_CONFIG', `The environment variable ${name}, meant as ${what}, is not set.`)
    return found
  }
  if (!value.startsWith('file:')) return value
  const file = value.slice(5)
  try {
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new StowageError('INVALID_CONFIG', `The file ${file}, meant as ${what}, cannot be read: ${code}.`)
  }
}

function decode(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw invalid(`The ${what} of the URL is not properly percent-encoded.`, 'A "%" itself is written %25.')
  }
}

function portOf(text: string): number {
  const port = Number(text)
  if (port < 1 || port > 65_535) throw invalid(`${text} is not a port.`)
  return port
}

function unescaped(scheme: string, characters: string): StowageError {
  return invalid(
    `The ${scheme} URL cannot be read: ${characters} stands where it does not belong.`,
    'Percent-encode special characters in credentials, such as %2F for "/", or use env:NAME.',
  )
}

function invalid(message: string, hint?: string): StowageError {
  return new StowageError('INVALID_ARGUMENT', message, hint === undefined ? {} : { hint })
}
