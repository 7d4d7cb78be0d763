/** An endpoint that answers like CloudFront's API, and keeps what AWS's own client really sent. */
import { createHash } from 'node:crypto'
import * as http from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { parseXml, type XmlElement } from '@rgrove/parse-xml'

/** One request, its body taken apart. */
export interface Asked {
  method: string
  path: string
  /** Of the signature: key id, date, region, service. */
  credential: string[]
  /** Text by the names of elements, as far down as they go: `{ Paths: { Quantity: '1', … } }`. */
  body: Tree
}

/** Elements by name; several of one name are a list. */
export interface Tree {
  [name: string]: string | Tree | (string | Tree)[]
}

/** What the endpoint answers instead of what was asked for. */
export interface Refusal {
  status: number
  code: string
  message?: string
}

/** Starts one for a test. `answers` are given one after another; `undefined` is a good one, as are those after the last. */
export async function fakeCloudFront(t: TestContext, answers: (Refusal | 'hang' | undefined)[] = []) {
  const asked: Asked[] = []
  let polls = 0
  const state = { endpoint: '', asked, pollsUntilDeployed: 0 }
  const server = http.createServer((request, response) => {
    void (async () => {
      const text = Buffer.concat(await request.toArray())
      const digest = createHash('sha256').update(text).digest('hex')
      const { method = '', url: path = '', headers } = request
      const credential = /Credential=([^,]*)\/aws4_request/.exec(headers.authorization ?? '')?.[1]?.split('/') ?? []
      asked.push({ method, path, credential, body: text.length > 0 ? treeOf(parseXml(text.toString()).root) : {} })
      const answer = answers.shift()
      if (answer === 'hang') return
      const isWhole = headers['x-amz-content-sha256'] === digest && credential.length === 4
      const refusal = isWhole ? answer : { status: 403, code: 'SignatureDoesNotMatch' }
      response.writeHead(refusal?.status ?? (method === 'POST' ? 201 : 200), { 'content-type': 'text/xml' })
      response.end(refusal ? errorOf(refusal) : answerTo(path, method === 'GET' && polls++ >= state.pollsUntilDeployed))
    })()
  })
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  state.endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return state
}

const namespace = 'xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"'

function answerTo(path: string, isDeployed: boolean): string {
  if (path.endsWith('/invalidation'))
    return `<Invalidation ${namespace}><Id>I2J3</Id><Status>InProgress</Status></Invalidation>`
  return `<Distribution ${namespace}><Id>E3FERS845MCNLE</Id><Status>${isDeployed ? 'Deployed' : 'InProgress'}</Status>
    <DomainName>dqz4yxndo4z5z.cloudfront.net</DomainName><DistributionConfig><Comment>for tests</Comment><Origins>
    <Quantity>1</Quantity><Items><Origin><Id>x</Id><DomainName>acme.s3.amazonaws.com</DomainName></Origin></Items>
    </Origins></DistributionConfig></Distribution>`
}

function errorOf({ code, message = 'because' }: Refusal): string {
  return `<ErrorResponse ${namespace}><Error><Type>Sender</Type><Code>${code}</Code><Message>${message}</Message></Error>
    <RequestId>r</RequestId></ErrorResponse>`
}

function treeOf(element: XmlElement | null): Tree {
  const tree: Tree = {}
  for (const child of (element?.children ?? []) as XmlElement[]) {
    if (child.type !== 'element') continue
    const isLeaf = !child.children.some(({ type }) => type === 'element')
    const value = isLeaf ? child.text : treeOf(child)
    const before = tree[child.name]
    tree[child.name] = before === undefined ? value : [before, value].flat()
  }
  return tree
}
