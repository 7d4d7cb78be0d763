/** `stowage verify` as operators meet it: each test runs bin/stowage.js, with and without a daemon. */
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test, type TestContext } from 'node:test'

const program = path.resolve(import.meta.dirname, '../../bin/stowage.js')

/** Two files of a source that were delivered, and how to run the program there. */
async function place(t: TestContext) {
  const base = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-verify-cli-')))
  t.after(() => fs.rmSync(base, { recursive: true, force: true, maxRetries: 5 }))
  const file = (name: string) => path.join(base, name)
  fs.mkdirSync(file('site'))
  fs.writeFileSync(file('site/a.txt'), 'alpha')
  fs.writeFileSync(file('site/b.txt'), 'beta')
  const rules = [{ label: 'all', source: 'site', destinations: [{ store: 'cdn' }] }]
  const config = { stores: { cdn: 'file:cdn' }, sources: { site: { directory: 'site' } }, rules }
  fs.writeFileSync(file('stowage.config.json'), JSON.stringify(config))
  const run = async (...words: string[]) =>
    new Promise<{ status: unknown; stdout: string; stderr: string }>((resolve) => {
      execFile(process.execPath, [program, ...words], { cwd: base }, (error, stdout, stderr) =>
        resolve({ status: error?.code ?? 0, stdout, stderr }),
      )
    })
  await run('sync')
  return { base, file, run }
}

test('without a daemon: faults are told, queued, and delivered by the next sync', { timeout: 120_000 }, async (t) => {
  const { file, run } = await place(t)
  assert.deepEqual(await run('verify'), { status: 0, stdout: '2 deliveries looked at, all is well.\n', stderr: '' })
  fs.rmSync(file('cdn/a.txt'))
  fs.writeFileSync(file('cdn/b.txt'), 'BETA')
  const { status, stdout } = await run('verify', 'site')
  assert.equal(status, 3)
  assert.match(stdout, /^a\.txt: missing at cdn:a\.txt .*\n2 deliveries looked at, 1 fault\.\n.*--repair\n$/)
  const repair = await run('verify', '--content', '--repair')
  assert.equal(repair.status, 3)
  assert.match(repair.stdout, /b\.txt: damaged .*; queued for delivery\n.* 2 faults, 2 queued for delivery\.\n.*sync/)
  const waiting = await run('verify')
  assert.deepEqual([waiting.status, /2 files still to be delivered/.test(waiting.stdout)], [0, true])
  assert.doesNotMatch(waiting.stdout, /all is well/)
  await run('sync')
  assert.equal(fs.readFileSync(file('cdn/a.txt'), 'utf8'), 'alpha')
  const { stdout: json } = await run('verify', '--content', '--json')
  const nothing = { faults: [], unchecked: {}, pending: 0, unaddressed: 0, repaired: 0 }
  assert.deepEqual(JSON.parse(json), { deliveries: 2, ...nothing })
  const wrong = await run('verify', 'sight')
  assert.deepEqual([wrong.status, /There are: site/.test(wrong.stderr)], [2, true])
})

test('with a daemon: it is asked, and delivers again what was found', { timeout: 120_000 }, async (t) => {
  const { base, file, run } = await place(t)
  const daemon = spawn(process.execPath, [program, 'up', '--verbose'], {
    cwd: base,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  t.after(() => daemon.kill('SIGKILL'))
  let said = ''
  let wake = () => undefined as unknown
  daemon.stderr.on('data', (text: Buffer) => {
    said += String(text)
    wake()
  })
  const hears = async (what: RegExp) => {
    while (!what.test(said)) await new Promise<void>((resolve) => (wake = resolve as () => undefined))
  }
  await hears(/Watching/)
  fs.rmSync(file('cdn/a.txt'))
  fs.writeFileSync(file('cdn/b.txt'), 'BETA')
  const { status, stdout } = await run('verify', '--content', '--repair', '--json')
  assert.equal(status, 3)
  const report = JSON.parse(stdout) as { faults: { path: string; problem: string }[]; repaired: number }
  assert.deepEqual(
    report.faults.map(({ path: name, problem }) => [name, problem]),
    [
      ['a.txt', 'missing'],
      ['b.txt', 'damaged'],
    ],
  )
  assert.equal(report.repaired, 2)
  await hears(/a\.txt/)
  await hears(/b\.txt/)
  assert.equal(fs.readFileSync(file('cdn/b.txt'), 'utf8'), 'beta')
  assert.deepEqual(await run('verify', '--content'), {
    status: 0,
    stdout: '2 deliveries looked at and read, all is well.\n',
    stderr: '',
  })
  daemon.kill('SIGTERM')
  await once(daemon, 'close')
})
