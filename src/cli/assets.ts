/** `stowage assets`: the address of every asset. */
import type { AssetManifest } from '../conveyor/assets.ts'
import type { Context } from './main.ts'
import { ask } from './state.ts'

/** Prints the asset manifest: as it is written for applications with --json, else one line for each file. */
export async function run({ config, output }: Context): Promise<undefined> {
  const { answer } = await ask<AssetManifest>(config, 'assets', {}, async (daemon) => daemon.assets())
  output.object(answer)
  for (const [domain, { url, assets }] of Object.entries(answer.domains)) {
    output.line(`${domain}: ${url}`)
    for (const [name, address] of Object.entries(assets)) output.line(`  ${name} → ${address}`)
  }
  return undefined
}
