import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type TestContext } from 'node:test'
import { openDatabase } from './database.ts'

function temporary(t: TestContext): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'stowage-state-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  return path.join(directory, 'state.db')
}

const set = (name: string) => `INSERT INTO settings VALUES ('${name}', '')`

test('what is committed is there after the database is opened again', async (t) => {
  const file = temporary(t)
  const first = await openDatabase(file)
  await first.transaction(async (tx) => tx.run(set('kept')))
  await first.close()
  const second = await openDatabase(file)
  t.after(async () => second.close())
  assert.equal((await second.transaction(async (tx) => tx.all('SELECT * FROM settings'))).length, 1)
})

test('of transactions that share a commit, one that fails takes nobody with it', async (t) => {
  const database = await openDatabase(temporary(t))
  t.after(async () => database.close())
  const results = await Promise.allSettled(
    Array.from({ length: 50 }, async (_, i) =>
      database.transaction(async (tx) => {
        await tx.run(set(String(i)))
        if (i % 7 === 3) throw new Error('no')
      }),
    ),
  )
  assert.equal(results.filter(({ status }) => status === 'rejected').length, 7)
  assert.equal((await database.transaction(async (tx) => tx.all('SELECT * FROM settings'))).length, 43)
})

test('a second process is told that the state is in use', async (t) => {
  const file = temporary(t)
  const database = await openDatabase(file)
  t.after(async () => database.close())
  const module = JSON.stringify(path.join(import.meta.dirname, 'database.ts'))
  const program = `const { openDatabase } = await import(${module}); await openDatabase(${JSON.stringify(file)}).then(() => console.log('opened'), (error) => console.log(error.code))`
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { encoding: 'utf8' })
  assert.equal(stdout.trim(), 'BUSY')
})

test('the database of a newer version is refused and not touched', async (t) => {
  const file = temporary(t)
  await (await openDatabase(file)).close()
  const engine = new DatabaseSync(file)
  engine.exec('PRAGMA user_version = 999')
  engine.close()
  await assert.rejects(openDatabase(file), { code: 'UNSUPPORTED', message: /newer version of Stowage/ })
})

test('a file that is no database is refused with what to do', async (t) => {
  const file = temporary(t)
  writeFileSync(file, 'hello, '.repeat(1000))
  await assert.rejects(openDatabase(file), { code: 'CORRUPT', message: /backup/ })
})

test('after close every call rejects', async (t) => {
  const database = await openDatabase(temporary(t))
  await database.close()
  await assert.rejects(
    database.transaction(async () => 1),
    { code: 'CLOSED' },
  )
})
