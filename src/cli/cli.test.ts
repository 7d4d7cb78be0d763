/** The command line as people and scripts meet it: each test runs bin/stowage.js. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import * as fs from 'node:fs'
import * as net from 'node:net'
import * as os from 'node:os'
import * as path from 'node:path'
import { describe, test, type TestContext } from 'node:test'

const bin = path.resolve(import.meta.dirname, '../../bin/stowage.js')
const verbs =
  'init up sync status retry explain assets cloudfront check store filestore repair ls cat cp put get rm stat url'.split(
    ' ',
  )

interface Result {
  status: number | null
  stdout: string
  stderr: string
}

/** A directory with a little tree in `tree`, and how to run the program there. */
function place(t: TestContext) {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-cli-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  const write = (name: string, content: string | Uint8Array) => {
    const file = path.join(directory, name)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    fs.writeFileSync(file, content)
  }
  const read = (name: string) => fs.readFileSync(path.join(directory, name), 'utf8')
  write('tree/a.txt', 'alpha')
  write('tree/sub/b.css', 'beta')
  write('tree/sub/deep/ünï cødé.txt', 'gamma')
  const start = (...args: string[]) =>
    spawn(process.execPath, [bin, ...args], { cwd: directory, stdio: ['pipe', 'pipe', 'pipe'] })
  const run = async (...args: string[]) => finish(start(...args))
  return { directory, write, read, start, run }
}

async function finish(child: ChildProcess, input = ''): Promise<Result> {
  const out: Buffer[] = []
  const err: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk))
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk))
  child.stdin?.on('error', () => {})
  child.stdin?.end(input)
  await once(child, 'close')
  return { status: child.exitCode, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString() }
}

/** Waits for words on a stream of a child. */
async function hear(child: ChildProcess, words: RegExp): Promise<string> {
  let text = ''
  for await (const chunk of child.stderr ?? []) {
    text += String(chunk)
    if (words.test(text)) return text
  }
  throw new Error(`It ended without ${words}: ${text}`)
}

function tree(directory: string): Record<string, string> {
  const names = fs.readdirSync(directory, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  const files = names.map((entry) => path.join(entry.parentPath, entry.name))
  return Object.fromEntries(files.sort().map((file) => [path.relative(directory, file), fs.readFileSync(file, 'utf8')]))
}

function configuration(more: object = {}): string {
  return JSON.stringify({
    state: 'state/stowage.db',
    stores: { public: 'file:./public', media: 'file:./media', old: { url: 'file:./media', readOnly: true } },
    sources: { site: { directory: './tree', settle: '0ms' } },
    rules: [{ label: 'all', source: 'site', destinations: [{ store: 'public' }] }],
    ...more,
  })
}

describe('help and wrong usage', { timeout: 120_000 }, () => {
  test('help names every verb and the exit statuses', async (t) => {
    const { status, stdout } = await place(t).run('--help')
    assert.equal(status, 0)
    for (const verb of verbs) assert.match(stdout, new RegExp(`^  ${verb}\\b`, 'm'))
    assert.match(stdout, /Exit status/)
  })

  for (const verb of verbs)
    test(`${verb} --help has examples, --config and --json`, async (t) => {
      const { status, stdout } = await place(t).run(verb, '--help')
      assert.equal(status, 0)
      for (const words of [/Examples:\n {2}(.*\| )?stowage/, /--config/, /--json/]) assert.match(stdout, words)
    })

  test('wrong usage has status 2, says what is wrong, and leaves stdout alone', async (t) => {
    const { run } = place(t)
    const cases: [args: string[], words: RegExp][] = [
      [['lss'], /unknown command 'lss'.*\n.*Did you mean/],
      [['ls'], /missing required argument/],
      [['ls', '--recursve', 'memory:'], /unknown option '--recursve'/],
      [['ls', 'a', 'b'], /too many arguments/],
      [['ls', 'nonsense'], /neither a storage URL nor a store/],
      [['ls', 'gopher://host/'], /no kind of store "gopher".*There are: .*\bfile\b/],
      [['ls', 'file:///tmp?fsnc=1'], /unknown parameter fsnc/],
      [['cat', 'media:a'], /There is no stowage\.config\.ts.*stowage init/],
      [['cat', 'memory:'], /is a directory/],
      [['cat', 'memory:a/%zz'], /percent-encoded/],
      [['cp', '-r', '--max-connections', 'many', 'tree', 'memory:'], /--max-connections/],
      [['rm', '-r', 'file:tree'], /--yes/],
      [['init', '--format', 'toml'], /There are: ts, yaml, json/],
      [['up'], /stowage init/],
      [['sync', '--config', 'no.json'], /no\.json/],
    ]
    const results = await Promise.all(cases.map(async ([args]) => run(...args)))
    for (const [index, [args, words]] of cases.entries()) {
      const { status, stdout, stderr } = results[index] as Result
      assert.match(stderr, words, args.join(' '))
      assert.match(stderr, /^stowage: /)
      assert.doesNotMatch(stderr, /\n\s+at /)
      assert.equal(status, 2, args.join(' '))
      assert.equal(stdout, '')
    }
  })

  test('with --json an error is an object, and with DEBUG its stack is shown', async (t) => {
    const { run, directory } = place(t)
    const { status, stderr } = await run('cat', 'file:tree/none', '--json')
    assert.equal(status, 1)
    assert.equal((JSON.parse(stderr) as { error: { code: string } }).error.code, 'NOT_FOUND')
    const child = spawn(process.execPath, [bin, 'cat', 'file:tree/none'], {
      cwd: directory,
      env: { ...process.env, DEBUG: '1' },
    })
    assert.match((await finish(child)).stderr, /\n\s+at /)
  })
})

describe('secrets', { timeout: 120_000 }, () => {
  /** A port of this machine where nobody listens. */
  async function closedPort(): Promise<number> {
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as net.AddressInfo
    server.close()
    await once(server, 'close')
    return port
  }

  test('none is printed, whatever goes wrong', async (t) => {
    const { write, directory } = place(t)
    const port = await closedPort()
    const urls = [
      `s3://AKEY:TOPSECRET@127.0.0.1:${port}/p/x?s3_bucket=b&use_ssl=false`,
      `s3://AKEY:TOP/SECRET@127.0.0.1:${port}/p/x?s3_bucket=b`,
      's3://AKEY:TOPSECRET@host/x?s3_bucket=b&nonsense=TOPSECRET',
      's3://AKEY:TOP%SECRET@host/x',
      's3://AKEY:TOPSECRET@host/x?use_ssl=TOPSECRET',
      'nonsense://AKEY:TOPSECRET@host/x?password=TOPSECRET',
    ]
    write(
      'stowage.config.json',
      configuration({ stores: { public: urls[1], odd: { url: urls[3], nonsense: urls[0] } } }),
    )
    const commands = [
      ...urls.flatMap((url) => [['stat', url], [url]]),
      ['ls', urls[0] ?? '', urls[1] ?? ''],
      ['ls', `--${urls[0]}`],
      ['sync'],
      ['cat', 'public:x'],
      ['init', '--format', urls[0] ?? ''],
      ['put', urls[0] ?? '', 'memory:a'],
    ]
    const results = await Promise.all(
      commands.map(async (args) => {
        const env = { ...process.env, DEBUG: '1', AWS_MAX_ATTEMPTS: '1' }
        return finish(spawn(process.execPath, [bin, ...args], { cwd: directory, env }))
      }),
    )
    for (const [index, { status, stdout, stderr }] of results.entries()) {
      assert.notEqual(status, 0, commands[index]?.join(' '))
      assert.notEqual(stderr, '')
      assert.doesNotMatch(stdout + stderr, /SECRET/, commands[index]?.join(' '))
    }
  })
})

describe('storage verbs', { timeout: 120_000 }, () => {
  test('put, stat, ls, cat, get and rm on a URL', async (t) => {
    const { run, read } = place(t)
    assert.equal((await run('put', 'tree/a.txt', 'file:store/x/a.txt')).status, 0)
    assert.equal((await run('put', 'tree/a.txt', 'file:store/y/')).status, 0)
    assert.equal(read('store/y/a.txt'), 'alpha')
    assert.equal((await run('cat', 'file:store/x/a.txt')).stdout, 'alpha')
    assert.equal((await run('ls', 'file:store')).stdout, 'x/\ny/\n')
    assert.equal((await run('ls', '-r', 'file:store')).stdout, 'x/a.txt\ny/a.txt\n')
    assert.match(
      (await run('ls', '-l', 'file:store/x')).stdout,
      /^ +5 B {2}\d{4}-\d\d-\d\d \d\d:\d\d:\d\d {2}a\.txt\n$/,
    )
    assert.match((await run('stat', 'file:store/x/a.txt')).stdout, /^size +5 bytes$/m)
    assert.equal((await run('get', 'file:store/x/a.txt', 'fetched/here.txt')).status, 0)
    assert.equal(read('fetched/here.txt'), 'alpha')
    assert.equal((await run('get', 'file:store/x/a.txt')).status, 0)
    assert.equal(read('a.txt'), 'alpha')
    assert.equal((await run('get', 'file:store/x/a.txt', '-')).stdout, 'alpha')
    assert.equal((await run('rm', 'file:store/x/a.txt')).stdout, 'Deleted 1 file.\n')
    assert.equal((await run('rm', 'file:store/x/a.txt')).status, 1)
    assert.equal((await run('rm', '-r', '--yes', 'file:store/y')).stdout, 'Deleted 1 file.\n')
    assert.equal((await run('ls', 'file:store/y')).status, 1)
    assert.equal((await run('ls', 'file:store/')).status, 0)
  })

  test('a store of the configuration is named NAME:key, also where the key is percent-encoded in URLs', async (t) => {
    const { run, write, start } = place(t)
    write('stowage.config.json', configuration())
    assert.equal((await finish(start('put', '-', 'media:100% "sure"/a b.txt'), 'stdin')).status, 0)
    assert.equal((await run('cat', 'media:100% "sure"/a b.txt')).stdout, 'stdin')
    assert.equal((await run('cat', 'file:media/100%25%20%22sure%22/a%20b.txt')).stdout, 'stdin')
    assert.equal((await run('ls', 'media')).stdout, '100% "sure"/\n')
    assert.equal((await run('ls', 'media:100% "sure"')).stdout, 'a b.txt\n')
    const unknown = await run('ls', 'medai:')
    assert.equal(unknown.status, 2)
    assert.match(unknown.stderr, /no store "medai".*public, media/)
    const refused = await run('rm', 'old:100% "sure"/a b.txt')
    assert.equal(refused.status, 1)
    assert.match(refused.stderr, /read-only/)
  })

  test('with --json there is one object a line', async (t) => {
    const { run } = place(t)
    const lines = (await run('ls', '-r', '--json', 'file:tree')).stdout.trim().split('\n')
    const entries = lines.map((line) => JSON.parse(line) as { kind: string; key: string; size: number })
    assert.deepEqual(
      entries.map(({ kind, key, size }) => [kind, key, size]),
      [
        ['file', 'a.txt', 5],
        ['file', 'sub/b.css', 4],
        ['file', 'sub/deep/ünï cødé.txt', 5],
      ],
    )
    assert.equal((JSON.parse((await run('stat', '--json', 'file:tree/a.txt')).stdout) as { size: number }).size, 5)
  })

  test('names cannot move the cursor', async (t) => {
    const { run, write } = place(t)
    write('odd/new\nline\u001b[2J', 'x')
    assert.equal((await run('ls', 'file:odd')).stdout, 'new\\nline\\x1b[2J\n')
    assert.equal((await run('cp', '-r', 'odd', 'file:other')).status, 0)
    assert.equal((await run('cat', 'file:other/new%0Aline%1B%5B2J')).stdout, 'x')
  })

  test('check tries every store, says in one screen what works, and ends with 1 when something does not', async (t) => {
    const { run, write } = place(t)
    write(
      'stowage.config.json',
      JSON.stringify({ ...JSON.parse(configuration()), stores: { media: 'file:./media', public: 'file:./public' } }),
    )
    const all = await run('check')
    assert.equal(all.status, 0, all.stderr)
    assert.equal(all.stdout.match(/✔ write {7}works/g)?.length, 2)
    assert.ok(all.stdout.split('\n').length < 25)
    write('in-the-way', '')
    const broken = await run('check', 'file:in-the-way/store')
    assert.equal(broken.status, 1)
    assert.match(broken.stdout, /✖ write /)
    const [report] = JSON.parse((await run('check', '--json', 'file:tree?read_only=true')).stdout)
    assert.deepEqual([report.ok, report.findings[1]], [true, { ability: 'read', state: 'works' }])
    const changed = await run('check', '--read-only', '--key', 'a.txt', 'file:tree')
    assert.match(changed.stdout, /\? write {7}Nothing is to be changed/)
  })

  test('repair copies what a location lacks; a dry run does not', async (t) => {
    const { run, write, read } = place(t)
    const stores = { both: ['file:./near', 'file:./far'], media: 'file:./media', public: 'file:./public' }
    write('stowage.config.json', JSON.stringify({ ...JSON.parse(configuration()), stores }))
    write('far/d/a.txt', 'alpha')
    const dry = await run('repair', '--dry-run', 'both:')
    assert.match(
      dry.stdout,
      /would copy d\/a\.txt to file:.*near, where it was missing, from file:.*far\n1 files looked at, 1 would/,
    )
    const { repaired, files } = JSON.parse((await run('repair', '--json', 'both:d')).stdout)
    assert.deepEqual([repaired, files.length, read('near/d/a.txt')], [1, 1, 'alpha'])
    const single = await run('repair', 'media:')
    assert.equal(single.status, 2)
    assert.match(single.stderr, /has one location only/)
  })

  test('url prints the public address, and says where there is none', async (t) => {
    const { run, write } = place(t)
    const media = { url: 'file:./media', publicUrl: 'https://cdn.example.com/m' }
    write(
      'stowage.config.json',
      JSON.stringify({ ...JSON.parse(configuration()), stores: { media, public: 'file:./public' } }),
    )
    assert.equal((await run('url', 'media:a b.jpg')).stdout, 'https://cdn.example.com/m/a%20b.jpg\n')
    assert.match((await run('url', 'public:a.jpg')).stderr, /no public address\. Set publicUrl/)
    assert.match((await run('url', '--signed', '1h', 'media:a.jpg')).stderr, /cannot sign URLs/)
    assert.equal((await run('url', '--upload', 'media:a.jpg')).status, 2)
  })

  test('cp copies a file to a name, to a directory, and within a store', async (t) => {
    const { run, write, read, directory } = place(t)
    write('stowage.config.json', configuration())
    for (const target of ['media:a.txt', 'media:', 'media:dir/', './local.txt', './dir/', 'file:x/y.txt'])
      assert.equal((await run('cp', './tree/a.txt', target)).status, 0, target)
    for (const file of ['media/a.txt', 'media/dir/a.txt', 'local.txt', 'dir/a.txt', 'x/y.txt'])
      assert.equal(read(file), 'alpha', file)
    assert.equal((await run('cp', 'media:a.txt', 'media:b.txt')).status, 0)
    assert.equal(read('media/b.txt'), 'alpha')
    const directoryGiven = await run('cp', './tree', 'media:')
    assert.equal(directoryGiven.status, 2)
    assert.match(directoryGiven.stderr, /is a directory.*cp -r/)
    fs.symlinkSync(path.join(directory, 'tree/a.txt'), path.join(directory, 'link'))
    assert.equal((await run('cp', './link', 'media:linked')).status, 0)
    assert.equal(read('media/linked'), 'alpha')
  })

  test('cp -r copies trees in every direction, small files and large', async (t) => {
    const { run, write, directory } = place(t)
    write('stowage.config.json', configuration())
    write('tree/large.bin', Buffer.alloc(700_000, 'large '))
    write('tree/empty', '')
    const whole = tree(path.join(directory, 'tree'))
    const modified = new Date('2020-02-02T02:02:02Z')
    fs.utimesSync(path.join(directory, 'tree/a.txt'), modified, modified)
    const copies: [from: string, to: string, at: string][] = [
      ['./tree', 'media:', 'media'],
      ['media:', 'public:in/here', 'public/in/here'],
      ['public:in', 'public:copied', 'public/copied'],
      ['file:public/in/here', './back', 'back'],
    ]
    for (const [from, to, at] of copies) {
      assert.equal((await run('cp', '-r', from, to)).status, 0, from)
      const copy = tree(path.join(directory, at))
      assert.deepEqual(at === 'public/copied' ? tree(path.join(directory, at, 'here')) : copy, whole)
    }
    assert.equal(fs.statSync(path.join(directory, 'back/a.txt')).mtimeMs, modified.getTime())
    const limited = await run('cp', '-r', '--max-connections', '1', '--json', 'tree', 'memory:')
    const { files, failed } = JSON.parse(limited.stdout) as { files: number; failed: number }
    assert.deepEqual([files, failed], [5, 0])
    for (const [from, to] of [
      ['tree', 'tree/sub'],
      ['media:', 'media:x'],
      ['media:', 'file:media/x'],
    ])
      assert.equal((await run('cp', '-r', from ?? '', to ?? '')).status, 2, `${from} to ${to}`)
    assert.equal((await run('cp', '-r', 'nothing-here', 'memory:')).status, 1)
  })

  test('cp --verify reads back what it has copied, file by file and whole trees, in every direction', async (t) => {
    const { run, write, read } = place(t)
    write('tree/large.bin', Buffer.alloc(400_000, 'x'))
    assert.equal((await run('cp', '-r', '--verify', 'tree', 'file:copy')).status, 0)
    assert.equal((await run('cp', '-r', '--verify', 'file:copy', 'file:again')).status, 0)
    assert.equal((await run('cp', '--verify', 'file:again/large.bin', 'file:third/large.bin')).status, 0)
    assert.equal(read('third/large.bin').length, 400_000)
  })

  test('cp -r goes on after a file that fails, and ends with status 3', {
    skip: process.platform === 'win32',
  }, async (t) => {
    const { run, write, directory } = place(t)
    // A file stands where the copy needs a directory.
    write('target/sub', 'in the way')
    const { status, stdout, stderr } = await run('cp', '-r', 'tree', './target')
    assert.equal(status, 3)
    assert.match(stdout, /Copied 1 files.*2 failed/)
    assert.match(stderr, /sub\/b\.css/)
    assert.equal(fs.readFileSync(path.join(directory, 'target/a.txt'), 'utf8'), 'alpha')
  })

  test('a place that refuses everything is given up soon', async (t) => {
    const { run, write } = place(t)
    write('stowage.config.json', configuration())
    for (let i = 0; i < 500; i++) write(`many/${i}`, 'x')
    const { status, stderr } = await run('cp', '-r', './many', 'old:')
    assert.equal(status, 1)
    assert.match(stderr, /Given up/)
    assert.ok(stderr.split('\n').length < 300)
  })

  test('who stops reading gets no complaint', async (t) => {
    const { start, write } = place(t)
    for (let i = 0; i < 3000; i++) write(`many/${'long'.repeat(30)}${i}`, '')
    const child = start('ls', 'file:many')
    const errors: Buffer[] = []
    child.stderr.on('data', (chunk: Buffer) => errors.push(chunk))
    await once(child.stdout, 'data')
    child.stdout.destroy()
    await once(child, 'exit')
    assert.equal(Buffer.concat(errors).toString(), '')
  })

  test('a command that is interrupted stops with status 130 and leaves nothing half done', async (t) => {
    const { start, directory } = place(t)
    const child = start('put', '-', 'file:store/endless')
    child.stdin.on('error', () => {})
    child.stdin.write('the beginning')
    // The temporary file shows that the verb is at work.
    while (!fs.existsSync(path.join(directory, 'store'))) await new Promise((resolve) => setImmediate(resolve))
    child.kill('SIGINT')
    const [status] = (await once(child, 'exit')) as [number]
    assert.equal(status, 130)
    assert.deepEqual(Object.keys(tree(path.join(directory, 'store'))), [])
  })
})

describe('the daemon', { timeout: 120_000 }, () => {
  for (const format of ['ts', 'yaml', 'json'])
    test(`init --format ${format}, then sync, works at once; a second init changes nothing`, async (t) => {
      const { run, write, read, directory } = place(t)
      assert.equal((await run('init', '--format', format)).status, 0)
      write('site/a.txt', 'alpha')
      const { status, stdout, stderr } = await run('sync')
      assert.equal(stderr, '')
      assert.equal(status, 0)
      assert.match(stdout, /1 delivered/)
      assert.equal(read('published/a.txt'), 'alpha')
      const before = read(`stowage.config.${format}`)
      const again = await run('init')
      assert.equal(again.status, 1)
      assert.match(again.stderr, /configuration already/)
      assert.equal(read(`stowage.config.${format}`), before)
      assert.equal(fs.readdirSync(directory).filter((name) => name.startsWith('stowage.config')).length, 1)
    })

  test('sync tells what it did, and has nothing to do the second time', async (t) => {
    const { run, write, directory } = place(t)
    write('stowage.config.json', configuration())
    const first = JSON.parse((await run('sync', '--json')).stdout) as Record<string, number>
    assert.deepEqual([first['scanned'], first['delivered'], first['failed']], [3, 3, 0])
    assert.deepEqual(tree(path.join(directory, 'public')), tree(path.join(directory, 'tree')))
    const second = JSON.parse((await run('sync', '--json')).stdout) as Record<string, number>
    assert.deepEqual([second['scanned'], second['delivered'], second['failed']], [3, 0, 0])
  })

  test('status, explain and retry answer without a daemon, and without its secrets', async (t) => {
    const { run, write } = place(t)
    write('stowage.config.json', configuration())
    await run('sync')
    assert.match((await run('status')).stdout, /Not running/)
    assert.equal((JSON.parse((await run('status', '--json')).stdout) as { running: boolean }).running, false)
    assert.match((await run('explain', 'tree/a.txt')).stdout, /"all" matches/)
    assert.match((await run('explain', '/etc/hosts')).stdout, /none of the sources/)
    assert.deepEqual(JSON.parse((await run('retry', '--json')).stdout), { retried: 0 })
  })

  test('up works until SIGTERM, answers meanwhile, lets nobody else in, and ends with 0', async (t) => {
    const { start, run, write } = place(t)
    write('stowage.config.json', configuration())
    const daemon = start('up')
    const exit = once(daemon, 'exit')
    await hear(daemon, /Watching/)
    const status = JSON.parse((await run('status', '--json')).stdout) as { running: boolean; pid: number }
    assert.deepEqual([status.running, status.pid], [true, daemon.pid])
    assert.match((await run('explain', 'tree/a.txt')).stdout, /"all" matches/)
    const second = await run('sync')
    assert.equal(second.status, 1)
    assert.match(second.stderr, /stowage: /)
    daemon.kill('SIGTERM')
    assert.deepEqual(await exit, [0, null])
    assert.match((await run('status')).stdout, /Not running/)
  })
})

describe('an old node', { timeout: 120_000 }, () => {
  test('is replaced by the one that came with the package, with streams, status and signals passed on', async (t) => {
    const { directory } = place(t)
    // What an old node would be to us: the same program with another version number.
    const pretend = "Object.defineProperty(process.versions, 'node', { value: '20.1.0' })"
    fs.writeFileSync(path.join(directory, 'old.cjs'), `if (!process.channel) ${pretend}`)
    const start = (...args: string[]) =>
      spawn(process.execPath, ['--require', path.join(directory, 'old.cjs'), bin, ...args], { cwd: directory })
    assert.equal((await finish(start('cat', 'file:tree/a.txt'))).stdout, 'alpha')
    assert.equal((await finish(start('ls'))).status, 2)
    assert.equal((await finish(start('put', '-', 'file:piped'), 'through')).status, 0)
    assert.equal(fs.readFileSync(path.join(directory, 'piped'), 'utf8'), 'through')
    fs.writeFileSync(path.join(directory, 'stowage.config.json'), configuration())
    const daemon = start('up')
    await hear(daemon, /Watching/)
    daemon.kill('SIGTERM')
    assert.deepEqual(await once(daemon, 'exit'), [0, null])
  })
})
