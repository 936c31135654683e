// Heartbeats between ranks, at either end: a connection of the main thread, which answers while the engine thread computes.
import type { PeerCertificate } from "node:tls";
import { AppError } from "../../crds/common.ts";
import { FailureDetector, peerLimits } from "./failure-detector.ts";
import type { RawFrame } from "./frame-codec.ts";
import { Channel } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { fromSender, type Identity, toSender } from "./mapping.ts";
import { PeerConnection, type PeerTarget } from "./peer-connection.ts";
import type { ChannelServer } from "./peer-server.ts";

export interface HeartbeatTarget extends PeerTarget {
  readonly self: Identity;
}

export interface HeartbeatEvents {
  /** `enginePort`: the port on which the host's engine takes connections; 0: none. */
  answered(enginePort: number): void;
  /** Not called after `close`. */
  closed(reason: AppError): void;
}

export interface HeartbeatCall {
  /** Does nothing before the first answer. */
  ping(): void;
  close(): void;
}

/** The caller judges silence, since its detector outlives connections. The host answers the hello at once. */
export function callHeartbeat(target: HeartbeatTarget, { answered, closed }: HeartbeatEvents): HeartbeatCall {
  let isGreeted = false;
  const hello = { sender: toSender(target.self), channel: Channel.HEARTBEAT };
  const connection = PeerConnection.call(target, hello, new FailureDetector(peerLimits, performance.now()), {
    welcome: ({ enginePort }) => {
      isGreeted = true;
      answered(enginePort);
    },
    pong: ({ enginePort }) => answered(enginePort),
    frame: refuseFrame,
    ended: ({ code, message }) => {
      throw new AppError(message, { code, operation: "waiting for a heartbeat", retry: "backoff" });
    },
    gone: (reason) => closed(reason ?? new AppError("the host ended the connection", { code: "Unavailable", retry: "backoff" })),
  });
  return {
    ping: () => void (isGreeted && connection.ping()),
    close: () => connection.destroy(),
  };
}

export interface HeartbeatHandler {
  /** Throws for callers that are not workers of the deployment. */
  greet(call: { getAuthContext(): { readonly sslPeerCertificate?: PeerCertificate } }, sender: Identity): void;
  /** The port on which the engine takes connections, 0 for none, or why this rank can serve nobody any more. */
  state(): number | AppError;
}

export function serveHeartbeats(handler: HeartbeatHandler): ChannelServer {
  return ({ connection, certificate, hello }) => {
    handler.greet({ getAuthContext: () => ({ sslPeerCertificate: certificate }) }, fromSender(hello.sender));
    const pong = () => {
      const state = handler.state();
      if (!(state instanceof AppError)) return { enginePort: state };
      connection.end(state);
      return {};
    };
    return { pong, frame: refuseFrame, ended: () => connection.destroy(), gone: () => {} };
  };
}

function refuseFrame({ kind }: RawFrame): never {
  throw new AppError(`a frame of kind ${kind} where a heartbeat is due`, { code: "InvalidFrame" });
}
