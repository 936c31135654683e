// Workers of one deployment in this process, over real gRPC and TLS on loopback, and the two that speak to them: an operator
// driver (membership, plans) and a gateway (requests with failover, as runtime/gateway/routing/failover.ts does it).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gatewayRank, operatorRank } from "../../../crds/common.ts";
import type { LayerPlacement, PlacementPlan } from "../../../crds/plan.ts";
import { asF32 } from "../../../runtime/kernels/weights.ts";
import { importModel } from "../../../runtime/modelstore/import.ts";
import { importMoe } from "../../../runtime/modelstore/import-moe.ts";
import { quantize } from "../../../runtime/modelstore/quantize/quantize.ts";
import { rewriteStore } from "../../../runtime/modelstore/quantize/rewrite-store.ts";
import {
  Control,
  FinishReason,
  Inference,
  WatchPushSchema,
  type WatchStatus,
} from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { connect } from "../../../runtime/net/grpc.ts";
import { type Member, toMembership, toPlan, toSender } from "../../../runtime/net/mapping.ts";
import { create } from "../../../runtime/net/service.ts";
import { serverNames, type TlsSource } from "../../../runtime/net/tls.ts";
import { silentLog } from "../../../runtime/observe/log.ts";
import { codecFor } from "../../../runtime/weights/codecs/index.ts";
import { type ExpertIndex, layerForms } from "../../../runtime/weights/store.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";
import { startWorker, type Worker, type WorkerOptions, type WorkerOverrides } from "../../../runtime/worker/worker.ts";
import { published, writePublished } from "../models/published-gguf.ts";
import type { Published } from "../models/published-parts.ts";
import { createTestCa, type TestCa } from "../network/certs.ts";
import { within } from "../wait.ts";
import { workerSettings } from "./worker-settings.ts";

export const namespace = "default";
export const deployment = "mix";
export const deploymentUid = "8d7f3a50-0000-4000-8000-000000000001";

export async function tinyStore(): Promise<{ dir: string; index: ExpertIndex; remove: () => void }> {
  const root = mkdtempSync(join(tmpdir(), "enodia-store-"));
  const dir = join(root, "tiny");
  const from = join(import.meta.dirname, "../../golden/tiny-f32");
  const index = await importMoe({ from, out: dir, codecs: ["f32"], overwrite: true }, () => {});
  return { dir, index, remove: () => rmSync(root, { recursive: true, force: true }) };
}

/** The same whose experts have three forms in each layer, and two within one expert. */
export async function unlikeFormsStore(): ReturnType<typeof tinyStore> {
  const { dir: from, remove } = await tinyStore();
  const store = await openStore(from);
  const formOf = (layer: number, expert: number, matrix: number) =>
    (["q8_0", "q4_0", "bf16"] as const)[(layer + expert + (matrix >> 1)) % 3]!;
  const matricesOf = (layer: number) => store.layerShapes[layer]?.matrices ?? [];
  const forms = store.layerShapes.map(({ experts }, layer) =>
    Array.from({ length: experts }, (_, expert) => matricesOf(layer).map((_, matrix) => formOf(layer, expert, matrix))),
  );
  const expert = async (layer: number, expert: number) => {
    const exact = store.decodeUnit(await store.readUnit(layer, expert, "f32"), "f32", layer, expert);
    const coarse = matricesOf(layer).map(({ name, shape }, matrix) => {
      const form = formOf(layer, expert, matrix);
      return [name, { form, shape, data: codecFor(form).encode({ [name]: asF32(exact[name]!) }, [{ name, shape }]) }] as const;
    });
    return Object.fromEntries(coarse);
  };
  const dir = `${from}-unlike`;
  const index = await rewriteStore(store, { forms: forms.map(layerForms), expert }, { dir, overwrite: false, sources: [from] });
  await store.close();
  return { dir, index, remove };
}

/** Wide enough for blocks of 256 values, quantized to a mean of bits that not all experts can have but in the ternary code. */
export async function mixedBitsStore(): ReturnType<typeof tinyStore> {
  const root = mkdtempSync(join(tmpdir(), "enodia-mixed-"));
  await writePublished((published["Mixtral, Q4_K_M"] as () => Published)(), root);
  const [source, from, dir] = ["model.gguf", "exact", "mixed"].map((name) => join(root, name)) as [string, string, string];
  await importModel({ source, out: from, codecs: undefined, overwrite: false, cache: join(root, "cache"), secrets: {} }, () => {});
  const asked = { dir: from, out: dir, bits: 2.5, types: ["qmoe", "q2_K", "q4_K"] as const, tokens: 512, threads: 1, overwrite: false };
  const { experts } = await quantize(asked, () => {});
  if (!experts.some(({ types }) => types.includes("qmoe"))) throw new Error("no expert is in the ternary code");
  const { index, close } = await openStore(dir);
  await close();
  return { dir, index, remove: () => rmSync(root, { recursive: true, force: true }) };
}

interface Sampled {
  readonly temperature: number;
  readonly seed: bigint;
}
interface Request {
  readonly prompt: number[];
  readonly maxTokens: number;
  readonly sampling: Sampled & { readonly topP: number; readonly topK: number };
  readonly kvRank?: number;
}
const greedy: Sampled = { temperature: 0, seed: 1n };

export interface Rank {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  worker: Worker;
}

export class Ranks {
  readonly ca: TestCa = createTestCa();
  readonly dir: string;
  readonly index: ExpertIndex;
  readonly byRank = new Map<number, Rank>();
  readonly #start: (rank: number) => Partial<WorkerOptions> & { overrides?: WorkerOverrides };
  readonly #closers: (() => void)[] = [];
  readonly #started: Promise<Worker>[] = [];
  readonly #tls = new Map<string, TlsSource>();
  /** Addresses that the membership names instead of a rank's own: a proxy that a test can cut. */
  readonly via = new Map<number, string>();
  /** The same as one rank alone is told them: "0>1" is the way from rank 0 to rank 1. */
  readonly viaOf = new Map<string, string>();
  readonly statuses = new Map<number, WatchStatus>();
  plan: PlacementPlan | undefined;
  /** A plan's experts. */
  readonly loadWithinMs: number = 60_000;
  #version = 0;

  constructor(
    store: { dir: string; index: ExpertIndex },
    start: (rank: number) => Partial<WorkerOptions> & { overrides?: WorkerOverrides } = () => ({}),
  ) {
    this.dir = store.dir;
    this.index = store.index;
    this.#start = start;
  }

  async launch(rank: number, grpcPort = 0, pod = `${rank}-a`): Promise<Rank> {
    const { overrides, ...own } = this.#start(rank);
    const podName = `${deployment}-${pod}`;
    const started = startWorker(
      {
        ...workerSettings(),
        ...{ namespace, deployment, deploymentUid, podName, podUid: `uid-${pod}`, rank, modelDir: this.dir, tlsDir: "", host: "127.0.0.1" },
        ...{
          grpcPort,
          enginePort: 0,
          metricsPort: 0,
          probePort: 0,
          maxContext: 256,
          backend: "cpu",
          codec: "f32",
          kvPoolBytes: 4 << 20,
          expertBudgetBytes: 1 << 30,
        },
        ...{ natsPrefix: "enodia", telemetryWindowMs: 1000, logLevel: "silent", version: "test", threads: 1 },
        ...own,
      },
      { log: silentLog, tls: this.tls(`rank-${rank}`, pod), ...overrides },
    );
    this.#started.push(started);
    const worker = await started;
    const entry = { rank, podUid: `uid-${pod}`, podName, worker };
    this.byRank.set(rank, entry);
    return entry;
  }

  /** Ends a rank as a SIGKILL looks to the others: connections break, nothing is said, memory is gone. */
  async kill(rank: number): Promise<number> {
    const { worker } = this.#at(rank);
    await worker.close(0);
    return worker.grpcPort;
  }

  address(rank: number): string {
    return `127.0.0.1:${this.#at(rank).worker.grpcPort}`;
  }

  /** Certificates are made once per member: openssl takes longer than most of what a test does. */
  tls(member: string, pod = ""): TlsSource {
    const named = pod === "" ? [] : [`${deployment}-${pod}`, `uid-${pod}`];
    const known = this.#tls.get(`${member} ${pod}`) ?? this.ca.issue(member, namespace, deployment, ...named);
    this.#tls.set(`${member} ${pod}`, known);
    return known;
  }

  control(rank: number, member = "operator") {
    const tls = this.tls(member);
    const client = connect(Control, { address: this.address(rank), serverName: serverNames.rank(rank, namespace, deployment), tls });
    this.#closers.push(client.close);
    return client;
  }
  sender() {
    return toSender({ deploymentUid, rank: operatorRank, podUid: "operator", bootId: "operator" });
  }

  /** Pushes membership (and the committed plan) to every rank over Watch and waits until each has taken it. */
  async push(states: Record<number, Member["state"]> = {}): Promise<void> {
    const version = ++this.#version;
    const members = this.members(states);
    const live = members.filter((member) => member.state !== "lost");
    const told = (to: number) =>
      members.map((member) => Object.assign({}, member, { address: this.viaOf.get(`${to}>${member.rank}`) ?? member.address }));
    await Promise.all(live.map(({ rank }) => this.#pushTo(rank, { version, members: told(rank) })));
  }
  members(states: Record<number, Member["state"]> = {}): Member[] {
    return [...this.byRank.values()].map(({ rank, podName, podUid, worker }): Member => {
      const { bootId } = worker.identity;
      return { rank, podName, podUid, bootId, address: this.via.get(rank) ?? this.address(rank), state: states[rank] ?? "active" };
    });
  }
  async #pushTo(rank: number, membership: { version: number; members: Member[] }): Promise<void> {
    const watch = this.control(rank).watch();
    watch.on("error", () => {});
    this.#closers.push(() => watch.cancel());
    const epoch = this.plan?.epoch ?? 0;
    const taken = new Promise<void>((resolve) => {
      watch.on("data", (status: WatchStatus) => {
        this.statuses.set(rank, status);
        if (Number(status.membershipVersion) >= membership.version && Number(status.epoch) >= epoch) resolve();
      });
    });
    watch.write(create(WatchPushSchema, { sender: this.sender(), push: { case: "membership", value: toMembership(membership) } }));
    if (this.plan) watch.write(create(WatchPushSchema, { sender: this.sender(), push: { case: "plan", value: toPlan(this.plan) } }));
    await within(60_000, taken, `rank ${rank} takes membership ${membership.version}`);
  }

  layerPlan(layer: number, epoch: number, hosts: (expert: number) => number[]): LayerPlacement {
    const rows = Array.from({ length: this.index.experts }, (_, expert) => hosts(expert));
    return {
      ...{ layer, epoch, hosts: rows },
      weights: rows.map((row) => row.map((_, i) => Math.floor(1000 / row.length) + (i === 0 ? 1000 % row.length : 0))),
    };
  }
  nextPlan(layers: LayerPlacement[], planHash?: string): PlacementPlan {
    const parentEpoch = this.plan?.epoch ?? 0;
    const epoch = parentEpoch + 1;
    const { modelDigest } = this.index;
    return {
      deploymentUid,
      epoch,
      parentEpoch,
      planHash: planHash ?? `hash-${epoch}`,
      modelDigest,
      layers: layers.map((layer) => ({ ...layer, epoch })),
    };
  }

  /** Prepare everywhere, then commit everywhere, then release everywhere; as the operator does it when nothing fails. */
  async carryOut(plan: PlacementPlan, ranks = [...this.byRank.keys()]): Promise<void> {
    await Promise.all(ranks.map((rank) => this.prepare(rank, plan)));
    await Promise.all(
      ranks.map(async (rank) => {
        const reply = await this.control(rank).commit({ sender: this.sender(), plan: toPlan(plan) });
        if (reply.refused !== "") throw new Error(`rank ${rank} refused: ${reply.refused}`);
      }),
    );
    const old = this.plan?.layers ?? [];
    const changed = new Set(plan.layers.map(({ layer }) => layer));
    this.plan = { ...plan, layers: [...old.filter(({ layer }) => !changed.has(layer)), ...plan.layers].sort((a, b) => a.layer - b.layer) };
    await Promise.all(ranks.map((rank) => this.#release(rank, plan.epoch, [...changed])));
  }
  async #release(rank: number, epoch: number, layers: number[]): Promise<void> {
    for (let tries = 0; tries < 100; tries++) {
      const { pending } = await this.control(rank).release({ sender: this.sender(), epoch: BigInt(epoch), layers });
      if (pending.length === 0) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`rank ${rank} still has frames of the parent of epoch ${epoch}`);
  }
  async prepare(rank: number, plan: PlacementPlan, deadlineMs = this.loadWithinMs): Promise<void> {
    const request = { sender: this.sender(), plan: toPlan(plan), deadlineUnixMs: BigInt(Date.now() + deadlineMs) };
    for await (const { event } of this.control(rank).prepare(request)) {
      if (event.case === "failed") throw new Error(`rank ${rank}, layer ${event.value.layer}: ${event.value.code}: ${event.value.message}`);
    }
  }
  /** Epoch 1 as decisions 7 asks: primary of expert e in layer l = (e + l) mod N; its copies are at the ranks after that. */
  async firstPlan(copies = 1): Promise<void> {
    const ranks = [...this.byRank.keys()].sort((a, b) => a - b);
    const layers = Array.from({ length: this.index.layers }, (_, layer) =>
      this.layerPlan(layer, 1, (expert) => Array.from({ length: copies }, (_, i) => ranks[(expert + layer + i) % ranks.length]!)),
    );
    await this.push();
    await this.carryOut(this.nextPlan(layers));
  }

  /**
   * Generates at a rank; when that fails or drains, goes on at the next of `order`, replaying what it has. `from`: a rank that may have keys
   * and values of the prompt.
   */
  async text(
    order: number[],
    prompt: number[],
    maxTokens: number,
    onToken: (tokens: number[]) => unknown = () => {},
    sampling: Sampled = greedy,
    from?: number,
  ): Promise<number[]> {
    const tokens: number[] = [];
    let last: unknown;
    for (const [i, rank] of order.entries()) {
      const kvRank = order[i - 1] ?? from;
      const request = { prompt, maxTokens, sampling: { topP: 1, topK: 0, ...sampling }, ...(kvRank === undefined ? {} : { kvRank }) };
      try {
        if (await this.#generate(rank, request, tokens, onToken)) return tokens;
      } catch (error) {
        last = error;
      }
    }
    throw new Error(`no rank of ${order} finished the text after ${tokens.length} tokens`, { cause: last });
  }
  async #generate(rank: number, request: Request, tokens: number[], onToken: (tokens: number[]) => unknown): Promise<boolean> {
    const tls = this.tls("gateway");
    const client = connect(Inference, { address: this.address(rank), serverName: serverNames.rank(rank, namespace, deployment), tls });
    try {
      const sender = toSender({ deploymentUid, rank: gatewayRank, podUid: "gateway", bootId: "gateway" });
      const call = client.generate({ sender, requestId: "r", replay: [...tokens], ...request });
      for await (const { event } of call) {
        if (event.case === "token") {
          tokens.push(event.value.id);
          await onToken(tokens);
        }
        if (event.case === "finish") return event.value.reason === FinishReason.LENGTH || event.value.reason === FinishReason.STOP;
      }
      return false;
    } finally {
      client.close();
    }
  }

  /** Ranks that a rank distrusts. */
  suspects(rank: number): number[] {
    const { peers } = this.#at(rank).worker.experts;
    return [...this.byRank.keys()].filter((other) => peers.isSuspect(other));
  }

  /** Ends every connection of the operator and the gateways. */
  leaveAlone(): void {
    for (const close of this.#closers.splice(0)) close();
  }

  /** Ranks that still start are closed too. */
  async close(): Promise<void> {
    this.leaveAlone();
    await Promise.all(this.#started.map((started) => started.then((worker) => worker.close(0)).catch(() => {})));
  }

  #at(rank: number): Rank {
    const entry = this.byRank.get(rank);
    if (entry === undefined) throw new Error(`no rank ${rank}`);
    return entry;
  }
}
