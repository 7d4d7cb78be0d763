/** A store whose place can be replaced while it is in use. */
import { finished } from 'node:stream'
import { StowageError } from '../../core/errors.ts'
import type { Driver } from '../driver.ts'
import { Store } from '../store.ts'

/** A driver that stands for another, which may change. */
export interface Replaceable extends Driver {
  /**
   * Later calls are for `next`, from now on. Calls under way, with their bodies and listings, end on the driver that was
   * there, which is then closed; resolves after that. After `close` it rejects with CLOSED, and `next` is closed.
   */
  replace(next: Driver): Promise<void>
}

/**
 * Stands for a driver until it is replaced; location, abilities and shortcuts are always those of the present one. A
 * wrapper around it that has copied them keeps working: a shortcut the present driver lacks is done the longer way.
 */
export function replaceable(driver: Driver): Replaceable {
  let current = new Era(driver)
  const eras = new Set([current])
  let isClosed = false
  const run = async <T>(work: (driver: Driver) => Promise<T>): Promise<T> => current.run(work)
  const self: Replaceable = {
    ...faceOf(driver, run, () => current.driver),
    read: async (key, call) => {
      const era = current
      const leave = era.enter()
      try {
        const opened = await era.driver.read(key, call)
        finished(opened.body, leave)
        return opened
      } catch (error) {
        leave()
        throw error
      }
    },
    write: async (key, body, call) => run(async (present) => present.write(key, body, call)),
    stat: async (key, call) => run(async (present) => present.stat(key, call)),
    list: async function* (directory, call) {
      const era = current
      const leave = era.enter()
      try {
        yield* era.driver.list(directory, call)
      } finally {
        leave()
      }
    },
    delete: async (key, call) => run(async (present) => present.delete(key, call)),
    replace: async (next) => {
      if (isClosed) {
        await next.close()
        throw new StowageError('CLOSED', `${current.driver.location} was closed and cannot be replaced.`)
      }
      const former = current
      current = new Era(next)
      eras.add(current)
      for (const name of shortcutNames) delete self[name]
      Object.assign(
        self,
        faceOf(next, run, () => current.driver),
      )
      await former.end()
      eras.delete(former)
    },
    close: async () => {
      isClosed = true
      await Promise.all([...eras].map(async (era) => era.driver.close()))
    },
  }
  return self
}

const shortcutNames = ['copy', 'move', 'deleteMany', 'writeBytes', 'signedUrl', 'localPath', 'link'] as const

/** What is seen of a driver without calling it, and its shortcuts, each made to go where the present driver is. */
function faceOf(
  driver: Driver,
  run: Era['run'],
  present: () => Driver,
): Pick<Driver, 'location' | 'supports' | (typeof shortcutNames)[number]> {
  const stored = async <T>(work: (store: Store) => Promise<T>) => run(async (inner) => work(new Store(inner)))
  return {
    location: driver.location,
    supports: driver.supports,
    ...(driver.copy && { copy: async (from, to, call) => stored(async (store) => store.copy(from, to, call)) }),
    ...(driver.move && { move: async (from, to, call) => stored(async (store) => store.move(from, to, call)) }),
    ...(driver.deleteMany && {
      deleteMany: async (keys, call) => stored(async (store) => store.deleteMany(keys, call)),
    }),
    ...(driver.writeBytes && {
      writeBytes: async (key, bytes, call) => stored(async (store) => store.put(key, bytes, call)),
    }),
    ...(driver.signedUrl && { signedUrl: async (key, how) => stored(async (store) => store.signedUrl(key, how)) }),
    ...(driver.localPath && { localPath: (key) => new Store(present()).localPath(key) }),
    ...(driver.link && {
      link: async (key, file, kind, call) =>
        run(async (inner) => {
          if (inner.link) return inner.link(key, file, kind, call)
          throw new StowageError('UNSUPPORTED', `${inner.location} keeps no links.`)
        }),
    }),
  } satisfies Partial<Driver>
}

/** The time of one driver, and how many calls it has in hand. */
class Era {
  readonly driver: Driver
  #calls = 0
  #idle: PromiseWithResolvers<void> | undefined

  constructor(driver: Driver) {
    this.driver = driver
  }

  /** Counts a call; returns how to say, once, that it has ended. */
  enter(): () => void {
    this.#calls++
    return () => {
      if (--this.#calls === 0) this.#idle?.resolve()
    }
  }

  async run<T>(work: (driver: Driver) => Promise<T>): Promise<T> {
    const leave = this.enter()
    try {
      return await work(this.driver)
    } finally {
      leave()
    }
  }

  /** Closes the driver after its last call. */
  async end(): Promise<void> {
    this.#idle = Promise.withResolvers()
    if (this.#calls === 0) this.#idle.resolve()
    await this.#idle.promise
    await this.driver.close()
  }
}
