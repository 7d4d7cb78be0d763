/** The example with the photographs does what it says, against a real S3 server, also when it is killed on the way. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { createInterface } from 'node:readline'
import { after, describe, test } from 'node:test'
import { startS3, type TestServer } from './servers/rgw.ts'

/** Photographs of nebulae and galaxies, by astronomers and amateurs; of the Debian package stellarium-data. */
const photographs = '/usr/share/stellarium/nebulae/default'
const program = path.resolve(import.meta.dirname, '../examples/photographs/photographs.ts')

const isThere = existsSync(photographs)
if (!isThere && process.env['CI']) throw new Error(`There are no photographs in ${photographs}.`)
const server = isThere ? startS3() : undefined
if (server) testExample(server)
else
  test('500 photographs', {
    skip: 'the Debian packages stellarium-data, ceph-mon, ceph-osd, ceph-common, radosgw and openssl are not all installed',
  }, () => {})

/** Runs the example to its end, or kills it with the first line that is like `until`. Resolves to what it printed, and its status. */
async function run(base: string, remote: string, until?: RegExp) {
  const env = { ...process.env, PHOTOGRAPHS_DIR: base, PHOTOGRAPHS_REMOTE: remote }
  const child = spawn(process.execPath, [program, photographs], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve))
  let complaints = ''
  child.stderr.on('data', (text: Buffer) => (complaints += text.toString()))
  const lines: string[] = []
  for await (const line of createInterface(child.stdout)) {
    lines.push(line)
    if (until?.test(line)) child.kill('SIGKILL')
  }
  return { lines, status: await ended, complaints }
}

function testExample(s3: TestServer) {
  const bases: string[] = []
  after(() => {
    s3.stop()
    for (const base of bases) rmSync(base, { recursive: true, force: true })
  })
  const scene = async (bucket: string) => {
    await (await s3.bucket(bucket)).close()
    const base = mkdtempSync(path.join(tmpdir(), 'stowage-photographs-'))
    bases.push(base)
    const remote = `s3://testkey:testsecret@${s3.host}:${s3.port}/?s3_bucket=${s3.named(bucket)}&use_ssl=false`
    return { base, remote }
  }
  const end = 'All 500 came back byte for byte.'

  describe('500 photographs', () => {
    test('are offloaded, and served after the local directory and the cache were lost', async () => {
      const { base, remote } = await scene('photographs')
      const { lines, status, complaints } = await run(base, remote)
      assert.equal(status, 0, complaints)
      assert.equal(lines.at(-1), end)
      const offloaded = lines.find((line) => line.startsWith('offloaded:')) ?? ''
      assert.match(offloaded, /media 500 \((.*)\), local 0 \(0 B\), cloud 500 \(\1\), both 0 \(0 B\), queued 0$/)
      assert.deepEqual(readdirSync(base).includes('files'), false, 'the local directory stays lost')
    })

    test('are all there when the application was killed on the way', async () => {
      const { base, remote } = await scene('photographs-killed')
      for (const moment of [/^stored/, / uploaded,|^offloaded/, /^offloaded/, /were lost/]) {
        const { status } = await run(base, remote, moment)
        assert.equal(status, null, `killed at ${moment}`)
      }
      const { lines, status, complaints } = await run(base, remote)
      assert.deepEqual([status, lines.at(-1)], [0, end], complaints)
    })
  })
}
