// MoETrainingJobs as any client could store them, with pods that end in any way and say anything: nothing throws, no rank is asked for
// twice, and the status that is written is one that can be read again.
import assert from "node:assert/strict";
import { customResourceDefinition, kinds } from "../../../crds/index.ts";
import { parseMoETrainingJob, trainingProblems } from "../../../crds/moe-training-job.ts";
import { moeTrainingJobStatusSchema } from "../../../crds/moe-training-job-status.ts";
import { podReportSchema } from "../../../crds/training-world.ts";
import { type Decision, decide } from "../../../operator/training/core/decide.ts";
import { podView } from "../../../operator/training/core/pod-view.ts";
import { templateProblems, trainingPod } from "../../../operator/training/pod.ts";
import { settings } from "../../kit/deployment/deployment.ts";
import { observed, start } from "../../kit/training/training-decisions.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damagedJson, type Random } from "../mutate.ts";
import { chance, fromSchema, json, pick, text } from "../words.ts";

interface Input {
  readonly object: unknown;
  readonly pods: readonly object[];
  readonly reports: readonly (readonly [uid: string, said: unknown])[];
  readonly checked: boolean;
  readonly refused: boolean;
}

const crd = customResourceDefinition(kinds.find(({ kind }) => kind === "MoETrainingJob") as (typeof kinds)[number]) as any;
const { spec: specSchema, status: statusSchema } = crd.spec.versions[0].schema.openAPIV3Schema.properties;
/** Labels are text that others can write. */
const farRanks = [1_023, 1_024, 5_000, 999_999_999];
const statusBytesMax = 512 * 1024;
const trainingSettings = { ...settings, trainingImage: "enodia/training:1" };

/** What a container says at its end: its own words, or anything. */
function endOf(random: Random): string {
  const end = {
    outcome: pick(random, ["Complete", "Stopped", "Failed", "Fits"]),
    code: "Lost",
    message: text(random),
    retry: chance(random, 50),
  };
  const report = { step: random(200), loss: 2.5, curve: [{ step: 1, loss: 3 }], imbalance: 1 + random(3) };
  const said = chance(random, 50) ? { ...end, report } : end;
  if (chance(random, 20)) return text(random, 400);
  return JSON.stringify(chance(random, 30) ? damagedJson(said, random) : said) ?? "";
}

/** A pod as the API server gives it. */
function podOf(random: Random, rank: number): object {
  const attempt = random(3);
  const state = pick(random, [
    { running: {} },
    { waiting: { reason: "ImagePullBackOff", message: text(random) } },
    { terminated: { exitCode: random(256), reason: "Error", message: endOf(random) } },
    {},
  ]);
  return {
    metadata: {
      name: `j-train-${rank}-${attempt}`,
      uid: `p${rank}-${attempt}`,
      labels: { "enodia.dev/rank": chance(random, 95) ? String(rank) : text(random) },
      annotations: { "enodia.dev/template-hash": pick(random, ["h", "old"]), "enodia.dev/generation": String(1 + random(2)) },
      creationTimestamp: new Date(start - random(1_000_000)).toISOString(),
      ...(chance(random, 20) ? { deletionTimestamp: new Date(start).toISOString() } : {}),
    },
    spec: { nodeName: `node-${rank}` },
    status: {
      phase: pick(random, ["Pending", "Running", "Succeeded", "Failed"]),
      podIP: "10.0.0.1",
      conditions: chance(random, 20) ? [{ type: "DisruptionTarget", status: "True" }] : [],
      containerStatuses: [{ name: chance(random, 90) ? "runtime" : "beside", state }],
    },
  };
}

function reportsOf(random: Random, uid: string): unknown {
  const said = {
    ...{ pod: uid, epoch: random(3), training: random(3), leaving: chance(random, 10), leastRanks: 1 + random(4) },
    progress: { step: random(100), loss: 1.5, tokensPerSecond: 10, secondsLeft: random(1e6), curve: [{ step: 1, loss: 2 }] },
    ...(chance(random, 20) ? { left: { epoch: 1, code: "RankLost", message: text(random) } } : {}),
  };
  return chance(random, 30) ? damagedJson(said, random) : said;
}

function bounded({ actions }: Decision, pods: number, ranks: number): void {
  assert.ok(actions.length <= 2 * pods + ranks + 4, `${actions.length} actions for ${pods} pods and ${ranks} ranks`);
  const made = actions.flatMap((action) => (action.kind === "create" ? [action.rank] : []));
  assert.equal(new Set(made).size, made.length, `ranks ${made} are made`);
}

const subject = { parse: parseMoETrainingJob, decide };

export const trainingJobs: Fuzzer<typeof subject, Input> = {
  name: "training-jobs",
  share: 70,
  deadlineMs: 10_000,
  refusals: ["InvalidSpec"],
  start: () => subject,
  input(random) {
    const pods = Array.from({ length: random(6) }, (_, rank) => podOf(random, chance(random, 90) ? rank : pick(random, farRanks)));
    const uids = pods.map((one: any) => one.metadata.uid as string);
    return {
      object: {
        metadata: { name: "j", namespace: "ns", uid: "job", generation: 1 + random(3) },
        spec: fromSchema(random, specSchema),
        status: chance(random, 50) ? {} : fromSchema(random, statusSchema),
      },
      pods,
      reports: uids
        .filter(() => chance(random, 60))
        .map((uid) => [uid, chance(random, 95) ? reportsOf(random, uid) : json(random)] as const),
      checked: chance(random, 70),
      refused: chance(random, 10),
    };
  },
  attempt({ parse, decide: decided }, { object, pods, reports, checked, refused }) {
    const job = parse(object);
    const problems = templateProblems(job, trainingSettings);
    assert.ok(trainingProblems(job.spec).length <= 64 + 16 * 8);
    const made = { rank: 0, attempt: 0, image: trainingSettings.trainingImage };
    const rendered = JSON.stringify(trainingPod(job, trainingSettings, made));
    assert.ok(rendered.length < 4 * JSON.stringify(object).length + 100_000, "a pod is as large as its spec");
    const all = pods.map((one) => podView(one));
    const heard = reports.flatMap(([uid, said]) => {
      const parsed = podReportSchema.safeParse(said);
      return parsed.success ? [[uid, parsed.data] as const] : [];
    });
    const given = observed({
      job,
      ...(checked ? { status: job.status } : {}),
      pods: all,
      reports: new Map(heard),
      templateProblems: problems,
      podRefused: refused ? "it was refused" : undefined,
    });
    const decision = decided(given);
    bounded(decision, pods.length, job.spec.replicas);
    moeTrainingJobStatusSchema.parse(decision.status);
    assert.ok(JSON.stringify(decision.status).length <= statusBytesMax);
  },
  plant: () => ({ parse: unguarded(parseMoETrainingJob, /stepTimeout/), decide }),
};
