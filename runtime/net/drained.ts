// The wait of a handler that answers with a stream until its caller has taken what was written.
import type { ServerWritable } from "./grpc.ts";

const ends = ["drain", "close", "cancelled"] as const;

/** Or nobody reads it any more. */
export function drained<I, O>(call: ServerWritable<I, O>): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      for (const event of ends) call.off(event, done);
      resolve();
    };
    for (const event of ends) call.on(event, done);
  });
}
