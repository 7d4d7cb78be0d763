/** The public surface of Stowage. */
export { StowageError, codeOf, isNotFound, type ErrorCode, type ErrorDetails } from './core/errors.ts'
export { cleanKey, compareKeys } from './core/keys.ts'
export { formatBytes, parseDuration, parseSize } from './core/units.ts'
export type * from './store/driver.ts'
export { readOnly } from './store/wrappers/read-only.ts'
export { Store, type Key, type StoreOptions } from './store/store.ts'
export { fileDriver, type FileOptions } from './drivers/file.ts'
export { memoryDriver } from './drivers/memory.ts'
