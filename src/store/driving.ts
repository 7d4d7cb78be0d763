/** What drivers have in common: small checks, and a listing made from sorted keys. */
import { onAbort } from '../core/abort.ts'
import { StowageError } from '../core/errors.ts'
import { compareKeys } from '../core/keys.ts'
import { Pull } from '../core/pull.ts'
import type { Body, CallOptions, Driver, Entry, FileInfo, ListOptions, Supports } from './driver.ts'

/** Throws ABORTED when the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })
}

/** Throws CORRUPT when a body's length is not the one that was announced. */
export function checkSize(key: string, size: number, expected: number | undefined): void {
  if (expected !== undefined && size !== expected)
    throw new StowageError('CORRUPT', `${key} was announced with ${expected} bytes but has ${size}; it was not stored.`)
}

/**
 * A body, for as long as nobody has cancelled and it is not longer than announced. One that is silent is left when the
 * signal fires.
 */
export async function* guarded(
  key: string,
  body: Body,
  announced: number | undefined,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const pull = new Pull(body)
  const stopListening = onAbort(signal, () =>
    pull.leave(new StowageError('ABORTED', 'The call was cancelled.', { cause: signal.reason })),
  )
  try {
    for (let size = 0; ; ) {
      const chunk = await pull.next()
      throwIfAborted(signal)
      if (!chunk) return
      size += chunk.byteLength
      if (announced !== undefined && size > announced) checkSize(key, size, announced)
      yield chunk
    }
  } finally {
    stopListening()
    await pull.end()
  }
}

/** Where an entry stands in a listing: a directory as if its name ended in a slash, which is where its files would stand. */
export function placeOf({ kind, key }: Entry): string {
  return kind === 'directory' ? `${key}/` : key
}

/** The listing of a directory, made from the infos of all files in key order. */
export function* entriesBelow(
  infos: Iterable<FileInfo>,
  directory: string,
  options: ListOptions,
): Generator<Entry, void> {
  const prefix = directory === '' ? '' : `${directory}/`
  let last: string | undefined
  for (const info of infos) {
    if (!info.key.startsWith(prefix)) continue
    const slash = options.recursive === false ? info.key.indexOf('/', prefix.length) : -1
    const key = slash < 0 ? info.key : info.key.slice(0, slash)
    const isPast = options.after === undefined || compareKeys(slash < 0 ? key : `${key}/`, options.after) > 0
    if (!isPast) continue
    if (slash < 0) yield { kind: 'file', ...info }
    else if (key !== last) yield { kind: 'directory', key }
    last = key
  }
}

/** How many directories are asked for before they are needed: each costs a round trip. */
const directoriesAhead = 4

/**
 * The listing of a tree whose place lists one directory at a time: `children` gives what is in one, in any order, and
 * nothing where there is no such directory. At most one directory for each level, and a few ahead, are in memory.
 */
export function walk(children: Children, directory: string, options: ListOptions): AsyncGenerator<Entry> {
  return visit(children(directory), children, options)
}

type Children = (directory: string) => Promise<readonly Entry[]>

async function* visit(listing: ReturnType<Children>, children: Children, options: ListOptions): AsyncGenerator<Entry> {
  const entries = (await listing)
    .filter((entry) => isWanted(entry, options))
    .sort((a, b) => compareKeys(placeOf(a), placeOf(b)))
  const isOpened = (entry: Entry) => entry.kind === 'directory' && options.recursive !== false
  const directories = entries.filter(isOpened)
  const ahead: ReturnType<Children>[] = []
  let begun = 0
  for (const entry of entries) {
    throwIfAborted(options.signal)
    if (!isOpened(entry)) {
      yield entry
      continue
    }
    for (; ahead.length < directoriesAhead && begun < directories.length; begun++) {
      const next = children(directories[begun]?.key ?? '')
      next.catch(() => undefined) // it fails when its turn comes
      ahead.push(next)
    }
    yield* visit(ahead.shift() ?? children(entry.key), children, options)
  }
}

/** Does an entry, or something below it, come after the place where the listing goes on? */
function isWanted(entry: Entry, { after, recursive }: ListOptions): boolean {
  if (after === undefined) return true
  const place = placeOf(entry)
  return compareKeys(place, after) > 0 || (entry.kind === 'directory' && recursive !== false && after.startsWith(place))
}

/** What all can do: each ability that every one has, the shortest limits, and whatever one of them refuses. */
export function commonSupports(all: readonly Supports[]): Supports {
  const every = (name: AbilityName) => all.every((supports) => supports[name])
  return {
    write: every('write'),
    list: every('list'),
    range: every('range'),
    atomicWrite: every('atomicWrite'),
    ifAbsent: every('ifAbsent'),
    ifMatch: every('ifMatch'),
    contentType: every('contentType'),
    metadata: every('metadata'),
    keyUnderFile: every('keyUnderFile'),
    maxKeyBytes: Math.min(...all.map(({ maxKeyBytes }) => maxKeyBytes)),
    maxPartBytes: Math.min(...all.map(({ maxPartBytes }) => maxPartBytes)),
    verify: all.every(({ verify = false }) => verify),
    confirms: all.every(({ confirms = false }) => confirms),
    refuses: all.flatMap(({ refuses = [] }) => refuses),
  }
}

type AbilityName = Exclude<
  { [K in keyof Supports]-?: Supports[K] extends boolean ? K : never }[keyof Supports],
  'verify' | 'confirms'
>

/** The union of listings that are each in key order, in key order; of what several have, the first one's entry. */
export async function* merged(listings: readonly AsyncIterable<Entry>[]): AsyncGenerator<Entry> {
  const iterators = listings.map((listing) => listing[Symbol.asyncIterator]())
  try {
    const heads = await Promise.all(iterators.map(async (iterator) => iterator.next()))
    for (;;) {
      const open = heads.flatMap((head) => (head.done ? [] : [head.value]))
      const [first] = open
      if (!first) return
      const least = open.reduce((a, b) => (compareKeys(placeOf(b), placeOf(a)) < 0 ? b : a), first)
      yield least
      for (const [index, head] of heads.entries())
        if (!head.done && placeOf(head.value) === placeOf(least))
          heads[index] = await (iterators[index] as AsyncIterator<Entry>).next()
    }
  } finally {
    await Promise.all(iterators.map(async (iterator) => iterator.return?.()))
  }
}

/** The shortcuts a driver has, free to be passed on; undefined where it has none. */
export function shortcutsOf(driver: Driver) {
  return {
    copy: driver.copy?.bind(driver),
    move: driver.move?.bind(driver),
    deleteMany: driver.deleteMany?.bind(driver),
    writeBytes: driver.writeBytes?.bind(driver),
    signedUrl: driver.signedUrl?.bind(driver),
    localPath: driver.localPath?.bind(driver),
  }
}

/** Runs a call in a wrapper's way. */
export type Around = <T>(work: () => Promise<T>, call: CallOptions | undefined) => Promise<T>

/** The shortcuts a driver has, each run in the wrapper's way; what is answered without asking the place stays as it is. */
export function shortcutsAround(driver: Driver, around: Around): Partial<Driver> {
  const { copy, move, deleteMany, writeBytes, signedUrl, localPath } = shortcutsOf(driver)
  return {
    ...(copy && { copy: async (from, to, call) => around(async () => copy(from, to, call), call) }),
    ...(move && { move: async (from, to, call) => around(async () => move(from, to, call), call) }),
    ...(deleteMany && { deleteMany: async (keys, call) => around(async () => deleteMany(keys, call), call) }),
    ...(writeBytes && {
      writeBytes: async (key, bytes, call) => around(async () => writeBytes(key, bytes, call), call),
    }),
    ...(signedUrl && { signedUrl }),
    ...(localPath && { localPath }),
  } satisfies Partial<Driver>
}
