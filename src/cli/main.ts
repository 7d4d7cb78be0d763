/** The command line. Each verb has a file of its own, loaded when it is used. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError, Option } from 'commander'
import { codeOf } from '../core/errors.ts'
import { errorText, exitCodes, Output, redact } from './output.ts'

/** What every verb is given. */
export interface Context {
  /** File given with --config. */
  config: string | undefined
  output: Output
  /** Fires at the first SIGINT or SIGTERM; its reason is the signal's name. */
  signal: AbortSignal
}

/** Does a verb; returns the exit status, or nothing for 0. */
export type Verb = (context: Context, values: string[], options: Record<string, unknown>) => Promise<number | undefined>

interface Description {
  name: string
  summary: string
  /** Arguments as commander writes them. */
  values?: string[]
  options?: [flags: string, description: string][]
  examples: string[]
  load: () => Promise<{ run: Verb }>
}

const where = (subject: string) => `
${subject} a storage URL whose path ends in the key (s3://env:KEY:env:SECRET@host/photos/a.jpg?s3_bucket=b), or a key
in a store of the configuration (media:photos/a.jpg), or a whole store (media:). cp, put and get take local paths too;
"./media" is always a path.`

const actionHelp = `
Actions (the NAME of the filestore may be left out when there is only one):
  status [NAME]                    how many files are where, what waits, what is in trouble
  offload [NAME] [PREFIX]          bring local files to the cloud now, without waiting for their cool-down
  recall [NAME] [PREFIX]           bring files back to the local directory
  migrate [NAME] [PREFIX]          bring files from one remote to another, while they are in use
  pause [NAME], resume [NAME]      send nothing for a while
  restore [NAME] [KEY...]          bring deleted files back
  verify [NAME] [PREFIX]           look whether everything is where it should be
  gc [NAME]                        find what nobody needs any more
PREFIX is the beginning of keys: photos/ or photos/2026-. Moves go on where they were when they are interrupted.`

const verbs: Description[] = [
  {
    name: 'init',
    summary: 'write a configuration to start from',
    values: ['[directory]'],
    options: [['--format <format>', 'ts, json or yaml (default ts)']],
    examples: ['stowage init', 'stowage init /srv/site --format yaml'],
    load: async () => import('./init.ts'),
  },
  {
    name: 'up',
    summary: 'watch, process and deliver until told to stop',
    options: [
      ['--verbose', 'say every delivery'],
      ['--pid-file <file>', 'write the id of the process there, and remove it at the end'],
      ['--log-level <level>', 'debug, info, warn or error. Default: info'],
      ['--log-format <format>', 'text or json. Default: text, and json with --json'],
    ],
    examples: [
      'stowage up',
      'stowage up --config /etc/stowage.config.yaml --json',
      'stowage up --pid-file /run/stowage/stowage.pid --log-level warn',
    ],
    load: async () => import('./up.ts'),
  },
  {
    name: 'service',
    summary: 'print what systemd or supervisor needs to keep `stowage up` running',
    values: ['<systemd|supervisor>'],
    options: [
      ['--user <user>', 'who it runs as. Default: you'],
      ['--name <name>', 'what it is called. Default: stowage'],
    ],
    examples: ['stowage service systemd', 'stowage service supervisor --user media --config /etc/stowage.config.yaml'],
    load: async () => import('./service.ts'),
  },
  {
    name: 'import',
    summary: 'carry over the configuration of another program; known is fileconveyor',
    values: ['<program>', '<file>'],
    options: [
      ['--output <file>', 'where to write ours. Default: stowage.config.yaml'],
      ['--data <directory>', 'the directory of synced_files.db: what was delivered is not sent again'],
    ],
    examples: [
      'stowage import fileconveyor config.xml',
      'stowage import fileconveyor config.xml --data /srv/fileconveyor',
    ],
    load: async () => import('./import.ts'),
  },
  {
    name: 'sync',
    summary: 'scan, process and deliver once, then exit',
    examples: ['stowage sync', 'stowage sync --json'],
    load: async () => import('./sync.ts'),
  },
  {
    name: 'status',
    summary: 'show what is watched, what waits and what was set aside',
    examples: ['stowage status', 'stowage status --json'],
    load: async () => import('./status.ts'),
  },
  {
    name: 'retry',
    summary: 'take up again what was set aside',
    values: ['[key]'],
    examples: ['stowage retry', 'stowage retry site/css/main.css'],
    load: async () => import('./retry.ts'),
  },
  {
    name: 'explain',
    summary: 'say what is known about a file, which rules match, and what happens next',
    values: ['<path>'],
    examples: ['stowage explain site/css/main.css'],
    load: async () => import('./explain.ts'),
  },
  {
    name: 'assets',
    summary: 'print the asset manifest: each file of a source and its public address',
    examples: ['stowage assets', 'stowage assets --json > assets.json'],
    load: async () => import('./assets.ts'),
  },
  {
    name: 'check',
    summary: 'try out stores: what works with these credentials, and why not',
    values: ['[where...]'],
    options: [
      ['--read-only', 'change nothing: read what is there'],
      ['--key <key>', 'a file to read where none may be written'],
    ],
    examples: [
      'stowage check',
      'stowage check public',
      'stowage check --read-only https://example.com/media --key a.jpg',
    ],
    load: async () => import('./check.ts'),
  },
  {
    name: 'store',
    summary: 'list stores, try them, and save where a store is that the configuration leaves open',
    values: ['<list|test|set|unset>', '[name]', '[url]'],
    examples: [
      'stowage store list',
      'stowage store test media',
      'stowage store set media < url.txt',
      'stowage store set media env:MEDIA_URL',
      'stowage store set media file:/run/secrets/media-url',
      'stowage store unset media',
    ],
    load: async () => import('./store.ts'),
  },
  {
    name: 'filestore',
    summary: 'show what a filestore has where, move its files, restore deleted ones, and check them',
    values: ['<action>', '[name]', '[values...]'],
    options: [
      ['--dry-run', 'offload, recall, migrate: only say how much it would be'],
      ['--rate <size>', 'offload, recall, migrate: so many bytes a second at most, such as 10MB'],
      ['--stop', 'offload, recall, migrate: end the one that is under way'],
      ['--no-wait', 'offload, recall, migrate: do not wait for the end'],
      ['--drop', 'recall: remove the copies in the cloud too, after deleteAfter'],
      ['--from <store>', 'migrate: where files are'],
      ['--to <store>', 'migrate: where they are to be'],
      ['--keep', 'migrate: leave the copies where they are too'],
      ['--remote <store>', 'pause, resume: only what is sent there'],
      ['--prefix <prefix>', 'restore: all keys that begin like this'],
      ['--list', 'restore: only show what can be restored'],
      ['--repair', 'verify: do what can be done about what is found'],
      ['--content', 'verify: read every copy, not only look whether it is there'],
      ['--delete', 'gc: remove what is left over'],
      ['--unknown', 'gc: also what the registry knows nothing of; it may be somebody else’s'],
    ],
    examples: [
      'stowage filestore status',
      'stowage filestore offload photos/2025/ --rate 10MB',
      'stowage filestore recall uploads photos/ --dry-run',
      'stowage filestore migrate --from old --to new',
      'stowage filestore pause --remote public',
      'stowage filestore restore --list',
      'stowage filestore restore photos/cat.jpg',
      'stowage filestore verify --repair',
      'stowage filestore gc --delete',
    ],
    load: async () => import('./filestore.ts'),
  },
  {
    name: 'verify',
    summary: 'look whether everything that was delivered is where it should be',
    values: ['[source]'],
    options: [
      ['--content', 'read everything and compare it, not only look whether it is there'],
      ['--url', 'ask the public addresses too; with --content they are read'],
      ['--repair', 'deliver again what is missing or damaged'],
    ],
    examples: ['stowage verify', 'stowage verify site --content --repair', 'stowage verify --url --json'],
    load: async () => import('./verify.ts'),
  },
  {
    name: 'repair',
    summary: 'make the locations of a store level again; deletes nothing',
    values: ['<where>'],
    options: [
      ['--dry-run', 'only say what would be copied'],
      ['--content', 'compare by reading, not by size, where there are no digests'],
    ],
    examples: ['stowage repair --dry-run media:', 'stowage repair media:2026'],
    load: async () => import('./repair.ts'),
  },
  {
    name: 'cloudfront',
    summary: 'make a CloudFront distribution of a bucket, or make one forget files',
    values: ['<create|invalidate>', '[distribution]', '[keys...]'],
    options: [
      ['--bucket <name>', 'create: the bucket, as NAME.s3.amazonaws.com'],
      ['--comment <text>', 'create: what it is for'],
      ['--origin-access-control <id>', 'create: how a bucket that is not public knows CloudFront'],
      ['--wait', 'create: until it is deployed, which takes minutes'],
    ],
    examples: [
      'stowage cloudfront create --bucket acme.s3.amazonaws.com --wait',
      "stowage cloudfront invalidate E1A2B3C4D5E6F7 css/main.css 'img/*'",
    ],
    load: async () => import('./cloudfront.ts'),
  },
  {
    name: 'ls',
    summary: 'list what is below a directory of a store',
    values: ['<where>'],
    options: [
      ['-r, --recursive', 'everything below, not one level'],
      ['-l, --long', 'with size and time'],
    ],
    examples: ['stowage ls public:', 'stowage ls -lr file:///srv/media/2026'],
    load: async () => import('./ls.ts'),
  },
  {
    name: 'cat',
    summary: 'write a stored file to standard output',
    values: ['<where>'],
    examples: ['stowage cat public:robots.txt'],
    load: async () => import('./cat.ts'),
  },
  {
    name: 'cp',
    summary: 'copy a file, or with -r a directory, from store to store',
    values: ['<from>', '<to>'],
    options: [
      ['-r, --recursive', 'a directory with all below it'],
      ['--verify', 'read each copy back and compare'],
      ['--max-connections <n>', 'files at once (default: adapts by itself)'],
      ['--progress', 'say now and then how far it is, also where there is no terminal'],
    ],
    examples: [
      'stowage cp public:a.jpg backup:',
      "stowage cp -r ./photos 's3://env:KEY:env:SECRET@host/photos?s3_bucket=b'",
    ],
    load: async () => import('./cp.ts'),
  },
  {
    name: 'put',
    summary: 'store a local file, or standard input given as -',
    values: ['<file>', '<where>'],
    examples: ['stowage put logo.png public:img/logo.png', 'date | stowage put - public:date.txt'],
    load: async () => import('./put.ts'),
  },
  {
    name: 'get',
    summary: 'fetch a stored file to the local disk, whole or not at all',
    values: ['<where>', '[file]'],
    examples: ['stowage get public:img/logo.png', 'stowage get public:img/logo.png /tmp/logo.png'],
    load: async () => import('./get.ts'),
  },
  {
    name: 'rm',
    summary: 'delete stored files',
    values: ['<where...>'],
    options: [
      ['-r, --recursive', 'directories with all below them'],
      ['-y, --yes', 'do not ask'],
    ],
    examples: ['stowage rm public:old.jpg', 'stowage rm -r --yes public:old'],
    load: async () => import('./rm.ts'),
  },
  {
    name: 'stat',
    summary: 'show what is known about a stored file',
    values: ['<where>'],
    examples: ['stowage stat public:img/logo.png'],
    load: async () => import('./stat.ts'),
  },
  {
    name: 'url',
    summary: 'print the public address of a stored file, or a signed one',
    values: ['<where>'],
    options: [
      ['--signed <duration>', 'an address that works without credentials for so long, such as 1h'],
      ['--upload', 'with --signed: for storing the file with PUT instead of reading it'],
    ],
    examples: ['stowage url public:img/logo.png', 'stowage url --signed 1h private:report.pdf'],
    load: async () => import('./url.ts'),
  },
]

/** Runs a command line and sets the exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 done but some files failed. */
export async function main(argv: readonly string[]): Promise<void> {
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => interrupt(stop, signal))
  // `stowage ls … | head` closes the pipe: no reason to complain.
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) =>
      process.exit(error.code === 'EPIPE' ? exitCodes.done : exitCodes.failed),
    )
  const program = new Command('stowage')
    .description('Keeps an application’s files where they belong.')
    .showHelpAfterError('(see stowage --help)')
    .addHelpText(
      'after',
      `${where('WHERE is')}

Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 3 done but some files failed, 130 interrupted.
\`stowage VERB --help\` explains a verb.`,
    )
    .version(version(), '-V, --version')
    .configureOutput({ outputError: (text, write) => write(redact(text.replace(/^error: /, 'stowage: '))) })
    .exitOverride()
  for (const verb of verbs) addVerb(program, verb, stop.signal)
  try {
    await program.parseAsync([...argv])
  } catch (error) {
    process.exitCode = report(error, argv.includes('--json'), stop.signal.aborted)
  }
}

function whereHelp(values: readonly string[]): string {
  if (values.includes('<from>')) return where('FROM and TO are each')
  if (values.includes('<action>')) return actionHelp
  return values.some((value) => value.includes('where')) ? where('WHERE is') : ''
}

function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

function addVerb(program: Command, verb: Description, signal: AbortSignal) {
  const command = program
    .command([verb.name, ...(verb.values ?? [])].join(' '))
    .summary(verb.summary)
    .description(verb.summary)
  for (const [flags, description] of verb.options ?? []) command.addOption(new Option(flags, description))
  command
    .option('--config <file>', 'the configuration (default: stowage.config.ts, .js, .json or .yaml here)')
    .option('--json', 'answer in JSON, for programs')
    .addHelpText('after', whereHelp(verb.values ?? []))
    .addHelpText('after', `\nExamples:\n${verb.examples.map((example) => `  ${example}`).join('\n')}`)
    .exitOverride()
    .action(async (...args: unknown[]) => {
      const { config, json, ...options } = args.at(-2) as { config?: string; json?: boolean }
      const values = args
        .slice(0, -2)
        .flat()
        .map((value) => value as string)
      const { run } = await verb.load()
      process.exitCode =
        (await run({ config, output: new Output(json ?? false), signal }, values, options)) ?? exitCodes.done
    })
}

/** Two signals closer than this are one: a terminal and the process above us may both pass on the same key press. */
const sameKeyPressMs = 200

/** The first signal asks; the second does not. */
function interrupt(stop: AbortController, signal: NodeJS.Signals) {
  const now = performance.now()
  interruptedMs ??= now
  if (!stop.signal.aborted) stop.abort(signal)
  else if (now - interruptedMs > sameKeyPressMs) process.exit(exitCodes.interrupted)
}

let interruptedMs: number | undefined

/** Says what went wrong, and returns the exit status for it. */
function report(error: unknown, json: boolean, isInterrupted: boolean): number {
  // Commander has said it by then; help and version are no errors.
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.done : exitCodes.wrongUsage
  const code = codeOf(error)
  const message = errorText(error)
  process.stderr.write(json ? `${JSON.stringify({ error: { code, message } })}\n` : `stowage: ${message}\n`)
  if (process.env['DEBUG'] && error instanceof Error) process.stderr.write(`${redact(String(error.stack))}\n`)
  if (isInterrupted) return exitCodes.interrupted
  return code === 'INVALID_CONFIG' || code === 'INVALID_ARGUMENT' || code === 'INVALID_KEY'
    ? exitCodes.wrongUsage
    : exitCodes.failed
}
