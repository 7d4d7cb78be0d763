import { testDriver } from '../testing/index.ts'
import { memoryDriver } from './memory.ts'

testDriver('memory', async () => ({ driver: memoryDriver() }))
