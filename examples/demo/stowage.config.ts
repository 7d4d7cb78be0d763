/** The configuration of the demo. Copy it; yours will look like it. */
import { defineConfig } from '../../src/index.ts' // in your project: from 'stowage'

// Where the demo keeps what it makes.
const base = process.env['STOWAGE_DEMO_DIR'] ?? `${import.meta.dirname}/.demo`

export default defineConfig({
  // Remembers what was delivered, so that nothing is delivered twice.
  state: `${base}/state/stowage.db`,

  // Named places to keep files. Here two directories; a bucket would be
  // s3://env:KEY:env:SECRET@s3.amazonaws.com/static?s3_bucket=acme
  stores: {
    mirror: { url: `file://${base}/mirror` },
    cdn: { url: `file://${base}/cdn`, publicUrl: 'https://cdn.example.com/' },
  },

  // What is watched.
  sources: {
    site: { directory: `${base}/site`, settle: '100ms' },
  },

  // Which files go where, and through what. All rules that match a file apply to it.
  rules: [
    { label: 'everything, as it is', source: 'site', destinations: [{ store: 'mirror' }] },
    {
      label: 'what browsers may keep for ever',
      source: 'site',
      filter: { extensions: ['css', 'js', 'svg', 'png', 'jpg', 'jpeg', 'gif', 'woff', 'woff2', 'html'] },
      processors: ['filename.spacesToDashes', 'unique-filename.md5'],
      destinations: [{ store: 'cdn', path: 'static' }],
    },
  ],
})
