// MoETrainingJob: one model trained on token data to its end. Spec, defaults and CEL rules; every field reaches the pod or the operator, or
// SpecAccepted=False refuses it.
import { z } from "zod";
import { AppError } from "./common.ts";
import { modelUriPattern } from "./model.ts";
import { moeDeploymentNameRule } from "./moe-deployment.ts";
import { moeTrainingJobStatusSchema } from "./moe-training-job-status.ts";
import { codecNames, optimizerNames, scheduleNames } from "./names.ts";
import { rules } from "./openapi.ts";
import { podTemplateOf } from "./pod-template.ts";
import { autoDuration, durationOrAuto, quantity } from "./quantity.ts";
import { trainingScheduling } from "./scheduling.ts";
import { fssdpSchema, microBatchesAtOnceProblem } from "./training-fssdp.ts";
import { stepsMax } from "./training-report.ts";

const bounds = {
  replicas: 1024,
  uriLength: 512,
  imageLength: 512,
  microBatches: 1024,
  sequences: 65_536,
  restarts: 1000,
  worlds: 16,
} as const;
const microBatchPowers = Array.from({ length: Math.log2(bounds.microBatches) + 1 }, (_, i) => 2 ** i);

const uri = (description: string) =>
  z
    .string()
    .max(bounds.uriLength)
    .meta({
      description,
      ...rules({ rule: `self.matches('${modelUriPattern}')`, message: "must be pvc://<claim>/<folder>, a claim in the same namespace" }),
    });

/** Specs hold decimals as text; the operator checks them. */
const decimal = (description: string) =>
  z
    .string()
    .max(16)
    .regex(/^[0-9]+(\.[0-9]+)?(e-?[0-9]{1,2})?$/)
    .meta({ description });

const elasticity = z
  .object({
    minReplicas: z.int32().min(1).max(bounds.replicas).default(1).meta({ description: "Least pods." }),
    maxReplicas: z.int32().min(1).max(bounds.replicas).default(1).meta({ description: "Most pods." }),
  })
  .prefault({})
  .meta({ description: "How the job may be resized." });

const model = z
  .object({
    uri: uri("The model: pvc://<claim>/<folder>, a model store or a Hugging Face folder; with init Random, config.json and tokenizer do."),
    init: z
      .enum(["Checkpoint", "Random"])
      .default("Checkpoint")
      .meta({ description: "Checkpoint begins with the weights of the model, Random with weights drawn from seed." }),
    initCodec: z.enum(codecNames).optional().meta({
      description: "Codec of a store's experts to begin with. When not given: the most exact one, if it has more than four bits.",
    }),
  })
  .meta({ description: "What is trained." });

const data = z
  .object({
    uri: uri("Token data, as `enodia data import` writes it, with the tokenizer of the model: pvc://<claim>/<folder>."),
    validation: uri("Token data whose loss is reported at each checkpoint.").optional(),
    sequenceLength: z.int32().min(2).max(1_048_576).default(256).meta({ description: "Tokens of a sequence." }),
  })
  .meta({ description: "What it is trained on." });

const local = z
  .object({
    recipe: z
      .string()
      .max(64)
      .regex(/^[a-z0-9:.e-]*$/)
      .default("")
      .meta({
        description:
          "How worlds meet, as --local of enodia train: fedavg:100, or fedspeed:100:0.1:0.01, with steps between two meetings. `steps` and checkpoint.everySteps are multiples of those.",
      }),
    data: z
      .array(uri("Token data of one world: pvc://<claim>/<folder>."))
      .max(bounds.worlds - 1)
      .default([])
      .meta({
        description: "Token data of the second world and those after it; the first one has data.uri. Pods are dealt to worlds in order.",
      }),
  })
  .prefault({})
  .meta({ description: "Worlds that make steps alone, each on data of its own, and meet at a mean of their models. Unset: one world." });

const batch = z
  .object({
    sequences: z.int32().min(1).max(bounds.sequences).default(16).meta({ description: "Sequences of a step." }),
    microBatches: z
      .int32()
      .min(1)
      .max(bounds.microBatches)
      .default(8)
      .meta({
        description: "Equal shares of a step, in whose order gradients are summed. Memory is for one.",
        ...rules({ rule: `self in [${microBatchPowers.join(", ")}]`, message: "must be a power of two, such as 8" }),
      }),
  })
  .prefault({})
  .meta({ description: "What a step takes. The result depends on it, and not on the number of pods." });

const optimizer = z
  .object({
    name: z.enum(optimizerNames).default("adamw").meta({
      description: "adamw, with two moments of each parameter, or sgd, with one, beta1, and neither beta2 nor epsilon.",
    }),
    learningRate: decimal("The highest learning rate: above 0, at most 1.").default("3e-4"),
    weightDecay: decimal("From 0 to 1; norms and biases have none.").default("0.1"),
    beta1: decimal("Decay of the mean of gradients: below 1.").default("0.9"),
    beta2: decimal("Decay of the mean of their squares: below 1.").default("0.95"),
    epsilon: decimal("Added to the root of that mean: above 0, below 1.").default("1e-8"),
    clip: decimal("The norm that gradients are cut to: above 0.").default("1"),
    memory: quantity(
      "Memory of the pod for moments, at most; the rest lies in a file at output.uri, with the same bits. Unset: all.",
    ).optional(),
  })
  .prefault({})
  .meta({ description: "How parameters follow their gradients." });

const schedule = z
  .object({
    name: z.enum(scheduleNames).default("cosine").meta({ description: "The course of the learning rate after warm-up." }),
    warmupSteps: z.int32().min(0).max(stepsMax).default(0).meta({ description: "Steps in which it rises from 0." }),
    floor: decimal("Share of the rate at the end, from 0 to 1, where it falls.").default("0.1"),
  })
  .prefault({})
  .meta({ description: "The learning rate over the steps." });

const spawn = z
  .object({
    step: z.int32().min(1).max(stepsMax).meta({ description: "The last step with one expert, below steps." }),
    mask: decimal("Part of an expert's weights that becomes zero, from 0 to below 1: what makes experts unlike each other.").default("0.5"),
    replicasBefore: z.int32().min(1).max(bounds.replicas).default(1).meta({
      description: "Pods until then, at most. The others are made once the step is done, and the result does not depend on them.",
    }),
  })
  .meta({
    description: "The job begins with one expert in each layer, of which the model's are born (EvoMoE). With init Random. Unset: with all.",
  });

/** Fields that the bits of the result depend on. */
const fixedFields = [
  "model",
  "data",
  "local",
  "steps",
  "batch",
  "seed",
  "optimizer",
  "schedule",
  "balance",
  "adapters",
  "gate",
  "threadsPerRank",
  "output",
] as const;
const fixedMessage = "cannot change, since the result depends on it: make another job, with another output.uri";

export const moeTrainingJobSpecSchema = z
  .object({
    suspend: z
      .boolean()
      .default(false)
      .meta({ description: "Ends all pods with a checkpoint, from which the job goes on once this is false. Kueue's field." }),
    replicas: z.int32().min(1).max(bounds.replicas).default(1).meta({
      description: "Pods that train, one rank each. The result does not depend on it.",
    }),
    elasticity,
    model,
    data,
    local,
    steps: z.int32().min(1).max(stepsMax).meta({ description: "Steps in all." }),
    batch,
    fssdp: fssdpSchema,
    seed: z.int32().min(0).default(1).meta({ description: "Of the order of sequences, and of random weights." }),
    optimizer,
    schedule,
    balance: z
      .string()
      .max(128)
      .regex(/^[a-z0-9:.,e -]*$/)
      .default("")
      .meta({
        description: "What keeps experts equally busy, as --balance of enodia train: switch:0.01, or several with a comma between.",
      }),
    adapters: z
      .string()
      .max(128)
      .regex(/^[a-z0-9:-]*$/)
      .default("")
      .meta({
        description:
          "Small matrices that are trained beside the model's own, which stay, as --adapters of enodia train: mixlora:EXPERTS:TOPK:RANK. The result has them merged; as they are they lie in adapters/.",
      }),
    gate: z
      .string()
      .max(128)
      .regex(/^[a-z0-9:.e -]*$/)
      .default("")
      .meta({
        description: "The gate that it is trained by, as --gate of enodia train: dense-to-sparse:4:0.05:200. Unset: the model's.",
      }),
    spawn: spawn.optional(),
    memoryPerRank: quantity(
      "Memory of each pod. Parameter, gradient and two moments take 16 bytes a parameter, of an expert on one rank alone; activations and copies come on top. What does not fit is refused before a pod is made, with the arithmetic.",
    ),
    threadsPerRank: z.int32().min(1).max(512).default(1).meta({
      description: "Threads that compute in each pod, and CPUs that it requests. The bits of the result depend on it.",
    }),
    checkpoint: z
      .object({
        everySteps: z.int32().min(1).max(stepsMax).default(100).meta({ description: "Steps between two." }),
        keep: z.int32().min(1).max(1000).default(3).meta({ description: "How many stay." }),
      })
      .prefault({})
      .meta({ description: "Checkpoints, from which a job goes on bit for bit." }),
    failurePolicy: z
      .object({
        maxRestarts: z.int32().min(0).max(bounds.restarts).default(20).meta({
          description: "Failed pods that are replaced, before the job is Failed. Evictions and suspensions do not count.",
        }),
        shadow: z.boolean().default(true).meta({
          description:
            "Each of several ranks keeps the state of another, so that a lost one costs the step in flight, and none since the checkpoint. It takes 16 bytes a parameter; a job with one pod has no shadow, and neither have worlds that meet (local).",
        }),
        stepTimeout: durationOrAuto("How long a rank waits for another within a step, before the ranks begin it again without it.", {
          least: "5s",
          most: "10m",
          auto: "Auto is ten steps as they took here, and no less than 30s.",
        }).default(autoDuration),
      })
      .prefault({})
      .meta({ description: "What a job goes on after." }),
    output: z
      .object({
        uri: uri(
          "Folder of checkpoints/, metrics.jsonl and, at the end, store/, huggingface/ and what adapters there are: pvc://<claim>/<folder>. One job each.",
        ),
        codecs: z
          .array(z.enum(codecNames))
          .min(1)
          .max(codecNames.length)
          .default(["f32"])
          .meta({ description: "Codecs of the store that is written at the end." }),
      })
      .meta({ description: "Where everything goes that the job writes." }),
    image: z
      .string()
      .min(1)
      .max(bounds.imageLength)
      .optional()
      .meta({ description: "Training image. When not given: the operator's, as it was when the job began." }),
    scheduling: trainingScheduling,
    podTemplate: podTemplateOf("training", "runtime"),
  })
  .meta({
    description: "What to train, on what and how.",
    ...rules(
      {
        rule: "self.replicas >= self.elasticity.minReplicas && self.replicas <= self.elasticity.maxReplicas",
        message: "replicas must be from elasticity.minReplicas to elasticity.maxReplicas; to stop for a while set suspend",
        fieldPath: ".replicas",
      },
      // The server would apply field rules to the empty default object.
      {
        rule: "self.batch.sequences % self.batch.microBatches == 0",
        message: "batch.sequences must be a multiple of batch.microBatches",
        fieldPath: ".batch.sequences",
      },
      {
        rule: "self.elasticity.minReplicas <= self.elasticity.maxReplicas",
        message: "elasticity.minReplicas must not be above elasticity.maxReplicas",
        fieldPath: ".elasticity.minReplicas",
      },
      {
        rule: "(self.local.recipe == '') == (size(self.local.data) == 0)",
        message: "local.recipe and local.data go together: data for each world after the first, and how they meet",
        fieldPath: ".local",
      },
      {
        rule: "size(self.local.data) < self.elasticity.minReplicas || size(self.local.data) == 0",
        message: "elasticity.minReplicas must be a pod for each world at least, one more than local.data has",
        fieldPath: ".elasticity.minReplicas",
      },
      {
        rule: "self.schedule.warmupSteps <= self.steps",
        message: "schedule.warmupSteps must not be above steps",
        fieldPath: ".schedule.warmupSteps",
      },
      {
        rule: "!has(self.spawn) || self.spawn.step < self.steps",
        message: "spawn.step must be below steps",
        fieldPath: ".spawn.step",
      },
      {
        rule: "!has(self.spawn) || self.model.init == 'Random'",
        message: "spawn begins with one expert of random weights: set model.init to Random, or leave spawn out",
        fieldPath: ".model.init",
      },
      { rule: "!has(self.spawn) || self.local.recipe == ''", message: "set spawn or local, and not both", fieldPath: ".spawn" },
      {
        rule: "has(self.spawn) == has(oldSelf.spawn) && (!has(self.spawn) || (self.spawn.step == oldSelf.spawn.step && self.spawn.mask == oldSelf.spawn.mask))",
        message: `spawn.step and spawn.mask ${fixedMessage.replace("it:", "them:")}`,
        fieldPath: ".spawn",
      },
      ...fixedFields.map((field) => ({
        rule: `self.${field} == oldSelf.${field}`,
        message: `${field} ${fixedMessage}`,
        fieldPath: `.${field}`,
      })),
    ),
  });
export type MoETrainingJobSpec = z.infer<typeof moeTrainingJobSpecSchema>;

const moeTrainingJobSchema = z.object({
  metadata: z.object({
    name: z.string().min(1),
    namespace: z.string().min(1),
    uid: z.string().min(1),
    generation: z.number().int().default(1),
  }),
  spec: moeTrainingJobSpecSchema,
  status: moeTrainingJobStatusSchema.default({}),
});
export type MoETrainingJob = z.infer<typeof moeTrainingJobSchema>;

export const moeTrainingJobNameRule = moeDeploymentNameRule;

/** Throws AppError `InvalidSpec` that names the fields. */
export function parseMoETrainingJob(object: unknown): MoETrainingJob {
  const parsed = moeTrainingJobSchema.safeParse(object);
  if (parsed.success) return parsed.data;
  throw new AppError(z.prettifyError(parsed.error), { code: "InvalidSpec", operation: "reading a MoETrainingJob", cause: parsed.error });
}

interface FieldProblem {
  readonly reason: "TooFewMicroBatches" | "OutOfRange" | "GPUUnsupported";
  readonly message: string;
}

const decimals: readonly (readonly [
  field: string,
  of: (spec: MoETrainingJobSpec) => string,
  ok: (value: number) => boolean,
  must: string,
])[] = [
  ["optimizer.learningRate", ({ optimizer }) => optimizer.learningRate, (value) => value > 0 && value <= 1, "above 0 and at most 1"],
  ["optimizer.weightDecay", ({ optimizer }) => optimizer.weightDecay, (value) => value <= 1, "from 0 to 1"],
  ["optimizer.beta1", ({ optimizer }) => optimizer.beta1, (value) => value < 1, "below 1"],
  ["optimizer.beta2", ({ optimizer }) => optimizer.beta2, (value) => value < 1, "below 1"],
  ["optimizer.epsilon", ({ optimizer }) => optimizer.epsilon, (value) => value > 0 && value < 1, "above 0 and below 1"],
  ["optimizer.clip", ({ optimizer }) => optimizer.clip, (value) => value > 0, "above 0"],
  ["schedule.floor", ({ schedule }) => schedule.floor, (value) => value <= 1, "from 0 to 1"],
  ["spawn.mask", ({ spawn }) => spawn?.mask ?? "0", (value) => value < 1, "from 0 to below 1"],
];

/** Problems that the API server cannot check, each with field and remedy. */
export function trainingProblems(spec: MoETrainingJobSpec): readonly FieldProblem[] {
  const { replicas, elasticity: bound, batch, local, fssdp, podTemplate } = spec;
  const ranks = [
    ["replicas", replicas],
    ["elasticity.maxReplicas", bound.maxReplicas],
  ] as const;
  // Each world computes all micro-batches on its part of the ranks.
  const worlds = 1 + local.data.length;
  const most = batch.microBatches * worlds;
  const tooMany = ranks.flatMap(([field, count]): FieldProblem[] => {
    const microBatches = `spec.batch.microBatches is ${batch.microBatches}${worlds > 1 ? ` in each of ${worlds} worlds` : ""}`;
    const message = `spec.${field} is ${count}, ${microBatches}: a rank takes whole micro-batches; set it to ${most} at most`;
    return count <= most ? [] : [{ reason: "TooFewMicroBatches", message }];
  });
  const by = worlds > 1 ? `the ranks of one of ${worlds} worlds` : "elasticity.maxReplicas";
  const perWorld = Math.ceil(Math.max(replicas, bound.maxReplicas) / worlds);
  const atOnce = microBatchesAtOnceProblem(fssdp, { microBatches: batch.microBatches, ranks: perWorld, by });
  const accumulation: readonly FieldProblem[] = atOnce === undefined ? [] : [{ reason: "OutOfRange", message: atOnce }];
  const range = decimals.flatMap(([field, of, ok, must]): FieldProblem[] => {
    const text = of(spec);
    return ok(Number(text)) ? [] : [{ reason: "OutOfRange", message: `spec.${field} is ${text}; it must be ${must}` }];
  });
  const before = spec.spawn?.replicasBefore ?? bound.minReplicas;
  const fewer = `spec.spawn.replicasBefore is ${before}, spec.elasticity.minReplicas is ${bound.minReplicas}; raise the one or lower the other`;
  const early: readonly FieldProblem[] = before < bound.minReplicas ? [{ reason: "OutOfRange", message: fewer }] : [];
  const gpus = (podTemplate?.spec?.containers ?? []).flatMap((container): FieldProblem[] => {
    const { limits = {}, requests = {} } = (container.resources ?? {}) as { limits?: object; requests?: object };
    const asked = [...new Set([...Object.keys(limits), ...Object.keys(requests)])].filter((name) => /gpu/i.test(name));
    const field = `spec.podTemplate.spec.containers[${container.name}].resources`;
    return asked.map((name) => ({ reason: "GPUUnsupported", message: `${field} has ${name}; this version trains on CPUs: leave it out` }));
  });
  return [...tooMany, ...accumulation, ...range, ...early, ...gpus];
}
