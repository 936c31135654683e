// The weight server as it is told, as a table: whether the model is there, and what ranks that start wait for.

import assert from "node:assert/strict";
import { test } from "node:test";
import type { WeightServerState } from "../observed.ts";
import { type WeightServerInput, weightServerVerdict } from "./delivery.ts";

const pod = (more: Partial<WeightServerState> = {}): WeightServerState => ({
  ...{ uid: "weight-server-1", name: "moe-weight-server-a", ready: false, problem: "", createdMs: 1, current: true },
  ...more,
});
const report = {
  pod: "weight-server-1",
  phase: "Downloading",
  doneBytes: 25e9,
  totalBytes: 100e9,
  bytesPerSecond: 250e6,
  message: "",
} as const;

interface Row {
  readonly input: Partial<WeightServerInput>;
  /** The reason of what is pending; undefined: the model is there. */
  readonly reason?: string;
  readonly message?: RegExp;
  readonly away?: RegExp;
}

const rows: Record<string, Row> = {
  "a weight server that is ready": { input: { pods: [pod({ ready: true })] } },
  "no pod yet": { input: {}, reason: "WeightServerNotReady", message: /no pod yet/ },
  "a pod that is refused": {
    input: { refused: "violates PodSecurity" },
    reason: "WeightServerNotReady",
    message: /no pod yet: violates PodSecurity/,
  },
  "a pod that opens the model": {
    input: { pods: [pod()] },
    reason: "WeightServerNotReady",
    message: /moe-weight-server-a, starts and opens the model/,
  },
  "a pod without a node": {
    input: { pods: [pod({ problem: "Unschedulable: 0/3 nodes" })] },
    reason: "WeightServerNotReady",
    message: /moe-weight-server-a, does not run: Unschedulable: 0\/3 nodes/,
  },
  "a pod of the model before, which is ready": { input: { pods: [pod({ ready: true, current: false })] }, reason: "WeightServerNotReady" },
  "the newest of two counts": {
    input: { pods: [pod({ ready: true }), pod({ name: "b", createdMs: 2, problem: "ImagePullBackOff" })] },
    reason: "WeightServerNotReady",
    message: /pod b, does not run/,
  },
  "a download under way": {
    input: { downloads: true, pods: [pod()], report },
    reason: "Downloading",
    message: /25%.*250\.0 MB\/s/,
  },
  "a download that failed": {
    input: { downloads: true, pods: [pod()], report: { ...report, phase: "Listing", reason: "SourceRefused", message: "answered 401" } },
    reason: "SourceRefused",
    message: /answered 401/,
  },
  "words of a pod before": {
    input: { downloads: true, pods: [pod({ uid: "weight-server-2" })], report },
    reason: "Downloading",
    message: /starts and opens/,
  },
  "suspended, with nothing on any disk": { input: { downloads: true, suspended: true }, reason: "Suspended" },
  "suspended, with a claim": { input: { suspended: true } },
  "away while ranks serve: the model is there, and who starts waits": {
    input: { serving: true },
    away: /no pod yet; ranks that serve go on, and those that start wait for it/,
  },
  "a download again while ranks serve": { input: { downloads: true, serving: true, pods: [pod()], report }, away: /25%/ },
};

for (const [what, { input, reason, message = /(?:)/, away = /^$/ }] of Object.entries(rows))
  test(what, () => {
    const verdict = weightServerVerdict({
      downloads: false,
      suspended: false,
      pods: [],
      refused: "",
      report: undefined,
      serving: false,
      ...input,
    });
    assert.equal(verdict.pending?.reason, reason);
    assert.match(verdict.pending?.message ?? "", message);
    assert.match(verdict.away, away);
  });
