// Load that a test plants: it speaks on NATS for the workers of a deployment, so that the planner sees the skew that the test
// wants while the traffic stays what it is. A flip of the skew is a rebalance of the planner's own, carried out as any other. It
// can, since a test may read the key that signs load. It numbers its messages from a worker's own on and faster than that does, so
// that the worker's are dropped as duplicates from then on.
import { encodeLoad, loadSubject, type Phase } from "../../crds/telemetry.ts";
import { signLoad } from "../../runtime/wire/load-signature.ts";
import { openBus, readLoad, telemetryKeys } from "./load-watch.ts";
import type { Deployed } from "./world.ts";

const everyMs = 1_000;
/** How far ahead of a worker's last message the first is numbered, and of the one before it each other: more than the worker's own
 *  get on meanwhile, and no more than may be missing between two. */
const seqSteps = { first: 4, other: 8 } as const;
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
  const keys = await telemetryKeys({ kubectl, name });
  const [key] = keys;
  if (!key) throw new Error(`no key signs the load of ${name}`);
  const bus = await openBus(target, "planted-load");
  /** By boot: the last number, where its window ended, and the last number that was planted. */
  const last = new Map<string, { readonly seq: number; readonly end: number }>();
  const planted = new Map<string, number>();
  bus.subscribe(loadSubject("enodia", namespace, name, "*"), (bytes) => {
    const { bootId, seq, windowEnd } = readLoad(bytes, keys);
    if (seq > (last.get(bootId)?.seq ?? 0)) last.set(bootId, { seq, end: windowEnd });
  });
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
      const heard = last.get(bootId);
      // Until it was heard nobody knows what its next number is.
      if (heard === undefined || heard.end >= now) continue;
      const seq = heard.seq + (heard.seq === planted.get(bootId) ? seqSteps.other : seqSteps.first);
      planted.set(bootId, seq);
      const times = { seq, windowStart: Math.max(heard.end, now - everyMs), windowEnd: now };
      const window = { v: 1, deploymentUID: uid ?? "", rank, bootId, ...times, phase } as const;
      const { layers, experts } = model;
      const body = encodeLoad({ ...window, layers, experts, routed, served: routed });
      bus.publish(loadSubject("enodia", namespace, name, rank), signLoad(body, key));
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
