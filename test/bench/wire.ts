// Wire cost per layer: one Dispatch frame to another process and its rows back, over TLS on loopback, at the sizes that decode
// and prefill send for a model of hidden width 576, top-2. The host echoes, so that only wire, TLS and (de)serialising count.
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { DispatchFrameSchema, DispatchReplySchema, Experts } from "../../runtime/wire/gen/enodia/runtime/v1/runtime_pb.js";
import { connect, createServer } from "../../runtime/wire/grpc.ts";
import { toSender } from "../../runtime/wire/mapping.ts";
import { fixedTls, serverNames, type TlsMaterial } from "../../runtime/wire/tls.ts";
import { createTestCa } from "../support/certs.ts";

const hidden = 576;
const topK = 2;
const sizes: Readonly<Record<string, { rows: number; rounds: number }>> = {
  "decode, batch 1": { rows: 1, rounds: 2000 },
  "decode, batch 8": { rows: 8, rounds: 1000 },
  "prefill, 32 rows": { rows: 32, rounds: 400 },
  "prefill, 128 rows": { rows: 128, rounds: 200 },
};
const warmupRounds = 100;

export interface WireRow {
  readonly case: string;
  readonly sentBytes: number;
  readonly receivedBytes: number;
  readonly medianMicroseconds: number;
  readonly p99Microseconds: number;
  readonly megabytesPerSecond: number;
  readonly serialiseMicroseconds: number;
}

async function host(material: TlsMaterial): Promise<void> {
  const pem = (bytes: Uint8Array) => Buffer.from(bytes);
  const server = createServer(fixedTls({ cert: pem(material.cert), key: pem(material.key), ca: pem(material.ca) }));
  server.add(Experts, {
    dispatch: (call) => {
      call.on("data", (frame) => {
        const value = new Uint8Array(frame.pairExperts.length * hidden * 4); // the rows of k experts: topK times what came
        call.write(create(DispatchReplySchema, { seq: frame.seq, result: { case: "rows", value } }));
      });
      call.on("end", () => call.end());
      call.on("error", () => {}); // the client leaves when it is done
    },
  });
  parentPort?.postMessage(await server.listen("127.0.0.1", 0));
}

export async function wireBench(): Promise<WireRow[]> {
  const ca = createTestCa();
  const [own, other] = [ca.issue("rank-0", "bench", "bench"), ca.issue("rank-1", "bench", "bench")];
  const worker = new Worker(new URL(import.meta.url), { workerData: { wireBench: other.current() } });
  const port = await new Promise<number>((resolve, reject) => worker.once("message", resolve).once("error", reject));
  const client = connect(Experts, { address: `127.0.0.1:${port}`, serverName: serverNames.rank(1, "bench", "bench"), tls: own });
  const stream = client.dispatch();
  const waiting = new Map<bigint, () => void>();
  stream.on("data", (reply) => {
    waiting.get(reply.seq)?.();
    waiting.delete(reply.seq);
  });
  stream.on("error", () => {}); // the cancel at the end
  const sender = toSender({
    deploymentUid: "8d7f3a50-0000-4000-8000-000000000001",
    rank: 0,
    podUid: "8d7f3a50-0000-4000-8000-000000000002",
    bootId: "8d7f3a50-0000-4000-8000-000000000003",
  });
  let seq = 0n;
  const frameOf = (rows: number) => {
    const pairs = Array.from({ length: rows * topK }, (_, i) => i);
    const data = new Uint8Array(rows * hidden * 4);
    const [pairRows, pairExperts] = [pairs.map((i) => Math.floor(i / topK)), pairs.map((i) => i % 8)];
    return create(DispatchFrameSchema, {
      sender,
      seq: ++seq,
      layer: 3,
      layerEpoch: 7n,
      hidden,
      rows: data,
      pairRows,
      pairExperts,
      decode: true,
    });
  };
  const send = (rows: number) =>
    new Promise<void>((resolve) => {
      const frame = frameOf(rows);
      waiting.set(frame.seq, resolve);
      stream.write(frame);
    });
  const table: WireRow[] = [];
  for (const [name, { rows, rounds }] of Object.entries(sizes)) {
    for (let i = 0; i < warmupRounds; i++) await send(rows);
    const times: number[] = [];
    for (let i = 0; i < rounds; i++) {
      const startedAt = performance.now();
      await send(rows);
      times.push((performance.now() - startedAt) * 1000);
    }
    times.sort((a, b) => a - b);
    const median = times[Math.floor(rounds / 2)]!;
    const [sentBytes, receivedBytes] = [rows * hidden * 4, rows * topK * hidden * 4];
    table.push({
      ...{ case: name, sentBytes, receivedBytes, medianMicroseconds: median, p99Microseconds: times[Math.floor(rounds * 0.99)]! },
      ...{ megabytesPerSecond: (sentBytes + receivedBytes) / median, serialiseMicroseconds: serialise(frameOf(rows), rounds) },
    });
  }
  stream.cancel();
  client.close();
  await worker.terminate();
  return table;
}

/** Both ends of one frame: to bytes and back. */
function serialise(frame: ReturnType<typeof create<typeof DispatchFrameSchema>>, rounds: number): number {
  const times = Array.from({ length: rounds }, () => {
    const startedAt = performance.now();
    fromBinary(DispatchFrameSchema, toBinary(DispatchFrameSchema, frame));
    return (performance.now() - startedAt) * 1000;
  });
  return times.sort((x, y) => x - y)[Math.floor(rounds / 2)]!;
}

if (!isMainThread && (workerData as { wireBench?: TlsMaterial } | null)?.wireBench) {
  await host((workerData as { wireBench: TlsMaterial }).wireBench);
} else if (import.meta.main) {
  console.table(await wireBench());
}
