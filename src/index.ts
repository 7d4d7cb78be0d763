/** The public surface of Stowage. */
export { systemClock, type Clock } from './core/clock.ts'
export { StowageError, codeOf, isNotFound, type ErrorCode, type ErrorDetails } from './core/errors.ts'
export { asciiKey, cleanKey, compareKeys } from './core/keys.ts'
export { AdaptiveLimit, Limit, type AdaptiveLimitOptions } from './core/limit.ts'
export { jsonLog, silentLog, textLog, type Level, type Log } from './core/log.ts'
export { retry, type RetryOptions } from './core/retry.ts'
export { formatBytes, parseDuration, parseSize } from './core/units.ts'
export type * from './store/driver.ts'
export {
  locations,
  PartialFailure,
  type Found,
  type Locations,
  type LocationsOptions,
  type Outcome,
  type Partial,
  type Which,
} from './store/locations.ts'
export { checkPlace, type CheckPlaceOptions, type Finding } from './store/check.ts'
export { FileWriter } from './store/file-writer.ts'
export { repair, repairKey, type Repaired, type RepairOptions, type RepairSummary } from './store/repair.ts'
export { mounted } from './store/mounts.ts'
export {
  Store,
  type Key,
  type Located,
  type StoreOptions,
  type TransferOptions,
  type TransferProgress,
  type UploadBatchOptions,
  type UploadOutcome,
  type UploadProgress,
} from './store/store.ts'
export { createWorkbench, sweepWorkbenches, type Workbench } from './store/workbench.ts'
export { faulty, type FaultMoment, type FaultOptions } from './store/wrappers/faults.ts'
export { limited } from './store/wrappers/limit.ts'
export { prefixed } from './store/wrappers/prefix.ts'
export { readOnly } from './store/wrappers/read-only.ts'
export { replaceable, type Replaceable } from './store/wrappers/replaceable.ts'
export { retrying } from './store/wrappers/retry.ts'
export { sharded } from './store/wrappers/shard.ts'
export { fileDriver, type FileOptions } from './drivers/file.ts'
export { openDriver, openStore, type OpenOptions } from './drivers/index.ts'
export {
  openStores,
  type OpenStoresOptions,
  type StorePlace,
  type Stores,
  type StoreSettings,
} from './drivers/stores.ts'
export { memoryDriver } from './drivers/memory.ts'
export { AssetUrls, type AssetManifest, type AssetUrl, type AssetUrlsOptions } from './conveyor/assets.ts'
export { Cache, type CacheOptions, type CacheStatistics, type Origin } from './cache/cache.ts'
export { cached, type CachedOptions } from './cache/cached.ts'
export {
  Filestore,
  type FilestoreOptions,
  type FilestoreStatus,
} from './filestore/filestore.ts'
export { openFilestore, type OpenFilestoreOptions } from './filestore/open.ts'
export type { FilestoreEvents } from './filestore/events.ts'
export type { CollectOptions, Orphan } from './filestore/orphans.ts'
export type { Fault, VerifyOptions } from './filestore/verifier.ts'
export type { MoveOrder, MoveProgress } from './filestore/mover.ts'
export { shortened, type RemoteName, type Remotes, type Route, type Routed, type Rule } from './filestore/routes.ts'
export type { Processor, ProcessorInput, ProcessorOutput } from './conveyor/processor.ts'
export type { DeliveryEvent } from './conveyor/conveyor.ts'
export type { Explanation } from './conveyor/explain.ts'
export { checkConfig, configSchema, defineConfig, loadConfig, type Config, type ConfigInput } from './daemon/config.ts'
export {
  startDaemon,
  type Daemon,
  type DaemonOptions,
  type Progress,
  type Status,
  type Summary,
} from './daemon/daemon.ts'
export type { ListedStore, PlaceSettings, SavedStores, Trial } from './daemon/saved-stores.ts'
