import assert from 'node:assert/strict'
import * as http from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { StowageError } from '../core/errors.ts'
import { collect, toBody } from '../core/bytes.ts'
import { memoryDriver } from '../drivers/memory.ts'
import { checkPlace, type CheckPlaceOptions } from './check.ts'
import type { Driver } from './driver.ts'
import { readOnly } from './wrappers/read-only.ts'
import { renamed } from './wrappers/renamed.ts'

async function statesOf(driver: Driver, options?: CheckPlaceOptions) {
  const findings = await Array.fromAsync(checkPlace(driver, options))
  return Object.fromEntries(findings.map(({ ability, state, code }) => [ability, code ? `${state} ${code}` : state]))
}

const unsigned = 'unsupported UNSUPPORTED'

/** A memory of which calls can be replaced. */
function place(changes: Partial<Driver> = {}): Driver {
  const inner = memoryDriver()
  const same = (key: string) => key
  return { ...renamed(inner, { inner: same, outer: same }), list: inner.list.bind(inner), ...changes }
}

const denied = async (): Promise<never> => {
  throw new StowageError('DENIED', 'You may not.')
}

test('a place where everything works is left as it was', async () => {
  const driver = place()
  await driver.write('a', toBody('x'))
  assert.deepEqual(await statesOf(driver), {
    write: 'works',
    read: 'works',
    range: 'works',
    list: 'works',
    'signed URL': unsigned,
    delete: 'works',
  })
  assert.deepEqual(await Array.fromAsync(driver.list(''), ({ key }) => key), ['a'])
})

test('an ability that is denied does not keep the others from being tried, and what is left behind is named', async () => {
  const driver = place({ delete: denied, stat: denied })
  const states = await statesOf(driver)
  assert.deepEqual([states['write'], states['list'], states['delete']], ['works', 'works', 'fails DENIED'])
  const [left] = await Array.fromAsync(driver.list(''), ({ key }) => key)
  const findings = await Array.fromAsync(checkPlace(driver))
  assert.match(findings.at(-1)?.why ?? '', /You may not\. The file stowage-check-[0-9a-f-]+ is left there/)
  assert.match(left ?? '', /^stowage-check-/)
})

test('whoever may not list is not asked to', async () => {
  const list = async function* () {
    await denied()
    yield { kind: 'file' as const, key: 'x', size: 1 }
  }
  const states = await statesOf(place({ list }))
  assert.deepEqual([states['read'], states['list'], states['delete']], ['works', 'fails DENIED', 'works'])
})

test('a place that gives back other bytes, or loses what it has taken, is found out', async () => {
  const driver = memoryDriver()
  const wrong = place({ read: async (_, options) => driver.read('wrong', options) })
  await driver.write('wrong', toBody(Buffer.alloc(100_000)))
  const states = await statesOf(wrong)
  assert.deepEqual([states['read'], states['range']], ['fails CORRUPT', 'fails CORRUPT'])
  const forgetful = place({ list: () => memoryDriver().list(''), delete: async () => undefined })
  const found = await statesOf(forgetful)
  assert.deepEqual([found['list'], found['delete']], ['fails CORRUPT', 'fails CORRUPT'])
})

test('where nothing may be written, what is there is read; where there is nothing, that is said', async () => {
  const driver = memoryDriver()
  const untried = { list: 'works', 'signed URL': unsigned, delete: unsigned, write: unsigned }
  assert.deepEqual(await statesOf(readOnly(driver)), { ...untried, read: 'untried', range: 'untried' })
  await driver.write('a', toBody('x'))
  assert.deepEqual(await statesOf(readOnly(driver)), { ...untried, read: 'works', range: 'works' })
  const asked = await statesOf(driver, { readOnly: true, key: 'a' })
  assert.deepEqual([asked['write'], asked['read'], asked['delete']], ['untried', 'works', 'untried'])
  assert.deepEqual(await Array.fromAsync(driver.list(''), ({ key }) => key), ['a'])
})

test('a place that cannot be reached is not waited for again and again', async () => {
  let asked = 0
  const write = async () => {
    asked++
    throw new StowageError('UNREACHABLE', 'Nobody there.')
  }
  const list = async function* () {
    await write()
    yield { kind: 'file' as const, key: 'x', size: 1 }
  }
  const states = await statesOf(place({ write, list }))
  assert.deepEqual(
    [states['write'], states['read'], states['delete'], asked],
    ['fails UNREACHABLE', 'untried', 'untried', 1],
  )
})

test('a step that takes too long is a TIMEOUT, and a fired signal ends the check', async () => {
  const write = async (_key: string, _body: unknown, options?: { signal?: AbortSignal }) =>
    new Promise<never>((_, reject) => {
      options?.signal?.addEventListener('abort', () => reject(new StowageError('ABORTED', 'cancelled')))
    })
  assert.equal((await statesOf(place({ write }), { timeoutMs: 10 }))['write'], 'fails TIMEOUT')
  await assert.rejects(statesOf(place(), { signal: AbortSignal.abort() }), { code: 'ABORTED' })
})

test('a signed URL is fetched, and must give what was stored', async (t) => {
  const contents = new Map<string, Buffer>()
  const server = http.createServer((request, response) => {
    const found = contents.get(request.url ?? '')
    response.writeHead(found ? 200 : 403).end(found)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as AddressInfo
  const driver: Driver = place({ signedUrl: async (key) => `http://127.0.0.1:${port}/${key}` })
  assert.equal((await statesOf(driver))['signed URL'], 'fails DENIED')
  const serving: Driver = {
    ...driver,
    signedUrl: async (key) => {
      contents.set(`/${key}`, await collect((await driver.read(key)).body))
      return `http://127.0.0.1:${port}/${key}`
    },
  }
  assert.equal((await statesOf(serving))['signed URL'], 'works')
})
