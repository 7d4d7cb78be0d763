/** Whether it is worth delivering what was made smaller. */

/** Is it smaller by one percent at least? What is minified already would only become another file, again and again. */
export function isWorthwhile(before: number, after: number): boolean {
  return after < before * 0.99
}
