// The cost of a token at the gateway: real HTTP, real gRPC with mutual TLS, the real tokenizer; the worker behind it is scripted
// and sends tokens as fast as they are taken. Beside it a bare HTTP server of the same runtime that writes the same events from
// memory: the least that any gateway here can cost. Worker, gateway and clients have a thread each; the gateway's own CPU counts.
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { parseArgs } from "node:util";
import { parentPort, Worker, workerData } from "node:worker_threads";
import { startGateway } from "../../runtime/gateway/gateway.ts";
import type { Member } from "../../runtime/net/mapping.ts";
import { fixedTls, type TlsMaterial } from "../../runtime/net/tls.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { openTextModel } from "../../runtime/text/text-thread.ts";
import { name, ns, startWorker } from "../kit/gateway/scripted-worker.ts";
import { provideSmolMoe } from "../kit/models/local-models.ts";
import { createTestCa } from "../kit/network/certs.ts";

const tokens = 128;
const streams = [1, 16, 64];
const requests = 192;
const model = "bench";
/** Ids from here on are words, of which each is an event; those below include bytes of characters. */
const textFrom = 2_000;

type Role =
  | { readonly role: "worker"; readonly tls: TlsMaterial }
  | { readonly role: "gateway"; readonly tls: TlsMaterial; readonly store: string; readonly members: readonly Member[] };

export interface GatewayRow {
  readonly case: string;
  readonly tokensPerSecond: number;
  readonly cpuMicrosecondsPerToken: number;
  readonly bareMicrosecondsPerToken: number;
  readonly ratio: number;
}

export async function gatewayBench(args: readonly string[]): Promise<readonly GatewayRow[]> {
  const { values } = parseArgs({ args: [...args], options: { store: { type: "string" } } });
  const store = values.store ?? (await provideSmolMoe((line) => void process.stderr.write(`${line}\n`)));
  const ca = createTestCa();
  const material = (member: string): TlsMaterial => ca.issue(member, ns, name, member === "gateway" ? member : `${name}-0-abcde`).current();
  const threads: Worker[] = [];
  const start = (role: Role): Worker => {
    const started = thread(role);
    threads.push(started);
    return started;
  };
  const rows: GatewayRow[] = [];
  try {
    const worker = start({ role: "worker", tls: material("rank-0") });
    const gateway = start({ role: "gateway", tls: material("gateway"), store, members: [(await first(worker)) as Member] });
    const [port, barePort] = (await first(gateway)) as [number, number];
    for (const width of [16, ...streams]) {
      const own = await drive(gateway, `http://127.0.0.1:${port}/v1/completions`, width);
      const bare = await drive(gateway, `http://127.0.0.1:${barePort}/`, width);
      rows.push({
        case: `${width} streams`,
        tokensPerSecond: Math.round(own.perSecond),
        cpuMicrosecondsPerToken: round(own.microseconds),
        bareMicrosecondsPerToken: round(bare.microseconds),
        ratio: round(own.microseconds / bare.microseconds),
      });
    }
  } finally {
    await Promise.all(threads.map((each) => each.terminate()));
  }
  return rows.slice(1); // the first warms up
}

const round = (value: number): number => Number(value.toFixed(1));
const thread = (role: Role): Worker => new Worker(new URL(import.meta.url), { workerData: { gatewayBench: role } });

/** The next message of a thread. */
async function first(of: Worker): Promise<unknown> {
  const [message] = await once(of, "message"); // rejects when the thread fails
  return message;
}

/** CPU microseconds that the gateway's thread has used. */
async function cpu(gateway: Worker): Promise<number> {
  gateway.postMessage("cpu");
  return (await first(gateway)) as number;
}

/** All requests, so many at a time; every stream is read to its end. */
async function drive(gateway: Worker, url: string, width: number): Promise<{ perSecond: number; microseconds: number }> {
  let left = requests;
  let events = 0;
  const client = async (): Promise<void> => {
    while (left-- > 0) {
      const came = await readStream(url);
      events += came;
    }
  };
  const [cpuBefore, startedAt] = [await cpu(gateway), performance.now()];
  await Promise.all(Array.from({ length: width }, client));
  const seconds = (performance.now() - startedAt) / 1000;
  const used = (await cpu(gateway)) - cpuBefore;
  if (events < requests * tokens) throw new Error(`${events} events of ${requests * tokens} came from ${url}`);
  return { perSecond: (requests * tokens) / seconds, microseconds: used / (requests * tokens) };
}

async function readStream(url: string): Promise<number> {
  const body = { model, prompt: "Tell me about the sea.", max_tokens: tokens, stream: true, ignore_eos: true, seed: 1 };
  const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.text()).split("\n").filter((line) => line.startsWith("data: {")).length;
}

/** The events of one answer, as the gateway writes them. */
const event = (i: number): string =>
  `data: ${JSON.stringify({ id: "cmpl-0123456789abcdef0123456789abcdef", object: "text_completion", created: 1_700_000_000, model, choices: [{ index: 0, text: `t${i % 10}`, logprobs: null, finish_reason: null }] })}\n\n`;

async function bareServer(): Promise<number> {
  const server = createServer(async (request, response) => {
    for await (const _ of request) void _;
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (let i = 0; i < tokens; i++) {
      response.write(event(i));
      if (i % 8 === 7) await new Promise((resolve) => setImmediate(resolve));
    }
    response.end("data: [DONE]\n\n");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
}

async function runRole(role: Role): Promise<void> {
  const { cert, key, ca } = role.tls;
  const tls = fixedTls({ cert: Buffer.from(cert), key: Buffer.from(key), ca: Buffer.from(ca) });
  if (role.role === "worker") {
    const worker = await startWorker({ dir: "", issue: () => tls as never, local: () => tls.current(), server: () => tls.current() }, 0, {
      token: (position) => textFrom + (position % 1000),
    });
    parentPort?.postMessage(worker.member());
    return;
  }
  const gateway = await startGateway(
    {
      ...{
        namespace: ns,
        deployment: name,
        deploymentUid: "uid",
        podName: "gw-1",
        podUid: "gw-uid",
        servedName: model,
        textDir: "",
      },
      ...{
        maxContext: 2048,
        tlsDir: "",
        httpPort: 0,
        grpcPort: 0,
        metricsPort: 0,
        probePort: 0,
        host: "127.0.0.1",
        logLevel: "silent",
        version: "0",
      },
    },
    { tls, log: silentLog, textModel: await openTextModel(role.store) },
  );
  gateway.apply({ version: 1, members: [...role.members] });
  parentPort?.on("message", () => {
    const { user, system } = process.threadCpuUsage();
    parentPort?.postMessage(user + system);
  });
  parentPort?.postMessage([gateway.httpPort, await bareServer()]);
}

const own = workerData as { gatewayBench?: Role } | null;
if (own?.gatewayBench) await runRole(own.gatewayBench);
