// The tools of a step and its parts, shared by single layers and ranges of layers.
import type { Phase } from "../../../crds/telemetry.ts";
import type { BufferAllocator, Compiled, HeadRows, KvCall, LayerRange, Outputs, RangeCall, RangeOutputs } from "../../compute/backend.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import type { Router } from "../../placement/dispatch.ts";
import type { FrameAnswer, RemoteFrame } from "../api.ts";
import type { TwoBatchOverlap } from "../schedule/two-batch-overlap.ts";
import type { ExpertTable } from "./expert-table.ts";
import type { StepScheduler } from "./frame-scheduler.ts";
import type { LoadCounter } from "./load-counter.ts";
import type { Mutex } from "./mutex.ts";
import type { Prefetch } from "./prefetch.ts";
import type { PassHeads } from "./spread-heads.ts";
import type { StepTimes } from "./step-times.ts";

export interface StepTools {
  readonly program: Pick<ModelProgram, "layers" | "hidden">;
  readonly embed: Compiled;
  readonly blocks: readonly Compiled[];
  readonly experts: ExpertTable;
  readonly counter: LoadCounter;
  readonly times: StepTimes;
  readonly router: () => { readonly rank: number; readonly table: Router };
  /** `gatesOf`: the gate of each pair, called if the rows may come as sums. */
  readonly dispatch: (frame: RemoteFrame, gatesOf: () => Float32Array) => Promise<FrameAnswer>;
  readonly scheduler: StepScheduler;
  /** Called with each expert that a row of the step chose; unset: nobody counts them. */
  readonly chose?: ((row: number, layer: number, expert: number) => void) | undefined;
  /** Unset where rows are needed, and not their head alone. */
  readonly head?: StepHead | undefined;
  /** Unset: no experts are loaded ahead. */
  readonly prefetch?: Pick<Prefetch, "chose"> | undefined;
  /** Told of each layer that rows have passed. */
  readonly passed?: () => void;
  /** Apart, since a step that decodes runs while one of prompts still needs its rows. */
  readonly allocators: Readonly<Record<Phase, BufferAllocator[]>>;
  /** Experts below this percent of their row's largest gate are left out; such layers run one at a time. Unset: none. */
  readonly minGatePercent?: number;
  /** Other ranks have heads of the step's prompt; layers run one at a time then. Unset: they stay here. */
  readonly heads?: PassHeads | undefined;
  /** Unset: layers run one at a time. */
  readonly ranges?: LayersAtOnce;
  /** Unset: steps are never divided. */
  readonly overlap?: Pick<TwoBatchOverlap, "wants" | "took">;
}

export interface LayersAtOnce {
  readonly range: LayerRange;
  /** Call it once per part of a step. */
  wants(): boolean;
  endOf(tools: StepTools, part: Part, from: number): number;
}

/** The head of a step's wanted rows, in the graph of all layers if there is one. */
export interface StepHead extends HeadRows {
  /** Milliseconds of it by itself; 0 if that is not known. */
  readonly ms: number;
  /** Called at most once, before anything else runs. */
  readonly take: (out: Omit<RangeOutputs, "ids">) => void;
}

export interface Part {
  readonly tokens: Int32Array;
  readonly kv: KvCall;
  /** The step's row that is its first. */
  readonly first: number;
  /** Decode rows come first, then prompt rows. */
  readonly decodes: number;
  /** Held while something is computed or about to be sent. */
  readonly mutex: Mutex;
  /** Resolves when the other half has finished the layer, since this part reads its keys. */
  readonly before: (layer: number) => Promise<void> | undefined;
  readonly attended: (layer: number) => void;
  /** Informs the other half, then throws the error. */
  readonly failed: (error: unknown) => never;
  /** Set in a step of one part. */
  readonly head?: StepHead | undefined;
}

export interface Passed {
  readonly x: RangeCall["x"];
  readonly to: number;
}

export const phaseOf = (row: number, decodes: number): Phase => (row < decodes ? "decode" : "prefill");

export const floats = (outputs: Outputs, name: string): Float32Array => outputs[name]?.data as Float32Array;

/** Milliseconds whose differences are without the steps that ran between this one's graphs. */
export const stepMs = ({ scheduler }: Pick<StepTools, "scheduler">): number => performance.now() - (scheduler.betweenMs ?? 0);
