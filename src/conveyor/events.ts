/** What can happen to a file, and what two happenings come to when the first has not been dealt with yet. */

/** What happened to a file. */
export type FileEvent = 'created' | 'modified' | 'deleted'

const merged: Record<FileEvent, Record<FileEvent, FileEvent | undefined>> = {
  created: { created: 'created', modified: 'created', deleted: undefined },
  modified: { created: 'modified', modified: 'modified', deleted: 'deleted' },
  deleted: { created: 'modified', modified: 'modified', deleted: 'deleted' },
}

/** Joins an event that still waits with a newer one of the same file. Undefined: the two cancel each other out. */
export function mergeEvents(waiting: FileEvent, added: FileEvent): FileEvent | undefined {
  return merged[waiting][added]
}
