// The decisions of a download, as a table: which Jobs are made and removed, and what is said of each state.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { DownloadProgress } from "../../../crds/download.ts";
import { deployment } from "../../../test/kit/deployment/deployment.ts";
import { observed } from "../../../test/kit/deployment/observed.ts";
import type { DownloadPod, JobFacts } from "../observed.ts";
import { type DeliveryInput, delivery, downloadText, planDelivery } from "./delivery.ts";

const now = Date.parse("2026-03-01T10:00:00Z");
const job = (more: Partial<JobFacts> = {}): JobFacts => ({
  name: "moe-model-1",
  uid: "job-1",
  createdMs: now - 10_000,
  state: "Running",
  failedMs: undefined,
  message: "",
  terminating: false,
  ...more,
});
const pod = (more: Partial<DownloadPod> = {}): DownloadPod => ({
  uid: "pod-1",
  job: "moe-model-1",
  ip: "10.0.0.1",
  createdMs: now - 1000,
  problem: "",
  end: undefined,
  ...more,
});
const report = (more: Partial<DownloadProgress> = {}): DownloadProgress => ({
  pod: "pod-1",
  phase: "Downloading",
  doneBytes: 25e9,
  totalBytes: 100e9,
  bytesPerSecond: 250e6,
  message: "",
  ...more,
});
const plan = (more: Partial<DeliveryInput> = {}) =>
  planDelivery({ wanted: "moe-model-1", suspended: false, jobs: [], pods: [], writers: [], report: undefined, jobError: "", now, ...more });
const brief = ({ create, podless, remove, pending, againInMs }: ReturnType<typeof planDelivery>) => ({
  create,
  podless,
  remove: remove.map(({ name }) => name),
  reason: pending?.reason,
  message: pending?.message ?? "",
  againInMs,
});

interface Row {
  readonly input: Partial<DeliveryInput>;
  readonly want: {
    readonly create?: string;
    readonly podless?: string;
    readonly remove?: string[];
    readonly reason?: string;
    readonly againInMs?: number;
  };
  readonly message: RegExp;
}

const failed = (secondsAgo: number): JobFacts =>
  job({ state: "Failed", failedMs: now - secondsAgo * 1000, message: "BackoffLimitExceeded: too many" });

const rows: Record<string, Row> = {
  "a model in a claim needs nothing, and Jobs of an earlier one go": {
    input: { wanted: undefined, jobs: [job()] },
    want: { remove: ["moe-model-1"] },
    message: /^$/,
  },
  "the first look makes the Job": { input: {}, want: { create: "moe-model-1", reason: "Downloading" }, message: /begins/ },
  "a Job of another model goes": {
    input: { jobs: [job({ name: "moe-model-2" })] },
    want: { create: "moe-model-1", remove: ["moe-model-2"], reason: "Downloading" },
    message: /begins/,
  },
  "pods of a Job that is gone may still write, and are waited for": {
    input: { writers: ["moe-model-2-abc"], jobError: "exceeded quota" },
    want: { reason: "Downloading", againInMs: 2_000 },
    message: /^pod moe-model-2-abc of a download before is waited for/,
  },
  "the pods of a Job that is to go are waited for": {
    input: { jobs: [job({ name: "moe-model-2" })], writers: ["moe-model-2-abc"] },
    want: { remove: ["moe-model-2"], reason: "Downloading", againInMs: 2_000 },
    message: /may still write/,
  },
  "a Job that was refused is told, and tried": {
    input: { jobError: "exceeded quota" },
    want: { create: "moe-model-1", reason: "JobRefused" },
    message: /exceeded quota/,
  },
  "one that has just been made and has no pod": {
    input: { jobs: [job({ createdMs: now - 1_000 })] },
    want: { reason: "Downloading", againInMs: 4_000 },
    message: /has no pod yet$/,
  },
  "one without a pod for longer, which a dry run judges": {
    input: { jobs: [job()] },
    want: { podless: "moe-model-1", reason: "Downloading", againInMs: 5_000 },
    message: /has no pod yet$/,
  },
  "one whose pod is refused": {
    input: { jobs: [job()], jobError: "pods is forbidden: exceeded quota: q" },
    want: { podless: "moe-model-1", reason: "JobRefused", againInMs: 5_000 },
    message: /^Job moe-model-1 has no pod yet: pods is forbidden: exceeded quota: q$/,
  },
  "one whose pod does not run says why": {
    input: { jobs: [job()], pods: [pod({ ip: undefined, problem: 'FailedMount: persistentvolumeclaim "models" not found' })] },
    want: { reason: "Downloading" },
    message: /its pod does not run: FailedMount/,
  },
  "one that downloads says how far it is": {
    input: { jobs: [job()], pods: [pod()], report: report() },
    want: { reason: "Downloading" },
    message: /^25%, 25\.00 GB of 100\.00 GB, 250\.0 MB\/s, 5 min left$/,
  },
  "report of a pod before this one say nothing": {
    input: { jobs: [job()], pods: [pod({ uid: "pod-2" })], report: report() },
    want: { reason: "Downloading" },
    message: /starts/,
  },
  "a pod that ended in the middle is followed by another": {
    input: { jobs: [job()], pods: [pod({ end: { reason: "SourceUnavailable", message: "the hub answered 503" } })] },
    want: { reason: "Downloading" },
    message: /the hub answered 503; the next one goes on where it was/,
  },
  "a Job that has failed says what its pod said, and waits": {
    input: { jobs: [failed(20)], pods: [pod({ end: { reason: "SourceRefused", message: "answered 401: give HF_TOKEN" } })] },
    want: { reason: "SourceRefused", againInMs: 100_000 },
    message: /answered 401: give HF_TOKEN; it is tried again 120 s after that, and at once where Job moe-model-1 is deleted/,
  },
  "one whose pods said nothing says what its controller says": {
    input: { jobs: [failed(0)] },
    want: { reason: "DownloadFailed", againInMs: 120_000 },
    message: /BackoffLimitExceeded/,
  },
  "after the wait it goes, so that the next look makes it anew": {
    input: { jobs: [failed(120)] },
    want: { remove: ["moe-model-1"], reason: "DownloadFailed" },
    message: /BackoffLimitExceeded/,
  },
  "one that is going is waited for": {
    input: { jobs: [job({ terminating: true })] },
    want: { reason: "Downloading" },
    message: /is being removed/,
  },
  "one that is complete is the model": { input: { jobs: [job({ state: "Complete" })] }, want: {}, message: /^$/ },
  "suspended, a download stops and what is there stays": {
    input: { suspended: true, jobs: [job()] },
    want: { remove: ["moe-model-1"], reason: "Suspended" },
    message: /once it is false/,
  },
  "suspended, none is begun": { input: { suspended: true }, want: { reason: "Suspended" }, message: /once it is false/ },
  "suspended, one that is complete stays": { input: { suspended: true, jobs: [job({ state: "Complete" })] }, want: {}, message: /^$/ },
};

for (const [name, { input, want, message }] of Object.entries(rows))
  test(name, () => {
    const { message: said, ...got } = brief(plan(input));
    assert.deepEqual(got, { create: undefined, podless: undefined, remove: [], reason: undefined, againInMs: undefined, ...want });
    assert.match(said, message);
  });

test("the newest pod speaks, and the commit is told of the one that succeeded", () => {
  const end = { reason: "Done", message: "digest", revision: "c0ffee" };
  const pods = [pod({ uid: "a", createdMs: now - 9000, end: { reason: "SourceUnavailable", message: "503" } }), pod({ uid: "b", end })];
  assert.equal(plan({ jobs: [job({ state: "Complete" })], pods }).revision, "c0ffee");
});

test("a deletion is asked for once: one that is going is no reason for another", () => {
  const jobs = [job({ name: "moe-model-2", terminating: true }), job({ terminating: true })];
  assert.deepEqual(plan({ jobs, suspended: true }).remove, []);
});

test("phases that have no bytes are told as what they do", () => {
  assert.equal(downloadText(report({ phase: "Listing" })), "the files of the model are listed");
  assert.equal(
    downloadText(report({ phase: "Importing", message: "experts 3/64: 40%" })),
    "a store is made of what was downloaded: experts 3/64: 40%",
  );
  assert.match(downloadText(report({ message: "answered 429; trying again in 7 s" })), /left: answered 429/);
});

for (const [claim, replicas] of [
  ["models", 0],
  ["others", 1],
] as const)
  test(`a download to a claim of one pod leaves a kept model on claim ${claim} ${replicas} weight servers`, () => {
    const own = deployment({ model: { uri: "hf://a/b", cache: { persistentVolumeClaim: { claimName: "models" } } } });
    const { download } = observed();
    const seen = observed({ deployment: own, remoteStore: true, oncePod: true, download: { ...download, wanted: "moe-model-1" } });
    const keeps = { model: deployment({ model: { uri: `pvc://${claim}/old` } }).spec.model, expertCodec: undefined, asks: false };
    const { weightServer } = delivery.run(seen, { source: { keeps: keeps as never, tried: false, serving: true } });
    assert.equal(weightServer?.replicas, replicas);
  });
