/** Reads tables that other programs have left in SQLite files. Nothing in them is changed. */
import { existsSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'
import { StowageError } from '../core/errors.ts'
import type { Row } from './database.ts'

/** All rows of a query on such a file. Rejects with NOT_FOUND without a file, and with CORRUPT when it is not what was expected. */
export function foreignRows(file: string, sql: string): Row[] {
  if (!existsSync(file)) throw new StowageError('NOT_FOUND', `There is no file ${file}.`)
  let engine: DatabaseSync | undefined
  try {
    engine = new DatabaseSync(file, { readOnly: true })
    return engine.prepare(sql).all() as Row[]
  } catch (error) {
    throw new StowageError('CORRUPT', `${file} cannot be read: ${(error as Error).message}.`, { cause: error })
  } finally {
    engine?.close()
  }
}
