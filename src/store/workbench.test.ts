import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { fileDriver } from '../drivers/file.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { locations } from './locations.ts'
import { Store } from './store.ts'
import { createWorkbench, sweepWorkbenches } from './workbench.ts'

const parent = mkdtempSync(path.join(tmpdir(), 'stowage-benches-'))
test.after(() => rmSync(parent, { recursive: true, force: true }))

test('a localised copy is gone when the work is done', async () => {
  const store = new Store(memoryDriver())
  await store.put('a/b.txt', 'hello')
  let file = ''
  {
    await using bench = await createWorkbench(parent)
    file = await bench.localize(store, 'a/b.txt')
    assert.equal(readFileSync(file, 'utf8'), 'hello')
    assert.equal(path.basename(file), 'b.txt')
  }
  assert.ok(!existsSync(file))
})

test('a store on this disk hands out its own file, which stays', async () => {
  const directory = path.join(parent, 'store')
  const store = new Store(fileDriver({ directory }))
  await store.put('a', 'hello')
  {
    await using bench = await createWorkbench(parent)
    assert.equal(await bench.localize(store, 'a'), path.join(directory, 'a'))
    await assert.rejects(bench.localize(store, 'absent'), { code: 'NOT_FOUND' })
  }
  assert.equal((await store.get('a')).toString(), 'hello')
})

test('what a dead process left is swept; what a living one has stays', async () => {
  const module = JSON.stringify(path.join(import.meta.dirname, 'workbench.ts'))
  const program = `const { createWorkbench } = await import(${module}); console.log((await createWorkbench(${JSON.stringify(parent)})).directory)`
  const left = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' }).stdout.trim()
  assert.ok(existsSync(left))
  await using mine = await createWorkbench(parent)
  assert.equal(await sweepWorkbenches(parent), 1)
  assert.ok(!existsSync(left))
  assert.ok(existsSync(mine.directory))
})

test('the first bench of a process sweeps away what others left', async () => {
  const fresh = path.join(parent, 'fresh')
  const module = JSON.stringify(path.join(import.meta.dirname, 'workbench.ts'))
  const program = `const { createWorkbench } = await import(${module}); console.log((await createWorkbench(${JSON.stringify(fresh)})).directory)`
  const run = () =>
    spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' }).stdout.trim()
  const [first, second] = [run(), run()]
  assert.deepEqual([existsSync(first), existsSync(second)], [false, true])
})

test('a copy may have a name of its own, and keeps its extension', async () => {
  const store = new Store(memoryDriver())
  await store.put(['a', 'Photo.JPG'], 'x')
  await using bench = await createWorkbench(parent)
  assert.equal(path.basename(await bench.localize(store, ['a', 'Photo.JPG'], { name: 'source' })), 'source.JPG')
  const [one, other] = [await bench.localize(store, 'a/Photo.JPG'), await bench.localize(store, 'a/Photo.JPG')]
  assert.notEqual(one, other)
})

test('of a store with a location on this disk its own file is handed out, if it is there', async () => {
  const directory = path.join(parent, 'near')
  const store = new Store(locations([fileDriver({ directory }), memoryDriver()]))
  await store.put('both', 'x')
  await store.put('far', 'x', { location: 'far' })
  await using bench = await createWorkbench(parent)
  assert.equal(await bench.localize(store, 'both'), path.join(directory, 'both'))
  assert.ok((await bench.localize(store, 'far')).startsWith(bench.directory))
})
