// Load that a test plants: it speaks on NATS for the workers of a deployment, so that the planner sees the skew that the test
// wants while the traffic stays what it is. Load that turns against the placement is a rebalance of the planner's own, carried out
// as any other. It numbers its messages a little ahead of a worker's own, which are dropped as duplicates therefore.
import type { LayerPlan } from "../../crds/plan.ts";
import { encodeLoad, type LoadWindow, loadSubject, type Phase } from "../../crds/telemetry.ts";
import { signLoad } from "../../runtime/net/load-signature.ts";
import { openBus, readLoad, telemetryKeys } from "./load-watch.ts";
import type { Deployed } from "./world.ts";

export const everyMs = 1_000;
/** How far ahead of a worker's last message one is numbered: more than the worker's own get on before the next, and no more than may be
 *  missing between two, so that an operator that hears the worker first takes it as well. */
const ahead = 5;
/** A process that says nothing itself for so long is gone. */
const goneMs = 5_000;
/** Silence before other load: longer than the planner's window, so that none has something of both. */
const turnMs = 2_500;
/** Selections per layer and second. */
const selections = 3_000;
/** The part of them that the experts of one rank have. */
const hotShare = 0.75;
const phase: Phase = "decode";

type Placed = readonly Pick<LayerPlan, "hosts">[];

export interface PlantedLoad {
  /** From now on the experts of one rank are hot, in each layer those of another rank, and of other ranks with every turn. */
  turnAgainst(placed: Placed): void;
  stop(): Promise<void>;
}

export interface PlantedModel {
  readonly layers: number;
  readonly experts: number;
  /** The load of the layers above stays even. */
  readonly layersTurned: number;
}

/** Selections of each expert per second, [layers * experts]. */
export function loadAgainst(placed: Placed, turn: number, { layers, experts, layersTurned }: PlantedModel): Float64Array {
  const counts = new Float64Array(layers * experts).fill(selections / experts);
  const ranks = [...new Set(placed.flatMap(({ hosts }) => hosts.flat()))].sort((a, b) => a - b);
  for (const [layer, { hosts }] of placed.slice(0, layersTurned).entries()) {
    const hot = hosts.map(([primary]) => primary === ranks[(layer + turn) % ranks.length]);
    const hotCount = hot.filter(Boolean).length;
    if (hotCount === 0 || hotCount === experts) continue;
    hot.forEach((isHot, e) => {
      counts[layer * experts + e] = selections * (isHot ? hotShare / hotCount : (1 - hotShare) / (experts - hotCount));
    });
  }
  return counts;
}

type Numbered = Pick<LoadWindow, "rank" | "bootId" | "seq" | "windowStart" | "windowEnd">;

/** The processes that report load, as they are heard, and what is to be sent in their names. Times in unix ms. */
export class Voices {
  /** By boot: its own last message and when it came, and what was planted last. */
  readonly #last = new Map<string, { readonly own: Numbered; readonly at: number; readonly planted: Numbered | undefined }>();

  hear({ rank, bootId, seq, windowStart, windowEnd }: Numbered, now: number): void {
    const planted = this.#last.get(bootId)?.planted;
    if (planted && seq === planted.seq && windowEnd === planted.windowEnd) return;
    this.#last.set(bootId, { own: { rank, bootId, seq, windowStart, windowEnd }, at: now, planted });
  }

  /** The next message of every process that lives; until one was heard nobody knows what its next number is. */
  next(now: number): readonly Numbered[] {
    for (const [bootId, { at }] of this.#last) if (now - at > goneMs) this.#last.delete(bootId);
    return [...this.#last.values()].flatMap(({ own, at, planted }) => {
      const spokenUntil = Math.max(own.windowEnd, planted?.windowEnd ?? 0);
      if (spokenUntil >= now) return [];
      const seq = Math.max(own.seq + ahead, (planted?.seq ?? 0) + 1);
      const message = { rank: own.rank, bootId: own.bootId, seq, windowStart: Math.max(spokenUntil, now - everyMs), windowEnd: now };
      this.#last.set(own.bootId, { own, at, planted: message });
      return [message];
    });
  }
}

/** Begins with even load. */
export async function plantLoad(deployed: Deployed, model: PlantedModel): Promise<PlantedLoad> {
  const { kubectl, name, namespace } = deployed;
  const deploymentUID: string = (await kubectl.get("moed", name)).metadata.uid ?? "";
  const keys = await telemetryKeys({ kubectl, name });
  const [key] = keys;
  if (!key) throw new Error(`no key signs the load of ${name}`);
  const bus = await openBus(deployed, "planted-load");
  const voices = new Voices();
  bus.subscribe(loadSubject("enodia", namespace, name, "*"), (bytes) => voices.hear(readLoad(bytes, keys), Date.now()));
  const { layers, experts } = model;
  let turn = 0;
  let counts = loadAgainst([], turn, model);
  let silentUntil = 0;
  const publish = (): void => {
    const now = Date.now();
    if (now < silentUntil) return;
    const messages = voices.next(now);
    const routed = Uint32Array.from(counts, (count) => Math.round(count / messages.length));
    for (const numbered of messages) {
      const body = encodeLoad({ v: 1, deploymentUID, phase, layers, experts, routed, served: routed, ...numbered });
      bus.publish(loadSubject("enodia", namespace, name, numbered.rank), signLoad(body, key));
    }
  };
  const timer = setInterval(publish, everyMs);
  return {
    turnAgainst: (placed) => {
      counts = loadAgainst(placed, ++turn, model);
      silentUntil = Date.now() + turnMs;
    },
    stop: async () => {
      clearInterval(timer);
      await bus.close();
    },
  };
}
