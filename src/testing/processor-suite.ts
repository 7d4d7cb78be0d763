/** The conformance suite of processors: each promise of `Processor` as one test. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as fs from 'node:fs'
import { tmpdir } from 'node:os'
import * as path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { runChain, type Processed } from '../conveyor/chain.ts'
import { lookAt, type Original } from '../conveyor/original.ts'
import type { Processor, ProcessorInput } from '../conveyor/processor.ts'
import { StowageError } from '../core/errors.ts'

/** A base name and what is in the file. */
export interface NamedContent {
  name: string
  content: Buffer
  /** What is delivered beside it. */
  variants?: readonly NamedContent[]
}

/** What the suite needs to know of a processor. */
export interface ProcessorSuite {
  /** Makes the processor. With `strict`, one that holds back what is broken; asked for only where `broken` is given. */
  make: (options: { strict: boolean }) => Processor | Promise<Processor>
  /** Files it works on. At least one of them must come out changed. */
  samples: readonly NamedContent[]
  /** Throws unless the output is valid and stands for the input. */
  check?: (output: NamedContent, input: NamedContent) => void | Promise<void>
  /** Tells what metadata a file has, of those that the processor promises to keep. */
  metadata?: (file: NamedContent) => unknown
  /** The address at the destination of what a sample refers to. Default: the reference as it is. */
  addressOf?: (reference: string) => Promise<string>
  /** The output may be larger than the input. */
  mayGrow?: boolean
  /** Files with its extensions that it cannot work on: damaged, too large, something else than their name says. */
  broken?: readonly NamedContent[]
}

/** Declares the suite for one processor. */
export function testProcessor(name: string, suite: ProcessorSuite): void {
  describe(`processor ${name}`, () => {
    const bench = new Bench()
    before(async () => bench.open(await suite.make({ strict: false }), suite.addressOf))
    after(() => bench.close())
    testDescription(bench, suite)
    testOutput(bench, suite)
    testNames(bench, suite)
    testCompany(bench, suite)
    testEnds(bench, suite)
    testBroken(bench, suite)
  })
}

interface Run {
  result: Processed
  output: NamedContent
  warnings: string[]
}

/** Where originals lie, and where processors work. */
class Bench {
  #processor: Processor | undefined
  #addressOf = async (reference: string) => reference
  #base = ''
  #runs = 0

  open(processor: Processor, addressOf = this.#addressOf) {
    this.#processor = processor
    this.#addressOf = addressOf
    this.#base = fs.mkdtempSync(path.join(tmpdir(), 'stowage-processor-'))
  }

  close() {
    fs.rmSync(this.#base, { recursive: true, force: true })
  }

  get processor(): Processor {
    assert.ok(this.#processor)
    return this.#processor
  }

  /** A directory nobody has used. */
  directory(): string {
    const directory = path.join(this.#base, String(this.#runs++))
    fs.mkdirSync(directory)
    return directory
  }

  /** All originals are equally old, so that names made of times can be compared. */
  original({ name, content }: NamedContent): Original {
    const root = this.directory()
    fs.mkdirSync(path.join(root, 'a directory'))
    fs.writeFileSync(path.join(root, 'a directory', name), content)
    fs.utimesSync(path.join(root, 'a directory', name), 1_700_000_000, 1_700_000_000)
    return lookAt(root, `a directory/${name}`) as Original
  }

  options(workDirectory: string) {
    return {
      destination: { store: 'store', path: '', addressOf: this.#addressOf },
      workDirectory: async () => workDirectory,
      timeLimitMs: 60_000,
      signal: new AbortController().signal,
    }
  }

  async run(file: NamedContent, processors = [this.processor], workDirectory = this.directory()): Promise<Run> {
    const warnings: string[] = []
    const warn = (message: string) => warnings.push(message)
    const result = await runChain(processors, this.original(file), { ...this.options(workDirectory), warn })
    const [content, ...others] = [result, ...result.variants].map((each) => fs.readFileSync(each.file)) as [Buffer]
    const variants = others.map((other, index) => ({
      name: result.name + result.variants[index]?.suffix,
      content: other,
    }))
    return { result, output: { name: result.name, content, variants }, warnings }
  }
}

function testDescription(bench: Bench, { samples }: ProcessorSuite) {
  test('it has a name, a version, and extensions that can match', async () => {
    const { name, version, extensions } = bench.processor
    assert.ok(name !== '' && version !== '')
    for (const extension of extensions ?? []) assert.match(extension, /^[^.A-Z]+$/)
    for (const sample of samples)
      assert.ok(extensions?.includes(extensionOf(sample)) ?? true, `${sample.name} passes it by`)
  })
}

function testOutput(bench: Bench, suite: ProcessorSuite) {
  test('it changes something of at least one sample', async () => {
    const runs = await Promise.all(suite.samples.map(async (sample) => bench.run(sample)))
    assert.ok(runs.some(({ output }, index) => !isSame(output, suite.samples[index] as NamedContent)))
  })
  for (const sample of suite.samples) {
    const title = JSON.stringify(sample.name)
    test(`${title} comes out valid, and not larger unless that is allowed`, async () => {
      const { output } = await bench.run(sample)
      await suite.check?.(output, sample)
      for (const { content } of [output, ...(output.variants ?? [])])
        assert.ok(suite.mayGrow || content.length <= sample.content.length)
    })
    const { metadata } = suite
    if (metadata)
      test(`of ${title} the metadata that is promised is kept`, async () => {
        const { output } = await bench.run(sample)
        assert.deepEqual(await metadata(output), await metadata(sample))
      })
    test(`${title} comes out the same however often it is done, and its result is not changed any more`, async () => {
      const [first, second] = [await bench.run(sample), await bench.run(sample)]
      assert.ok(isSame(first.output, second.output))
      const again = await bench.run(first.output)
      assert.ok(again.output.content.equals(first.output.content))
    })
    test(`the original ${title} stays as it is, and what is made of it lies in the work directory`, async () => {
      const [original, directory] = [bench.original(sample), bench.directory()]
      const { file } = await runChain([bench.processor], original, bench.options(directory))
      assert.ok(file === original.file || path.dirname(path.relative(directory, file)).split(path.sep)[0] !== '..')
      assert.ok(fs.readFileSync(original.file).equals(sample.content))
      assert.equal(fs.statSync(original.file).mtimeMs, 1_700_000_000_000)
      assert.deepEqual(fs.readdirSync(path.dirname(original.file)), [sample.name])
    })
  }
}

/** Names that somebody who pastes them into a command line, or takes them for a path, would regret. */
const oddStems = ['-o --help', '$(touch hurt)', `quo'te"`, 'a;b&c|d', 'new\nline', 'ünï 日本', '..', '%2e%2e', '#1']

function testNames(bench: Bench, { samples }: ProcessorSuite) {
  const [sample] = samples
  if (!sample) return
  const { ext } = path.posix.parse(sample.name)
  test('names compose: the present name counts, not that of the original', async () => {
    const present = `the present name${ext}`
    const rename: Processor = { name: 'rename', version: '1', process: async () => ({ name: present }) }
    const renamed = await bench.run({ ...sample, name: `another${ext}` }, [rename, bench.processor])
    const named = await bench.run({ ...sample, name: present })
    assert.equal(renamed.output.name, named.output.name)
  })
  for (const stem of oddStems)
    test(`the name ${JSON.stringify(stem + ext)} means nothing to it`, async () => {
      const odd = await bench.run({ ...sample, name: stem + ext })
      assert.ok(odd.output.content.equals((await bench.run(sample)).output.content))
    })
}

function testCompany(bench: Bench, { samples }: ProcessorSuite) {
  test('many at once, in one work directory, come out as each does alone', async () => {
    const directory = bench.directory()
    const many = [...samples, ...samples, ...samples]
    const together = await Promise.all(many.map(async (sample) => bench.run(sample, [bench.processor], directory)))
    for (const [index, sample] of many.entries())
      assert.ok(isSame(together[index]?.output, (await bench.run(sample)).output), sample.name)
  })
}

function testEnds(bench: Bench, { samples }: ProcessorSuite) {
  const [sample] = samples
  if (!sample) return
  test('a run that is cancelled, or out of time, before it begins comes to an end, and the next is as good as ever', async () => {
    const expected = await bench.run(sample)
    const outOfTime = AbortSignal.timeout(1)
    await once(outOfTime, 'abort')
    for (const signal of [AbortSignal.abort(), outOfTime])
      await bench.processor.process(inputFor(bench, sample, { signal })).catch(() => undefined)
    assert.ok(isSame((await bench.run(sample)).output, expected.output))
  })
  test('a run that is cancelled half-way comes to an end, leaves nothing in the way, and the next is as good as ever', async () => {
    const expected = await bench.run(sample)
    const [directory, controller] = [bench.directory(), new AbortController()]
    const workDirectory = async () => {
      setImmediate(() => controller.abort())
      return directory
    }
    const cut = inputFor(bench, sample, { signal: controller.signal, workDirectory })
    await bench.processor.process(cut).catch(() => undefined)
    fs.rmSync(directory, { recursive: true })
    assert.ok(isSame((await bench.run(sample)).output, expected.output))
    assert.equal(fs.existsSync(directory), false)
  })
}

function testBroken(bench: Bench, { make, samples, broken = [] }: ProcessorSuite) {
  for (const { name } of samples)
    test(`an empty ${JSON.stringify(name)} stays empty, or is refused with a reason`, async () => {
      const run = bench.run({ name, content: Buffer.alloc(0) })
      const content = await run.then(({ output }) => output.content, reasonOf)
      if (Buffer.isBuffer(content)) assert.equal(content.length, 0)
    })
  for (const file of broken) {
    test(`the broken ${JSON.stringify(file.name)} is passed on as it is, with a warning`, async () => {
      const { output, warnings } = await bench.run(file)
      assert.ok(isSame(output, file))
      assert.equal(warnings.length, 1)
    })
    test(`the broken ${JSON.stringify(file.name)} is held back where that is wanted, and not tried again`, async () => {
      const error = reasonOf(await bench.run(file, [await make({ strict: true })]).catch((reason: unknown) => reason))
      assert.equal(error.retryable, false)
    })
  }
}

function reasonOf(error: unknown): StowageError {
  assert.ok(error instanceof StowageError && error.code !== 'UNKNOWN', `this is no reason: ${String(error)}`)
  return error
}

function inputFor(bench: Bench, sample: NamedContent, given: Partial<ProcessorInput>): ProcessorInput {
  const original = bench.original(sample)
  return {
    ...bench.options(bench.directory()),
    file: original.file,
    name: sample.name,
    sourceFile: original.file,
    sourcePath: original.path,
    warn: () => undefined,
    ...given,
  }
}

function extensionOf({ name }: NamedContent): string {
  return path.posix.extname(name).slice(1).toLowerCase()
}

function isSame(a: NamedContent | undefined, b: NamedContent): boolean {
  const [ours = [], theirs = []] = [a?.variants, b.variants]
  const areSame = ours.length === theirs.length && theirs.every((each, index) => isSame(ours[index], each))
  return a?.name === b.name && a.content.equals(b.content) && areSame
}
