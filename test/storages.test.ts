/** The guides of the storages tell the truth: the table of abilities is made from `supports`, the parameters are those there are. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { test } from 'node:test'
import { openDriver, schemeNames } from '../src/drivers/index.ts'
import type { Driver } from '../src/store/driver.ts'

const guides = path.resolve(import.meta.dirname, '../docs/storages')

/** A URL of each kind, opened without anybody being there. */
const samples: Record<string, string> = {
  file: 'file:///srv/media',
  memory: 'memory:',
  http: 'https://host',
  webdav: 'webdavs://user:password@host',
  sftp: 'sftp://user:password@host/folder',
  ftp: 'ftp://user:password@host/folder',
  azure: 'azure://account.blob.core.windows.net/container?access_key=a2V5',
  s3: 's3://key:secret@host?s3_bucket=bucket',
  swift: 'swift://user:key@host?container=container',
}

const columns: [title: string, tell: (driver: Driver) => boolean | number][] = [
  ['write', ({ supports }) => supports.write],
  ['list', ({ supports }) => supports.list],
  ['ranges', ({ supports }) => supports.range],
  ['atomic writes', ({ supports }) => supports.atomicWrite],
  ['`ifAbsent`', ({ supports }) => supports.ifAbsent],
  ['`ifMatch`', ({ supports }) => supports.ifMatch],
  ['content type', ({ supports }) => supports.contentType],
  ['metadata', ({ supports }) => supports.metadata],
  ['`a` beside `a/b`', ({ supports }) => supports.keyUnderFile],
  ['copies by itself', (driver) => 'copy' in driver],
  ['renames', (driver) => 'move' in driver],
  ['signed URLs', (driver) => 'signedUrl' in driver],
  ['longest key', ({ supports }) => supports.maxKeyBytes],
  ['longest part', ({ supports }) => supports.maxPartBytes],
]

test('the table of abilities is made from supports (STOWAGE_UPDATE=1 writes it)', async () => {
  const rows: string[] = []
  for (const [kind, url] of Object.entries(samples)) {
    const driver = await openDriver(url)
    const cells = columns.map(([, tell]) => {
      const told = tell(driver)
      return typeof told === 'number' ? String(told) : told ? 'yes' : '–'
    })
    rows.push(`| [${kind}](${kind}.md) | ${cells.join(' | ')} |`)
    await driver.close()
  }
  const head = `| | ${columns.map(([title]) => title).join(' | ')} |\n|${'---|'.repeat(columns.length + 1)}`
  const file = path.join(guides, 'README.md')
  const text = readFileSync(file, 'utf8')
  const made = text.replace(
    /(<!-- abilities -->\n)[^]*?(<!-- end -->)/,
    (_, start: string, end: string) => `${start}${head}\n${rows.join('\n')}\n${end}`,
  )
  if (process.env['STOWAGE_UPDATE']) writeFileSync(file, made)
  else assert.equal(text, made)
})

/** Those every URL may have, which are told once. */
const common = new Set(['read_only', 'shard'])

for (const [kind, url] of Object.entries(samples))
  test(`the guide of ${kind} has every parameter, and no other`, async () => {
    const wrong = `${url}${url.includes('?') ? '&' : '?'}no_such_parameter=1`
    const error = await openDriver(wrong).then(
      () => assert.fail('an unknown parameter was taken'),
      (reason: Error) => reason,
    )
    const listed = /It may have: ([^.]*)\./.exec(error.message)?.[1] ?? assert.fail(error.message)
    const known = listed.split(', ').filter((name) => !common.has(name))
    const guide = readFileSync(path.join(guides, `${kind}.md`), 'utf8')
    const told = [...guide.matchAll(/^\| `(\w+)` \|/gm)].map(([, name = '']) => name)
    assert.deepEqual(told.toSorted(), known.filter((name) => name !== 'none').toSorted())
  })

test('every kind of storage has a guide that says how its URL looks, what rights it needs, and its limits', () => {
  const aliases: Record<string, string> = {
    https: 'http',
    webdavs: 'webdav',
    ftps: 'ftp',
    mosso: 'swift',
    cloudfiles: 'swift',
  }
  for (const scheme of schemeNames) {
    const kind = aliases[scheme] ?? scheme
    assert.ok(samples[kind], `${kind} has no sample in this test`)
    const file = path.join(guides, `${kind}.md`)
    assert.ok(existsSync(file), file)
    const guide = readFileSync(file, 'utf8')
    assert.match(guide, new RegExp(`\\b${scheme}:`), `${scheme}: in ${file}`)
    for (const heading of ['## Rights', '## Limits']) assert.ok(guide.includes(heading), `${heading} in ${file}`)
  }
})
