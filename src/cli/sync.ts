/** `stowage sync`: scan, process, deliver, exit. */
import { formatBytes } from '../core/units.ts'
import { loadConfig } from '../daemon/config.ts'
import { startDaemon, type Progress } from '../daemon/daemon.ts'
import { bar, exitCodes } from './output.ts'
import type { Context } from './main.ts'

/** Runs one sync. Exit status 3 when some files could not be delivered; they stay queued or set aside. */
export async function run({ config: file, output, signal }: Context): Promise<number> {
  const config = await loadConfig(file)
  await using daemon = await startDaemon({ config, log: output.log('warn') })
  const onProgress = ({ scanned, total, done, bytes }: Progress) =>
    output.progress(
      () =>
        `${output.isTerminal ? `${bar(done, total)} ` : ''}${done} of ${total} files, ${formatBytes(bytes)}, ${scanned} looked at`,
      { everywhere: true },
    )
  const summary = await daemon.sync({ signal, ...(output.json ? {} : { onProgress }) })
  output.object(summary)
  const { scanned, delivered, deleted, failed, setAside, bytes, milliseconds } = summary
  const seconds = (milliseconds / 1000).toFixed(1)
  output.line(
    `${scanned} files looked at, ${delivered} delivered (${formatBytes(bytes)}), ${deleted} removed, ${failed} failed, in ${seconds} s.`,
  )
  for (const { path, reason } of setAside.slice(0, 20)) output.line(`  set aside: ${path}: ${reason}`)
  if (setAside.length > 20) output.line(`  … and ${setAside.length - 20} more: stowage status`)
  if (signal.aborted) return exitCodes.interrupted
  return failed > 0 ? exitCodes.someFailed : exitCodes.done
}
