// The tiers below a rank's memory, as the materializer sees them: they are asked for the bytes of an expert, nearest first, until one has
// them (other ranks, then the model store; memory of the host may come between). Beside them the device that holds what was loaded.
import { AppError } from "../../../crds/common.ts";
import type { Fetched } from "../../placement/cost.ts";
import type { ResidentExpert } from "./resident-set.ts";

export interface TierRequest extends ResidentExpert {
  /** Ranks to ask first, best first; this rank and unusable ones are skipped. */
  readonly sources: readonly number[];
  /** The limit, of which this rank and the sender each keep to their share; 0 = unlimited. */
  readonly bytesPerSecond: number;
  /** Bytes per second that this rank takes of one sender at this time; transfer-pace.ts shares them out to units. */
  readonly rate: number;
  readonly signal: AbortSignal;
}

/** Verified stored bytes, the caller's own. */
export interface TierRead extends Pick<Fetched, "source" | "seconds"> {
  readonly unit: Uint8Array;
}

export interface Tier {
  /** The unit; undefined when the tier does not have it or, as it has reported, not now: the next one is asked. Errors end the search. */
  read(request: TierRequest): Promise<TierRead | undefined>;
}

/** The place of experts that are loaded: an engine. */
export interface Device {
  /** `unit` becomes the device's. */
  load(expert: ResidentExpert, unit: Uint8Array): Promise<void>;
  /** Resolves once nothing uses it any more and its memory is free. */
  unload(expert: ResidentExpert): Promise<void>;
}

/** A tier made of others, in order. Throws when none has the expert. */
export function inOrder(tiers: readonly Tier[]): { read(request: TierRequest): Promise<TierRead> } {
  return {
    async read(request) {
      for (const tier of tiers) {
        request.signal.throwIfAborted();
        const read = await tier.read(request);
        if (read !== undefined) return read;
      }
      throw new AppError(`expert ${request.layer}/${request.expert} is nowhere to be had`, { code: "Unavailable", retry: "backoff" });
    },
  };
}
