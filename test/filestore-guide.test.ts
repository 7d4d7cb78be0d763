/** docs/filestore.md tells the truth: its configurations are right, and its commands answer as it says. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import * as fs from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'
import { test } from 'node:test'
import { parse } from 'yaml'
import { checkConfig } from '../src/daemon/config.ts'

const root = path.resolve(import.meta.dirname, '..')
const guide = fs.readFileSync(path.join(root, 'docs/filestore.md'), 'utf8')
const blocks = (language: string) =>
  [...guide.matchAll(new RegExp(`\`\`\`${language}\n([^]*?)\`\`\``, 'g'))].map(([, text = '']) => text)
const [least = '', ...parts] = blocks('yaml')

/** Commands of the guide, each with the lines it is said to answer. */
const commands = blocks('console')
  .flatMap((block) => block.split(/^\$ stowage /m).slice(1))
  .map((text) => text.trimEnd().split('\n'))

/** How long something takes, and where it is, is another matter on each machine. */
function plain(text: string, directory: string): string {
  return text.replaceAll(directory, '.').replace(/ in \d+ s;/g, ' in 1 s;')
}

test('its commands answer as it says', { timeout: 300_000 }, (t) => {
  const directory = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'stowage-guide-')))
  t.after(() => fs.rmSync(directory, { recursive: true, force: true }))
  fs.writeFileSync(path.join(directory, 'stowage.config.yaml'), least)
  fs.writeFileSync(path.join(directory, 'notes.txt'), 'some notes.\n')
  fs.writeFileSync(path.join(directory, 'cat.txt'), 'not really a picture')
  assert.ok(commands.length > 15)
  for (const [line = '', ...answer] of commands) {
    const args = [path.join(root, 'bin/stowage.js'), ...line.split(' ')]
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: directory, encoding: 'utf8' })
    assert.equal(status, 0, `${line}: ${stderr}`)
    if (answer.length > 0) assert.equal(plain(stdout, directory).trimEnd(), answer.join('\n'), line)
  }
})

test('its configurations are right', () => {
  const settings = parts.map((text) => parse(text) as { cache?: object; remote?: object })
  const stores = {
    ...Object.fromEntries(['cold', 'near', 'glacier'].map((name) => [name, 'memory:'])),
    uploads: {
      filestore: { directory: '/srv/uploads', remote: settings.find(({ remote }) => remote)?.remote },
    },
  }
  const cache = settings.find((each) => each.cache)?.cache
  const config = checkConfig({ stores, cache })
  assert.deepEqual(config.filestores['uploads']?.remotes, ['near', 'glacier', 'cold'])
  assert.equal(config.cache.directory, '/var/cache/stowage')
})

test('it names every setting and every action', () => {
  const schema = JSON.parse(fs.readFileSync(path.join(root, 'config.schema.json'), 'utf8')) as object
  const found =
    /"filestore":\{"description":"[^"]*","type":"object","properties":(\{.*?\}),"required":\["directory"/.exec(
      JSON.stringify(schema),
    )?.[1]
  const keys = Object.keys(JSON.parse(found ?? '{}') as object)
  assert.ok(keys.length > 5)
  for (const key of keys) assert.match(guide, new RegExp(`^\\| \`${key}\` \\|`, 'm'), key)
  for (const action of 'status offload recall migrate pause resume restore verify gc'.split(' '))
    assert.match(guide, new RegExp(`\`(stowage filestore )?${action}\\b|stowage filestore ${action}\\b`), action)
})
