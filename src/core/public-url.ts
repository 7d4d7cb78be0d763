/** Public addresses: a base and a key below it. */

/** The base with exactly one slash at its end; an empty one is the root of the site. */
export function cleanBase(base: string): string {
  const isClean = base.endsWith('/') && !base.endsWith('//')
  return isClean ? base : base.replace(/\/*$/, '/')
}

/** The address of a key below a base, each of its parts percent-encoded. */
export function urlBelow(base: string, key: string): string {
  return cleanBase(base) + key.split('/').map(encodeURIComponent).join('/')
}
