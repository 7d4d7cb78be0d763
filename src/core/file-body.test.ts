import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { appendFileSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, test } from 'node:test'
import { collect, toBody } from './bytes.ts'
import { FileBody } from './file-body.ts'

const directory = mkdtempSync(path.join(tmpdir(), 'stowage-body-'))
after(() => rmSync(directory, { recursive: true, force: true }))
const file = path.join(directory, 'file')
const bytes = randomBytes(2_500_000)
writeFileSync(file, bytes)

test('the file is read whole, piece by piece, and each piece is shown', async () => {
  let seen = 0
  const body = new FileBody(file, { onBytes: (piece) => (seen += piece.byteLength) })
  assert.equal(toBody(body), body)
  assert.equal(body.isUsed, false)
  assert.ok((await collect(body)).equals(bytes))
  assert.equal(seen, bytes.byteLength)
  assert.equal(body.isUsed, true)
})

test('memory of the reader is filled to its end, except by the last bytes', async () => {
  const body = new FileBody(file)
  const target = Buffer.alloc(2_000_000)
  assert.equal(await body.readInto(target), 2_000_000)
  assert.ok(target.equals(bytes.subarray(0, 2_000_000)))
  assert.equal(await body.readInto(target), 500_000)
  assert.ok(target.subarray(0, 500_000).equals(bytes.subarray(2_000_000)))
  assert.equal(await body.readInto(target), 0)
})

test('what looks at the file at its start and end may fail the body', async () => {
  const growing = path.join(directory, 'growing')
  writeFileSync(growing, 'short')
  let size = 0n
  const body = new FileBody(growing, {
    onOpen: (stats) => {
      size = stats.size
      appendFileSync(growing, ' and more')
    },
    onEnd: (stats) => {
      if (stats.size !== size) throw new Error('it grew')
    },
  })
  await assert.rejects(collect(body), /it grew/)
})

test('a symbolic link is not followed, and an absent file is told when it is read', async () => {
  symlinkSync(file, path.join(directory, 'link'))
  await assert.rejects(collect(new FileBody(path.join(directory, 'link'))), { code: 'ELOOP' })
  await assert.rejects(collect(new FileBody(path.join(directory, 'absent'))), { code: 'ENOENT' })
})
