// Wire cost per layer: one dispatch frame to another thread's loop and its rows back, over TLS on loopback, at the sizes that decode
// and prefill send for a model of hidden width 576, top-2. The host echoes, so that only wire, TLS and (de)serialising count. Beside
// it, in turns, the same messages on a gRPC stream. CPU is that of both ends and of the kernel for them.
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { create } from "@bufbuild/protobuf";
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import { connectDispatch } from "../../runtime/net/dispatch-link.ts";
import {
  type DispatchFrame,
  DispatchFrameSchema,
  type DispatchReply,
  DispatchReplySchema,
} from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, createServer } from "../../runtime/net/grpc.ts";
import { toSender } from "../../runtime/net/mapping.ts";
import { fixedTls, serverNames, type TlsMaterial } from "../../runtime/net/tls.ts";
import { createTestCa } from "../kit/network/certs.ts";

const hidden = 576;
const topK = 2;
const sizes: Readonly<Record<string, { rows: number; rounds: number }>> = {
  "decode, batch 1": { rows: 1, rounds: 2000 },
  "decode, batch 8": { rows: 8, rounds: 1000 },
  "prefill, 32 rows": { rows: 32, rounds: 400 },
  "prefill, 128 rows": { rows: 128, rounds: 200 },
};
const warmupRounds = 300;
/** Rounds of one way before the other has its turn. */
const turnRounds = 50;

interface WireRow {
  readonly case: string;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  readonly medianMicroseconds: number;
  readonly p99Microseconds: number;
  readonly cpuMicroseconds: number;
  readonly grpcMedianMicroseconds: number;
  readonly grpcCpuMicroseconds: number;
  /** gRPC's median to that of frames, and so of CPU. */
  readonly timesFaster: number;
  readonly timesLessCpu: number;
}

/** The same messages as a call of gRPC, which the product has not. */
interface EchoMethods {
  readonly dispatch: { methodKind: "bidi_streaming"; input: typeof DispatchFrameSchema; output: typeof DispatchReplySchema };
}
const method = { name: "Dispatch", localName: "dispatch", methodKind: "bidi_streaming" };
const echoService = {
  typeName: "enodia.bench.Echo",
  methods: [{ ...method, input: DispatchFrameSchema, output: DispatchReplySchema }],
} as unknown as GenService<EchoMethods & Record<string, EchoMethods["dispatch"]>>;

function answerTo({ seq, pairExperts }: DispatchFrame): DispatchReply {
  const value = new Uint8Array(pairExperts.length * hidden * 4); // the rows of k experts: topK times what came
  return create(DispatchReplySchema, { seq, result: { case: "rows", value } });
}

async function host(material: TlsMaterial): Promise<void> {
  const pem = (bytes: Uint8Array) => Buffer.from(bytes);
  const server = createServer(fixedTls({ cert: pem(material.cert), key: pem(material.key), ca: pem(material.ca) }));
  server.add(echoService, {
    dispatch: (call) => {
      call.on("data", (frame) => call.write(answerTo(frame)));
      call.on("error", () => {}); // the client leaves when it is done
    },
  });
  server.addDispatch((call) => void call.on("data", (frame) => call.write(answerTo(frame), () => {})));
  parentPort?.postMessage(await server.listen("127.0.0.1", 0));
}

/** A stream by which one frame after the other goes to the host and comes back. */
interface Stream {
  write(frame: DispatchFrame): unknown;
  on(event: "data", listener: (reply: DispatchReply) => void): unknown;
  on(event: "error", listener: () => void): unknown;
}

class Way {
  readonly #stream: Stream;
  #answered = () => {};
  times: number[] = [];
  cpuMicros = 0;

  constructor(stream: Stream) {
    this.#stream = stream;
    stream.on("data", () => this.#answered());
    stream.on("error", () => {}); // it is cut at the end
  }

  async run(rows: number, rounds: number): Promise<void> {
    const before = process.cpuUsage();
    for (let i = 0; i < rounds; i++) {
      const startedAt = performance.now();
      await new Promise<void>((resolve) => {
        this.#answered = resolve;
        this.#stream.write(frameOf(rows));
      });
      this.times.push((performance.now() - startedAt) * 1000);
    }
    const { user, system } = process.cpuUsage(before);
    this.cpuMicros += user + system;
  }

  /** What has been measured since the last time. */
  take(): { readonly median: number; readonly p99: number; readonly cpu: number } {
    const sorted = this.times.sort((a, b) => a - b);
    const at = (share: number) => sorted[Math.floor(sorted.length * share)] ?? 0;
    const taken = { median: at(0.5), p99: at(0.99), cpu: this.cpuMicros / sorted.length };
    this.times = [];
    this.cpuMicros = 0;
    return taken;
  }
}

const sender = toSender({
  deploymentUid: "8d7f3a50-0000-4000-8000-000000000001",
  rank: 0,
  podUid: "8d7f3a50-0000-4000-8000-000000000002",
  bootId: "8d7f3a50-0000-4000-8000-000000000003",
});
let seq = 0n;

function frameOf(rows: number): DispatchFrame {
  const pairs = Array.from({ length: rows * topK }, (_, i) => i);
  return create(DispatchFrameSchema, {
    ...{ sender, seq: ++seq, layer: 3, layerEpoch: 7n, hidden, decode: true, rows: new Uint8Array(rows * hidden * 4) },
    pairRows: pairs.map((i) => Math.floor(i / topK)),
    pairExperts: pairs.map((i) => i % 8),
  });
}

export async function wireBench(): Promise<WireRow[]> {
  const ca = createTestCa();
  const [own, other] = [ca.issue("rank-0", "bench", "bench"), ca.issue("rank-1", "bench", "bench")];
  const worker = new Worker(new URL(import.meta.url), { workerData: { wireBench: other.current() } });
  const port = await new Promise<number>((resolve, reject) => worker.once("message", resolve).once("error", reject));
  const target = {
    address: `127.0.0.1:${port}`,
    serverName: serverNames.rank(1, "bench", "bench"),
    tls: own,
    self: { deploymentUid: "d", rank: 1, podUid: "u1", bootId: "b1" },
  };
  const [client, link] = [connect(echoService, target), connectDispatch(target)];
  const [call, stream] = [client.dispatch(), link.dispatch()];
  const [grpc, frames] = [new Way(call), new Way(stream)];
  const table: WireRow[] = [];
  for (const [name, { rows, rounds }] of Object.entries(sizes)) {
    for (const way of [grpc, frames]) await way.run(rows, warmupRounds);
    for (const way of [grpc, frames]) way.take();
    for (let done = 0; done < rounds; done += turnRounds) for (const way of [grpc, frames]) await way.run(rows, turnRounds);
    const [by, beside] = [frames.take(), grpc.take()];
    table.push({
      ...{ case: name, sentBytes: rows * hidden * 4, receivedBytes: rows * topK * hidden * 4 },
      ...{ medianMicroseconds: by.median, p99Microseconds: by.p99, cpuMicroseconds: by.cpu },
      ...{ grpcMedianMicroseconds: beside.median, grpcCpuMicroseconds: beside.cpu },
      ...{ timesFaster: beside.median / by.median, timesLessCpu: beside.cpu / by.cpu },
    });
  }
  call.cancel();
  client.close();
  stream.cancel();
  link.close();
  await worker.terminate();
  return table;
}

if (!isMainThread && (workerData as { wireBench?: TlsMaterial } | null)?.wireBench) {
  await host((workerData as { wireBench: TlsMaterial }).wireBench);
} else if (import.meta.main) {
  console.table(await wireBench());
}
