// The time of a decode step by its parts, for each layer. The engine counts the time of its dense programs, of waiting for experts and of
// computing them (counters); what it does not tell apart is measured beside it, on the same backend with the same weights: the part of the
// gate in a layer's dense program, the head, and the sum of the experts' rows. The rest of a step is JavaScript, and so is the time
// between steps, with the messages of the threads.
import type { Backend, Compiled } from "../../runtime/compute/backend.ts";
import { createBackend } from "../../runtime/compute/index.ts";
import { combine } from "../../runtime/engine/pass/combine.ts";
import { gateLogits, kernelOf } from "../../runtime/kernels/index.ts";
import type { Segment, Tensor } from "../../runtime/kernels/segment.ts";
import { programOf } from "../../runtime/models/index.ts";
import { codecFor } from "../../runtime/weights/codecs/index.ts";
import type { ModelStore } from "../../runtime/weights/store.ts";
import type { Asked, EngineUnderTest } from "./serve.ts";
import { median, round } from "./speed-rows.ts";

/** Milliseconds of a step. */
export interface StepParts {
  readonly wall: number;
  readonly step: number;
  readonly dense: number;
  /** Until the rows of all experts are there, and of that, computing them here. */
  readonly experts: number;
  readonly computed: number;
}

/** Measured apart: a part of the dense programs' time, and milliseconds of a step. */
export interface Apart {
  readonly gateShare: number;
  readonly head: number;
  readonly combine: number;
}

export interface SplitRow {
  readonly case: string;
  readonly part: string;
  readonly microsecondsPerLayer: number;
  readonly share: string;
}

/** Time of a step by its parts. What was measured apart never takes more than there is. */
export function splitRows(name: string, layers: number, { wall, step, dense, experts, computed }: StepParts, apart: Apart): SplitRow[] {
  const rest = Math.max(0, step - dense - experts);
  const head = Math.min(apart.head, rest);
  const sums = Math.min(apart.combine, rest - head);
  const parts = {
    attention: dense * (1 - apart.gateShare),
    gate: dense * apart.gateShare,
    "dispatch (and wire, where ranks are several)": Math.max(0, experts - computed),
    experts: computed,
    combine: sums,
    "embedding and head": head,
    "JavaScript of a step": rest - head - sums,
    "JavaScript between steps": Math.max(0, wall - step),
  };
  return Object.entries(parts).map(([part, ms]) => ({
    ...{ case: name, part },
    microsecondsPerLayer: round((ms * 1000) / layers),
    share: `${round((100 * ms) / Math.max(wall, step))}%`,
  }));
}

/** A segment without its gate: what leads to its other outputs. */
export function withoutGate(segment: Segment): Segment {
  const logits = gateLogits(segment.ops);
  const ops = segment.ops.filter((op) => kernelOf(op).gateLogits === undefined && !("out" in op && logits.has(op.out as string)));
  const made = new Set(ops.flatMap((op) => Object.values(op).filter((value): value is string => typeof value === "string")));
  const used = new Set(ops.flatMap((op) => Object.values(op).flat()));
  return Object.assign({}, segment, {
    ops,
    outputs: segment.outputs.filter(({ name }) => made.has(name)),
    weights: segment.weights.filter(({ name }) => used.has(name)),
  });
}

const runs = 30;

async function timeOf(work: () => Promise<unknown> | unknown): Promise<number> {
  const each: number[] = [];
  for (let run = 0; run < runs; run++) {
    const start = performance.now();
    await work();
    each.push(performance.now() - start);
  }
  return median(each);
}

async function compiled(backend: Backend, segment: Segment, store: ModelStore): Promise<Compiled> {
  const weights = await Promise.all(segment.weights.map(async ({ name }) => [name, await store.readDense(name)] as const));
  return backend.compile(segment, Object.fromEntries(weights));
}

/** Of a step of so many rows that have so many tokens behind them. */
export async function measureApart(store: ModelStore, { backend: name, codec }: Asked, rows: number, past: number): Promise<Apart> {
  const program = programOf(store.config);
  const layer = program.layers.find(({ kind }) => kind === "moe");
  if (layer?.kind !== "moe") throw new Error("the model has no layer with experts");
  const { hidden, kvHeads, headDim, valueDim } = program;
  const backend = await createBackend(name, { threads: 1, denseBits: codecFor(codec).denseBits });
  try {
    const cache = await backend.createKv({ layers: 1, slots: rows, kvHeads, headDim, valueDim, context: past + 1 });
    const kv = { cache, groups: [{ firstSlot: 0, batch: rows, tokens: 1, past: new Int32Array(rows).fill(past) }] };
    const x: Tensor = { shape: [rows, hidden], data: new Float32Array(rows * hidden).fill(0.01) };
    const block = await compiled(backend, firstOfCache(layer.block), store);
    const attention = await compiled(backend, firstOfCache(withoutGate(layer.block)), store);
    const head = await compiled(backend, program.head, store);
    const [all, part] = [await timeOf(() => block.run({ x }, kv)), await timeOf(() => attention.run({ x }, kv))];
    const pairs = new Float32Array(rows * layer.topK * hidden);
    const [h, gates] = [new Float32Array(rows * hidden), new Float32Array(rows * layer.topK)];
    return {
      gateShare: Math.min(1, Math.max(0, 1 - part / all)),
      head: await timeOf(() => head.run({ x })),
      combine: program.layers.length * (await timeOf(() => combine(h, gates, pairs, { width: hidden, stride: hidden }))),
    };
  } finally {
    await backend.close();
  }
}

/** Attention of whichever layer, in a cache of one. */
const firstOfCache = (segment: Segment): Segment =>
  Object.assign({}, segment, { ops: segment.ops.map((op) => ("layer" in op ? Object.assign({}, op, { layer: 0 }) : op)) });

/** What the engine counts of its decode steps while something runs. */
export async function countSteps({ engine }: EngineUnderTest, batch: number, run: () => Promise<number>): Promise<StepParts> {
  await engine.counters();
  await engine.stats();
  const rate = await run();
  const { seconds, compute } = (await engine.counters()).decode;
  const { decode } = (await engine.stats()).stepSeconds;
  const perStep = (total: number): number => total / Math.max(decode.length, 1);
  return {
    wall: (batch * 1000) / rate,
    step: perStep(decode.reduce((sum, each) => sum + each * 1000, 0)),
    dense: perStep((seconds?.dense ?? 0) * 1000),
    experts: perStep((seconds?.experts ?? 0) * 1000),
    computed: perStep(compute.micros / 1000),
  };
}
