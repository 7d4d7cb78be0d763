/** The contract of processors: what turns one file into what is delivered in its place. */

/** What a processor is given. Paths are of the local disk. */
export interface ProcessorInput {
  /** The present content: the original, or what an earlier processor made. Read it, never change it. */
  file: string
  /** The present base name: the original's, or what an earlier processor made of it. */
  name: string
  /** The original, and its path relative to its source. */
  sourceFile: string
  sourcePath: string
  /** For processors whose output differs per destination. Absent for all others. */
  destination?: {
    store: string
    path: string
    /**
     * What a reference in this file must be at this destination: the address of the delivered file, with query and
     * fragment as they were; relative where the store has no public URL. References to what is not delivered there, and
     * to other sites, come back as they are. When the address changes later this file is processed again by itself.
     * Rejects while the delivery is still to come: let that through, and the file is processed again when it has come.
     */
    addressOf: (reference: string) => Promise<string>
  }
  /** A directory of this run alone, made at the first call; new content goes there. */
  workDirectory: () => Promise<string>
  /** Tells the operator what is odd about the file, or about the machine. The chain adds the names. */
  warn: (message: string) => void
  /** Fires when the time limit has passed or the daemon stops. */
  signal: AbortSignal
}

/** What a processor made. What is left out stays as it was. */
export interface ProcessorOutput {
  /** Path of the new content. */
  file?: string
  /** New base name; never a path. */
  name?: string
  /**
   * The new name changes whenever the original's content does, so caches may keep for ever what it names. Another name
   * given later takes that back.
   */
  versioned?: boolean
  /** Files delivered beside this one, such as compressed ones. They are dropped when a later processor makes new content. */
  variants?: readonly Variant[]
}

/** Another form of the same content. It goes where the file goes, and with it. */
export interface Variant {
  file: string
  /** What its name has after that of the file, such as `.gz`. */
  suffix: string
}

/** One step of a chain. Processors may change name and content, never the directory. */
export interface Processor {
  readonly name: string
  /** With the options it was made with, part of the fingerprint: when it changes, files are processed again. */
  readonly version: string
  /** Files of other extensions pass unchanged. Lower case, without the dot; absent means all. */
  readonly extensions?: readonly string[]
  /** The output depends on the destination, so the chain runs once for each. */
  readonly differsPerDestination?: boolean
  /** For heavy work: so many runs at once. The time limit begins with a run's turn. Default: as many as there are files in hand. */
  readonly concurrency?: number
  process(input: ProcessorInput): Promise<ProcessorOutput | undefined>
}
