// The running operation of a deployment, and the last finished ones. One status write updates both, so that a crash cannot separate them.
import { z } from "zod";

const idMax = 64;
const messageMax = 1024;
export const historyMax = 10;

const side = (description: string) =>
  z
    .object({
      ranks: z.int32().min(0).meta({ description: "Ranks that serve." }),
      revision: z.int().min(0).optional().meta({ description: "Of a roll: the revision of the worker template." }),
      epoch: z.int().min(0).optional().meta({ description: "Of a rebalance: the committed epoch." }),
    })
    .meta({ description });

export const operationTypes = ["Start", "Grow", "Shrink", "Roll", "Handover", "Repair", "Stop", "Rebalance"] as const;
const phases = ["Waiting", "Creating", "Emptying", "Baking", "GreenServing", "RollingBack", "Moving"] as const;

const fields = {
  id: z.string().max(idMax).meta({ description: "Stays the same as long as it is the same operation, whoever leads." }),
  type: z.enum(operationTypes).meta({ description: "What is being done." }),
  from: side("Before it."),
  to: side("After it."),
  startTime: z.iso.datetime().meta({ description: "When it began." }),
  message: z.string().max(messageMax).optional().meta({ description: "What it waits for." }),
};

export const operationSchema = z
  .object({
    ...fields,
    phase: z.enum(phases).meta({ description: "What it is at." }),
    deadline: z.iso.datetime().meta({ description: "When it is reported as Progressing=False, DeadlineExceeded." }),
  })
  .meta({ description: "The operation under way; there is one at a time." });
export type Operation = z.infer<typeof operationSchema>;

const pastSchema = z
  .object({
    ...fields,
    result: z.enum(["Done", "Superseded", "RolledBack"]).meta({ description: "How it ended." }),
    endTime: z.iso.datetime().meta({ description: "When it ended." }),
  })
  .meta({ description: "An operation that has ended." });
export type PastOperation = z.infer<typeof pastSchema>;

export const historySchema = z
  .array(pastSchema)
  .max(historyMax)
  .meta({ description: "The last operations, newest first, without rebalances.", "x-kubernetes-list-type": "atomic" });
