// A worker for gateway tests: a real gRPC server with real certificates whose Inference is scripted. Its text is a fixed
// function of (prompt, seed, position), so that any two workers agree, as real ones do. What it does not do: compute.
import { create } from "@bufbuild/protobuf";
import type { ServerWritableStream } from "@grpc/grpc-js";

import { AppError } from "../../../crds/common.ts";
import {
  AliveEventSchema,
  FinishReason,
  type GenerateEvent,
  GenerateEventSchema,
  type GenerateRequest,
  Inference,
} from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { callerOf, createServer, type GrpcServer, toStatus } from "../../../runtime/net/grpc.ts";
import type { Member } from "../../../runtime/net/mapping.ts";
import type { TestCa } from "../network/certs.ts";

export const ns = "default";
export const name = "mix";
export const vocab = 300;
export const eosId = 299;

/** The token that follows. Printable ASCII, so that every test can read its texts. */
export function tokenAt(prompt: readonly number[], seed: bigint, temperature: number, position: number): number {
  let x = prompt.reduce((a, b) => (Math.imul(a, 31) + b) | 0, temperature > 0 ? Number(BigInt.asIntN(31, seed)) : 7);
  x = Math.imul(x ^ (position + 1), 0x9e3779b1);
  x = Math.imul(x ^ (x >>> 15), 0x85ebca6b);
  return 97 + (((x ^ (x >>> 13)) >>> 0) % 26);
}

type Order = undefined | "draining" | "silent" | "end" | AppError;

export interface Script {
  /** Milliseconds between tokens. */
  readonly delayMs?: number;
  /** Ends by itself after this many tokens, with the eos token. */
  readonly length?: number;
  /** Other tokens than those of `tokenAt`. */
  readonly token?: (position: number) => number;
  /** Called while the request is in the queue: it has a KV slot when this is done. May throw, hang or return "draining". */
  readonly slot?: () => Order | Promise<Order>;
  /** Called before each token; may throw, hang or return "draining". `sent` counts this attempt's tokens. */
  readonly before?: (position: number, sent: number, call: number) => Order | Promise<Order>;
  /** Refuses the call at once. */
  readonly refuse?: () => AppError | undefined;
  /** False: it refuses the stream of heartbeats, as a worker of another wire version does. */
  readonly alive?: boolean;
  readonly kvUse?: number;
  /** What it keeps of an answer; nothing without this. */
  readonly kept?: (id: string) => Promise<{ kept: boolean; tokens?: number; note?: Uint8Array; over?: boolean }>;
  /** What it says of its queue, and whether of now. */
  readonly queue?: { readonly queuedTokens: number; readonly again: boolean };
  /** How many layers rows have passed. */
  readonly passed?: () => number;
}

const aliveEveryMs = 100;

export interface ScriptedWorker {
  readonly rank: number;
  readonly requests: GenerateRequest[];
  /** Calls whose client went away before the end. */
  cancelled: number;
  active: number;
  script: Script;
  member(state?: Member["state"]): Member;
  /** Cuts every connection, as a killed process does. */
  kill(): Promise<void>;
  close(): Promise<void>;
}

type Call = ServerWritableStream<GenerateRequest, GenerateEvent>;

export async function startWorker(ca: TestCa, rank: number, script: Script = {}): Promise<ScriptedWorker> {
  const tls = await ca.issue(`rank-${rank}`, ns, name, `${name}-${rank}-abcde`);
  const server: GrpcServer = createServer(tls);
  const worker: ScriptedWorker = {
    rank,
    requests: [],
    cancelled: 0,
    active: 0,
    script,
    member: (state = "active") => ({
      rank,
      podName: `${name}-${rank}-abcde`,
      podUid: `uid-${rank}`,
      bootId: `boot-${rank}`,
      address,
      state,
    }),
    kill: () => server.close(0),
    close: () => server.close(0),
  };
  server.add(Inference, {
    generate: (call) => void serve(worker, call).catch((error) => call.emit("error", toStatus(error))),
    kept: async ({ id }) => worker.script.kept?.(id) ?? { kept: false },
    alive: (call) => {
      if (script.alive === false) return void call.emit("error", toStatus(new AppError("not known", { code: "Unimplemented" })));
      const { kvUse, passed = () => 0 } = script;
      const sign = { nextMs: aliveEveryMs, ...(kvUse === undefined ? {} : { kvUse }) };
      const show = () => void call.write(create(AliveEventSchema, { ...sign, passed: passed() }));
      const timer = setInterval(show, aliveEveryMs);
      call.on("cancelled", () => clearInterval(timer));
      call.on("close", () => clearInterval(timer));
      show();
    },
  });
  const address = `127.0.0.1:${await server.listen("127.0.0.1", 0)}`;
  return worker;
}

async function serve(worker: ScriptedWorker, call: Call): Promise<void> {
  if (callerOf(call, ns, name).role !== "gateway") throw new AppError("only gateways generate", { code: "Forbidden" });
  const request = call.request;
  worker.requests.push(request);
  const refused = worker.script.refuse?.();
  if (refused) throw refused;
  let gone = false;
  let wake = () => {};
  call.on("cancelled", () => {
    gone = true;
    wake();
  });
  worker.active++;
  try {
    const send = (event: Parameters<typeof create<typeof GenerateEventSchema>>[1]) => call.write(create(GenerateEventSchema, event));
    /** Returns true when the order ended the call. */
    const obey = async (order: Order): Promise<boolean> => {
      if (order instanceof AppError) throw order;
      if (order === "silent") await new Promise<void>((resolve) => (wake = resolve));
      if (!gone && order === "end") call.end();
      if (!gone && order === "draining") finish(call, FinishReason.DRAINING);
      return gone || order === "end" || order === "draining";
    };
    let sent = 0;
    send({ event: { case: "queued", value: worker.script.queue ?? { queuedTokens: request.prompt.length } } });
    if (await obey(await worker.script.slot?.())) return;
    send({ event: { case: "started", value: worker.script.queue ?? {} } });
    if (request.embed) {
      send({ event: { case: "embedding", value: { values: [1, 0] } } });
      return finish(call, FinishReason.STOP);
    }
    if (request.promptLogprobs) send({ event: { case: "prompt", value: { position: 1, ...promptLogprobs(request) } } });
    for (let position = request.replay.length; position < request.maxTokens; position++) {
      if (await obey(await worker.script.before?.(position, sent, worker.requests.length))) return;
      const last = position === (worker.script.length ?? Number.POSITIVE_INFINITY);
      const { seed = 0n, temperature = 0 } = request.sampling ?? {};
      const next = worker.script.token?.(position) ?? tokenAt(request.prompt, seed, temperature, position);
      const id = last ? eosId : next;
      send({ event: { case: "token", value: { id, position, logprob: -0.5, ...likeliest(request, 1) } } });
      sent++;
      if (last && request.eos.includes(eosId)) return finish(call, FinishReason.STOP);
      if (worker.script.delayMs !== undefined) await new Promise((resolve) => setTimeout(resolve, worker.script.delayMs));
      else if (position % 64 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    finish(call, FinishReason.LENGTH);
  } finally {
    worker.active--;
    if (gone) worker.cancelled++;
  }
}

/** As many of the likeliest as are asked for, of each of so many tokens. */
function likeliest({ sampling }: GenerateRequest, tokens: number): { topIds: number[]; topLogprobs: number[] } {
  const top = sampling?.topLogprobs ?? 0;
  const ids = Array.from({ length: tokens * top }, (_, i) => 97 + (i % top));
  return { topIds: ids, topLogprobs: ids.map(() => -0.5) };
}

function promptLogprobs(request: GenerateRequest) {
  const tokens = Math.max(0, request.prompt.length - 1);
  return { logprobs: new Array<number>(tokens).fill(-0.5), ...likeliest(request, tokens) };
}

function finish(call: Call, reason: FinishReason): void {
  call.write(create(GenerateEventSchema, { event: { case: "finish", value: { reason } } }));
  call.end();
}
