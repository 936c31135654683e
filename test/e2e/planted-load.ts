// Load that a test plants: it speaks on NATS for the workers of a deployment, so that the planner sees the skew that the test
// wants while the traffic stays what it is. A flip of the skew is a rebalance of the planner's own, carried out as any other. It
// can, since a test may read the key that signs load. It numbers its messages a little ahead of a worker's own, which are
// dropped as duplicates therefore.
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
/** Silence before the other skew: longer than the planner's window, so that none has something of both. */
const turnMs = 2_500;
/** Selections per layer and second. */
const selections = 3_000;
/** Load of one expert to that of the next colder one. */
const decay = 0.6;
/** Places by which the hottest expert of a pair of skews is away from that of the pair before. */
const shift = 3;
const phase: Phase = "decode";

/** The number of a distribution of load; even and odd ones fall off in opposite directions. */
export type Skew = number;

export interface PlantedLoad {
  /** Goes on to the next skew, after the last to the first. */
  flip(): void;
  stop(): Promise<void>;
}

export interface PlantedModel {
  readonly layers: number;
  readonly experts: number;
  /** Layers above stay as they are in a flip. */
  readonly layersFlipped: number;
  /** Two turn the load over and back. A placement may suit both in time, but never eight of eight experts on three ranks. */
  readonly skews: number;
}

/** Each layer's experts fall off from another one on; another skew has the same loads in reverse order, or from a third expert on. */
export function plantedCounts(skew: Skew, { layers, experts, layersFlipped }: Omit<PlantedModel, "skews">): Float64Array {
  return Float64Array.from({ length: layers * experts }, (_, i) => {
    const layer = Math.floor(i / experts);
    const turned = layer < layersFlipped ? skew : 0;
    const place = ((i % experts) + layer + shift * Math.floor(turned / 2)) % experts;
    return selections * (1 - decay) * decay ** (turned % 2 === 1 ? (experts - place) % experts : place);
  });
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

/** Begins with skew 0. */
export async function plantLoad({ target, kubectl, name, namespace }: Deployed, model: PlantedModel): Promise<PlantedLoad> {
  const deploymentUID: string = (await kubectl.get("moed", name)).metadata.uid ?? "";
  const keys = await telemetryKeys({ kubectl, name });
  const [key] = keys;
  if (!key) throw new Error(`no key signs the load of ${name}`);
  const bus = await openBus(target, "planted-load");
  const voices = new Voices();
  bus.subscribe(loadSubject("enodia", namespace, name, "*"), (bytes) => voices.hear(readLoad(bytes, keys), Date.now()));
  const { layers, experts } = model;
  let skew: Skew = 0;
  let silentUntil = 0;
  const publish = (): void => {
    const now = Date.now();
    if (now < silentUntil) return;
    const messages = voices.next(now);
    const routed = Uint32Array.from(plantedCounts(skew, model), (count) => Math.round(count / messages.length));
    for (const numbered of messages) {
      const body = encodeLoad({ v: 1, deploymentUID, phase, layers, experts, routed, served: routed, ...numbered });
      bus.publish(loadSubject("enodia", namespace, name, numbered.rank), signLoad(body, key));
    }
  };
  const timer = setInterval(publish, everyMs);
  return {
    flip: () => {
      skew = (skew + 1) % model.skews;
      silentUntil = Date.now() + turnMs;
    },
    stop: async () => {
      clearInterval(timer);
      await bus.close();
    },
  };
}
