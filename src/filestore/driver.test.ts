import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { Cache } from '../cache/cache.ts'
import { systemClock } from '../core/clock.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { openDatabase } from '../state/database.ts'
import { Queue } from '../state/queue.ts'
import type { Driver } from '../store/driver.ts'
import { testDriver } from '../testing/index.ts'
import { Filestore, type FilestoreOptions } from './filestore.ts'

const parent = fs.mkdtempSync(path.join(tmpdir(), 'stowage-filestore-'))
test.after(() => fs.rmSync(parent, { recursive: true, force: true }))
let directories = 0

/** Stores that work at once, so that the suite meets files in every state: local, on their way, in the cloud, both. */
const shapes: [name: string, options: Partial<FilestoreOptions> & { isCached?: boolean }][] = [
  ['that keeps everything local for now', {}],
  ['that offloads at once, through a cache', { coolDownMs: 0, isCached: true }],
  ['that offloads at once, without a cache', { coolDownMs: 0 }],
  ['that keeps local files', { coolDownMs: 0, keepLocal: true, deleteAfterMs: 0 }],
  ['that shortens names', { coolDownMs: 0, remoteNames: 'shorten', deleteAfterMs: 0, isCached: true }],
]
for (const [name, { isCached = false, ...options }] of shapes)
  testDriver(`a filestore ${name}`, async () => {
    const base = path.join(parent, String(directories++))
    const database = await openDatabase(':memory:')
    const queue = new Queue(database, { clock: systemClock, backoff: { baseMs: 1, maxMs: 5 } })
    const cache = isCached ? await Cache.open({ directory: path.join(base, 'cache'), maxBytes: 2_000_000 }) : undefined
    const remotes = new Map<string, Driver>([['cloud', memoryDriver()]])
    const filestore = await Filestore.open({
      name: 'files',
      directory: path.join(base, 'files'),
      remotes,
      database,
      queue,
      ...(cache && { cache }),
      ...options,
    })
    await filestore.start()
    const close = async () => {
      await filestore.close()
      await cache?.close()
      await database.close()
    }
    return { driver: filestore.driver, close }
  })
