// Wire cost per layer: one frame of rows to another thread's loop and its rows back, over TLS on loopback, at the sizes that decode and
// prefill send for a model of hidden width 576, top-2. The host echoes, so that only wire, TLS and (de)serialising count. Beside it, in
// turns, the same bytes on a gRPC stream. CPU is that of both ends and of the kernel for them.
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { create } from "@bufbuild/protobuf";
import type { GenService } from "@bufbuild/protobuf/codegenv2";
import { AppError } from "../../crds/common.ts";
import { EngineHost } from "../../runtime/net/engine-host.ts";
import { EngineLink } from "../../runtime/net/engine-link.ts";
import { ChunkSchema } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, createServer } from "../../runtime/net/grpc.ts";
import { encodeRowsFrame } from "../../runtime/net/rows-codec.ts";
import { fixedTls, serverNames, type TlsMaterial } from "../../runtime/net/tls.ts";
import { createTestCa } from "../kit/network/certs.ts";

const [namespace, name] = ["bench", "bench"];
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

/** The same bytes as a call of gRPC, which the product has not. */
interface EchoMethods {
  readonly echo: { methodKind: "bidi_streaming"; input: typeof ChunkSchema; output: typeof ChunkSchema };
}
const method = { name: "Echo", localName: "echo", methodKind: "bidi_streaming" };
const echoService = {
  typeName: "enodia.bench.Echo",
  methods: [{ ...method, input: ChunkSchema, output: ChunkSchema }],
} as unknown as GenService<EchoMethods & Record<string, EchoMethods["echo"]>>;

/** The rows of k experts: topK times what came. */
const answerTo = (rows: Uint8Array) => new Uint8Array(rows.byteLength * topK);

async function host(material: TlsMaterial): Promise<void> {
  const pem = (bytes: Uint8Array) => Buffer.from(bytes);
  const tls = fixedTls({ cert: pem(material.cert), key: pem(material.key), ca: pem(material.ca) });
  const server = createServer(tls);
  server.add(echoService, {
    echo: (call) => {
      call.on("data", ({ data }) => call.write(create(ChunkSchema, { data: answerTo(data.subarray(data.byteLength % (hidden * 4))) })));
      call.on("error", () => {}); // the client leaves when it is done
    },
  });
  const serve = async (_frame: unknown, rows: Uint8Array) => answerTo(rows);
  const options = { tls, namespace, name, hidden, sums: false, refuses: () => undefined, onProblem: () => {}, onRefused: () => {}, serve };
  const engine = new EngineHost(options);
  parentPort?.postMessage([await server.listen("127.0.0.1", 0), await engine.listen("127.0.0.1", 0)]);
}

/** Sends one frame and resolves with its answer. */
type Ask = (rows: number) => Promise<unknown>;

class Way {
  readonly #ask: Ask;
  times: number[] = [];
  cpuMicros = 0;

  constructor(ask: Ask) {
    this.#ask = ask;
  }

  async run(rows: number, rounds: number): Promise<void> {
    const before = process.cpuUsage();
    for (let i = 0; i < rounds; i++) {
      const startedAt = performance.now();
      await this.#ask(rows);
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

function frameOf(rows: number) {
  const pairs = Array.from({ length: rows * topK }, (_, i) => i);
  const body = new Uint8Array(rows * hidden * 4);
  return {
    ...{ layer: 3, epoch: 7, decode: true, rows: () => body },
    pairRows: Uint32Array.from(pairs, (i) => Math.floor(i / topK)),
    pairExperts: Uint32Array.from(pairs, (i) => i % 8),
    ...{ answerBytes: body.byteLength * topK, heldBytes: body.byteLength * (1 + topK) },
  };
}

async function rowsWay(port: number, tls: ReturnType<typeof fixedTls>): Promise<{ way: Way; close(): void }> {
  const identity = { deploymentUid: "d", rank: 0, podUid: "u0", bootId: "b0" };
  const target = { address: `127.0.0.1:${port}`, serverName: serverNames.rank(1, namespace, name), tls };
  const link = await new Promise<EngineLink>((resolve, reject) => {
    const opened: EngineLink = new EngineLink(target, { identity, hidden, sums: false }, { ready: () => resolve(opened), closed: reject });
  });
  const close = () => link.close(new AppError("done", { code: "Cancelled" }));
  return { way: new Way((rows) => link.send(frameOf(rows)) as Promise<unknown>), close };
}

function grpcWay(port: number, tls: ReturnType<typeof fixedTls>): { way: Way; close(): void } {
  const client = connect(echoService, { address: `127.0.0.1:${port}`, serverName: serverNames.rank(1, namespace, name), tls });
  const call = client.echo();
  let answered = () => {};
  call.on("data", () => answered());
  call.on("error", () => {}); // it is cut at the end
  const ask: Ask = (rows) =>
    new Promise<void>((resolve) => {
      answered = resolve;
      const { rows: body, ...frame } = frameOf(rows);
      call.write(create(ChunkSchema, { data: Buffer.concat([encodeRowsFrame({ seq: 1, ...frame }), body()]) }));
    });
  const close = () => {
    call.cancel();
    client.close();
  };
  return { way: new Way(ask), close };
}

export async function wireBench(): Promise<WireRow[]> {
  const ca = createTestCa();
  const [own, other] = [ca.issue("rank-0", namespace, name), ca.issue("rank-1", namespace, name)];
  const worker = new Worker(new URL(import.meta.url), { workerData: { wireBench: other.current() } });
  const ports = await new Promise<[number, number]>((resolve, reject) => worker.once("message", resolve).once("error", reject));
  const [beside, by] = [grpcWay(ports[0], own), await rowsWay(ports[1], own)];
  const [grpc, frames] = [beside.way, by.way];
  const table: WireRow[] = [];
  for (const [name, { rows, rounds }] of Object.entries(sizes)) {
    for (const way of [grpc, frames]) await way.run(rows, warmupRounds);
    for (const way of [grpc, frames]) way.take();
    for (let done = 0; done < rounds; done += turnRounds) for (const way of [grpc, frames]) await way.run(rows, turnRounds);
    const [rowsTook, grpcTook] = [frames.take(), grpc.take()];
    table.push({
      ...{ case: name, sentBytes: rows * hidden * 4, receivedBytes: rows * topK * hidden * 4 },
      ...{ medianMicroseconds: rowsTook.median, p99Microseconds: rowsTook.p99, cpuMicroseconds: rowsTook.cpu },
      ...{ grpcMedianMicroseconds: grpcTook.median, grpcCpuMicroseconds: grpcTook.cpu },
      ...{ timesFaster: grpcTook.median / rowsTook.median, timesLessCpu: grpcTook.cpu / rowsTook.cpu },
    });
  }
  beside.close();
  by.close();
  await worker.terminate();
  return table;
}

if (!isMainThread && (workerData as { wireBench?: TlsMaterial } | null)?.wireBench) {
  await host((workerData as { wireBench: TlsMaterial }).wireBench);
} else if (import.meta.main) {
  console.table(await wireBench());
}
