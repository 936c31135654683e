// A rank whose keys and values move: the worker plane and the server of requests of production, in one process after another, with an onlooker
// at every step of a transfer.
import { ports } from "../../crds/common.ts";
import type { MemberState } from "../../crds/names.ts";
import type { EngineKv, KvText } from "../../runtime/engine/engine.ts";
import { Inference } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import type { Member, Membership } from "../../runtime/net/mapping.ts";
import { prefixRoot } from "../../runtime/net/prefix-ids.ts";
import { createHealth } from "../../runtime/observe/health.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import type { Metrics } from "../../runtime/observe/runtime-metrics.ts";
import { tracingOff } from "../../runtime/observe/trace.ts";
import { OnDemandSocket } from "../../runtime/worker/experts.ts";
import { createInferenceServer } from "../../runtime/worker/inference.ts";
import { KeptAnswers } from "../../runtime/worker/kept-answers.ts";
import type { BringOptions } from "../../runtime/worker/kv-fetch.ts";
import { PrefixLog } from "../../runtime/worker/prefix-log.ts";
import { createWorkerPlane, type WorkerPlane } from "../../runtime/worker/worker-plane.ts";
import { asOwner, type Owner, type VirtualClock } from "./clock.ts";
import { KvEngine, kvPool, kvVocab, positionBytes, rowsOf } from "./kv-engine.ts";
import { identityOf } from "./kv-plants.ts";
import { SimModel } from "./model.ts";
import { simStore } from "./store.ts";
import type { Host, SimWire } from "./wire.ts";
import { deploymentUid, infoOf, ref, tls } from "./worker.ts";

const shape = { layers: 2, experts: 0, bytes: 0, budgetBytes: 1_000 };
const disk = { hanging: () => false, damaged: () => false, factor: () => 1 };
/** What a fetch may take, as kv-fetch.ts promises it, and a step or a chunk that is under way when its time is over. */
const fetchMs = { least: 200, unknown: 5_000, most: 10_000, slack: 400 };

interface KvWatch {
  /** A transfer is at this point here. */
  at(rank: KvRank, point: string): void;
  fault(text: string): void;
  fetched(result: string): void;
}

interface Around {
  readonly clock: VirtualClock;
  readonly wire: SimWire;
  readonly watch: KvWatch;
}

interface Process {
  readonly owner: Owner;
  readonly host: Host;
  readonly engine: KvEngine;
  readonly plane: WorkerPlane;
}

export class KvRank {
  readonly rank: number;
  readonly podUid: string;
  readonly podName: string;
  readonly tokenMs: number;
  state: MemberState = "active";
  numerics: string;
  stalled = false;
  process: Process | undefined;
  readonly #around: Around;
  /** Texts of streams that go on here. */
  readonly #musts = new WeakSet<KvText>();
  #boots = 0;

  constructor(around: Around, rank: number, { tokenMs, numerics }: { readonly tokenMs: number; readonly numerics: string }) {
    this.#around = around;
    this.rank = rank;
    [this.podUid, this.podName] = [`uid-${rank}`, `${ref.name}-${rank}`];
    [this.tokenMs, this.numerics] = [tokenMs, numerics];
  }

  get member(): Member {
    const { rank, podUid, podName, state, numerics } = this;
    return { rank, podUid, podName, state, numerics, bootId: `boot-${this.#boots}`, address: this.#address };
  }
  get #address(): string {
    return `10.0.0.${this.rank}:${ports.grpc}`;
  }

  boot(): void {
    const owner: Owner = { dead: false };
    this.#boots += 1;
    this.state = "active";
    asOwner(owner, () => {
      this.process = this.#started(owner);
    });
  }

  /** As a SIGKILL. */
  kill(): void {
    const { process } = this;
    this.process = undefined;
    this.state = "lost";
    if (process === undefined) return;
    process.owner.dead = true;
    this.#around.wire.killed(process.host);
  }

  apply(membership: Membership): void {
    const { process } = this;
    if (process) asOwner(process.owner, () => process.plane.experts.peers.apply(membership));
  }

  /** What it still holds although nothing is under way. */
  held(): string[] {
    if (this.process === undefined) return [];
    const { engine, plane } = this.process;
    const counts = {
      "requests in its scheduler": engine.batcher.openIds().length,
      "slots in use": engine.ledger.used,
      "blocks in use": engine.ledger.blocksUsed,
      "blocks that wait": engine.transfers.pending,
      "bytes a second of transfers": plane.experts.pace.effectiveRate,
      "requests in its engine": engine.load().activeRequests,
    };
    return Object.entries(counts).flatMap(([what, count]) => (count > 0 ? [`rank ${this.rank} is left with ${count} ${what}`] : []));
  }

  #started(owner: Owner): Process {
    const { rank, podUid, podName, numerics } = this;
    const { clock, wire } = this.#around;
    const { namespace, name } = ref;
    const san = `DNS:rank-${rank}.${name}.${namespace}.enodia, URI:spiffe://enodia/${namespace}/${name}/${podName}`;
    const host: Host = { owner, id: rank, san, stalled: () => this.stalled };
    const model = new SimModel(shape);
    const kvSizes = { maxContext: kvPool.context, kvSlots: kvPool.slots, kvBlocks: kvPool.blocks, kvBlockTokens: kvPool.blockTokens };
    const info = infoOf({ shape, engineInfo: { ...kvSizes, vocab: kvVocab, numerics } });
    const onDemand = new OnDemandSocket();
    const identity = identityOf(info.modelDigest, numerics);
    const prefixes = new PrefixLog(prefixRoot(...identity));
    const engine = new KvEngine({
      ...{ clock, model, info, onDemand, rank, network: wire.rows(host), tokenMs: this.tokenMs },
      ...{ identity, onPrefixes: (changed) => prefixes.add(changed) },
      counters: () => ({ prefill: counted, decode: counted }),
      activeRequests: () => 0,
      ...{ onFree: () => {}, onMemory: () => {}, onStep: () => {} },
    });
    Object.assign(engine, { kv: this.#watched(engine.kv) });
    const network = wire.network(host, this.#address);
    const self = { deploymentUid, rank, podUid, bootId: `boot-${this.#boots}` };
    const metrics = this.#metrics();
    const plane = createWorkerPlane({
      ...{
        identity: self,
        namespace,
        name,
        podName,
        network,
        tls,
        engine,
        info,
        onDemand,
        metrics,
        health: createHealth(),
        log: silentLog,
      },
      ...{ store: simStore(model, disk, clock), textDigest: "", budgetBytes: shape.budgetBytes, tracing: tracingOff },
      clock: () => clock.now(),
    });
    const server = network.createServer(tls);
    plane.serve(server);
    server.add(
      Inference,
      createInferenceServer({
        ...{ engine, deploymentUid, caller: plane.caller, metrics, record: plane.record, tracing: tracingOff, log: silentLog },
        ...{ answers: new KeptAnswers(() => performance.now()), kvUse: () => undefined, notReady: () => undefined },
        prefixes,
        refuses: () => plane.leaving.refuses(),
        bringKv: (text, from, options) => (from === undefined ? undefined : this.#bring(plane, text(), from, options)),
        onGap: (ms) => plane.experts.pace.token(ms),
      }),
    );
    void server.listen("", ports.grpc);
    void plane.openConnections(`10.0.0.${rank}`, 1);
    return { owner, host, engine, plane };
  }

  #metrics(): Metrics<"worker"> {
    const add = (name: string, _amount: number, labels?: { readonly result?: string }): void => {
      if (name === "enodia_kv_fetches_total") this.#around.watch.fetched(labels?.result ?? "");
    };
    return { add, set() {}, observe() {}, observeTraced() {}, onCollect() {} } as unknown as Metrics<"worker">;
  }

  async #bring({ bringKv }: WorkerPlane, text: KvText, from: number, options: BringOptions): Promise<void> {
    const { watch } = this.#around;
    const startedAt = performance.now();
    watch.at(this, "begins to fetch");
    if (options.must) this.#musts.add(text);
    await bringKv?.(() => text, from, options);
    const ms = performance.now() - startedAt;
    if (ms > fetchMs.most + 2 * fetchMs.slack) watch.fault(`rank ${this.rank} fetched for ${ms} ms`);
    watch.at(this, "has fetched");
  }

  #watched(kv: EngineKv): EngineKv {
    const { watch } = this.#around;
    const asked = new Map<string, { readonly text: KvText; readonly endsAt: number }>();
    return {
      look: async (text) => {
        const look = await kv.look(text);
        const tokens = (look.blocks.at(-1)?.to ?? 0) - look.here;
        const { least, unknown, most, slack } = fetchMs;
        const ms = look.tokenMs === undefined ? unknown : Math.min(most, tokens * look.tokenMs);
        const endsAt = performance.now() + Math.max(this.#musts.has(text) ? unknown : least, ms) + slack;
        for (const { id } of look.blocks) asked.set(id, { text, endsAt: Math.max(endsAt, asked.get(id)?.endsAt ?? 0) });
        watch.at(this, "has looked");
        return look;
      },
      read: async (block) => {
        watch.at(this, "is asked for a block");
        const data = await kv.read(block);
        watch.at(this, "has read a block");
        return data;
      },
      write: async (written) => {
        const { block, tokens } = written;
        const data = written.data.slice();
        const known = asked.get(block.id);
        watch.at(this, "is given a block");
        if (performance.now() > (known?.endsAt ?? 0))
          watch.fault(`rank ${this.rank} is given a block ${Math.round(performance.now() - (known?.endsAt ?? 0))} ms after its time`);
        const taken = await kv.write(written);
        if (taken && known !== undefined) {
          const { text } = known;
          const rows = rowsOf(text.tokens.subarray(0, block.to), text.cacheSalt, this.numerics);
          const right = Buffer.from(rows.buffer).subarray(block.from * positionBytes);
          const same = Buffer.compare(right, data) === 0 && tokens.every((token, i) => token === text.tokens[block.from + i]);
          if (!same) watch.fault(`rank ${this.rank} took a block of another identity`);
        }
        watch.at(this, "has written a block");
        return taken;
      },
    };
  }
}

const counted = { routed: new Uint32Array(0), served: new Uint32Array(0), compute: { rows: 0, seconds: 0 } } as never;
