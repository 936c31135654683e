// A gateway before scripted workers, over real HTTP and real gRPC with mutual TLS, and what its tests ask and expect of it.
import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";
import { type Gateway, type GatewayConfig, type GatewayOverrides, startGateway } from "../../../runtime/gateway/gateway.ts";
import { failoverLimits } from "../../../runtime/gateway/routing/patience.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { createTestCa, type TestCa } from "../network/certs.ts";
import { byteText } from "./byte-text.ts";
import { localGateway } from "./local-gateway.ts";
import { name, ns, type Script, type ScriptedWorker, startWorker, tokenAt } from "./scripted-worker.ts";

/** Long enough for a busy machine; tests of silence and of waiting set their own. */
export const limits = { ...failoverLimits, noWorkerMs: 15_000, firstTokenMs: 15_000, perPromptTokenMs: 0, nextTokenMs: 15_000 };

interface Gateways {
  startAll(
    scripts: Script[],
    config?: Partial<GatewayConfig>,
    overrides?: GatewayOverrides,
  ): Promise<{ gateway: Gateway; workers: ScriptedWorker[]; url: string }>;
  /** A certificate of the deployment's CA. */
  issue(member: string): ReturnType<TestCa["issue"]>;
  /** Runs when the test ends, the last one first. */
  onEnd(cleanup: () => Promise<unknown> | unknown): void;
}

interface Started {
  readonly gateway: Gateway;
  readonly workers: ScriptedWorker[];
  readonly url: string;
  close(): Promise<void>;
}

/** A gateway that has so many scripted workers; its caller closes it. */
export async function startGateways(
  ca: TestCa,
  scripts: readonly Script[],
  config: Partial<GatewayConfig> = {},
  overrides: GatewayOverrides = {},
): Promise<Started> {
  await using opened = new AsyncDisposableStack(); // closed when the start fails; else by close()
  const workers: ScriptedWorker[] = [];
  for (const [rank, script] of scripts.entries()) {
    const worker = await startWorker(ca, rank, script);
    workers.push(worker);
    opened.defer(() => worker.close());
  }
  const gateway = await startGateway(
    {
      ...{ ...localGateway, namespace: ns, deployment: name, deploymentUid: "uid", podName: "gw-1", podUid: "gw-uid", maxContext: 512 },
      ...config,
    },
    { tls: await ca.issue("gateway", ns, name), limits, log: silentLog, textModel: byteText, ...overrides },
  );
  opened.defer(() => gateway.close(0));
  gateway.apply({ version: 1, members: workers.map((worker) => worker.member()) });
  const kept = opened.move();
  return { gateway, workers, url: `http://127.0.0.1:${gateway.httpPort}`, close: () => kept.disposeAsync() };
}

/** Gateways for one test file: what its tests start ends with them. */
export function useGateways(): Gateways {
  let ca: TestCa;
  const cleanups: (() => Promise<unknown> | unknown)[] = [];
  before(async () => {
    ca = await createTestCa();
  });
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  });
  after(() => assert.equal(cleanups.length, 0));
  return {
    async startAll(scripts, config = {}, overrides = {}) {
      const started = await startGateways(ca, scripts, config, overrides);
      cleanups.push(started.close);
      return started;
    },
    issue: (member) => ca.issue(member, ns, name),
    onEnd: (cleanup) => void cleanups.push(cleanup),
  };
}

export function expected(prompt: string, tokens: number, seed = 0n, temperature = 0, from = 0): string {
  const ids = [...new TextEncoder().encode(prompt)];
  return String.fromCharCode(...Array.from({ length: tokens - from }, (_, i) => tokenAt(ids, seed, temperature, from + i)));
}

export const chat = (extra: object = {}) => ({
  model: "tiny",
  temperature: 0,
  max_tokens: 20,
  messages: [{ role: "user", content: "hi" }],
  ...extra,
});
export const chatPrompt = "<user>hi";

export async function post(url: string, body: unknown, headers: Record<string, string> = {}) {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: text });
  return response;
}

interface Streamed {
  text: string;
  events: any[];
  comments: string[];
  done: boolean;
  response: Response;
}

export async function stream(url: string, body: object): Promise<Streamed> {
  const response = await post(url, { ...body, stream: true });
  assert.equal(response.status, 200, await (response.status === 200 ? "" : response.text()));
  assert.match(response.headers.get("content-type") ?? "", /^text\/event-stream/);
  const blocks = (await response.text()).split("\n\n").filter((block) => block !== "");
  const events = blocks.filter((b) => b.startsWith("data: ") && b !== "data: [DONE]").map((b) => JSON.parse(b.slice(6)));
  const text = events.map((e) => e.choices?.[0]?.delta?.content ?? e.choices?.[0]?.text ?? "").join("");
  return { text, events, comments: blocks.filter((b) => b.startsWith(":")), done: blocks.at(-1) === "data: [DONE]", response };
}

export async function metric(gateway: Gateway, series: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${gateway.metricsPort}/metrics`)).text();
  const [want = "", labels = ""] = series.split("{");
  const line = text.split("\n").find(
    (l) =>
      l.startsWith(`${want}{`) &&
      labels
        .replace("}", "")
        .split(",")
        .every((label) => l.includes(label)),
  );
  return Number(line?.split(" ").at(-1) ?? Number.NaN);
}
