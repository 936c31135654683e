// The serving end of bulk reads: experts, keys and values, and files, one read at a time on a connection, a bounded number at once.
import type { PeerCertificate } from "node:tls";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { AppError } from "../../crds/common.ts";
import { readLimits } from "./failure-detector.ts";
import { frameKinds } from "./frame-codec.ts";
import {
  ChunkSchema,
  type FileRead,
  type KvRead,
  type ListRead,
  type Read,
  ReadSchema,
  type UnitRead,
} from "./gen/enodia/runtime/v1/runtime_pb.js";
import { fromSender } from "./mapping.ts";
import { encodeEnd, none } from "./peer-connection.ts";
import type { ChannelServer } from "./peer-server.ts";
import { create } from "./service.ts";

export const chunkBytesMax = 1024 * 1024;
/** Reads of each kind at once; more wait at the receiver, which has its own bound. */
const readsMax = 8;
/** Answers that a caller has yet to take; more are for nobody who reads. */
const unsentMax = 32;

export interface ReadCall {
  getAuthContext(): { readonly sslPeerCertificate?: PeerCertificate };
  /** Aborts when the caller leaves. */
  readonly signal: AbortSignal;
  /** Resolves when the caller has taken enough for the next chunk; throws once it has left. */
  send(offset: number, data: Uint8Array): Promise<void>;
}

/** A source throws AppError to refuse. It takes part in a read until its promise settles. */
export interface ReadSources {
  unit?(request: UnitRead, call: ReadCall): Promise<void>;
  file?(request: FileRead, call: ReadCall): Promise<void>;
  list?(request: ListRead, call: ReadCall): Promise<void>;
  kv?(request: KvRead, call: ReadCall): Promise<void>;
}

export class ReadHost {
  readonly #sources: ReadSources;
  readonly #active = { unit: 0, file: 0, list: 0, kv: 0 };

  constructor(sources: ReadSources) {
    this.#sources = sources;
  }

  /** Throws AppError for a read that is refused. */
  async serve({ what }: Pick<Read, "what">, call: ReadCall): Promise<void> {
    const kind = what.case;
    const source = kind && this.#sources[kind];
    if (kind === undefined || source === undefined)
      throw new AppError(`this pod gives no ${kind ?? "such"} reads`, { code: "InvalidRequest" });
    if (this.#active[kind] >= readsMax)
      throw new AppError(`${readsMax} reads are being answered already`, { code: "Busy", operation: "serving a read", retry: "backoff" });
    this.#active[kind] += 1;
    try {
      await (source as (request: unknown, call: ReadCall) => Promise<void>)(what.value, call);
    } finally {
      this.#active[kind] -= 1;
    }
  }
}

/** Refuses callers of other deployments, and those whom `admit` throws for: by each chunk, since `admit` may know of members. */
export function serveReads(host: ReadHost, deploymentUid: string, admit: (call: Pick<ReadCall, "getAuthContext">) => void): ChannelServer {
  return ({ connection, certificate, hello }) => {
    if (fromSender(hello.sender).deploymentUid !== deploymentUid)
      throw new AppError("sender.deployment_uid: another deployment", { code: "Forbidden", operation: "bulk reads" });
    const getAuthContext = () => ({ sslPeerCertificate: certificate });
    admit({ getAuthContext });
    let unsent = 0;
    let isStopping = false;
    let reading: AbortController | undefined;
    let drained = () => {};
    const leave = () => {
      reading?.abort(new AppError("the caller has left", { code: "Cancelled" }));
      drained();
    };
    const leaveAndClose = () => {
      leave();
      connection.destroy();
    };
    const send = (signal: AbortSignal) => async (offset: number, data: Uint8Array) => {
      signal.throwIfAborted();
      admit({ getAuthContext }); // a member may leave during a read
      const head = toBinary(ChunkSchema, create(ChunkSchema, { offset: BigInt(offset) }));
      if (connection.write(frameKinds.chunk, head, data)) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      const late = setTimeout(leaveAndClose, readLimits.chunkMs); // or a caller that takes nothing would keep its place for ever
      drained = resolve;
      await promise.finally(() => clearTimeout(late));
      signal.throwIfAborted();
    };
    const read = async (request: Read, { signal }: AbortController) => {
      const refusal = await host.serve(request, { getAuthContext, signal, send: send(signal) }).then(
        () => undefined,
        (caught) => AppError.from(caught, "serving a read"),
      );
      reading = undefined; // the caller may ask again when it has the answer
      if (signal.aborted) return;
      unsent += 1;
      const sent = () => {
        unsent -= 1;
        endIfIdle();
      };
      if (refusal) connection.write(frameKinds.declined, encodeEnd(refusal), none, sent);
      else connection.write(frameKinds.chunk, none, none, sent);
    };
    const endIfIdle = () => {
      if (isStopping && !reading && unsent === 0) connection.end(new AppError("this pod is stopping", { code: "Unavailable" }));
    };
    return {
      frame: ({ kind, head }) => {
        if (kind !== frameKinds.read || reading)
          throw new AppError(`a frame of kind ${kind} where a read is due`, { code: "InvalidFrame" });
        if (unsent >= unsentMax) throw new AppError("the caller reads no answers", { code: "Busy" });
        reading = new AbortController();
        void read(fromBinary(ReadSchema, head), reading);
      },
      ended: leaveAndClose,
      gone: leave,
      drain: () => drained(),
      stop: () => {
        isStopping = true;
        endIfIdle();
      },
    };
  };
}
