// All that a training job is decided by, made short: its spec and status, pods, their ends and what they say.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type MoETrainingJob, parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { TrainingEnd, TrainingReport } from "../../../crds/training-report.ts";
import type { PodReport } from "../../../crds/training-world.ts";
import { anywhere } from "../../../operator/training/core/claim-place.ts";
import { type Action, decide } from "../../../operator/training/core/decide.ts";
import type { Observed } from "../../../operator/training/core/observed.ts";
import type { PodView } from "../../../operator/training/core/pod-view.ts";

export const start = Date.parse("2026-01-01T00:00:00Z");
const spec = {
  model: { uri: "pvc://models/m" },
  data: { uri: "pvc://data/d" },
  steps: 100,
  memoryPerRank: "1Gi",
  output: { uri: "pvc://models/out" },
};
export const job = (change: object = {}, generation = 1): MoETrainingJob =>
  parseMoETrainingJob({ metadata: { name: "j", namespace: "ns", uid: "job", generation }, spec: { ...spec, ...change } });

export const pod = (change: Partial<PodView> = {}): PodView => ({
  name: "j-train-0-0",
  uid: "p0",
  rank: 0,
  attempt: 0,
  hash: "h",
  generation: 1,
  since: start,
  silent: false,
  deleting: false,
  running: true,
  ip: "10.0.0.1",
  node: "a",
  gates: [],
  waiting: undefined,
  over: undefined,
  ...change,
});
/** The first pod of a rank, on a node of its own. */
export const rankPod = (rank: number, change: Partial<PodView> = {}): PodView =>
  pod({ name: `j-train-${rank}-0`, uid: `p${rank}`, rank, ip: `10.0.0.${rank}`, node: `node-${rank}`, ...change });
export const over = (end: TrainingEnd | undefined, change: Partial<NonNullable<PodView["over"]>> = {}): PodView["over"] => ({
  end,
  disrupted: false,
  reason: "Error",
  message: "exit code 1",
  ...change,
});
/** The pod that checks the job. */
export const checkView = (change: Partial<PodView> = {}): PodView =>
  pod({ name: `j-check-job-${change.attempt ?? 0}`, uid: `c${change.attempt ?? 0}`, rank: -1, hash: "", ...change });
/** Of a job that was found to fit, with nothing said of other numbers of ranks. */
export const fitting: NonNullable<MoETrainingJobStatus["check"]> = { generation: 1, hash: "c", attempt: 0, fits: { message: "it fits" } };
/** A job that was checked, where the status says nothing else of it. */
export const observed = ({ status, ...change }: Partial<Observed> = {}): Observed => ({
  job: job(),
  status: { check: fitting, ...status },
  pods: [],
  checks: [],
  rival: undefined,
  otherWriters: [],
  reports: new Map(),
  image: "enodia/training:1",
  templateHash: () => "h",
  checkHash: () => "c",
  templateProblems: [],
  groupProblems: [],
  podRefused: undefined,
  place: anywhere,
  now: new Date(start),
  ...change,
});
/** What pods of ranks from 0 on say. */
export const says = (progress: TrainingReport = { curve: [] }, uids: readonly string[] = ["p0"]): ReadonlyMap<string, PodReport> =>
  new Map(uids.map((uid) => [uid, { pod: uid, epoch: 0, training: 0, leastRanks: 1, progress }]));
export const conditions = ({ conditions: all = [] }: MoETrainingJobStatus) =>
  Object.fromEntries(all.map(({ type, status, reason }) => [type, `${status} ${reason}`]));

export function actionText(action: Action): string {
  if (action.kind === "delete") return `delete ${action.name}`;
  return action.kind === "check" ? `check ${action.attempt}` : `create ${action.rank}-${action.attempt}`;
}

/** What is given, and what follows: "actions | some of the conditions", such as "create 0-0 | Running False Starting". */
type DecisionRow = readonly [given: Partial<Observed>, want: string];

export function testDecisions(rows: Readonly<Record<string, DecisionRow>>): void {
  for (const [sentence, [given, want]] of Object.entries(rows))
    test(sentence, () => {
      const { status, actions } = decide(observed(given));
      const wanted = want.split(" | ")[1]?.split(", ").filter(Boolean) ?? [];
      const found = (status.conditions ?? []).map(({ type, status, reason }) => `${type} ${status} ${reason}`);
      const shown = wanted.map((one) => found.find((other) => other === one) ?? `not ${one}`);
      assert.equal([actions.map(actionText).join(", "), shown.join(", ")].join(" | "), want);
    });
}
