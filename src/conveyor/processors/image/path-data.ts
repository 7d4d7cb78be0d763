/** The `d` attribute of SVG's paths. */

/** What follows each command: numbers (n) and flags (f), once or more often. */
const parameters: Record<string, string> = {
  __proto__: null as never,
  m: 'nn',
  l: 'nn',
  t: 'nn',
  h: 'n',
  v: 'n',
  c: 'nnnnnn',
  s: 'nnnn',
  q: 'nnnn',
  a: 'nnnffnn',
  z: '',
}
const command = /\s*([a-z])\s*/iy
const kinds: Record<string, RegExp> = { n: /[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?\s*,?\s*/iy, f: /[01]\s*,?\s*/y }

/** Is the data of a path without mistakes? With one, renderers draw what comes before it, and optimisers something else. */
export function isPathData(data: string): boolean {
  let at = 0
  const take = (pattern: RegExp | undefined) => {
    if (!pattern) return undefined
    pattern.lastIndex = at
    const found = pattern.exec(data)
    if (found) at = pattern.lastIndex
    return found
  }
  for (let isFirst = true; at < data.length; isFirst = false) {
    const letter = take(command)?.[1]?.toLowerCase()
    const wanted = letter && parameters[letter]
    if (wanted === undefined || (isFirst && letter !== 'm')) return false
    do for (const kind of wanted) if (!take(kinds[kind])) return false
    while (wanted !== '' && /[\d.+-]/.test(data[at] ?? ''))
  }
  return true
}
