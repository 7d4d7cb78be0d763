/** A processor to begin from: texts become upper case, with a mark at the end. Its test is test/processor-example.test.ts. */
import { randomUUID } from 'node:crypto'
import { readFile, writeFile } from 'node:fs/promises'
import * as path from 'node:path'
import type { Processor } from '../../src/index.ts' // in your project: from 'stowage'

/** In a configuration: `use: ./processor/shout.ts.shout`, and beside it `mark: '?'`. */
export const shout = ({ mark = '!' } = {}): Processor => ({
  name: 'shout',
  version: '1',
  extensions: ['txt'],
  async process({ file, workDirectory, signal }) {
    const text = await readFile(file, { encoding: 'utf8', signal })
    if (text === '' || text.endsWith(mark)) return undefined
    const made = path.join(await workDirectory(), randomUUID())
    await writeFile(made, text.toUpperCase() + mark, { signal })
    return { file: made }
  },
})
