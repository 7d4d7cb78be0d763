/** config.schema.json is what editors read. `STOWAGE_UPDATE=1 node test/config-schema.test.ts` writes it anew. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { test } from 'node:test'
import { configSchema } from '../src/daemon/config.ts'

const file = path.resolve(import.meta.dirname, '../config.schema.json')
const current = `${JSON.stringify(configSchema(), undefined, 2)}\n`

if (process.env['STOWAGE_UPDATE']) writeFileSync(file, current)

test('the published JSON Schema is that of the code', () => {
  assert.equal(readFileSync(file, 'utf8'), current, 'Run: STOWAGE_UPDATE=1 node test/config-schema.test.ts')
})

test('every setting is explained', () => {
  const { properties } = configSchema() as { properties: Record<string, { description?: string }> }
  const silent = Object.entries(properties).filter(([name, { description }]) => name !== '$schema' && !description)
  assert.deepEqual(silent, [])
})
