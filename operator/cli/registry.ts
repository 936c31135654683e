// The registry of commands: one file per command in commands/, one line here. Help and completion come from it. Commands are loaded
// lazily, so that `enodia chat` does not load a compute backend.
import type { Commands } from "./command.ts";

export const commands: Commands = {
  status: {
    summary: "what is wrong with deployments and training jobs, and how each stands",
    names: { moeDeployments: "" },
    load: () => import("./commands/status.ts"),
  },
  rollout: {
    summary: "how far a roll is; pause it, go on, or take it back",
    names: { moeDeployments: "" },
    load: () => import("./commands/rollout.ts"),
  },
  doctor: { summary: "whether a cluster has what an install needs, and how an install is", load: () => import("./commands/doctor.ts") },
  top: {
    summary: "ranks as they run: tokens, attention cache, memory",
    names: { moeDeployments: "" },
    load: () => import("./commands/top.ts"),
  },
  experts: {
    summary: "which rank has which experts, as a map",
    names: { moeDeployments: "" },
    load: () => import("./commands/experts.ts"),
  },
  logs: {
    summary: "logs of all pods of a deployment or training job, by time",
    names: { moeDeployments: "", moeTrainingJobs: "job/" },
    load: () => import("./commands/logs.ts"),
  },
  bundle: {
    summary: "an archive for support, without secrets",
    names: { moeDeployments: "", moeTrainingJobs: "job/" },
    load: () => import("./commands/bundle.ts"),
  },
  chat: { summary: "talk to a deployment", load: () => import("./commands/chat.ts") },
  plan: { summary: "explain, record and simulate expert placement", load: () => import("./commands/plan.ts") },
  model: { summary: "import, upcycle and inspect models", load: () => import("./commands/model.ts") },
  data: { summary: "import text to train on", load: () => import("./commands/data.ts") },
  train: { summary: "train a model on this machine, look at training jobs", load: () => import("./commands/train.ts") },
  runtime: { summary: "test this machine's compute device", load: () => import("./commands/runtime.ts") },
  completion: {
    summary: "completion of commands and options for bash, zsh and fish",
    load: async () => (await import("./commands/completion.ts")).completionOf(commands),
  },
};
