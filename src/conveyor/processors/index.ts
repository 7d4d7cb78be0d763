/** The processors by name: those that come with Stowage, and those of other packages. */
import { createRequire } from 'node:module'
import * as path from 'node:path'
import { pathToFileURL } from 'node:url'
import { StowageError } from '../../core/errors.ts'
import type { Processor } from '../processor.ts'

/** A processor as the configuration names it; other properties are its options. */
export type ProcessorSpec = string | { readonly use: string; readonly [option: string]: unknown }

type Module = Record<string, unknown>

const builtIn: Record<string, () => Promise<Module>> = {
  __proto__: null as never,
  command: () => import('./command.ts') as Promise<Module>,
  'css-links': () => import('./css-links.ts') as Promise<Module>,
  filename: () => import('./filename.ts') as Promise<Module>,
  'image-optimizer': () => import('./image-optimizer.ts') as Promise<Module>,
  'google-closure-compiler': async () => ({ default: (await import('./minify-programs.ts')).googleClosureCompiler }),
  minify: () => import('./minify.ts') as Promise<Module>,
  'yui-compressor': async () => ({ default: (await import('./minify-programs.ts')).yuiCompressor }),
  precompress: () => import('./precompress.ts') as Promise<Module>,
  'unique-filename': () => import('./unique-filename.ts') as Promise<Module>,
}

/** The names that File Conveyor had for them. */
const formerNames: Record<string, string> = {
  __proto__: null as never,
  'filename.SpacesToUnderscores': 'filename.spacesToUnderscores',
  'filename.SpacesToDashes': 'filename.spacesToDashes',
  'unique_filename.Mtime': 'unique-filename.mtime',
  'unique_filename.MD5': 'unique-filename.md5',
  'image_optimizer.Max': 'image-optimizer.max',
  'image_optimizer.KeepMetadata': 'image-optimizer.keepMetadata',
  'image_optimizer.KeepFilename': 'image-optimizer.keepFilename',
  'image_optimizer.KeepMetadataAndFilename': 'image-optimizer.keepMetadataAndFilename',
  'yui_compressor.YUICompressor': 'yui-compressor',
  'google_closure_compiler.GoogleClosureCompiler': 'google-closure-compiler',
  'link_updater.CSSURLUpdater': 'css-links',
}

/**
 * Finds a processor: `package.export` where the package is one of ours, a module that can be imported from `directory`
 * (the configuration's), or a path to a file there. The export is a {@link Processor}, or a function that makes one of
 * the options. The names of File Conveyor are known, too. Rejects with INVALID_CONFIG.
 */
export async function loadProcessor(spec: ProcessorSpec, directory: string): Promise<Processor> {
  const { use: given, ...options } = typeof spec === 'string' ? { use: spec } : spec
  const use = formerNames[given] ?? given
  const [moduleName, exportName] = splitName(use)
  const loaded = await importModule(moduleName, use, directory)
  const found = loaded[exportName]
  const made: unknown = typeof found === 'function' ? found(options) : found
  if (!isProcessor(made)) {
    const names = Object.keys(loaded).filter((name) => name !== 'default')
    throw new StowageError(
      'INVALID_CONFIG',
      `The module ${moduleName} has no processor ${JSON.stringify(exportName)}.`,
      {
        hint: `It has: ${names.join(', ') || 'nothing'}.`,
      },
    )
  }
  return Object.keys(options).length > 0
    ? { ...bound(made), version: `${made.version} ${JSON.stringify(options)}` }
    : made
}

/** `unique-filename.md5` is the export md5 of the module unique-filename; the export is what follows the last dot. */
function splitName(use: string): [string, string] {
  const last = use.lastIndexOf('.')
  if (last > 0 && builtIn[use.slice(0, last)]) return [use.slice(0, last), use.slice(last + 1)]
  const file = /^(.+\.(?:[cm]?[jt]s))(?:\.([A-Za-z_$][\w$]*))?$/.exec(use)
  if (file?.[1]) return [file[1], file[2] ?? 'default']
  return last > 0 ? [use.slice(0, last), use.slice(last + 1)] : [use, 'default']
}

async function importModule(name: string, use: string, directory: string): Promise<Module> {
  const own = builtIn[name]
  if (own) return own()
  try {
    const resolve = createRequire(path.join(directory, 'stowage.config.js'))
    return (await import(pathToFileURL(resolve.resolve(name)).href)) as Module
  } catch (error) {
    throw new StowageError(
      'INVALID_CONFIG',
      `The processor ${JSON.stringify(use)} cannot be loaded: ${(error as Error).message.split('\n')[0]}.`,
      {
        cause: error,
        hint: `Stowage has ${Object.keys(builtIn).join(', ')}; other processors are named by module, as in "some-package.someProcessor".`,
      },
    )
  }
}

function isProcessor(value: unknown): value is Processor {
  const { name, version, process } = (value ?? {}) as Partial<Processor>
  return typeof name === 'string' && typeof version === 'string' && typeof process === 'function'
}

/** A copy whose `process` still finds its own `this`. */
function bound(processor: Processor): Processor {
  return {
    ...processor,
    name: processor.name,
    version: processor.version,
    process: (input) => processor.process(input),
  }
}
