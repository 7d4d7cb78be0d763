/** Published as `stowage/testing`: the suite that every driver, wrapper and composite must pass, fake time, and faults. */
export { testDriver } from './driver-suite.ts'
export { fakeClock, type FakeClock } from './fake-clock.ts'
export { faulty, type FaultMoment, type FaultOptions } from '../store/wrappers/faults.ts'
