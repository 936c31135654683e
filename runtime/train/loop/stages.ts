// The stages of a run: one, or two with separate models where experts spawn. The checkpoint between them shows which stage a run is in.
import { gatherAll } from "../../net/collectives/collectives.ts";
import { drawn, seedOf } from "../model/initial-weights.ts";
import type { Layout } from "../model/layout.ts";
import type { ModelSource } from "../model/model-source.ts";
import { type Identity, SavedModel } from "../model/training-checkpoint.ts";
import type { RankContext } from "../ranks/rank-context.ts";
import type { StoredState } from "../ranks/stored-state.ts";
import { birthStep, having } from "../recipes/index.ts";
import type { Kept } from "../worlds/rounds.ts";
import type { TrainSettings } from "./train-settings.ts";

export interface Stage {
  readonly number: number;
  readonly from: number;
  readonly to: number;
}

export function stagesOf({ recipes, schedule: { steps } }: Pick<TrainSettings, "recipes" | "schedule">): readonly Stage[] {
  const born = birthStep(recipes);
  if (born === undefined) return [{ number: 0, from: 0, to: steps }];
  return [
    { number: 0, from: 0, to: born },
    { number: 1, from: born, to: steps },
  ];
}

/** The stages that are not over once the step is made; always the last. */
export const stagesAfter = (stages: readonly Stage[], step: number): readonly Stage[] =>
  stages.filter(({ to }, i) => step < to || i === stages.length - 1);

/**
 * The newest checkpoint that any rank knows, on all ranks, which call it at once. A shared volume may show files late, and a rank's own
 * state proves the checkpoint that its stage was born of.
 */
export async function newestOnAll(
  { transport, world, rankState }: RankContext,
  stages: readonly Stage[],
  newest?: Kept,
): Promise<Kept | undefined> {
  const from = stages[rankState?.stage ?? 0]?.from ?? 0;
  const known = Math.max(newest?.step ?? -1, from > 0 ? from : -1);
  const stamp = { world, step: 0, plan: "stage" };
  const reports = await gatherAll(transport, stamp, { what: "stage", layer: -1, lengthFrom: () => 1 }, Int32Array.of(known));
  const most = Math.max(...reports.map(([step = -1]) => step));
  return most < 0 ? undefined : { step: most, unmet: false };
}

export interface Spawning {
  readonly checkpoints: string;
  readonly step: number;
  readonly identity: Identity;
  readonly source: ModelSource;
  readonly settings: Pick<TrainSettings, "recipes" | "seed">;
  readonly parent: Layout;
  readonly layout: Layout;
  readonly state: StoredState;
}

/** Fills this rank's state from the checkpoint of the model with one expert. Throws what opening and reading it do. */
export async function spawnFrom({ checkpoints, step, identity, source, settings, parent, layout, state }: Spawning): Promise<void> {
  const [birth] = having(settings.recipes, "birth");
  if (birth === undefined) throw new TypeError("no recipe of the run has a second stage");
  const { seed } = settings;
  const { stored } = state;
  const saved = await SavedModel.open(checkpoints, { step, stored, identity, layout: parent });
  const births = {
    stored,
    draw: (parameter: Parameters<typeof drawn>[1]) => drawn(source, parameter, seed),
    seedOf: (tensor: string) => seedOf(seed, `mask of ${tensor}`),
  };
  try {
    for (const [part, { units }] of layout.parts.entries())
      for (const [index, child] of units.entries()) {
        if (!state.wants(part, index)) continue;
        const of = Math.min(index, 1);
        const unit = parent.parts[part]?.units[of];
        if (unit === undefined) throw new TypeError(`part ${part} has no unit ${of}`);
        await state.take(part, index, birth.hook.born({ unit, values: await saved.unit(part, of) }, child, births, birth.numbers));
      }
  } finally {
    await saved.close();
  }
}
