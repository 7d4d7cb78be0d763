/** What a filestore knows about one file, in words. */
import * as path from 'node:path'
import type { Clock } from '../core/clock.ts'
import { formatBytes } from '../core/units.ts'
import { queueName } from '../filestore/context.ts'
import { Registry, type FileRow, type Replica } from '../filestore/registry.ts'
import type { Database } from '../state/database.ts'
import type { Queue } from '../state/queue.ts'

/** What an explanation is drawn from. */
export interface ExplainParts {
  /** The directories of filestores by their names. */
  filestores: Readonly<Record<string, { directory: string; deleteAfterMs?: number }>>
  database: Database
  queue: Queue
  clock: Clock
}

/** The lines about the file at a path of the disk, be it there now or not. Undefined where no filestore is. Reads only. */
export async function explainStored(file: string, parts: ExplainParts): Promise<string[] | undefined> {
  for (const [name, settings] of Object.entries(parts.filestores)) {
    const key = path.relative(settings.directory, file).split(path.sep).join('/')
    if (key === '' || key === '..' || key.startsWith('../') || path.isAbsolute(key)) continue
    const registry = new Registry(parts.database, name)
    const row = await registry.find(key)
    if (!row) return [`The filestore ${name} knows of no file ${key}.`]
    const replicas = await registry.replicas(key)
    return [
      `It is the file ${key} of the filestore ${name}: ${formatBytes(row.size)}, changed ${moment(row.modifiedMs)}.`,
      ...describe(row, settings),
      ...replicas.map((replica) => describeReplica(replica, row)),
      ...(await describeJob(row, replicas, { ...parts, name })),
    ]
  }
  return undefined
}

function describe({ deletedMs, local, cloud }: FileRow, { deleteAfterMs = fiveWeeksMs }: { deleteAfterMs?: number }) {
  if (deletedMs !== undefined) {
    const until = Number.isFinite(deleteAfterMs) ? `until ${moment(deletedMs + deleteAfterMs)}` : 'for ever'
    return [`It was deleted ${moment(deletedMs)}, and can be restored ${until}.`]
  }
  if (local !== undefined) return ['It is local.']
  return [cloud ? 'It is not local: it comes from the cache or from a remote.' : 'It is lost: there is no copy of it.']
}

function describeReplica({ remote, remoteKey, state, version, reason }: Replica, row: FileRow): string {
  const states = { pending: 'on its way', present: 'there', deleting: 'being removed' }
  const which = version === row.version ? '' : ', a former version'
  return `At ${remote}, as ${remoteKey}: ${states[state]}${which}${reason === undefined ? '' : `; it could not be read: ${reason}`}.`
}

async function describeJob(row: FileRow, replicas: readonly Replica[], { name, queue, clock }: ExplainParts & About) {
  if (row.deletedMs !== undefined || row.local === undefined) return []
  const job = await queue.find(queueName({ name }, 'offload'), row.key)
  if (!job) return replicas.length > 0 ? [] : ['It is not to be offloaded.']
  if (job.state === 'aside')
    return [
      `Offloading it was set aside after ${job.attempt} attempts: ${job.reason ?? ''} When that is gone: stowage retry`,
    ]
  if (job.state === 'running') return ['It is being offloaded.']
  const again = job.reason === null ? ', unless it changes' : `; the last attempt failed: ${job.reason}`
  const seconds = Math.ceil((job.dueMs - clock.now()) / 1000)
  return [seconds > 0 ? `It is offloaded in ${seconds} s${again}.` : `It is due to be offloaded${again}.`]
}

interface About {
  name: string
}

const fiveWeeksMs = 5 * 7 * 86_400_000

function moment(ms: number): string {
  return new Date(ms).toISOString()
}
