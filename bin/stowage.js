#!/usr/bin/env node
// Starts the command line, compiled if it is, and on a node that is new enough: the package brings one for older machines.
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const needed = 24
const compiled = new URL('../dist/cli/main.js', import.meta.url)
const source = new URL('../src/cli/main.ts', import.meta.url)

if (Number(process.versions.node.split('.')[0]) >= needed) {
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
  try {
    return createRequire(import.meta.url).resolve('node/bin/node')
  } catch {
    return undefined
  }
}

/** The same command on the newer node, with our standard streams; signals are passed on, and its end is ours. */
function restart(node) {
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => {
    if (signal) process.removeAllListeners(signal)
    if (signal) process.kill(process.pid, signal)
    else process.exitCode = code ?? 1
  })
}
