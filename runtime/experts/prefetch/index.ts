// The registry of predictors: a new one is a file, a line here, and its name in crds/names.ts.
import type { PredictorName } from "../../../crds/names.ts";
import { affinity } from "./affinity.ts";
import { batch } from "./batch.ts";
import { frequency } from "./frequency.ts";
import { last } from "./last.ts";
import { nextGate } from "./next-gate.ts";
import { path } from "./path.ts";
import type { PredictorKind } from "./predictor.ts";
import { random } from "./random.ts";
import { residual } from "./residual.ts";
import { ring } from "./ring.ts";
import { transitions } from "./transitions.ts";

export const predictors: Readonly<Record<PredictorName, PredictorKind>> = {
  "next-gate": nextGate,
  residual,
  path,
  transitions,
  affinity,
  last,
  frequency,
  ring,
  batch,
  random,
};
