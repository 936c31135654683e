// The plan of one step: its rows, what happens to KV memory before, whose logits are wanted. batch.ts makes plans.
import type { Phase } from "../../../crds/telemetry.ts";
import type { SlotChange } from "./kv-slots.ts";
import type { OpenSampling } from "./open-sampling.ts";
import type { GenerateEvent } from "./request.ts";

export interface Step {
  readonly phase: Phase;
  /** Changes of KV memory, to be made in order before. */
  readonly changes: readonly SlotChange[];
  readonly tokens: Int32Array; // [batch * tokensPerSlot], slot-major
  readonly firstSlot: number;
  readonly batch: number;
  readonly tokensPerSlot: number;
  readonly past: Int32Array;
  /** Rows whose logits are wanted, and for whom. */
  readonly wanted: readonly Wanted[];
  /** Requests that take part, in slot order. */
  readonly ids: readonly string[];
}

interface Wanted {
  readonly row: number;
  readonly id: string;
  readonly position: number;
  readonly sampling: OpenSampling;
  /** The row itself is wanted, not its logits. */
  readonly embed: boolean;
}

export interface Notice {
  readonly id: string;
  readonly event: GenerateEvent;
}

/** True for a decode step whose later rows are computed as if guesses had been sampled. */
export const isGuess = ({ phase, tokensPerSlot }: Step): boolean => phase === "decode" && tokensPerSlot > 1;
