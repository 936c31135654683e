// Load that a test plants: it speaks on NATS for the workers of a deployment, so that the planner sees the skew that the test
// wants while the traffic stays what it is. A flip of the skew is a rebalance of the planner's own, carried out as any other.
// A worker's own messages have smaller sequence numbers, and are dropped as duplicates meanwhile.
import { encodeLoad, loadSubject, type Phase } from "../../crds/telemetry.ts";
import { openBus } from "./load-watch.ts";
import type { Deployed } from "./world.ts";

const everyMs = 1_000;
/** Silence before the other skew: longer than the planner's window, so that none has something of both. */
const turnMs = 2_500;
/** Selections per layer and second. */
const selections = 3_000;
/** Load of one expert to that of the next colder one. */
const decay = 0.6;
const phase: Phase = "decode";

export type Skew = "one" | "other";

export interface PlantedLoad {
  readonly skew: Skew;
  flip(): void;
  /** Learns the present processes of the workers: load of a boot that is gone is not heard. */
  refresh(): Promise<void>;
  stop(): Promise<void>;
}

export interface PlantedModel {
  readonly layers: number;
  readonly experts: number;
  /** Layers above stay as they are in a flip. */
  readonly layersFlipped: number;
}

/** Each layer's experts fall off from another one on; the other skew has the same loads in reverse order. */
export function plantedCounts(skew: Skew, { layers, experts, layersFlipped }: PlantedModel): Float64Array {
  return Float64Array.from({ length: layers * experts }, (_, i) => {
    const layer = Math.floor(i / experts);
    const place = ((i % experts) + layer) % experts;
    const reversed = skew === "other" && layer < layersFlipped;
    return selections * (1 - decay) * decay ** (reversed ? (experts - place) % experts : place);
  });
}

/** Begins with skew "one". */
export async function plantLoad({ target, kubectl, name, namespace }: Deployed, model: PlantedModel): Promise<PlantedLoad> {
  const { uid } = (await kubectl.get("moed", name)).metadata;
  const bus = await openBus(target, "planted-load");
  let processes: { readonly rank: number; readonly bootId: string }[] = [];
  let skew: Skew = "one";
  let silentUntil = 0;
  const refresh = async (): Promise<void> => {
    processes = (await kubectl.get("eplace", name)).status?.ranks?.filter((rank: { bootId?: string }) => rank.bootId !== undefined) ?? [];
  };
  const publish = (): void => {
    const now = Date.now();
    if (now < silentUntil) return;
    const routed = Uint32Array.from(plantedCounts(skew, model), (count) => Math.round(count / Math.max(1, processes.length)));
    for (const { rank, bootId } of processes) {
      const window = { v: 1, deploymentUID: uid ?? "", rank, bootId, seq: now, windowStart: now - everyMs, windowEnd: now, phase } as const;
      const { layers, experts } = model;
      bus.publish(loadSubject("enodia", namespace, name, rank), encodeLoad({ ...window, layers, experts, routed, served: routed }));
    }
  };
  await refresh();
  const timer = setInterval(publish, everyMs);
  return {
    get skew() {
      return skew;
    },
    flip: () => {
      skew = skew === "one" ? "other" : "one";
      silentUntil = Date.now() + turnMs;
    },
    refresh,
    stop: async () => {
      clearInterval(timer);
      await bus.close();
    },
  };
}
