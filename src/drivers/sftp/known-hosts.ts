/** Which host keys are known: the file known_hosts of OpenSSH (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT"). */
import { createHash, createHmac } from 'node:crypto'

/** What the file says of the key a host has shown. */
export type Verdict = 'known' | 'unknown' | 'changed' | 'revoked'

interface Line {
  marker: string | undefined
  type: string
  /** Base64. */
  key: string
}

/** The lines of a file that are about one host. */
export class KnownHosts {
  readonly #lines: readonly Line[]

  constructor(text: string, host: string, port: number) {
    const name = port === 22 ? host : `[${host}]:${port}`
    this.#lines = text.split('\n').flatMap((row) => {
      const [, marker, hosts = '', type = '', key = ''] =
        /^(?:(@[\w-]+)\s+)?(\S+)\s+(\S+)\s+([A-Za-z0-9+/=]+)/.exec(row.trim()) ?? []
      return key !== '' && !hosts.startsWith('#') && matches(hosts, name.toLowerCase()) ? [{ marker, type, key }] : []
    })
  }

  /** The types of the keys that are known, so that no other is asked for. */
  get types(): string[] {
    return [...new Set(this.#lines.filter(({ marker }) => marker === undefined).map(({ type }) => type))]
  }

  /** What is to be thought of a key, as it came over the wire. */
  judge(key: Buffer): Verdict {
    const text = key.toString('base64')
    if (this.#lines.some((line) => line.marker === '@revoked' && line.key === text)) return 'revoked'
    const known = this.#lines.filter(({ marker }) => marker === undefined)
    if (known.length === 0) return 'unknown'
    return known.some((line) => line.key === text) ? 'known' : 'changed'
  }
}

/** As ssh-keygen and ssh show it: `SHA256:…`. */
export function fingerprintOf(key: Buffer): string {
  return `SHA256:${createHash('sha256').update(key).digest('base64').replace(/=+$/, '')}`
}

/** A list of patterns, or the hash of a name. */
function matches(hosts: string, name: string): boolean {
  const [, salt, digest] = /^\|1\|([^|]+)\|(.+)$/.exec(hosts) ?? []
  if (salt !== undefined)
    return createHmac('sha1', Buffer.from(salt, 'base64')).update(name).digest('base64') === digest
  const patterns = hosts.toLowerCase().split(',')
  const fits = (pattern: string) => glob(pattern).test(name)
  if (patterns.some((pattern) => pattern.startsWith('!') && fits(pattern.slice(1)))) return false
  return patterns.some((pattern) => !pattern.startsWith('!') && fits(pattern))
}

function glob(pattern: string): RegExp {
  const text = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replaceAll('?', '.')
  return new RegExp(`^${text}$`)
}
