/** Peak memory of delivering a file of 64 MiB and one of 1 GiB: it must not depend on the size. Needs nginx-light, time. */
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from 'node:fs'
import { randomBytes } from 'node:crypto'
import * as path from 'node:path'
import { measure } from './measure.ts'
import { configure, report, startSink, stowage, workplace } from './scene.ts'

const base = workplace('/tmp')
const port = startSink()
const places = {
  directory: `file://${base}/out`,
  s3: `s3://key:secret@127.0.0.1:${port}/ours?s3_bucket=bench&use_ssl=false`,
}

for (const [place, url] of Object.entries(places)) {
  const contestants = [1024, 64].map((megabytes) => {
    const directory = path.join(base, `${place}-${megabytes}`)
    mkdirSync(path.join(directory, 'site'), { recursive: true })
    fill(path.join(directory, 'site/file'), megabytes)
    const prepare = () => rmSync(path.join(directory, 'state'), { recursive: true, force: true })
    return stowage(
      `${place}, ${megabytes} MiB`,
      ['sync', ...configure(directory, path.join(directory, 'site'), url)],
      prepare,
    )
  })
  report(`One file to a ${place}`, measure(contestants, 3))
}

function fill(file: string, megabytes: number) {
  const descriptor = openSync(file, 'w')
  for (let i = 0; i < megabytes; i++) writeSync(descriptor, randomBytes(1 << 20))
  closeSync(descriptor)
}
