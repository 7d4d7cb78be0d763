/** PNG: the same pixels in fewer bytes, and only the chunks that are to stay. */
import { crc32 } from 'node:zlib'
import { optionalPackage } from '../optional-package.ts'
import { orientationOf, orientationOnly } from './exif.ts'
import { checkSize, damaged, smallest, type ImageSettings, type Optimized } from './limits.ts'

interface Chunk {
  name: string
  /** With length, name and checksum. */
  bytes: Buffer
}

const signatureLength = 8
/** Length, name and checksum around the data of a chunk. */
const frameLength = 12
/** Chunks that decide how pixels look, besides those that all decoders must know. */
const looks = ['tRNS', 'gAMA', 'cHRM', 'sRGB', 'iCCP', 'cICP', 'mDCV', 'mDCv', 'cLLI', 'cLLi']
/** Offsets into the compressed data, which are wrong once that is compressed anew. */
const offsets = 'iDOT'

/**
 * Compresses a PNG anew. What decides on colours and orientation stays, the other metadata if they are to. Animated ones are
 * left as they are. Throws CORRUPT for a file that is not whole; every chunk has a checksum.
 */
export async function optimizePng(bytes: Buffer, settings: ImageSettings): Promise<Optimized> {
  const chunks = readPng(bytes)
  const header = chunks[0]?.bytes as Buffer
  checkSize(header.readUInt32BE(8), header.readUInt32BE(12), 1, settings)
  if (chunks.some(({ name }) => name === 'acTL')) return {}
  const { losslessCompressPngSync } = await optionalPackage('@napi-rs/image', async () => import('@napi-rs/image'))
  const compressed = losslessCompressPngSync(bytes, { strip: false })
  const candidates = [compressed, bytes].map((each) => withoutMetadata(each, settings))
  const best = smallest(bytes, candidates)
  return best ? { bytes: best } : {}
}

function readPng(bytes: Buffer): Chunk[] {
  const chunks: Chunk[] = []
  for (let at = signatureLength; chunks.at(-1)?.name !== 'IEND'; ) {
    if (at + frameLength > bytes.length) throw damaged('is a PNG without its end')
    const end = at + frameLength + bytes.readUInt32BE(at)
    if (end > bytes.length) throw damaged('is a PNG without its end')
    const name = bytes.toString('latin1', at + 4, at + 8)
    if (crc32(bytes.subarray(at + 4, end - 4)) !== bytes.readUInt32BE(end - 4))
      throw damaged(`is a PNG whose ${JSON.stringify(name)} is not what its checksum says`)
    chunks.push({ name, bytes: bytes.subarray(at, end) })
    at = end
  }
  const [header] = chunks
  if (header?.name !== 'IHDR' || header.bytes.length !== frameLength + 13) throw damaged('is a PNG without a header')
  return chunks
}

function withoutMetadata(bytes: Buffer, { keepMetadata }: ImageSettings): Buffer {
  const kept = readPng(bytes).flatMap((chunk) => {
    const { name } = chunk
    if (keepMetadata) return name === offsets ? [] : [chunk]
    if (isCritical(name) || looks.includes(name)) return [chunk]
    const orientation = name === 'eXIf' ? orientationOf(chunk.bytes.subarray(8, -4)) : 1
    return orientation === 1 ? [] : [makeChunk('eXIf', orientationOnly(orientation))]
  })
  return Buffer.concat([bytes.subarray(0, signatureLength), ...kept.map((chunk) => chunk.bytes)])
}

/** The case of the first letter says whether a decoder may do without the chunk. */
function isCritical(name: string): boolean {
  return name < 'a'
}

function makeChunk(name: string, data: Buffer): Chunk {
  const bytes = Buffer.alloc(frameLength + data.length)
  bytes.writeUInt32BE(data.length, 0)
  bytes.write(name, 4, 'latin1')
  data.copy(bytes, 8)
  bytes.writeUInt32BE(crc32(bytes.subarray(4, -4)), bytes.length - 4)
  return { name, bytes }
}
