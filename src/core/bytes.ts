/** Bodies: turning what callers have into bytes that flow, and measuring them on the way. */
import { StowageError } from './errors.ts'
import { FileBody } from './file-body.ts'

/** Everything a caller may give as content. */
export type Content = string | Uint8Array | AsyncIterable<Uint8Array | string>

/** Content as a flow of bytes. Text becomes UTF-8; a body of a file stays what it is. */
export function toBody(content: Content): AsyncIterable<Uint8Array> {
  return content instanceof FileBody ? content : flow(content)
}

async function* flow(content: Content): AsyncGenerator<Uint8Array> {
  if (typeof content === 'string') yield Buffer.from(content)
  else if (content instanceof Uint8Array) yield content
  else for await (const chunk of content) yield typeof chunk === 'string' ? Buffer.from(chunk) : chunk
}

/** All bytes of a body at once. Rejects with INVALID_ARGUMENT past `maxBytes` (default 1 GiB). */
export async function collect(body: AsyncIterable<Uint8Array>, maxBytes = 2 ** 30): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.byteLength
    if (size > maxBytes)
      throw new StowageError('INVALID_ARGUMENT', `The content is larger than ${maxBytes} bytes.`, {
        hint: 'Stream it.',
      })
    chunks.push(chunk)
  }
  return chunks.length === 1 && Buffer.isBuffer(chunks[0]) ? chunks[0] : Buffer.concat(chunks, size)
}
