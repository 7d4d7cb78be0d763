/** 10,000 writes of 4 KiB at concurrency 16 to a directory, durable here, beside a storage library whose writes are not. Needs time. */
import * as path from 'node:path'
import { measure, type Contestant } from './measure.ts'
import { report, workplace } from './scene.ts'

// On a disk: in memory durability costs nothing.
const base = workplace('/tmp')
const loop = (open: string, write: string) => `
  const bytes = Buffer.alloc(4096, 'x')
  let next = 0
  ${open}
  await Promise.all(Array.from({ length: 16 }, async () => {
    for (let i = next++; i < 10_000; i = next++) await ${write}
  }))`
const key = '`d${i % 100}/f${i}`'
const dist = path.resolve(import.meta.dirname, '../dist/index.js')

const contestant = (name: string, open: string, write: string): Contestant => ({
  name,
  command: [process.execPath, '--input-type=module', '-e', loop(open, write)],
})
// Each run has a directory of its own: some file systems are slow to give out what was freed a moment ago.
const directory = `${JSON.stringify(base)} + '/' + process.pid`

report(
  '10,000 writes of 4 KiB to a directory, 16 at once',
  measure([
    contestant(
      'stowage, durable',
      `const { Store, fileDriver } = await import(${JSON.stringify(dist)}); const store = new Store(fileDriver({ directory: ${directory} }))`,
      `store.put(${key}, bytes)`,
    ),
    contestant(
      'stowage, fsync=false',
      `const { Store, fileDriver } = await import(${JSON.stringify(dist)}); const store = new Store(fileDriver({ directory: ${directory}, fsync: false }))`,
      `store.put(${key}, bytes)`,
    ),
    contestant(
      'files-sdk, not durable',
      `const { Files } = await import('files-sdk'); const { fs } = await import('files-sdk/fs'); (await import('node:fs')).mkdirSync(${directory}); const files = new Files({ adapter: fs({ root: ${directory} }) })`,
      `files.upload(${key}, bytes)`,
    ),
  ]),
)
