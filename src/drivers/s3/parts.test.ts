/** How bodies are cut into parts. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { FileBody } from '../../core/file-body.ts'
import { cut, cutFile, partBytes, PartPool, partSize } from './parts.ts'

const largestObject = 5 * 2 ** 40
const largestPart = 5 * 2 ** 30

test('10,000 parts hold the largest object, whether its size is known or not', () => {
  for (const announced of [undefined, largestObject, largestObject / 3, 160_000 * 2 ** 20, 2 ** 20]) {
    let total = 0
    for (let number = 1; number <= 10_000; number++) {
      const size = partSize(number, announced)
      assert.ok(size >= partBytes && size <= largestPart)
      total += size
    }
    assert.ok(total >= (announced ?? largestObject), `${announced}: ${total}`)
  }
})

test('all parts but the last are equally large, and nothing is lost where they meet', async () => {
  const pool = new PartPool()
  for (const [size, count] of [
    [0, 1],
    [1, 1],
    [partBytes, 1],
    [partBytes + 1, 2],
    [2 * partBytes, 2],
    [2 * partBytes + 1, 3],
  ] as const)
    for (const announced of [undefined, size]) {
      const bytes = randomBytes(size)
      const lengths: number[] = []
      let at = 0
      for await (const part of cut(pieces(bytes, 3_000_001), announced, pool)) {
        assert.ok(part.bytes.equals(bytes.subarray(at, at + part.bytes.byteLength)))
        at += part.bytes.byteLength
        lengths.push(part.bytes.byteLength)
        assert.equal(part.isLast, lengths.length === count)
        pool.give(part.buffer)
      }
      assert.equal(at, size)
      assert.ok(lengths.slice(0, -1).every((length) => length === partBytes))
    }
})

test('a short body takes little memory, announced or not', async () => {
  for (const announced of [undefined, 100_000]) {
    const parts = await Array.fromAsync(cut(pieces(randomBytes(100_000), 1000), announced, new PartPool()))
    assert.deepEqual([parts.length, parts[0]?.bytes.byteLength], [1, 100_000])
    assert.ok((parts[0]?.buffer.byteLength ?? 0) < 300_000)
  }
})

test('buffers of parts are used again', async () => {
  const pool = new PartPool()
  const buffers = new Set<Buffer>()
  for await (const { buffer } of cut(pieces(Buffer.alloc(6 * partBytes), 1 << 20), undefined, pool)) {
    buffers.add(buffer)
    pool.give(buffer)
  }
  assert.equal(buffers.size, 1)
})

async function* pieces(bytes: Buffer, size: number) {
  for (let at = 0; at < bytes.byteLength; at += size) yield bytes.subarray(at, at + size)
}

test('a file is cut without a copy, and one of another length than announced is CORRUPT', async (t) => {
  const directory = mkdtempSync(path.join(tmpdir(), 'stowage-parts-'))
  t.after(() => rmSync(directory, { recursive: true, force: true }))
  const file = path.join(directory, 'file')
  const { signal } = new AbortController()
  for (const [size, count] of [
    [partBytes, 1],
    [2 * partBytes, 2],
    [2 * partBytes + 1, 3],
  ] as const) {
    const bytes = randomBytes(size)
    writeFileSync(file, bytes)
    const parts = await Array.fromAsync(cutFile(new FileBody(file), size, new PartPool(), signal))
    assert.equal(parts.length, count)
    assert.deepEqual(
      parts.map(({ isLast }) => isLast),
      parts.map((_, index) => index === count - 1),
    )
    assert.ok(Buffer.concat(parts.map((part) => part.bytes)).equals(bytes))
    for (const wrong of [size - 1, size + 1])
      await assert.rejects(Array.fromAsync(cutFile(new FileBody(file), wrong, new PartPool(), signal)), {
        code: 'CORRUPT',
      })
  }
  await assert.rejects(Array.fromAsync(cutFile(new FileBody(file), 1, new PartPool(), AbortSignal.abort())), {
    code: 'ABORTED',
  })
})
