import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mergeEvents, type FileEvent } from './events.ts'

const table: [FileEvent, FileEvent, FileEvent | undefined][] = [
  ['created', 'created', 'created'],
  ['created', 'modified', 'created'],
  ['created', 'deleted', undefined],
  ['modified', 'created', 'modified'],
  ['modified', 'modified', 'modified'],
  ['modified', 'deleted', 'deleted'],
  ['deleted', 'created', 'modified'],
  ['deleted', 'modified', 'modified'],
  ['deleted', 'deleted', 'deleted'],
]

for (const [waiting, added, result] of table)
  test(`${waiting}, then ${added}, comes to ${result ?? 'nothing'}`, () => {
    assert.equal(mergeEvents(waiting, added), result)
  })
