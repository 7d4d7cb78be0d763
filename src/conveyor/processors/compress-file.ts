/** One file, compressed as well as it can be. Runs in a process of the pool. */
import { readFileSync, writeFileSync } from 'node:fs'
import { brotliCompressSync, constants, gzipSync, zstdCompressSync } from 'node:zlib'
import { diskError } from '../../core/disk-error.ts'

/** Ways to compress that browsers know. */
export type Encoding = 'gzip' | 'brotli' | 'zstd'

/** The work on one file. */
export interface CompressTask {
  file: string
  /** Where the results are written, by encoding. */
  targets: Partial<Record<Encoding, string>>
}

const compress: Record<Encoding, (bytes: Buffer) => Buffer> = {
  gzip: (bytes) => gzipSync(bytes, { level: 9 }),
  brotli: (bytes) => {
    const { BROTLI_PARAM_QUALITY, BROTLI_PARAM_SIZE_HINT, BROTLI_MAX_QUALITY } = constants
    const params = { [BROTLI_PARAM_QUALITY]: BROTLI_MAX_QUALITY, [BROTLI_PARAM_SIZE_HINT]: bytes.length }
    return brotliCompressSync(bytes, { params })
  },
  zstd: (bytes) => zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 19 } }),
}

/** Writes what is smaller than the file, and tells which encodings that are. */
export function compressFile({ file, targets }: CompressTask): Encoding[] {
  try {
    const bytes = readFileSync(file)
    return (Object.entries(targets) as [Encoding, string][]).flatMap(([encoding, target]) => {
      const compressed = compress[encoding](bytes)
      if (compressed.length >= bytes.length) return []
      writeFileSync(target, compressed, { flag: 'wx' })
      return [encoding]
    })
  } catch (error) {
    throw diskError(error, `${file} cannot be compressed`) ?? error
  }
}
