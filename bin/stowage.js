#!/usr/bin/env node
// Starts the command line, compiled if it is, and on a node that is new enough: the package brings one for older machines.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import module, { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const needed = 24
const compiled = new URL('../dist/cli/main.js', import.meta.url)
const source = new URL('../src/cli/main.ts', import.meta.url)

if (Number(process.versions.node.split('.')[0]) >= needed) {
  endWithParent()
  module.enableCompileCache?.()
  const { main } = await import((existsSync(source) && !process.env.STOWAGE_COMPILED ? source : compiled).href)
  await main(process.argv)
} else {
  const newer = findNewerNode()
  if (newer) restart(newer)
  else {
    console.error(
      `stowage: Node ${process.versions.node} is too old; Stowage needs ${needed} or newer. Try: npm install node@${needed}`,
    )
    process.exitCode = 1
  }
}

function findNewerNode() {
  const { resolve } = createRequire(import.meta.url)
  for (const name of ['node/bin/node', 'node/bin/node.exe'])
    try {
      return resolve(name)
    } catch {
      // Not installed, or not under this name.
    }
  return undefined
}

/** The same command on the newer node, with our standard streams; signals are passed on, and its end is ours. */
function restart(node) {
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
  })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1']) process.on(signal, () => child.kill(signal))
  child.on('error', (error) => {
    console.error(`stowage: ${node} cannot be started: ${error.message}`)
    process.exitCode = 1
  })
  child.on('exit', (code, signal) => {
    if (signal) process.removeAllListeners(signal)
    if (signal) process.kill(process.pid, signal)
    else process.exitCode = code ?? 1
  })
}

/** When who restarted us is gone, killed perhaps, the channel between us closes: nobody could stop us any more. */
function endWithParent() {
  if (!process.channel) return
  process.on('disconnect', () => process.kill(process.pid, 'SIGTERM'))
  process.channel.unref()
}
