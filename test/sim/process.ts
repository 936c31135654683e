// One process of a simulated worker: the production plan keeper, epoch machine, materializer, resident set and pace. Made up
// are the engine (a memory of contents), the transfers (latency, then a peer's or the store's content) and the frames.
import { AppError } from "../../crds/common.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import { PlanState } from "../../runtime/engine/core/plan-state.ts";
import { Materializer } from "../../runtime/experts/materializer.ts";
import { ResidentSet } from "../../runtime/experts/resident-set.ts";
import type { FetchOptions, FetchResult } from "../../runtime/experts/shard-client.ts";
import { TransferPace } from "../../runtime/experts/transfer-pace.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { PlanKeeper } from "../../runtime/serve/worker-plan.ts";
import { content, digest, keyOf, type SimNetwork } from "./network.ts";

const fetchMs = 20;
/** A transfer looks again so often whether it goes on, and how fast. */
const sliceMs = 500;
/** The last frame of a parent epoch is answered so long after the commit; some wait for a busy host. */
const framesMs = { least: 10, most: 70, busy: 2_000 };
const busyShare = 0.2;

/** Stored bytes on their way: their number and, for what they say, a text. */
interface Unit {
  readonly byteLength: number;
  readonly content: string;
}

export interface ProcessOptions {
  readonly net: SimNetwork;
  readonly rank: number;
  readonly podUid: string;
  readonly bootId: string;
  /** Before an expert goes, and after one has come or gone. */
  readonly onFree: (layer: number, expert: number) => void;
  readonly onMemory: (layer: number, expert: number) => void;
}

export class SimProcess {
  readonly state: PlanState;
  readonly residents: ResidentSet;
  readonly keeper: PlanKeeper;
  /** By keyOf: the content held. */
  readonly memory = new Map<number, string>();
  private readonly o: ProcessOptions;
  private dead = false;

  constructor(options: ProcessOptions) {
    this.o = options;
    const { net, rank, podUid, bootId } = options;
    const { layers, experts, bytes, budgetBytes } = net.shape;
    this.state = new PlanState({ deploymentUid: net.deploymentUid, rank, layers, experts, modelDigest: digest });
    this.residents = new ResidentSet({ budgetBytes, expertBytes: bytes, now: () => net.clock.now() });
    const materializer = new Materializer({
      engine: {
        loadExpert: async (layer, expert, unit) => this.put(layer, expert, (unit as unknown as Unit).content),
        unloadExpert: async (layer, expert) => this.take(layer, expert),
      },
      residents: this.residents,
      shards: { storedBytes: () => bytes, fetch: (request) => this.fetch(request) },
      pace: new TransferPace({ onChange: () => {} }),
      log: silentLog,
    });
    this.keeper = new PlanKeeper({
      state: this.state,
      engine: { setRouting: async () => {}, setDown: async () => {} },
      materializer,
      peers: {
        ...{ self: { deploymentUid: net.deploymentUid, rank, podUid, bootId }, onChange: () => () => {}, down: () => new Set() },
        ...{ usable: (other) => net.worker(other) !== undefined, member: () => undefined },
      },
      layers,
      metrics: { add: () => {} },
      log: silentLog,
      onChange: () => {},
    });
    this.keeper.attach({ drained: () => this.drained() });
  }

  /** It dies: what is under way ends, and what ends changes nothing that anybody sees. */
  kill(): void {
    this.dead = true;
    this.keeper.close();
  }

  /** Experts loaded on demand, in use, take all room beside what `plan` wants here, until the returned function is called. */
  fillUp(plan: PlacementPlan): () => void {
    const { rank } = this.o;
    const filled: { layer: number; expert: number }[] = [];
    const { residents } = this;
    for (const { layer, hosts } of plan.layers) {
      for (const [expert, row] of hosts.entries()) {
        if (row.includes(rank) || residents.count >= residents.capacity) continue;
        if (residents.admit(layer, expert, "staged").action !== "load") continue;
        this.put(layer, expert, content(layer, expert));
        residents.loaded(layer, expert);
        residents.lease(layer, expert);
        filled.push({ layer, expert });
      }
    }
    return () => {
      for (const { layer, expert } of filled) residents.unlease(layer, expert);
    };
  }

  private put(layer: number, expert: number, bytes: string): void {
    this.memory.set(keyOf(this.o.net.shape, layer, expert), bytes);
    if (!this.dead) this.o.onMemory(layer, expert);
  }

  private take(layer: number, expert: number): void {
    if (!this.dead) this.o.onFree(layer, expert);
    this.memory.delete(keyOf(this.o.net.shape, layer, expert));
    if (!this.dead) this.o.onMemory(layer, expert);
  }

  /** As the shard client does it: verified bytes of the first source that has them, of the store at last. */
  private async fetch({ layer, expert, sources, signal }: FetchOptions): Promise<FetchResult> {
    await this.transfer(signal);
    const { net, rank } = this.o;
    const declared = content(layer, expert);
    const received = (held: string): string => (net.corrupts() ? `${held}?` : held);
    for (const source of sources) {
      const peer = net.worker(source);
      if (!peer || peer.rank === rank || peer.stalled || !net.connected(rank, source)) continue;
      const held = peer.process.residents.isResident(layer, expert) ? peer.memory.get(keyOf(net.shape, layer, expert)) : undefined;
      if (held !== undefined && received(held) === declared) return this.delivered(declared, source);
    }
    if (received(declared) === declared) return this.delivered(declared, "store");
    throw new AppError(`expert ${layer}/${expert}: the store's bytes do not have the index's hash`, { code: "CorruptShard" });
  }

  private delivered(bytes: string, source: FetchResult["source"]): FetchResult {
    const unit: Unit = { byteLength: this.o.net.shape.bytes, content: bytes };
    return { unit: unit as unknown as Uint8Array, source, seconds: fetchMs / 1000 };
  }

  /** Takes its time, which may change under way, and ends with the signal at the latest. */
  private async transfer(signal: AbortSignal): Promise<void> {
    const { net, rank } = this.o;
    let left = fetchMs * (0.5 + net.random());
    while (left > 1e-6 && !signal.aborted) {
      const factor = net.fetchFactor(rank);
      const slice = Math.min(left * factor, sliceMs);
      await net.clock.sleep(slice);
      left -= slice / factor;
    }
  }

  private async drained(): Promise<boolean> {
    const { clock, random } = this.o.net;
    const most = random() < busyShare ? framesMs.busy : framesMs.most;
    await clock.sleep(framesMs.least + random() * (most - framesMs.least));
    return true;
  }
}
