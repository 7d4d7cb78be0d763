/** Which files and directories of a source do not exist for us. */
import picomatch from 'picomatch'

/** Asks whether a path relative to the source is ignored. What is below an ignored directory is never asked about. */
export type IsIgnored = (path: string, isDirectory: boolean) => boolean

/**
 * A matcher of patterns: one without a slash matches a name at any depth (`*.tmp`, `.git`), one with a slash matches from
 * the source's root (`build/cache/**`); a trailing slash matches directories only.
 */
export function ignoreMatcher(patterns: readonly string[]): IsIgnored {
  const literals = new Set<string>()
  const endings: string[] = []
  const others: ((path: string, name: string, isDirectory: boolean) => boolean)[] = []
  for (const pattern of patterns)
    if (/^[\w.@+ -]+$/.test(pattern)) literals.add(pattern)
    else if (/^\*\.[\w.-]+$/.test(pattern)) endings.push(pattern.slice(1))
    else others.push(compile(pattern))
  return (path, isDirectory) => {
    const name = path.slice(path.lastIndexOf('/') + 1)
    if (literals.has(name)) return true
    for (const ending of endings) if (name.endsWith(ending)) return true
    for (const matches of others) if (matches(path, name, isDirectory)) return true
    return false
  }
}

/** The part of a path, from the root on, that is ignored; undefined when none is. */
export function findIgnored(isIgnored: IsIgnored, path: string): string | undefined {
  const parts = path.split('/')
  return parts
    .map((_, depth) => parts.slice(0, depth + 1).join('/'))
    .find((part, depth) => isIgnored(part, depth < parts.length - 1))
}

function compile(pattern: string) {
  const isForDirectories = pattern.endsWith('/')
  const clean = pattern.replace(/^\/|\/$/g, '')
  const matches = picomatch(clean, { dot: true })
  const isAnchored = pattern.replace(/\/$/, '').includes('/')
  return (path: string, name: string, isDirectory: boolean) =>
    (!isForDirectories || isDirectory) && matches(isAnchored ? path : name)
}
