/** The layout is the architecture: imports point one way, and nothing forms a cycle of layers. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import * as path from 'node:path'
import { test } from 'node:test'

/** From the bottom up. A folder may import those above it in this list; folders of one line are strangers. */
const layers = [
  ['core'],
  ['store'],
  ['drivers', 'state'],
  ['cache'],
  ['filestore', 'conveyor', 'mount'],
  ['server'],
  ['daemon'],
  ['cli'],
]
const sources = globSync('src/**/*.ts').filter((file) => !file.endsWith('.test.ts'))
const rank = (folder: string) => layers.findIndex((layer) => layer.includes(folder))

test('imports point from the outside in', () => {
  const wrong = sources.flatMap((file) => {
    const from = folderOf(file)
    if (rank(from) < 0) return []
    return importsOf(file)
      .map((target) => folderOf(target))
      .filter((to) => to !== from && rank(to) >= rank(from))
      .map((to) => `${file} imports ${to}/, but ${from}/ must not know what stands on it or beside it`)
  })
  assert.deepEqual(wrong, [])
})

test('every file says in its first line what it is for', () => {
  assert.deepEqual(
    sources.filter((file) => !readFileSync(file, 'utf8').startsWith('/**')),
    [],
  )
})

function folderOf(file: string): string {
  return file.split(path.sep)[1] ?? ''
}

function importsOf(file: string): string[] {
  const specifiers = readFileSync(file, 'utf8').matchAll(/from '(\.{1,2}\/[^']+)'/g)
  return [...specifiers].map(([, specifier]) => path.join(path.dirname(file), specifier ?? ''))
}
