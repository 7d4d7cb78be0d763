/** The part of the configuration that is about filestores: how it is written, and what it is completed to. */
import * as path from 'node:path'
import { z } from 'zod'
import { realPath } from '../core/real-path.ts'
import type { FilestoreOptions } from '../filestore/filestore.ts'
import type { Route, Routed, Rule } from '../filestore/routes.ts'
import type { StoreOptions } from '../store/store.ts'
import { duration, durationOrNever, size } from './config-units.ts'

type Choose = (file: Routed) => string | undefined | Promise<string | undefined>

const remoteRule = z.strictObject({
  prefix: z.string().optional().describe('The beginning of the key.'),
  minSize: size('At least so large.').optional(),
  maxSize: size('At most so large.').optional(),
  minAge: duration('So long since the last change, at least.').optional(),
  contentType: z
    .string()
    .regex(/^[^/\s]+\/[^/\s]+$/, 'is not a type: write image/png, or image/* for all of a kind')
    .optional()
    .describe('A type, or all of a kind: image/*.'),
  remote: z.string().describe('The name of the store that files go to for which all of this holds.'),
})

/** How a filestore is written in a configuration. */
export const filestore = z.strictObject({
  directory: z.string().min(1).describe('Where files are first. Relative to this file.'),
  remote: z
    .union([
      z.string(),
      z.array(remoteRule).min(1, 'needs at least one rule'),
      z.custom<Choose>((value) => typeof value === 'function'),
    ])
    .describe('The store that files go to; or rules, the first that fits; or, in TypeScript, a function of the file.'),
  remotes: z
    .array(z.string())
    .optional()
    .describe('More stores that files may go to: by a function, or by `stowage filestore migrate`.'),
  coolDown: duration('So long a file must have rested before it is offloaded. Default: 10m.').optional(),
  keepLocal: z.boolean().optional().describe('Keep files local, so that the remote has a copy. Default: false.'),
  deleteAfter: durationOrNever(
    'So long a deleted file can be restored; 0 is not at all, "never" is for ever. Default: 5w.',
  ).optional(),
  remoteNames: z
    .enum(['same', 'shorten'], 'must be "same" or "shorten"')
    .optional()
    .describe('How keys become names at the remote. Default: same.'),
  watch: z
    .boolean()
    .optional()
    .describe('Listen for what others do in the directory, between two looks. Default: true.'),
  scanEvery: duration('How often the directory is looked through; 0 is only at the start. Default: 10m.').optional(),
})

/** The settings of a filestore, for whoever mistypes one. */
export const filestoreKeys = Object.keys(filestore.shape)
/** Those of one of its rules. */
export const remoteRuleKeys = Object.keys(remoteRule.shape)

/** How the cache of all filestores is written. */
export const cache = z.strictObject({
  directory: z
    .string()
    .min(1)
    .optional()
    .describe('Where it is; everything else in there is removed. Default: .stowage-cache beside the state.'),
  maxBytes: size('How much it holds. Default: 10GiB.').optional(),
})

/** A filestore as a configuration has it: its directory is absolute, durations are milliseconds. */
export interface FilestoreSettings
  extends Pick<
      FilestoreOptions,
      'directory' | 'remoteNames' | 'coolDownMs' | 'keepLocal' | 'deleteAfterMs' | 'scanEveryMs'
    >,
    StoreOptions {
  remote: Route
  /** Every store that files may go to. */
  remotes: string[]
  /** Every change is refused to those who use it as a store. */
  readOnly?: boolean
}

/** Completes the settings of a filestore, without those that are of the store it is. */
export function completeFilestore(
  { directory, remote, remotes = [], coolDown, keepLocal, deleteAfter, remoteNames: names, watch, scanEvery }: Written,
  base: string,
): FilestoreSettings {
  return {
    directory: realPath(path.resolve(base, directory)),
    remote: typeof remote === 'object' ? remote.map(completeRule) : remote,
    remotes: [...new Set([...namedIn(remote), ...remotes])],
    ...(coolDown !== undefined && { coolDownMs: coolDown }),
    ...(keepLocal !== undefined && { keepLocal }),
    ...(deleteAfter !== undefined && { deleteAfterMs: deleteAfter }),
    ...(names !== undefined && { remoteNames: names }),
    ...(watch !== undefined && { watch }),
    ...(scanEvery !== undefined && { scanEveryMs: scanEvery }),
  }
}

type Written = z.output<typeof filestore>

function namedIn(remote: Written['remote']): string[] {
  if (typeof remote === 'string') return [remote]
  return typeof remote === 'object' ? remote.map((rule) => rule.remote) : []
}

function completeRule({ minAge, ...rule }: z.output<typeof remoteRule>): Rule {
  const given = Object.entries({ ...rule, minAgeMs: minAge }).filter(([, value]) => value !== undefined)
  return Object.fromEntries(given) as unknown as Rule
}

/** The names of filestores, and of stores of mounts in which there is one, however deep. */
export function filestoreNames({ filestores, stores }: Parts): ReadonlySet<string> {
  const found = new Set(Object.keys(filestores))
  for (let count = -1; count !== found.size; ) {
    count = found.size
    for (const [name, { mounts = {} }] of Object.entries(stores))
      if (Object.values(mounts).some((inner) => found.has(inner))) found.add(name)
  }
  return found
}

interface Parts {
  filestores: object
  stores: Readonly<Record<string, { mounts?: Readonly<Record<string, string>> }>>
}
