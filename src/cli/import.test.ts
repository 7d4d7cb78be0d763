import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { test, type TestContext } from 'node:test'

const program = path.resolve(import.meta.dirname, '../../bin/stowage.js')

/** A site that File Conveyor has delivered to a directory, with its databases. */
function scene(t: TestContext) {
  const base = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-import-')))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const file = (name: string) => path.join(base, name)
  for (const name of ['site/a b.css', 'site/d/b.css', 'site/changed.css']) {
    fs.mkdirSync(path.dirname(file(name)), { recursive: true })
    fs.writeFileSync(file(name), name)
    fs.utimesSync(file(name), 1_700_000_000, 1_700_000_000)
  }
  for (const name of ['cdn/a_b.css', 'cdn/d/b.css', 'cdn/changed.css']) {
    fs.mkdirSync(path.dirname(file(name)), { recursive: true })
    fs.writeFileSync(file(name), 'delivered by the other program')
  }
  fs.writeFileSync(
    file('config.xml'),
    `<config><sources><source name="site" scanPath="${file('site')}"/></sources>
      <servers><server name="cdn" transporter="symlink_or_copy"><location>${file('cdn')}</location><url>http://cdn.example/</url></server></servers>
      <rules><rule for="site" label="all"><processorChain><processor name="filename.SpacesToUnderscores"/></processorChain>
        <destinations><destination server="cdn"/></destinations></rule></rules></config>`,
  )
  fs.mkdirSync(file('data'))
  const synced = new DatabaseSync(file('data/synced_files.db'))
  synced.exec('CREATE TABLE synced_files (input_file TEXT, transported_file_basename TEXT, url TEXT, server TEXT)')
  const monitor = new DatabaseSync(file('data/fsmonitor.db'))
  monitor.exec('CREATE TABLE pathscanner (path TEXT, filename TEXT, mtime INTEGER)')
  for (const [name, delivered] of [
    ['a b.css', 'a_b.css'],
    ['d/b.css', 'b.css'],
    ['changed.css', 'changed.css'],
    ['gone.css', 'gone.css'],
  ] as const) {
    synced.prepare('INSERT INTO synced_files VALUES (?, ?, ?, ?)').run(file(`site/${name}`), delivered, '', 'cdn')
    const mtime = name === 'changed.css' ? 1 : 1_700_000_000
    const directory = path.dirname(file(`site/${name}`))
    monitor.prepare('INSERT INTO pathscanner VALUES (?, ?, ?)').run(directory, path.basename(name), mtime)
  }
  synced.close()
  monitor.close()
  const stowage = (...words: string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...words], {
      cwd: base,
      encoding: 'utf8',
      timeout: 60_000,
    })
    return { status, output: stdout + stderr }
  }
  return { file, stowage }
}

test('what File Conveyor has delivered is taken over and not sent again; what has changed since is', (t) => {
  const { file, stowage } = scene(t)
  const imported = stowage('import', 'fileconveyor', 'config.xml', '--data', 'data')
  assert.equal(imported.status, 0, imported.output)
  assert.match(imported.output, /Of 4 deliveries 2 are taken over; 1 have changed since, of 1 a file is missing/)
  const synced = stowage('sync')
  assert.equal(synced.status, 0, synced.output)
  const read = (name: string) => fs.readFileSync(file(name), 'utf8')
  assert.equal(read('cdn/a_b.css'), 'delivered by the other program')
  assert.equal(read('cdn/d/b.css'), 'delivered by the other program')
  assert.equal(read('cdn/changed.css'), 'site/changed.css')
})

test('nothing is written when the data cannot be read, and nothing is overwritten', (t) => {
  const { file, stowage } = scene(t)
  fs.writeFileSync(file('data/synced_files.db'), 'no database')
  const broken = stowage('import', 'fileconveyor', 'config.xml', '--data', 'data')
  assert.match(broken.output, /synced_files.db cannot be read/)
  assert.equal(broken.status, 1)
  assert.ok(!fs.existsSync(file('stowage.config.yaml')))
  assert.equal(stowage('import', 'fileconveyor', 'config.xml').status, 0)
  assert.match(stowage('import', 'fileconveyor', 'config.xml').output, /already/)
})
