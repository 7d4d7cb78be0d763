/** Published as `stowage/testing`: the suite that every driver, wrapper and composite must pass. */
export { testDriver } from './driver-suite.ts'
