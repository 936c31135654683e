// Waiting in tests for what happens beside them. processes/process.ts has polls that give a value and can be aborted.
import { setTimeout as sleep } from "node:timers/promises";

const everyMs = 5;

/** Waits until it holds; the error says what was waited for. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, timeoutMs = 60_000): Promise<void> {
  for (const end = Date.now() + timeoutMs; !(await holds()); await sleep(everyMs))
    if (Date.now() > end) throw new Error(`${what}: not within ${timeoutMs} ms`);
}

/** The outcome of a promise, which has to come in time. */
export function within<T>(ms: number, promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
