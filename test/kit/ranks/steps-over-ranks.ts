// Steps of a rank on any backend, which has some of a model's experts; the others are a table on the same backend, which answers with sums as
// a rank of the class `tolerance` does, or with rows.
import type { Backend, Compiled, KvCall } from "../../../runtime/compute/backend.ts";
import { sumPairs } from "../../../runtime/engine/pass/combine.ts";
import { ExpertTable } from "../../../runtime/engine/pass/expert-table.ts";
import { FrameInbox } from "../../../runtime/engine/pass/frame-inbox.ts";
import { FrameScheduler } from "../../../runtime/engine/pass/frame-scheduler.ts";
import { rangesOf } from "../../../runtime/engine/pass/layer-ranges.ts";
import { LoadCounter } from "../../../runtime/engine/pass/load-counter.ts";
import { forward } from "../../../runtime/engine/pass/step.ts";
import { StepTimes } from "../../../runtime/engine/pass/step-times.ts";
import type { StepTools } from "../../../runtime/engine/pass/step-tools.ts";
import { RanksInStep } from "../../../runtime/engine/schedule/ranks-in-step.ts";
import type { KvGroup } from "../../../runtime/kernels/kv-groups.ts";
import type { Segment } from "../../../runtime/kernels/segment.ts";
import type { Weights } from "../../../runtime/kernels/weights.ts";
import { createRouter } from "../../../runtime/placement/dispatch.ts";
import { gridOf } from "../../../runtime/placement/grid.ts";
import { kvOf, type ModelWeights } from "../models/small-engine.ts";

export interface StepsOverRanks {
  readonly backend: Backend;
  /** Of the other rank; unset: the same. */
  readonly other?: Backend;
  readonly model: ModelWeights;
  readonly isHere: (layer: number, expert: number) => boolean;
  readonly context: number;
  /** The other rank answers with sums. */
  readonly sums?: boolean;
  /** Unset: rows pass layers one at a time by the host. */
  readonly holds?: boolean;
}

export async function stepsOverRanks({ backend, other = backend, model, isHere, context, sums = true, holds = true }: StepsOverRanks) {
  const { program } = model;
  const { hidden } = program;
  const compile = async (segment: Segment, layer: number): Promise<Compiled> =>
    backend.compile(segment, await model.weights(segment), layer);
  const embed = await compile(program.embed, 0);
  const blocks: Compiled[] = [];
  for (const [layer, { block }] of program.layers.entries()) blocks.push(await compile(block, layer));
  const counts = program.layers.map((layer) => (layer.kind === "moe" ? layer.experts : 0));
  const counter = new LoadCounter(gridOf(counts));
  let weights: Weights = {};
  const store = { decodeUnit: () => weights };
  const [own, others] = [backend, other].map((on) => new ExpertTable({ backend: on, store, program, codec: "f32", counter })) as [
    ExpertTable,
    ExpertTable,
  ];
  for (const [layer, count] of counts.entries())
    for (let expert = 0; expert < count; expert++) {
      weights = await model.expert(layer, expert);
      await (isHere(layer, expert) ? own : others).load(layer, expert, new Uint8Array(0));
    }
  const router = createRouter(0);
  router.setTables(
    counts.flatMap((count, layer) => {
      const hosts = Array.from({ length: count }, (_, expert) => [isHere(layer, expert) ? 0 : 1]);
      return count === 0 ? [] : [{ layer, epoch: 1, hosts, weights: hosts.map(() => [1_000]) }];
    }),
  );
  const now = () => performance.now();
  const scheduler = new FrameScheduler({
    ...{ experts: own, poll: () => undefined, takeMessages: () => {}, pendingAnswers: () => 1, waitMs: 20, now },
    ...{ yieldProcessor: () => {}, inbox: new FrameInbox(own, now, new RanksInStep([])) },
  });
  scheduler.pieceRows = (_kind, rows) => rows;
  const ranges = rangesOf({ backend, program, embed, blocks, head: embed }, own);
  /** Rows that went to the other rank, layer by layer. */
  const travelled: number[] = [];
  const tools: StepTools = {
    ...{ program, embed, blocks, experts: own, counter, times: new StepTimes(), scheduler, allocators: { prefill: [], decode: [] } },
    router: () => ({ rank: 0, table: router }),
    dispatch: async (frame, gatesOf) => {
      const rows = frame.rows.length / hidden;
      travelled.push(rows);
      const gates = gatesOf();
      const pairs = await others.run(frame);
      return sums ? { sums: sumPairs(pairs, { pairRows: frame.pairRows, gates }, rows, hidden) } : pairs;
    },
    ...(holds ? { ranges } : {}),
  };
  const cache = await backend.createKv({ ...kvOf(program), slots: 8, context, type: backend.kvTypes[0] ?? "f32" });
  const call = (groups: readonly KvGroup[]): KvCall => ({ cache, groups });
  return {
    ...{ ranges, counter, travelled, call, experts: own, scheduler },
    /** Rows behind the last layer. */
    step: (tokens: readonly number[], groups: readonly KvGroup[], decodes: number) =>
      forward(tools, Int32Array.from(tokens), call(groups), decodes),
  };
}
