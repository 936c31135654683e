// Load that a test plants: it speaks on NATS for the workers of a deployment, so that the planner sees the skew that the test
// wants while the traffic stays what it is. A flip of the skew is a rebalance of the planner's own, carried out as any other. It
// can, since a test may read the key that signs load. It numbers its messages from a worker's own on and faster than that does, so
// that the worker's are dropped as duplicates from then on.
import { encodeLoad, type LoadWindow, loadSubject, type Phase } from "../../crds/telemetry.ts";
import { signLoad } from "../../runtime/wire/load-signature.ts";
import { openBus, readLoad, telemetryKeys } from "./load-watch.ts";
import type { Deployed } from "./world.ts";

export const everyMs = 1_000;
/** How far ahead of a worker's last message the first is numbered, and of the one before it each other: more than the worker's own
 *  get on meanwhile, and no more than may be missing between two. */
const seqSteps = { first: 4, other: 8 } as const;
/** A process that says nothing itself for so long is gone. */
const goneMs = 5_000;
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

type Numbered = Pick<LoadWindow, "rank" | "bootId" | "seq" | "windowStart" | "windowEnd">;

/** The processes that report load, as they are heard, and what is to be sent in their names. Times in unix ms. */
export class Voices {
  /** By boot: its last message, own or planted, the number of the last planted one, and the time of the last own one. */
  readonly #last = new Map<string, Numbered & { readonly planted: number | undefined; readonly ownAt: number }>();

  hear({ rank, bootId, seq, windowStart, windowEnd }: Numbered, now: number): void {
    const last = this.#last.get(bootId);
    const { planted, ownAt } = { planted: last?.planted, ownAt: last && seq === last.planted ? last.ownAt : now };
    const newest = last && last.seq >= seq ? last : { rank, bootId, seq, windowStart, windowEnd };
    this.#last.set(bootId, { ...newest, planted, ownAt });
  }

  /** The next message of every process that lives; until one was heard nobody knows what its next number is. */
  next(now: number): readonly Numbered[] {
    for (const [bootId, { ownAt }] of this.#last) if (now - ownAt > goneMs) this.#last.delete(bootId);
    return [...this.#last.values()]
      .filter(({ windowEnd }) => windowEnd < now)
      .map((last) => {
        const seq = last.seq + (last.seq === last.planted ? seqSteps.other : seqSteps.first);
        const windowStart = Math.max(last.windowEnd, now - everyMs);
        const { rank, bootId } = last;
        this.#last.set(bootId, { ...last, seq, windowStart, windowEnd: now, planted: seq });
        return { rank, bootId, seq, windowStart, windowEnd: now };
      });
  }
}

/** Begins with skew "one". */
export async function plantLoad({ target, kubectl, name, namespace }: Deployed, model: PlantedModel): Promise<PlantedLoad> {
  const deploymentUID: string = (await kubectl.get("moed", name)).metadata.uid ?? "";
  const keys = await telemetryKeys({ kubectl, name });
  const [key] = keys;
  if (!key) throw new Error(`no key signs the load of ${name}`);
  const bus = await openBus(target, "planted-load");
  const voices = new Voices();
  bus.subscribe(loadSubject("enodia", namespace, name, "*"), (bytes) => voices.hear(readLoad(bytes, keys), Date.now()));
  const { layers, experts } = model;
  let skew: Skew = "one";
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
    get skew() {
      return skew;
    },
    flip: () => {
      skew = skew === "one" ? "other" : "one";
      silentUntil = Date.now() + turnMs;
    },
    stop: async () => {
      clearInterval(timer);
      await bus.close();
    },
  };
}
