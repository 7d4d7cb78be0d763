/** The layout is the architecture: imports point one way, and nothing forms a cycle of layers. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import * as path from 'node:path'
import { test } from 'node:test'

/** From the bottom up. A folder may import those above it in this list; folders of one line are strangers. */
const layers = [
  ['core'],
  ['store'],
  ['drivers', 'state', 'watch'],
  ['cache'],
  ['filestore', 'conveyor', 'mount'],
  ['server', 'middleware'],
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

test('no file imports itself, however long the way round', () => {
  const done = new Set<string>()
  const cycles: string[] = []
  const walk = (file: string, way: string[]) => {
    if (way.includes(file)) cycles.push([...way.slice(way.indexOf(file)), file].join(' → '))
    if (way.includes(file) || done.has(file)) return
    for (const target of importsOf(file)) walk(target, [...way, file])
    done.add(file)
  }
  for (const file of sources) walk(file, [])
  assert.deepEqual(cycles, [])
})

test('everything that is exported says what it promises', () => {
  const silent = sources.flatMap((file) => {
    const lines = readFileSync(file, 'utf8').split('\n')
    return lines.flatMap((line, index) => {
      const isExport = /^export (async |abstract )?(function|class|interface|type|const) \w/.test(line)
      return isExport && !lines[index - 1]?.endsWith('*/') ? [`${file}:${index + 1} ${line}`] : []
    })
  })
  assert.deepEqual(silent, [])
})

test('nothing carries a path of the machine it was written on', () => {
  const texts = globSync(['src/**', 'test/**', 'bench/**', 'docs/**', 'examples/demo/*.ts', '*.md'], {
    withFileTypes: true,
  })
    .filter((entry) => entry.isFile())
    .map((entry) => path.join(entry.parentPath, entry.name))
  const paths = /(?<![}\w])\/(home|root|Users|work)\/[\w.]/
  assert.deepEqual(
    texts.filter((file) => paths.test(readFileSync(file, 'utf8'))),
    [],
  )
})

test('nothing is in the repository that is not to be in it', () => {
  const listed = spawnSync('git', ['ls-files', '-ci', '--exclude-standard'], { encoding: 'utf8' })
  assert.equal(listed.stdout, '')
})

function folderOf(file: string): string {
  return file.split(path.sep)[1] ?? ''
}

function importsOf(file: string): string[] {
  const specifiers = readFileSync(file, 'utf8').matchAll(/from '(\.{1,2}\/[^']+)'/g)
  return [...specifiers].map(([, specifier]) => path.join(path.dirname(file), specifier ?? ''))
}
