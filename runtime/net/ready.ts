// The wait until a client's connection stands. Without it a call to an address that swallows packets would wait for the transport's
// own timeout of 20 s; with it callers turn to another rank after their own.
import { type Channel, connectivityState } from "@grpc/grpc-js";
import { AppError } from "../../crds/common.ts";

/** Throws `Unavailable` when it is not within timeoutMs, or failed to connect. */
export async function whenReady(channel: Channel, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  try {
    let state = channel.getConnectivityState(true);
    while (state !== connectivityState.READY) {
      if (state === connectivityState.TRANSIENT_FAILURE) throw new Error("the connection failed");
      await changed(channel, state, deadline);
      // A closed channel that is asked to connect would come back to life.
      if (channel.getConnectivityState(false) === connectivityState.SHUTDOWN) throw new Error("the channel was closed");
      state = channel.getConnectivityState(true);
    }
  } catch (cause) {
    // also what a channel says that was closed meanwhile
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new AppError(`${channel.getTarget()}: ${why}`, { code: "Unavailable", operation: "connecting", cause, retry: "backoff" });
  }
}

function changed(channel: Channel, state: connectivityState, deadline: number): Promise<void> {
  return new Promise((resolve, reject) => {
    channel.watchConnectivityState(state, deadline, (error) => (error ? reject(new Error("no connection in time")) : resolve()));
  });
}
