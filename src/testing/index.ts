/** Published as `stowage/testing`: the suites that drivers and processors must pass, fake time, and faults. */
export { testDriver } from './driver-suite.ts'
export { testProcessor, type NamedContent, type ProcessorSuite } from './processor-suite.ts'
export { fakeClock, type FakeClock } from './fake-clock.ts'
export { faulty, type FaultMoment, type FaultOptions } from '../store/wrappers/faults.ts'
