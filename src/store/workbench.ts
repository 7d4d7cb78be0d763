/** A workbench: a temporary directory for work on local copies, gone when the work is done, or when its owner is. */
import { randomUUID } from 'node:crypto'
import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { isOwnerAlive, owner } from '../core/owner.ts'
import type { CallOptions } from './driver.ts'
import type { Key, Store } from './store.ts'

/** Names of benches: what they are, whose they are, and a random part. */
const pattern = /^stowage-bench-(\d+-\d+)-[0-9a-f-]+$/

/** A directory of its own for one piece of work. Dispose of it with `await using`. */
export class Workbench {
  readonly directory: string
  #copies = 0

  constructor(directory: string) {
    this.directory = directory
  }

  /** The path of a file on the bench. Only the base name of what is given counts. */
  path(name: string): string {
    return path.join(this.directory, path.basename(name))
  }

  /**
   * A local file with the content of a stored one. A store on this disk hands out its own file: only read it. Others are
   * copied to the bench under the last part of their key, or as `name` with that one's extension.
   */
  async localize(store: Store, key: Key, options: CallOptions & { name?: string } = {}): Promise<string> {
    const { name, ...call } = options
    const near = store.at('near')
    if (near.driver.localPath && (near.driver === store.driver || (await near.exists(key, call)))) {
      await near.stat(key, call)
      return near.localPath(key)
    }
    const last = path.posix.basename(typeof key === 'string' ? key : (key.at(-1) ?? ''))
    const base = name === undefined ? last : path.basename(name) + path.posix.extname(last)
    const file = path.join(this.directory, String(this.#copies++), base)
    await store.download(key, file, call)
    return file
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await fs.rm(this.directory, { recursive: true, force: true })
  }
}

/** Where this process has looked for what others left. */
const swept = new Set<string>()

/**
 * Makes a bench below `parent` (default: the system's temporary directory). The first of a process sweeps away those
 * that a crash has left there.
 */
export async function createWorkbench(parent: string = tmpdir()): Promise<Workbench> {
  if (!swept.has(parent)) {
    swept.add(parent)
    await sweepWorkbenches(parent)
  }
  const directory = path.join(parent, `stowage-bench-${owner}-${randomUUID()}`)
  await fs.mkdir(directory, { recursive: true, mode: 0o700 })
  return new Workbench(directory)
}

/** Removes the benches below `parent` whose owner has died. Those of living processes, and everything else, stay. */
export async function sweepWorkbenches(parent: string = tmpdir()): Promise<number> {
  const names = await fs.readdir(parent).catch(() => [])
  const left = names.filter((name) => {
    const [, whose] = pattern.exec(name) ?? []
    return whose !== undefined && !isOwnerAlive(whose)
  })
  await Promise.all(left.map(async (name) => fs.rm(path.join(parent, name), { recursive: true, force: true })))
  return left.length
}
