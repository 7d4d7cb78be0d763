/** The walk of a tree, in a thread of its own: synchronous calls are the fastest, and here they keep nobody waiting. */
import { createHash } from 'node:crypto'
import * as fs from 'node:fs'
import { parentPort, workerData } from 'node:worker_threads'
import { ignoreMatcher } from '../watch/ignore.ts'

/** What the thread is given. */
export interface ScanRequest {
  root: string
  ignore: readonly string[]
  /** Directory to begin at, relative to the root. */
  below: string
  /** This thread's part of the work: the subdirectories of the first directory are dealt out by their names. */
  share: { index: number; of: number }
  /** Two counters: batches sent and not yet taken; and 1 when the scan is no longer wanted. */
  flow: Int32Array
}

/** One directory as it travels between the threads: parallel columns instead of objects. */
export interface ScannedDirectory {
  /** Relative to the root, `''` for the root itself. */
  directory: string
  /** Nothing is known about what is in it. */
  isUnreadable: boolean
  /** How many regular files it has. */
  count: number
  /** Their names, joined by NUL. */
  names: string
  sizes: Float64Array
  mtimesNs: BigInt64Array
  inodes: BigUint64Array
  /** Of all the columns: two equal digests mean that nothing has changed. */
  digest: string
}

/** What the thread sends. */
export type ScanMessage =
  | { kind: 'directories'; directories: ScannedDirectory[] }
  | { kind: 'warning'; message: string }
  | { kind: 'gone'; reason: string }
  | { kind: 'end' }

const batchFiles = 4096
const batchesAhead = 4

function scanTree({ root, ignore, below, share, flow }: ScanRequest, send: (message: ScanMessage) => void) {
  const isIgnored = ignoreMatcher(ignore)
  let pending = [below]
  const identity = identityOf(root)
  let batch: ScannedDirectory[] = []
  let files = 0
  const flush = () => {
    while (Atomics.load(flow, 0) >= batchesAhead && Atomics.load(flow, 1) === 0)
      Atomics.wait(flow, 0, Atomics.load(flow, 0), 1000)
    Atomics.add(flow, 0, 1)
    send({ kind: 'directories', directories: batch })
    batch = []
    files = 0
  }
  for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
    if (Atomics.load(flow, 1) !== 0) return
    const isShared = directory === below
    const scanned = scanDirectory(root, directory, isIgnored, pending, isShared && share.index > 0 ? () => {} : send)
    if (isShared) pending = pending.filter((path) => dealt(path, share.of) === share.index)
    // Its own files are the first thread's.
    if (!scanned || (isShared && share.index > 0)) continue
    batch.push(scanned)
    files += scanned.count + 1
    if (files >= batchFiles) flush()
  }
  // What vanished with the root looks like deleted files; then nothing of this counts.
  if (identityOf(root) !== identity) throw Object.assign(new Error(), { code: 'it changed during the scan' })
  if (batch.length > 0) flush()
}

/** Which thread a path is for: told by its characters, so that all threads agree whatever order they read it in. */
function dealt(path: string, of: number): number {
  let sum = 0
  for (let i = 0; i < path.length; i++) sum += path.charCodeAt(i)
  return sum % of
}

/** Tells a directory from another one that stands under its name later. Throws when there is none. */
function identityOf(root: string): string {
  const { dev, ino } = fs.statSync(`${root}/`, { bigint: true })
  return `${dev}:${ino}`
}

/** Undefined when the directory is gone, as directories of a living tree may. Throws when the root is. */
function scanDirectory(
  root: string,
  directory: string,
  isIgnored: ReturnType<typeof ignoreMatcher>,
  pending: string[],
  send: (message: ScanMessage) => void,
): ScannedDirectory | undefined {
  const prefix = directory === '' ? '' : `${directory}/`
  const absolute = `${root}/${prefix}`
  let entries: fs.Dirent[]
  try {
    entries = fs.readdirSync(absolute, { withFileTypes: true })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (directory === '') throw error
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    return unreadable(directory, absolute, code, send)
  }
  const found: FoundFile[] = []
  const strange = entries.some(({ name }) => name.includes('\ufffd')) ? undecodable(absolute, send) : undefined
  for (const entry of entries) {
    const path = prefix + entry.name
    const isDirectory = entry.isDirectory()
    if (!(isDirectory || entry.isFile()) || isIgnored(path, isDirectory) || strange?.has(entry.name)) continue
    if (isDirectory) pending.push(path)
    else {
      const stats = lookAt(absolute + entry.name)
      // A directory that may be listed but not entered tells nothing about its files.
      if (stats === 'denied') return unreadable(directory, absolute, 'EACCES', send)
      if (stats?.isFile()) found.push({ name: entry.name, stats })
    }
  }
  return columns(directory, false, found)
}

function columns(directory: string, isUnreadable: boolean, found: FoundFile[]): ScannedDirectory {
  const count = found.length
  const sizes = new Float64Array(count)
  const mtimesNs = new BigInt64Array(count)
  const inodes = new BigUint64Array(count)
  found.sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const [index, { stats }] of found.entries()) {
    sizes[index] = Number(stats.size)
    mtimesNs[index] = stats.mtimeNs
    inodes[index] = stats.ino
  }
  const names = found.map(({ name }) => name).join('\0')
  const digest = createHash('sha1').update(names).update(sizes).update(mtimesNs).update(inodes).digest('base64')
  return { directory, isUnreadable, count, names, sizes, mtimesNs, inodes, digest }
}

interface FoundFile {
  name: string
  stats: fs.BigIntStats
}

function lookAt(file: string): fs.BigIntStats | 'denied' | undefined {
  try {
    return fs.lstatSync(file, { bigint: true, throwIfNoEntry: false })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOTDIR') return undefined
    return 'denied'
  }
}

function unreadable(
  directory: string,
  absolute: string,
  code: string | undefined,
  send: (message: ScanMessage) => void,
) {
  send({
    kind: 'warning',
    message: `Cannot read the directory ${absolute}: ${code}. What was delivered from it stays.`,
  })
  return columns(directory, true, [])
}

/** Names that are not UTF-8 have no key. The names we cannot tell apart from them, once decoded, are skipped too. */
function undecodable(absolute: string, send: (message: ScanMessage) => void): Set<string> {
  const strange = new Set<string>()
  for (const raw of fs.readdirSync(absolute, { encoding: 'buffer' })) {
    const name = raw.toString()
    if (Buffer.from(name).equals(raw)) continue
    strange.add(name)
    const shown = raw
      .toString('latin1')
      .replace(/[^\x20-\x7e]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`)
    send({
      kind: 'warning',
      message: `Skipped ${absolute}${shown}: its name is not UTF-8. Rename it to have it delivered.`,
    })
  }
  return strange
}

if (parentPort) {
  const port = parentPort
  const send = (message: ScanMessage) => port.postMessage(message)
  try {
    scanTree(workerData as ScanRequest, send)
    send({ kind: 'end' })
  } catch (error) {
    send({ kind: 'gone', reason: (error as NodeJS.ErrnoException).code ?? String(error) })
  }
}
