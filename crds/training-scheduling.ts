// The part `scheduling` of a MoETrainingJob's spec: which of its ranks must find room at once.
import { z } from "zod";
import { gangOf } from "./scheduling.ts";

export const trainingScheduling = z
  .object({ gang: gangOf("the least ranks that can train (elasticity.minReplicas, and those whose memory is enough)") })
  .prefault({})
  .meta({ description: "With whom ranks find room. The result does not depend on it." });
