// The tiers from which experts are read, nearest first, and the device that holds loaded ones.
import { AppError } from "../../../crds/common.ts";
import type { Fetched } from "../../placement/cost.ts";
import type { ResidentExpert } from "./resident-set.ts";

export interface TierRequest extends ResidentExpert {
  /** Best first. */
  readonly sources: readonly number[];
  /** Each side keeps to its own share; 0 = unlimited. */
  readonly bytesPerSecond: number;
  /** Bytes per second from one sender. */
  readonly rate: number;
  readonly signal: AbortSignal;
}

/** Verified stored bytes, the caller's own. */
export interface TierRead extends Pick<Fetched, "source" | "seconds"> {
  readonly unit: Uint8Array;
}

export interface Tier {
  /** Undefined: the next tier is asked. An error ends the search. */
  read(request: TierRequest): Promise<TierRead | undefined>;
}

export interface Device {
  /** The device takes `unit` over. */
  load(expert: ResidentExpert, unit: Uint8Array): Promise<void>;
  unload(expert: ResidentExpert): Promise<void>;
}

/** A failure of the first is told where the other has nothing. */
export function orElse(first: Tier, other: Tier): Tier {
  return {
    read: (request) =>
      first.read(request).catch(async (caught) => {
        request.signal.throwIfAborted();
        const read = await other.read(request);
        if (read === undefined) throw caught;
        return read;
      }),
  };
}

/** Throws when no tier has the expert. */
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
