import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { createInterface } from 'node:readline'
import { test, type TestContext } from 'node:test'

const program = path.resolve(import.meta.dirname, '../../bin/stowage.js')

/** A directory with a configuration, and a daemon in it. */
function scene(t: TestContext) {
  const base = fs.realpathSync(fs.mkdtempSync(path.join(tmpdir(), 'stowage-up-')))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const file = (name: string) => path.join(base, name)
  fs.mkdirSync(file('site'))
  fs.writeFileSync(file('site/a.css'), 'a')
  fs.writeFileSync(file('site/b.js'), 'b')
  const configure = (extensions: string) =>
    fs.writeFileSync(
      file('stowage.config.yaml'),
      `stores: { cdn: 'file:cdn' }
sources: { site: { directory: site } }
rules: [{ label: all, source: site, filter: { extensions: [${extensions}] }, destinations: [{ store: cdn }] }]
`,
    )
  configure('css')
  const start = (environment: Record<string, string> = {}, ...words: string[]) => {
    const child = spawn(process.execPath, [program, 'up', ...words], {
      cwd: base,
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    t.after(() => child.kill('SIGKILL'))
    const lines: string[] = []
    let wake = () => undefined as unknown
    createInterface(child.stderr).on('line', (line) => {
      lines.push(line)
      wake()
    })
    const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
    void ended.then(() => wake())
    /** Resolves when a line like this has come after the ones that were waited for before. */
    let at = 0
    const hears = async (what: RegExp): Promise<string> => {
      for (;;) {
        for (; at < lines.length; at++) if (what.test(lines[at] ?? '')) return lines[at++] ?? ''
        if (child.exitCode !== null) throw new Error(`It ended with ${child.exitCode} and said:\n${lines.join('\n')}`)
        await new Promise<void>((resolve) => (wake = resolve as () => undefined))
      }
    }
    return { child, ended, hears }
  }
  return { base, file, configure, start }
}

test('the file with its id is there while it runs, and no second process takes it', async (t) => {
  const { file, start, base } = scene(t)
  fs.writeFileSync(file('pid'), '999999999\n')
  const daemon = start({}, '--pid-file', 'pid')
  await daemon.hears(/Watching/)
  assert.equal(fs.readFileSync(file('pid'), 'utf8'), `${daemon.child.pid}\n`)
  const second = spawnSync(process.execPath, [program, 'up', '--pid-file', 'pid'], { cwd: base, encoding: 'utf8' })
  assert.match(second.stderr, new RegExp(`belongs to the process ${daemon.child.pid}`))
  assert.equal(second.status, 1)
  daemon.child.kill('SIGTERM')
  assert.equal(await daemon.ended, 0)
  assert.ok(!fs.existsSync(file('pid')))
})

test('SIGUSR1 logs the status; the log may be JSON', async (t) => {
  const { start } = scene(t)
  const daemon = start({}, '--log-format', 'json')
  await daemon.hears(/Watching/)
  daemon.child.kill('SIGUSR1')
  const { level, message } = JSON.parse(await daemon.hears(/source site: .*, 2 files/)) as Record<string, string>
  assert.equal(level, 'info')
  assert.match(message ?? '', /inotify|fs\.watch/)
  daemon.child.kill('SIGTERM')
  assert.equal(await daemon.ended, 0)
})

test('SIGHUP reads the configuration anew and evaluates what it concerns; a wrong one changes nothing', async (t) => {
  const { file, start, configure } = scene(t)
  const daemon = start({}, '--verbose')
  await daemon.hears(/a\.css → cdn:a\.css/)
  fs.writeFileSync(file('stowage.config.yaml'), 'stores: 3\n')
  daemon.child.kill('SIGHUP')
  await daemon.hears(/The configuration stays as it was: .*is not right/)
  configure('css, js')
  daemon.child.kill('SIGHUP')
  await daemon.hears(/The configuration was read anew/)
  await daemon.hears(/b\.js → cdn:b\.js/)
  daemon.child.kill('SIGTERM')
  assert.equal(await daemon.ended, 0)
  assert.deepEqual(
    fs.readdirSync(file('cdn')).filter((name) => !name.startsWith('.')),
    ['a.css', 'b.js'],
  )
})

test('systemd is told when it is ready, that it is alive, and when it stops', {
  skip: spawnSync('systemd-notify', ['--version']).error ? 'systemd-notify is not installed' : false,
}, async (t) => {
  const { file, start } = scene(t)
  const socket = file('notify')
  const listener = spawn(
    'python3',
    [
      '-uc',
      'import socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.bind(sys.argv[1])\nprint("bound")\nwhile True: print(s.recv(4096).decode())',
      socket,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  t.after(() => listener.kill('SIGKILL'))
  const lines = createInterface(listener.stdout)[Symbol.asyncIterator]()
  const hears = async (what: string) => {
    for (let line = await lines.next(); !line.done; line = await lines.next()) if (line.value.includes(what)) return
  }
  await hears('bound')
  const daemon = start({ NOTIFY_SOCKET: socket, WATCHDOG_USEC: '300000' })
  await hears('READY=1')
  await hears('WATCHDOG=1')
  daemon.child.kill('SIGTERM')
  await hears('STOPPING=1')
  assert.equal(await daemon.ended, 0)
})

test('a unit is printed for systemd and for supervisor, with absolute paths', (t) => {
  const { base } = scene(t)
  for (const [kind, expected] of [
    ['systemd', /^ExecStart=\/.* \/.*stowage\.js up --config \/.*stowage\.config\.yaml$/m],
    ['supervisor', /^command=\/.* \/.*stowage\.js up --config \/.*stowage\.config\.yaml$/m],
  ] as const) {
    const { status, stdout } = spawnSync(process.execPath, [program, 'service', kind], { cwd: base, encoding: 'utf8' })
    assert.equal(status, 0)
    assert.match(stdout, expected)
  }
  const wrong = spawnSync(process.execPath, [program, 'service', 'launchd'], { cwd: base, encoding: 'utf8' })
  assert.equal(wrong.status, 2)
  assert.match(wrong.stderr, /There are: systemd, supervisor/)
})
