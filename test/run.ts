/** Runs every test of the project with node's own runner and ends with its summary and status. */
import { spawnSync } from 'node:child_process'
import { globSync } from 'node:fs'

const files = globSync(['src/**/*.test.ts', 'test/**/*.test.ts']).sort()
const result = spawnSync(process.execPath, ['--test', '--test-timeout=900000', '--test-reporter=spec', ...files], {
  stdio: 'inherit',
})
process.exitCode = result.status ?? 1
