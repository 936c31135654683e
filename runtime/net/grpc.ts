// gRPC servers and clients with mutual TLS, bounds and keepalive.
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import type { PeerCertificate } from "node:tls";
import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create } from "@bufbuild/protobuf";
import type { GenService, GenServiceMethods } from "@bufbuild/protobuf/codegenv2";
import * as grpc from "@grpc/grpc-js";
import { AppError, socketWords } from "../../crds/common.ts";
import type { RefusalReport } from "./connections.ts";
import { keepalive } from "./failure-detector.ts";
import { Channel } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { callHeartbeat, type HeartbeatHandler, serveHeartbeats } from "./heartbeat.ts";
import { createTlsListener } from "./listener.ts";
import { peerAlpn } from "./peer-connection.ts";
import { PeerServer } from "./peer-server.ts";
import { type ReadHost, serveReads } from "./read-host.ts";
import { connectReads } from "./read-link.ts";
import { type AnswerBounds, createClient, definition, type Handlers, type ServiceClient } from "./service.ts";
import { type PeerIdentity, peerIdentity, secureContextOf, type TlsSource } from "./tls.ts";

/** A large model's plan exceeds the default of 4 MB. */
export const messageBytesMax = 16 * 1024 * 1024;
/** Twice as fast as the default of 64 KiB. */
const flowControlWindowBytes = 32 * 1024 * 1024;
/** What a caller with bounds does not read stays with the sender. */
const boundedWindowBytes = 256 * 1024;

const sharedOptions: grpc.ChannelOptions = {
  "grpc.max_receive_message_length": messageBytesMax,
  "grpc.max_send_message_length": messageBytesMax,
  "grpc.keepalive_time_ms": keepalive.timeMs,
  "grpc.keepalive_timeout_ms": keepalive.timeoutMs,
  "grpc-node.flow_control_window": flowControlWindowBytes,
};
const clientOptions: grpc.ChannelOptions = {
  ...sharedOptions,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  "grpc.enable_retries": 0, // callers choose another rank instead
  "grpc.enable_http_proxy": 0,
  "grpc.use_local_subchannel_pool": 1, // a restarted pod may reuse the address with another certificate
};

export type ServerWritable<I, O> = grpc.ServerWritableStream<I, O>;
export type ServerDuplex<I, O> = grpc.ServerDuplexStream<I, O>;
export type Caller = Pick<grpc.ServerUnaryCall<unknown, unknown>, "getAuthContext">;

export type GrpcServer = {
  /** Call before `listen`. */
  add<M extends GenServiceMethods>(service: GenService<M>, handlers: Handlers<M>): void;
  /** Call before `listen`. */
  addHeartbeats(handler: HeartbeatHandler): void;
  /** Call before `listen`. `admit` throws for callers who may read nothing. */
  addReads(host: ReadHost, deploymentUid: string, admit: (call: Caller) => void): void;
  /** Binds host:port (0 = any) and returns the port. */
  listen(host: string, port: number): Promise<number>;
  /** Waits up to graceMs for running calls, then cuts them. */
  close(graceMs: number): Promise<void>;
};

export function createServer(tls: TlsSource, report?: RefusalReport): GrpcServer {
  const server = new grpc.Server({ ...sharedOptions, "grpc.keepalive_permit_without_calls": 1 });
  // The listener injects connections after their TLS handshake; calls still see the peer's certificate.
  const { injectConnection } = server.createConnectionInjector(grpc.ServerCredentials.createInsecure());
  const peers = new PeerServer();
  const listener = createTlsListener(tls, { h2: injectConnection, [peerAlpn]: (socket) => peers.accept(socket) }, report);
  return {
    add: (service, handlers) => {
      const implementation: Record<string, unknown> = {};
      for (const method of service.methods) {
        const handler = (handlers as Record<string, unknown>)[method.localName];
        implementation[method.localName] = method.methodKind === "unary" ? unary(handler, method.output) : handler;
      }
      server.addService(definition(service), implementation as grpc.UntypedServiceImplementation);
    },
    addHeartbeats: (handler) => peers.add(Channel.HEARTBEAT, serveHeartbeats(handler)),
    addReads: (...options) => peers.add(Channel.BULK, serveReads(...options)),
    listen: (host, port) => listener.listen(host, port),
    close: async (graceMs) => {
      const stopped = listener.stop();
      server.tryShutdown(() => {}); // it is called back at once: connections close when their last call has ended
      const late = new AbortController();
      const grace = sleep(graceMs, undefined, { signal: late.signal }).catch(() => {});
      await Promise.all([Promise.race([stopped, grace]), peers.close(graceMs)]);
      late.abort();
      server.forceShutdown();
      listener.cut();
      await stopped;
    },
  };
}

type AnyUnary = (request: unknown, call: grpc.ServerUnaryCall<unknown, unknown>) => Promise<MessageInitShape<never>>;

function unary(handler: unknown, output: Parameters<typeof create>[0]): grpc.handleUnaryCall<unknown, MessageShape<typeof output>> {
  return (call, callback) => {
    (handler as AnyUnary)(call.request, call).then(
      (reply) => callback(null, create(output, reply)),
      (error) => callback(toStatus(error)),
    );
  };
}

type Connector = grpc.experimental.SecureConnector;

class SharedContextCredentials extends grpc.ChannelCredentials {
  readonly #tls: Pick<TlsSource, "current">;
  readonly #verify: grpc.VerifyOptions;
  socket: Socket | undefined;

  constructor(tls: Pick<TlsSource, "current">, verify: grpc.VerifyOptions) {
    super();
    this.#tls = tls;
    this.#verify = verify;
  }

  _isSecure(): boolean {
    return true;
  }
  _equals(other: grpc.ChannelCredentials): boolean {
    return this === other;
  }
  _createSecureConnector(...[target, options, call]: Parameters<grpc.ChannelCredentials["_createSecureConnector"]>): Connector {
    const newest = (): Connector => {
      const context = secureContextOf(this.#tls.current());
      return grpc.ChannelCredentials.createFromSecureContext(context, this.#verify)._createSecureConnector(target, options, call);
    };
    return {
      connect: async (socket) => {
        this.socket = socket;
        return newest().connect(socket); // a certificate without its key fails this connection only
      },
      waitForReady: async () => {},
      getCallCredentials: () => call ?? grpc.CallCredentials.createEmpty(),
      destroy: () => {},
    };
  }
}

/** `serverName`: the SAN of the peer; `accept` judges its certificate where the rank is unknown. */
export function connect<M extends GenServiceMethods>(
  service: GenService<M>,
  target: {
    readonly address: string;
    readonly serverName: string;
    readonly tls: TlsSource;
    readonly accept?: (peer: PeerCertificate) => boolean;
    /** Milliseconds between HTTP/2 pings; `receivedBytes` shows their answers. */
    readonly pingEveryMs?: number;
    /** Unset: `messageBytesMax` alone. */
    readonly answer?: AnswerBounds;
  },
): Connected<M> {
  const { accept, pingEveryMs, answer } = target;
  const verify: grpc.VerifyOptions =
    accept === undefined
      ? {}
      : { checkServerIdentity: (_host, cert) => (accept(cert) ? undefined : new Error("not a member's certificate")) };
  const credentials = new SharedContextCredentials(target.tls, verify);
  const client = createClient(service, target.address, credentials, {
    ...clientOptions,
    "grpc.ssl_target_name_override": target.serverName,
    "grpc.default_authority": target.serverName,
    "grpc.max_receive_message_length": answer?.bytesMax ?? messageBytesMax,
    "grpc-node.flow_control_window": answer ? boundedWindowBytes : flowControlWindowBytes,
    answer,
    ...(pingEveryMs === undefined
      ? {}
      : { "grpc.keepalive_time_ms": pingEveryMs, "grpc.keepalive_timeout_ms": keepalive.watchedTimeoutMs }),
  });
  return Object.assign(client, { receivedBytes: () => credentials.socket?.bytesRead ?? 0 });
}

export type Connected<M extends GenServiceMethods> = ServiceClient<M> & { receivedBytes(): number };

export interface Network {
  readonly connect: typeof connect;
  readonly callHeartbeat: typeof callHeartbeat;
  readonly connectReads: typeof connectReads;
  readonly createServer: typeof createServer;
}

export const grpcNetwork: Network = { connect, callHeartbeat, connectReads, createServer };

/** Throws `Unauthenticated` for a stranger. */
export function callerOf(call: Caller, namespace: string, name: string): PeerIdentity {
  const identity = peerIdentity(call.getAuthContext().sslPeerCertificate, namespace, name);
  if (identity !== undefined) return identity;
  throw new AppError(`the caller's certificate names no member of ${namespace}/${name}`, {
    code: "Unauthenticated",
    operation: "gRPC call",
  });
}

const statusByCode: Readonly<Record<string, grpc.status>> = {
  Unauthenticated: grpc.status.UNAUTHENTICATED,
  Forbidden: grpc.status.PERMISSION_DENIED,
  InvalidRequest: grpc.status.INVALID_ARGUMENT,
  InvalidPlan: grpc.status.INVALID_ARGUMENT,
  ContextOverflow: grpc.status.INVALID_ARGUMENT,
  NotHosted: grpc.status.NOT_FOUND,
  NotFound: grpc.status.NOT_FOUND,
  StalePlan: grpc.status.FAILED_PRECONDITION,
  NotReady: grpc.status.UNAVAILABLE,
  Draining: grpc.status.UNAVAILABLE,
  ExpertUnavailable: grpc.status.UNAVAILABLE,
  Busy: grpc.status.RESOURCE_EXHAUSTED,
  Cancelled: grpc.status.CANCELLED,
  DeadlineExceeded: grpc.status.DEADLINE_EXCEEDED,
};
const codeKey = "enodia-code";

export function toStatus(caught: unknown): grpc.ServiceError {
  const error = AppError.from(caught);
  const metadata = new grpc.Metadata();
  metadata.set(codeKey, error.code);
  const code = statusByCode[error.code] ?? grpc.status.INTERNAL;
  return Object.assign(new Error(error.message), { code, details: error.message, metadata, name: "ServiceError" });
}

/** grpc-js' text where decoding an answer throws. */
const unreadablePrefix = "Response message parsing error";
const unsentPrefix = "Request message serialization failure";

/** Our code for what the library says of a call, and its words. */
const byStatus: Partial<Record<grpc.status, { readonly code: string; readonly words: string }>> = {
  [grpc.status.UNAVAILABLE]: { code: "Unavailable", words: "no connection to the process" },
  [grpc.status.CANCELLED]: { code: "Cancelled", words: "the call was ended" },
  [grpc.status.DEADLINE_EXCEEDED]: { code: "DeadlineExceeded", words: "the process did not answer in time" },
  [grpc.status.RESOURCE_EXHAUSTED]: { code: "MessageTooLarge", words: "more was sent than is taken" },
  [grpc.status.UNAUTHENTICATED]: { code: "Unauthenticated", words: "the process refuses the call" },
  [grpc.status.PERMISSION_DENIED]: { code: "Forbidden", words: "the process refuses the call" },
  [grpc.status.UNIMPLEMENTED]: { code: "Unimplemented", words: "the process is of a version without this call" },
};
/** What stays of the library's text. */
const evidence = /\bE[A-Z]{4,}\b|certificate[\w ]*|before secure TLS[\w ]*|RST_STREAM with code \d+|\d+ vs\.? \d+/;

/** What the library says of a call that no process of ours has answered, in words for conditions. */
function inWords(status: grpc.status, details: string): string {
  if (details.startsWith(unsentPrefix)) return `the call cannot be written${details.slice(unsentPrefix.length)}`;
  if (details.startsWith(unreadablePrefix)) return `its answer cannot be read${details.slice(unreadablePrefix.length)}`;
  const why = socketWords(details) ?? evidence.exec(details)?.[0];
  const isLarge = details.includes("larger than max");
  const words = isLarge ? "a message is larger than it may be" : (byStatus[status]?.words ?? "the call broke off");
  return `${words}${why === undefined ? "" : `: ${why}`}`;
}

export function fromStatus(caught: unknown, operation: string): AppError {
  if (caught instanceof AppError) return caught;
  const error = caught as Partial<grpc.ServiceError>;
  if (!(caught instanceof Error) || typeof error.code !== "number") return AppError.from(caught, operation);
  const sent = error.metadata?.get(codeKey)[0];
  const unreadable = error.code === grpc.status.INTERNAL && error.details?.startsWith(unreadablePrefix);
  const code = typeof sent === "string" ? sent : unreadable ? "InvalidRequest" : (byStatus[error.code]?.code ?? "Internal");
  const transient = error.code === grpc.status.UNAVAILABLE || error.code === grpc.status.RESOURCE_EXHAUSTED;
  const details = error.details ?? error.message ?? "the call failed";
  return new AppError(typeof sent === "string" ? details : inWords(error.code, details), {
    code,
    operation,
    cause: caught,
    retry: transient ? "backoff" : "never",
  });
}
