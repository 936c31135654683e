// Worlds continue together from states of one round, so that all have met equally often. A world also stores the state of a finished
// round in which it has not met yet.
import { join } from "node:path";
import { AppError } from "../../../crds/common.ts";
import type { TrainSettings } from "../loop/train-settings.ts";
import type { Layout } from "../model/layout.ts";
import { type Identity, stepsOfCheckpoints } from "../model/training-checkpoint.ts";
import type { RankContext } from "../ranks/rank-context.ts";
import { planHash } from "../ranks/step-plan.ts";
import { having, localSteps } from "../recipes/index.ts";
import { Outer } from "./outer.ts";
import { type Kept, keptIn, newestRound } from "./rounds.ts";

export const unmetFolder = ({ out }: TrainSettings): string => join(out, "unmet");

const refused = (message: string): AppError => new AppError(message, { code: "BadOption", operation: "starting a run" });

/** Throws AppError `BadOption` for worlds without a recipe to meet, and the reverse. */
export function checkGroup({ recipes }: TrainSettings, { group }: RankContext): void {
  const local = localSteps(recipes);
  if (local !== undefined && group === undefined) throw refused("--local is for several worlds; give --data for each, or leave it out");
  if (local === undefined && group !== undefined) throw refused("there are several --data, and no --local says how their worlds meet");
}

interface Asked {
  readonly settings: TrainSettings;
  readonly context: RankContext;
  readonly identity: Identity;
  readonly layout: Layout;
}

/** Undefined for a single world. Worlds differ only in their data. */
export function outerOf({ settings: { recipes }, context, identity, layout }: Asked): Outer | undefined {
  const { group, world: epoch } = context;
  const [meeting] = having(recipes, "meeting");
  if (group === undefined || meeting === undefined) return undefined;
  const { data: _own, world: _number, ...settings } = identity;
  return new Outer({ group, meeting, epoch, alike: planHash({ settings, layout, firsts: group.firsts }) });
}

/** The state from which all worlds continue; undefined for the start. */
export async function placeAmong(outer: Outer, settings: TrainSettings): Promise<Kept | undefined> {
  const { recipes, out, schedule } = settings;
  const steps = localSteps(recipes) ?? 1;
  const named = async (folder: string, unmet: boolean): Promise<Kept[]> =>
    (await stepsOfCheckpoints(folder)).filter((step) => step <= schedule.steps).map((step) => ({ step, unmet }));
  const kept = [...(await named(join(out, "checkpoints"), false)), ...(await named(unmetFolder(settings), true))];
  return keptIn(await outer.commonRound((upTo) => newestRound(upTo, kept, steps)), kept, steps);
}
