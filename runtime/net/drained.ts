// Waits until the caller of a stream has taken what was written.
import type { ServerWritable } from "./grpc.ts";

const ends = ["drain", "close", "cancelled"] as const;

/** It also resolves when nobody reads any more. */
export function drained<I, O>(call: ServerWritable<I, O>): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      for (const event of ends) call.off(event, done);
      resolve();
    };
    for (const event of ends) call.on(event, done);
  });
}
