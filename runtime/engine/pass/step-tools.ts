// The tools of a step and its parts, and what passing layers one by one and at once have in common: whose rows they are, and the way of
// tokens that are followed.
import type { Phase } from "../../../crds/telemetry.ts";
import type { BufferAllocator, Compiled, KvCall, LayerRange, Outputs } from "../../compute/backend.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import type { Router } from "../../placement/dispatch.ts";
import type { FrameAnswer, RemoteFrame } from "../api.ts";
import type { TwoBatchOverlap } from "../schedule/two-batch-overlap.ts";
import type { ExpertTable } from "./expert-table.ts";
import type { StepScheduler } from "./frame-scheduler.ts";
import type { LoadCounter } from "./load-counter.ts";
import type { Mutex } from "./mutex.ts";
import type { StepTimes } from "./step-times.ts";

export interface StepTools {
  readonly program: Pick<ModelProgram, "layers" | "hidden">;
  readonly embed: Compiled;
  readonly blocks: readonly Compiled[];
  readonly experts: ExpertTable;
  readonly counter: LoadCounter;
  readonly times: StepTimes;
  readonly router: () => { readonly rank: number; readonly table: Router };
  /** `gatesOf`: the gate of each of the frame's pairs, asked for where its rows may come as sums. */
  readonly dispatch: (frame: RemoteFrame, gatesOf: () => Float32Array) => Promise<FrameAnswer>;
  readonly scheduler: StepScheduler;
  /** Memory that no part of a step uses now. */
  readonly allocators: BufferAllocator[];
  /** Unset: every layer is passed alone. */
  readonly ranges?: LayersAtOnce;
  /** Unset: steps are never halved. */
  readonly overlap?: Pick<TwoBatchOverlap, "wants" | "took">;
}

/** Layers that are passed at once (layer-ranges.ts). */
export interface LayersAtOnce {
  readonly range: LayerRange;
  /** To be asked once a step, or half of one. */
  wants(rows: number): boolean;
  /** The end of the layers from `from` on that can be passed at once now. */
  endOf(tools: StepTools, part: Part, from: number): number;
}

/** The rows of a step, or half of them. */
export interface Part {
  readonly tokens: Int32Array;
  readonly kv: KvCall;
  /** Rows at the beginning that decode; the others are of prompts. */
  readonly decodes: number;
  /** Held while something is computed or about to be sent. */
  readonly mutex: Mutex;
  /** A layer of this part is begun when that of the other half, whose keys it looks at, is done. */
  readonly before: (layer: number) => Promise<void> | undefined;
  readonly attended: (layer: number) => void;
  /** Throws what it is given, after it has told the other half. */
  readonly failed: (error: unknown) => never;
}

/** Rows after the layers before `to`. */
export interface Passed {
  readonly x: Float32Array; // [n, hidden]
  readonly to: number;
}

export const phaseOf = (row: number, decodes: number): Phase => (row < decodes ? "decode" : "prefill");

export const floats = (outputs: Outputs, name: string): Float32Array => outputs[name]?.data as Float32Array;
