// Waits until a client's channel is connected, so that callers need not wait for the transport's timeout of 20 s.
import { type Channel, connectivityState } from "@grpc/grpc-js";
import { AppError, messageOf } from "../../crds/common.ts";

/** Throws `Unavailable` after timeoutMs or a failure. */
export async function whenReady(channel: Channel, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  try {
    let state = channel.getConnectivityState(true);
    while (state !== connectivityState.READY) {
      if (state === connectivityState.TRANSIENT_FAILURE) throw new Error("the connection failed");
      await changed(channel, state, deadline);
      // Connecting would revive a closed channel.
      if (channel.getConnectivityState(false) === connectivityState.SHUTDOWN) throw new Error("the channel was closed");
      state = channel.getConnectivityState(true);
    }
  } catch (cause) {
    // also from a channel that was closed meanwhile
    throw new AppError(`${channel.getTarget()}: ${messageOf(cause)}`, {
      code: "Unavailable",
      operation: "connecting",
      cause,
      retry: "backoff",
    });
  }
}

function changed(channel: Channel, state: connectivityState, deadline: number): Promise<void> {
  return new Promise((resolve, reject) => {
    channel.watchConnectivityState(state, deadline, (error) => (error ? reject(new Error("no connection in time")) : resolve()));
  });
}
