/** Durations and sizes as people write them: `10m`, `5w`, `10GiB`. */
import { StowageError } from './errors.ts'

const durations: Record<string, number> = {
  __proto__: null as never,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
}
const sizes: Record<string, number> = {
  __proto__: null as never,
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
}

/** Milliseconds of `500ms`, `10s`, `10m`, `2h`, `3d`, `5w`; a bare number is milliseconds. Rejects with INVALID_ARGUMENT. */
export function parseDuration(value: string | number): number {
  return parse(value, durations, 'duration', '500ms, 10s, 10m, 2h, 3d or 5w')
}

/** Bytes of `100B`, `64KiB`, `10GiB`, `5MB`; a bare number is bytes. Rejects with INVALID_ARGUMENT. */
export function parseSize(value: string | number): number {
  return Math.round(parse(value, sizes, 'size', '100B, 64KiB, 5MB or 10GiB'))
}

/** A size for people, with binary units and at most one decimal: `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  let value = bytes
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024) return `${unit === 'B' ? value : value.toFixed(1)} ${unit}`
    value /= 1024
  }
  return `${value.toFixed(1)} TiB`
}

function parse(value: string | number, units: Record<string, number>, what: string, examples: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(String(value).trim())
  const factor = match?.[2] ? units[match[2]] : 1
  if (!match || factor === undefined)
    throw new StowageError('INVALID_ARGUMENT', `${JSON.stringify(value)} is not a ${what}.`, {
      hint: `Write ${examples}.`,
    })
  return Number(match[1]) * factor
}
