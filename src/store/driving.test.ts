import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { test } from 'node:test'
import { compareKeys } from '../core/keys.ts'
import type { Entry, ListOptions } from './driver.ts'
import { entriesBelow, walk } from './driving.ts'

/** Keys that make a tree with every order of names around the slash. */
const keys = ['a', 'a-b/c', 'a/b', 'a/b.x/y', 'a/b/c', 'a/b0', 'aa/é/x', 'z/1', 'z/2/3/4/5', 'z/2/30'].filter(
  (key) => key !== 'a' && key !== 'a/b', // a tree has no files above files
)
const infos = keys.map((key) => ({ key, size: 1 })).sort((a, b) => compareKeys(a.key, b.key))

async function children(directory: string): Promise<Entry[]> {
  const entries = [...entriesBelow(infos, directory, { recursive: false })]
  return entries.sort(() => randomInt(3) - 1)
}

test('a tree listed one directory at a time is the listing of its keys, from any place on', async () => {
  const places = [undefined, '', 'a/b', 'a/b.x/', 'a/b.x/y', 'a/b/', 'aa/', 'nowhere', 'z/2/3/', 'zz', ...keys]
  for (const directory of ['', 'a', 'z/2', 'absent'])
    for (const recursive of [true, false])
      for (const after of places) {
        const options: ListOptions = { recursive, ...(after === undefined ? {} : { after }) }
        const listed = await Array.fromAsync(walk(children, directory, options))
        assert.deepEqual(listed, [...entriesBelow(infos, directory, options)], JSON.stringify([directory, options]))
      }
})

test('directories before the place where a listing goes on are not asked for', async () => {
  const asked: string[] = []
  const asking = async (directory: string) => {
    asked.push(directory)
    return children(directory)
  }
  await Array.fromAsync(walk(asking, '', { after: 'z/1' }))
  assert.deepEqual(asked, ['', 'z', 'z/2', 'z/2/3', 'z/2/3/4'])
})

test('a directory that cannot be listed fails the listing when its turn comes', async () => {
  const failing = async (directory: string) => {
    if (directory === 'z') throw new Error('cannot')
    return children(directory)
  }
  const listed: string[] = []
  const listing = async () => {
    for await (const { key } of walk(failing, '', {})) listed.push(key)
  }
  await assert.rejects(listing, /cannot/)
  assert.deepEqual(
    listed,
    infos.map(({ key }) => key).filter((key) => !key.startsWith('z')),
  )
})
