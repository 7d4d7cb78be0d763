/** Many listeners of one signal, cheaply: adding and removing listeners of an AbortSignal costs more than a small request. */

const listeners = new WeakMap<AbortSignal, Set<() => void>>()

/** Calls the listener when the signal fires, at once if it has. Returns how to stop listening. */
export function onAbort(signal: AbortSignal | undefined, listener: () => void): () => void {
  if (!signal) return () => undefined
  if (signal.aborted) {
    listener()
    return () => undefined
  }
  const known = listeners.get(signal)
  const all = known ?? new Set()
  if (!known) {
    listeners.set(signal, all)
    signal.addEventListener('abort', () => all.forEach((each) => each()), { once: true })
  }
  all.add(listener)
  return () => all.delete(listener)
}
