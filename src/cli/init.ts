/** `stowage init [DIRECTORY]`: a configuration to start from, with what one sets most explained. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import * as path from 'node:path'
import { StowageError } from '../core/errors.ts'
import { configNames } from '../daemon/config.ts'
import type { Context } from './main.ts'

/** Writes the file. An existing configuration, whatever its format, is not touched. */
export async function run(
  { output }: Context,
  [directory = '.']: string[],
  options: { format?: string },
): Promise<undefined> {
  const format = options.format ?? 'ts'
  const text = Object.hasOwn(templates, format) ? templates[format] : undefined
  if (text === undefined)
    throw new StowageError('INVALID_ARGUMENT', `There is no format ${JSON.stringify(format)}.`, {
      hint: `There are: ${Object.keys(templates).join(', ')}.`,
    })
  const taken = configNames.map((name) => path.join(directory, name)).find((file) => existsSync(file))
  if (taken !== undefined)
    throw new StowageError('EXISTS', `There is a configuration already: ${taken}.`, {
      hint: 'Move it away first, or edit it.',
    })
  const file = path.join(directory, `stowage.config.${format}`)
  mkdirSync(directory, { recursive: true })
  writeFileSync(file, text, { flag: 'wx' })
  output.object({ file: path.resolve(file) })
  output.line(`Wrote ${file}. Edit it, put files into ./site beside it, then run: stowage sync`)
  return undefined
}

const ts = `import { defineConfig } from 'stowage'

// Relative paths start at this file. Durations: 500ms, 10s, 10m, 2h, 3d, 5w. Sizes: 100B, 64KiB, 5MB, 10GiB.
export default defineConfig({
  // Remembers what was delivered where.
  state: 'stowage.db',

  // Named places to keep files. Several URLs in a list are one store in several places, the nearest first.
  stores: {
    public: 'file:./published',
    // public: {
    //   url: 's3://env:S3_KEY:env:S3_SECRET@s3.amazonaws.com/static?s3_bucket=my-bucket',
    //   publicUrl: 'https://cdn.example.com/static/',
    // },
    // uploads: { filestore: { directory: './uploads', remote: 'public' } }, // local first, offloaded when they have rested
  },

  // Directories that are watched.
  sources: {
    site: {
      directory: './site',
      // ignore: ['.git', 'node_modules', '*.tmp'],
      // settle: '500ms', // how long a file must have rested before it is taken
      // polling: '30s', // look every so often instead of listening, as network file systems need
    },
  },

  // Which files go through what, to which stores. Every rule that matches a file applies to it.
  rules: [
    {
      label: 'everything',
      source: 'site',
      // filter: { paths: ['assets'], extensions: ['css', 'js', 'png'], ignoredDirs: ['drafts'], size: { minimum: 1 } },
      // processors: ['unique-filename.md5'], // file.css becomes file_0cc175b9….css
      destinations: [{ store: 'public' }], // { store: 'public', path: 'static', maxConnections: 8 }
      // deleteSourceAfter: '1d', // delete the original so long after it was delivered everywhere
    },
  ],
})
`

const yaml = `# yaml-language-server: $schema=./node_modules/stowage/config.schema.json
# Relative paths start at this file. Durations: 500ms, 10s, 10m, 2h, 3d, 5w. Sizes: 100B, 64KiB, 5MB, 10GiB.

# Remembers what was delivered where.
state: stowage.db

# Named places to keep files. Several URLs in a list are one store in several places, the nearest first.
stores:
  public: file:./published
  # public:
  #   url: s3://env:S3_KEY:env:S3_SECRET@s3.amazonaws.com/static?s3_bucket=my-bucket
  #   publicUrl: https://cdn.example.com/static/
  # uploads: { filestore: { directory: ./uploads, remote: public } }   # local first, offloaded when they have rested

# Directories that are watched.
sources:
  site:
    directory: ./site
    # ignore: ['.git', 'node_modules', '*.tmp']
    # settle: 500ms     # how long a file must have rested before it is taken
    # polling: 30s      # look every so often instead of listening, as network file systems need

# Which files go through what, to which stores. Every rule that matches a file applies to it.
rules:
  - label: everything
    source: site
    # filter: { paths: [assets], extensions: [css, js, png], ignoredDirs: [drafts], size: { minimum: 1 } }
    # processors: [unique-filename.md5]   # file.css becomes file_0cc175b9….css
    destinations:
      - store: public                     # path: static, maxConnections: 8
    # deleteSourceAfter: 1d               # delete the original so long after it was delivered everywhere
`

/** JSON has no comments; editors explain it by its schema. */
const json = `{
  "$schema": "./node_modules/stowage/config.schema.json",
  "state": "stowage.db",
  "stores": { "public": "file:./published" },
  "sources": { "site": { "directory": "./site" } },
  "rules": [{ "label": "everything", "source": "site", "destinations": [{ "store": "public" }] }]
}
`

const templates: Record<string, string> = { ts, yaml, json }
