import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { toBody } from '../core/bytes.ts'
import { codeOf } from '../core/errors.ts'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import type { Driver } from '../store/driver.ts'
import { Store } from '../store/store.ts'
import { renamed } from '../store/wrappers/renamed.ts'
import { copyFile, copyTree } from './copying.ts'

/** A place that changes a bit of what it is given. */
function lying(): Driver {
  const inner = memoryDriver()
  const { writeBytes: _, ...rest } = renamed(inner, { inner: (key) => key, outer: (key) => key })
  return {
    ...rest,
    list: inner.list.bind(inner),
    write: async (key, body, options) =>
      inner.write(
        key,
        (async function* () {
          for await (const chunk of body) yield Buffer.from(chunk).fill(1, 0, 1)
        })(),
        options,
      ),
  }
}

test('a copy that is not the same is a failure when it is verified, and only then', async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'stowage-copying-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  writeFileSync(path.join(directory, 'small'), 'content')
  writeFileSync(path.join(directory, 'large'), Buffer.alloc(400_000))
  const stored = memoryDriver()
  await stored.write('small', toBody('content'))
  const { signal } = new AbortController()
  for (const source of [fileDriver({ directory }), stored])
    for (const verify of [true, false]) {
      const failures: unknown[] = []
      const from = { store: new Store(source), key: '' }
      const to = { store: new Store(lying()), key: '' }
      const onFailure = (_key: string, error: unknown) => failures.push(codeOf(error))
      const { files, failed } = await copyTree(from, to, { signal, verify, onFailure, onProgress: () => undefined })
      assert.deepEqual(
        [files, failed].map((count) => count > 0),
        [!verify, verify],
      )
      assert.ok(failures.every((code) => code === 'CORRUPT'))
    }
  const one = { store: new Store(stored), key: 'small' }
  await assert.rejects(copyFile(one, { store: new Store(lying()), key: 'x' }, { signal, verify: true }), {
    code: 'CORRUPT',
  })
})
