/** The SFTP driver against real servers: OpenSSH with a key, ProFTPD with a password. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { after, describe, test } from 'node:test'
import { collect, toBody } from '../src/core/bytes.ts'
import { StowageError } from '../src/core/errors.ts'
import { openDriver } from '../src/drivers/index.ts'
import { sftpDriver, type SftpOptions } from '../src/drivers/sftp/sftp.ts'
import type { Driver } from '../src/store/driver.ts'
import { Store } from '../src/store/store.ts'
import { retrying } from '../src/store/wrappers/retry.ts'
import { testDriver } from '../src/testing/index.ts'
import { FaultProxy } from './servers/fault-proxy.ts'
import { startServer, type Started } from './servers/start.ts'

interface Server {
  host: string
  port: number
  passwordPort: number
  user: string
  home: string
}

const password = 'se"cret'
const server = startServer<Server>('sftp', ['sshd', 'proftpd', 'ssh-keygen', 'openssl'])
if (server) testServer(server)
else test('SFTP', { skip: 'the Debian packages openssh-server and proftpd-core are not installed' }, () => {})

function testServer(sftp: Started<Server>) {
  after(() => sftp.stop())
  const { host, port, passwordPort, user, home } = sftp
  const knownHosts = path.join(home, 'known_hosts')
  const privateKey = readFileSync(path.join(home, 'client'), 'utf8')
  let places = 0
  /** A directory of its own, as the server's disk has it and as an option. */
  const place = () => {
    const directory = path.join(home, 'files', String(places++))
    rmSync(directory, { recursive: true, force: true })
    return directory
  }
  const byKey = (more: Partial<SftpOptions> = {}): SftpOptions => ({
    host,
    port,
    user,
    privateKey,
    knownHosts,
    directory: place(),
    ...more,
  })
  const opened = async (options: SftpOptions) => {
    const driver = sftpDriver(options)
    return Object.assign(driver, { [Symbol.asyncDispose]: async () => driver.close() })
  }
  const url = (directory: string, parameters: Record<string, string> = {}) => {
    const all = { private_key: path.join(home, 'client'), known_hosts: knownHosts, ...parameters }
    return `sftp://${user}@${host}:${port}${directory}?${new URLSearchParams(all).toString()}`
  }

  testDriver('sftp', async () => ({ driver: sftpDriver(byKey()) }))
  testDriver('sftp of ProFTPD, with a password, by its URL, in the home directory', async () => ({
    driver: await openDriver(
      `sftp://sftp:${encodeURIComponent(password)}@${host}:${passwordPort}/~/${randomUUID()}?known_hosts=${knownHosts}`,
    ),
  }))

  describe('sftp', () => {
    test('files are where the path of the URL says, absolute or at home', async () => {
      const directory = place()
      for (const [where, file] of [
        [directory, path.join(directory, 'a')],
        ['/~/x', path.join(home, 'home/x/a')],
        ['', path.join(home, 'home/a')],
        ['/', path.join(home, 'home/a')],
      ] as const) {
        await using store = new Store(await openDriver(url(where)))
        await store.put('a', where)
        assert.equal(readFileSync(file, 'utf8'), where)
        await store.delete('a')
      }
      assert.ok(!(await openDriver(url(directory, { private_key_pass: 'x' }))).location.includes('x='))
    })

    test('large files go and come whole, and any part of them', async () => {
      await using driver = await opened(byKey())
      const bytes = randomBytes(20_000_003)
      await driver.write('big', pieces(bytes), { size: bytes.byteLength, modified: new Date(1_700_000_000_000) })
      const { info, body } = await driver.read('big')
      assert.deepEqual([info.size, info.modified?.getTime()], [bytes.byteLength, 1_700_000_000_000])
      assert.ok((await collect(body)).equals(bytes))
      for (const [start, end] of [
        [0, 1],
        [32_767, 32_769],
        [1_000_000, 9_000_001],
        [19_999_999, 30_000_000],
      ] as const)
        assert.ok(
          (await collect((await driver.read('big', { range: { start, end } })).body)).equals(
            bytes.subarray(start, end),
          ),
        )
    })

    test('a key with a passphrase opens with it, and not without', async () => {
      const directory = place()
      const locked = { private_key: path.join(home, 'locked') }
      await using store = new Store(await openDriver(url(directory, { ...locked, private_key_pass: 'passphrase' })))
      await store.put('a', 'x')
      for (const given of [{}, { private_key_pass: 'wrong-one' }] as Record<string, string>[]) {
        await using refused = new Store(await openDriver(url(directory, { ...locked, ...given })))
        await assert.rejects(refused.get('a'), (error: StowageError) => {
          assert.equal(error.code, 'INVALID_CONFIG')
          assert.match(error.message, /private_key_pass/)
          assert.ok(!error.message.includes('wrong-one'))
          return true
        })
      }
      await assert.rejects(openDriver(url(directory, { private_key: '/nowhere' })), { code: 'INVALID_CONFIG' })
    })

    test('a wrong password is DENIED and not repeated', async () => {
      const wrong = { host, port: passwordPort, user: 'sftp', password: 'not-it', knownHosts }
      await using driver = await opened(wrong)
      await assert.rejects(driver.stat('a'), (error: StowageError) => {
        assert.deepEqual([error.code, error.retryable], ['DENIED', false])
        assert.ok(!String(error.stack).includes('not-it'))
        return true
      })
    })

    test('a host is let through only when its key is known; what to do is said', async (t) => {
      const file = path.join(home, `known-${t.name.length}`)
      const directory = place()
      const judge = async (lines: string) => {
        writeFileSync(file, lines)
        await using driver = await opened(byKey({ knownHosts: file, directory }))
        return await driver.write('a', toBody('x')).then(
          () => 'known',
          (error: StowageError) => `${error.code} ${error.message}`,
        )
      }
      const line = readFileSync(knownHosts, 'utf8').split('\n')[0] ?? ''
      const [, type = '', key = ''] = line.split(' ')
      const other = readFileSync(path.join(home, 'client.pub'), 'utf8').split(' ').slice(0, 2).join(' ')
      const where = `[${host}]:${port}`
      assert.match(await judge(''), /^DENIED The key of .*, SHA256:\S{43}, is not known\. .*ssh-keyscan -p \d+ /)
      assert.match(await judge(`${where} ${other}`), /^DENIED .* is another than the known one.*posing/)
      assert.match(await judge(`@revoked * ${type} ${key}\n${line}`), /^DENIED .* was revoked/)
      assert.match(await judge(`!${where},* ${type} ${key}`), /^DENIED .* is not known/)
      for (const good of [
        line,
        `# comment\n\nother,${where} ${type} ${key} someone@somewhere`,
        `[127.0.0.?]:* ${type} ${key}`,
      ])
        assert.equal(await judge(good), 'known', good)
      writeFileSync(file, line)
      execFileSync('ssh-keygen', ['-H', '-f', file], { stdio: 'ignore' })
      const hashed = readFileSync(file, 'utf8')
      assert.match(hashed, /^\|1\|/)
      assert.equal(await judge(hashed), 'known')
      // A server has several keys; the one that is known is asked for.
      const rsa = readFileSync(path.join(home, 'host_rsa.pub'), 'utf8').split(' ').slice(0, 2).join(' ')
      assert.equal(await judge(`${where} ${rsa}`), 'known')
      await using blind = await opened(byKey({ knownHosts: '/nowhere', validateHost: false, directory }))
      assert.equal((await blind.stat('a')).size, 1)
      await using unread = await opened(byKey({ knownHosts: '/nowhere' }))
      await assert.rejects(unread.stat('a'), { code: 'INVALID_CONFIG' })
    })

    test('nobody listening, and a server that says nothing, are told apart', async () => {
      await using proxy = await FaultProxy.open([port])
      await proxy.set({ how: 'silent' })
      await using silent = await opened(byKey({ port: proxy.port, validateHost: false, connectTimeoutMs: 100 }))
      await assert.rejects(silent.stat('a'), { code: 'TIMEOUT' })
      await using nobody = await opened(byKey({ port: 1 }))
      await assert.rejects(nobody.stat('a'), { code: 'UNREACHABLE' })
    })

    test('a connection that was lost while idle is made anew, and one that breaks fails what was under way', async (t) => {
      await using proxy = await FaultProxy.open([port])
      const options = byKey({ port: proxy.port, validateHost: false })
      const driver = retrying(await opened(options))
      t.after(async () => driver.close())
      const bytes = randomBytes(5_000_000)
      await driver.write('a', toBody(bytes))
      await cut(proxy)
      assert.equal((await driver.stat('a')).size, bytes.byteLength)
      const { body } = await driver.read('a')
      await body[Symbol.asyncIterator]().next()
      await cut(proxy)
      await assert.rejects(collect(body), { code: 'UNREACHABLE' })
      const breaking = async function* () {
        yield bytes.subarray(0, 1_000_000)
        await cut(proxy)
        yield bytes.subarray(1_000_000)
      }
      await assert.rejects(driver.write('a', breaking()), { code: 'UNREACHABLE' })
      assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
    })

    test('a server that falls silent is left when its time is over, or at once when the call is cancelled', async () => {
      await using proxy = await FaultProxy.open([port])
      await using driver = await opened(byKey({ port: proxy.port, validateHost: false, timeoutMs: 500 }))
      const bytes = randomBytes(3_000_000)
      await driver.write('a', toBody(bytes))
      const read = async (signal?: AbortSignal) => collect((await driver.read('a', signal ? { signal } : {})).body)
      await proxy.set({ how: 'stall', way: 'down', after: 100_000 })
      await assert.rejects(read(), { code: 'TIMEOUT' })
      await proxy.set({ how: 'stall', way: 'up', after: 100_000 })
      await assert.rejects(driver.write('a', toBody(randomBytes(3_000_000))), { code: 'TIMEOUT' })
      await proxy.set(undefined)
      assert.ok((await read()).equals(bytes))
      await proxy.set({ how: 'stall', way: 'down', after: 100_000 })
      const controller = new AbortController()
      const reading = read(controller.signal)
      await proxy.until('the answer has stalled', ({ struck }) => struck > 0)
      controller.abort()
      await assert.rejects(reading, { code: 'ABORTED' })
    })

    test('many at once share a connection, and reads that are dropped keep no handle', async () => {
      await using driver = await opened(byKey())
      const bytes = randomBytes(300_000)
      await driver.write('a', toBody(bytes))
      for (let i = 0; i < 300; i++) {
        const { body } = await driver.read('a')
        if (i % 2 === 0) await body[Symbol.asyncIterator]().next()
        body.destroy()
      }
      const names = Array.from({ length: 200 }, (_, i) => `d/${i}`)
      await Promise.all(names.map(async (name) => driver.write(name, toBody(name))))
      const read = await Promise.all(
        names.map(async (name) => (await collect((await driver.read(name)).body)).toString()),
      )
      assert.deepEqual(read, names)
    })

    test('a write that is verified is read back before anybody sees it', async () => {
      const directory = place()
      await using driver = await opened(byKey({ directory }))
      const bytes = randomBytes(300_000)
      await driver.write('a', pieces(bytes, 100_000), { verify: true })
      assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
      const meddled = async function* () {
        yield bytes
        const [name = ''] = readdirSync(path.join(directory, '.stowage-tmp'))
        const file = path.join(directory, '.stowage-tmp', name)
        // Until the server has it all; then somebody turns a bit over.
        while (statSync(file).size < bytes.byteLength) await driver.stat('a')
        const stored = readFileSync(file)
        stored[0] = (stored[0] ?? 0) ^ 1
        writeFileSync(file, stored)
      }
      await assert.rejects(driver.write('a', meddled(), { verify: true }), { code: 'CORRUPT' })
      await driver.write('b', meddled())
      assert.ok((await collect((await driver.read('a')).body)).equals(bytes))
    })

    test('ten thousand files in a directory, and links on the server, are listed', async () => {
      const directory = place()
      mkdirSync(path.join(directory, 'many'), { recursive: true })
      for (let i = 0; i < 10_000; i++) writeFileSync(path.join(directory, 'many', `${i}.txt`), '')
      symlinkSync('many/1.txt', path.join(directory, 'link'))
      symlinkSync('nowhere', path.join(directory, 'dangling'))
      await using driver = await opened(byKey({ directory }))
      assert.equal((await Array.fromAsync(driver.list('many'))).length, 10_000)
      const level = await Array.fromAsync(driver.list('', { recursive: false }), ({ kind, key }) => `${kind} ${key}`)
      assert.deepEqual(level, ['file link', 'directory many'])
    })

    test('what a process that died has left is swept, and what another is writing is not', async () => {
      const directory = place()
      const temporary = path.join(directory, '.stowage-tmp')
      mkdirSync(temporary, { recursive: true })
      const [old, young] = [Date.now() - 8 * 24 * 3_600_000, Date.now()].map(
        (ms) => `${ms.toString(36)}-${randomUUID()}`,
      )
      for (const name of [`${old}`, `${young}`, 'other']) writeFileSync(path.join(temporary, name), '')
      await using driver = await opened(byKey({ directory }))
      await driver.write('a', toBody('x'))
      assert.deepEqual(readdirSync(temporary).toSorted(), [`${young}`, 'other'].toSorted())
      assert.deepEqual(await keysOf(driver), ['a'])
    })
  })
}

/** Ends what is open; new connections are as good as any. */
async function cut(proxy: FaultProxy) {
  await proxy.set({ how: 'reset on connect' })
  await proxy.set(undefined)
}

async function keysOf(driver: Driver) {
  return Array.fromAsync(driver.list(''), ({ key }) => key)
}

async function* pieces(bytes: Buffer, size = 1_000_003) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}
