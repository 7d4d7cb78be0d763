import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { pathToFileURL } from 'node:url'
import { ProcessPool } from './pool.ts'

const directory = mkdtempSync(path.join(tmpdir(), 'stowage-pool-'))
after(() => rmSync(directory, { recursive: true, force: true }))
const errors = new URL('../../core/errors.ts', import.meta.url).href
writeFileSync(
  path.join(directory, 'tasks.mjs'),
  `import { spawnSync } from 'node:child_process'
  import { watch, writeFileSync, existsSync } from 'node:fs'
  import { StowageError } from ${JSON.stringify(errors)}
  export const whoAmI = () => process.pid
  export const environment = () => Object.keys(process.env)
  export const refuse = () => { throw new StowageError('CORRUPT', 'It is damaged.') }
  export const stumble = () => { throw new TypeError('a bug') }
  export const crash = () => { process.stderr.write('out of luck\\n'); process.abort() }
  export const die = () => process.kill(process.pid, 'SIGKILL')
  export const spin = (file) => { writeFileSync(file, String(process.pid)); for (;;); }
  export const program = (file) => spawnSync('sh', ['-c', 'echo $$ > "$0.new" && mv "$0.new" "$0" && exec sleep 1000', file])
  export const survive = () => { process.kill(process.pid, 'SIGTERM'); return 'still here' }
  export const meet = async ({ mine, other }) => {
    writeFileSync(mine, '')
    while (!existsSync(other)) await new Promise((resolve) => setTimeout(resolve, 1))
    return process.pid
  }`,
)
const module = pathToFileURL(path.join(directory, 'tasks.mjs')).href
const task = (name: string, input?: unknown) => ({ module, name, input })
const isAlive = (pid: number) => {
  try {
    return !/\bZ\b/.test(execFileSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' }))
  } catch {
    return false
  }
}
const appears = async (file: string) => {
  for (;;)
    try {
      const text = readFileSync(file, 'utf8').trim()
      if (text) return Number(text)
      throw new Error('empty')
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
}

test('one process does one task after another, and is another one than ours', async () => {
  const pool = new ProcessPool({ size: 1 })
  const [first, second] = [await pool.run(task('whoAmI')), await pool.run(task('whoAmI'))]
  assert.equal(first, second)
  assert.notEqual(first, process.pid)
  await pool.close()
  assert.equal(isAlive(first as number), false)
})

test('tasks run side by side, as many as the pool is large', async () => {
  const pool = new ProcessPool({ size: 2 })
  const [a, b] = [path.join(directory, 'a'), path.join(directory, 'b')]
  const pids = await Promise.all([
    pool.run(task('meet', { mine: a, other: b })),
    pool.run(task('meet', { mine: b, other: a })),
  ])
  assert.notEqual(pids[0], pids[1])
  await pool.close()
})

test('errors arrive with their codes, and the process goes on', async () => {
  const pool = new ProcessPool({ size: 1 })
  const pid = await pool.run(task('whoAmI'))
  await assert.rejects(pool.run(task('refuse')), { name: 'StowageError', code: 'CORRUPT', message: 'It is damaged.' })
  await assert.rejects(pool.run(task('stumble')), /a bug/)
  assert.equal(await pool.run(task('whoAmI')), pid)
  await pool.close()
})

test('a task that brings its process down fails alone; one that was killed from outside may be tried again', async () => {
  const pool = new ProcessPool({ size: 1 })
  await assert.rejects(pool.run(task('crash')), { code: 'CORRUPT', message: /SIGABRT/ })
  await assert.rejects(pool.run(task('die')), { code: 'UNKNOWN', retryable: true })
  assert.equal(typeof (await pool.run(task('whoAmI'))), 'number')
  await pool.close()
})

test('a signal ends the task, its process and the programs it has started', async () => {
  const pool = new ProcessPool({ size: 1 })
  for (const name of ['spin', 'program']) {
    const file = path.join(directory, `pid of ${name}`)
    const controller = new AbortController()
    const work = pool.run(task(name, file), controller.signal)
    const pid = await appears(file)
    controller.abort()
    await assert.rejects(work, { code: 'ABORTED' })
    while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 1))
  }
  assert.equal(typeof (await pool.run(task('whoAmI'))), 'number')
  await assert.rejects(pool.run(task('whoAmI'), AbortSignal.abort()), { code: 'ABORTED' })
  await pool.close()
})

test('more tasks than may wait are refused, and those that wait can be cancelled', async () => {
  const pool = new ProcessPool({ size: 1, maxWaiting: 1 })
  const [running, waiting] = [new AbortController(), new AbortController()]
  const file = path.join(directory, 'pid of the first')
  const first = pool.run(task('spin', file), running.signal)
  const second = pool.run(task('whoAmI'), waiting.signal)
  await assert.rejects(pool.run(task('whoAmI')), { code: 'BUSY' })
  waiting.abort()
  await assert.rejects(second, { code: 'ABORTED' })
  await appears(file)
  running.abort()
  await assert.rejects(first, { code: 'ABORTED' })
})

test('processes see no secrets of our environment, and outlive the stop that is meant for us', async () => {
  const pool = new ProcessPool({ size: 1 })
  process.env['STOWAGE_TEST_SECRET'] = 'secret'
  const names = await pool.run<string[]>(task('environment'))
  delete process.env['STOWAGE_TEST_SECRET']
  assert.ok(names.includes('PATH') && !names.includes('STOWAGE_TEST_SECRET'))
  assert.equal(await pool.run(task('survive')), 'still here')
  await pool.close()
})

test('idle processes do not keep a program alive, and end with it', async () => {
  const script = `import { ProcessPool } from ${JSON.stringify(new URL('./pool.ts', import.meta.url).href)}
    console.log(await new ProcessPool().run({ module: ${JSON.stringify(module)}, name: 'whoAmI' }))`
  const printed = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
  while (isAlive(Number(printed))) await new Promise((resolve) => setTimeout(resolve, 1))
})

test('a process that has nothing to do for a while ends', async () => {
  const pool = new ProcessPool({ size: 1, idleMs: 1 })
  const pid = await pool.run<number>(task('whoAmI'))
  while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 1))
  assert.notEqual(await pool.run(task('whoAmI')), pid)
  await pool.close()
})
