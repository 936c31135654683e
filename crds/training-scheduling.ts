// `scheduling` of a MoETrainingJob's spec: gangs of ranks.
import { z } from "zod";
import { gangOf } from "./scheduling.ts";

export const trainingScheduling = z
  .object({ gang: gangOf("the least ranks that can train (elasticity.minReplicas, and those whose memory is enough)") })
  .prefault({})
  .meta({ description: "With whom ranks find room. The result does not depend on it." });
