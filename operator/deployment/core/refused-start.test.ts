// When ranks that find what no restart mends are taken out, as a table; and that they are tried again ever more slowly, within bounds.
import assert from "node:assert/strict";
import { test } from "node:test";
import { deployment, member, pod, snapshot, view } from "../../../test/kit/deployment/deployment.ts";
import { judgeStart, refusedPods, retryNote } from "./refused-start.ts";
import type { RefusedStart, Snapshot } from "./snapshot.ts";

const end = (code: string) => ({ code, message: `${code}: the remedy` });
const starting = (rank: number, code?: string, more: object = {}) =>
  pod(rank, { ready: false, ...(code === undefined ? {} : { end: end(code) }), ...more });
const seen = (pods: Snapshot["pods"], more: Partial<Snapshot> = {}) => snapshot({ pods, view: undefined, ...more });
const known: RefusedStart = { templateHash: seen([]).templateHash, ends: [end("CodecNotFound")], tries: 1, untilMs: 20_000 };

const rolls = (onFailure: string, type = "RollingUpdate") =>
  seen([starting(0, "ModelNotFound")], {
    deployment: deployment({ rolloutStrategy: { type, onFailure } }, { rollout: { phase: "Progressing", stableTemplateHash: "old" } }),
    rollout: { revisions: [{ number: 1, templateHash: "old" }], rolledBack: undefined },
  });

const rows: Record<string, { readonly of: Snapshot; readonly at?: number; readonly known?: RefusedStart; readonly want: string }> = {
  "ranks that start": { of: seen([starting(0), starting(1)]), want: "none" },
  "one says what holds for all": { of: seen([starting(0), starting(1, "CodecNotFound")]), want: "CodecNotFound 1" },
  "the model is not there": { of: seen([starting(0, "ModelNotFound")]), want: "ModelNotFound 1" },
  "an end that a restart may mend": { of: seen([starting(0, "OutOfMemory")]), want: "none" },
  "one node is short of memory": { of: seen([starting(0), starting(1, "InsufficientMemory")]), want: "none" },
  "all are": { of: seen([starting(0, "InsufficientMemory"), starting(1, "InsufficientMemory")]), want: "InsufficientMemory 1" },
  "another serves: nothing is taken from it": { of: seen([pod(0), starting(1, "CodecNotFound")]), want: "none" },
  "another has opened the store": {
    of: seen([starting(0), starting(1, "CodecNotFound")], { view: view({ members: [member(0, { podUid: pod(0).uid, bootId: "b" })] }) }),
    want: "none",
  },
  "a new leader has not asked yet": { of: seen([starting(0, "CodecNotFound")], { warmingUp: true }), want: "none" },
  "a green deployment is its owner's to judge": {
    of: seen([starting(0, "CodecNotFound")], { deployment: deployment({}, {}, { labels: { "enodia.dev/green-of": "moe" } }) }),
    want: "none",
  },
  "all have served by this template": {
    of: seen([starting(0, "ModelNotFound")], {
      deployment: deployment({}, { rollout: { phase: "Complete", stableTemplateHash: known.templateHash } }),
    }),
    want: "none",
  },
  "a canary's old end, where ranks of the template before still start": {
    of: seen([starting(0, undefined, { templateHash: "old" }), starting(1, "CodecNotFound")]),
    want: "none",
  },
  "a roll that can be taken back judges its pods": { of: rolls("RollBack"), want: "none" },
  "one that cannot": { of: rolls("Wait"), want: "ModelNotFound 1" },
  "nor does OnDelete take back": { of: rolls("RollBack", "OnDelete"), want: "ModelNotFound 1" },
  "pods of another template": { of: seen([starting(0, "CodecNotFound", { templateHash: "old" })]), want: "none" },
  "while none is made": { of: seen([]), known, at: 10_000, want: "CodecNotFound 1" },
  "the one that looks again has not said a word": { of: seen([starting(0)]), known, at: 30_000, want: "CodecNotFound 1" },
  "it says the same": { of: seen([starting(0, "CodecNotFound")]), known, at: 30_000, want: "CodecNotFound 2" },
  "it serves": { of: seen([pod(0)]), known, at: 30_000, want: "none" },
  "the spec has changed": { of: seen([]), known: { ...known, templateHash: "another" }, at: 10_000, want: "none" },
};
for (const [what, { of, at = 0, known: before, want }] of Object.entries(rows))
  test(what, () => {
    const found = judgeStart(of, before, at);
    assert.equal(found ? `${found.ends.map(({ code }) => code).join()} ${found.tries}` : "none", want);
  });

test("each try doubles the pause, up to five minutes, and the status says it", () => {
  const [pauses, again] = [[] as number[], seen([starting(0, "KvPoolTooSmall")])];
  let found: RefusedStart | undefined;
  for (let at = 0; pauses.length < 40; at = found?.untilMs ?? 0) {
    found = judgeStart(again, found, at);
    pauses.push((found?.untilMs ?? 0) - at);
  }
  assert.deepEqual([...new Set(pauses)], [20_000, 40_000, 80_000, 160_000, 300_000]);
  assert.match(retryNote({ ...again, refusedStart: found })[0]?.message ?? "", /one looks again after 300 s, and all do once the spec has/);
});

test("only pods of the template that was refused are taken out", () => {
  const of = seen([
    starting(0, undefined, { templateHash: "old" }),
    starting(1, "CodecNotFound"),
    starting(2, undefined, { terminating: true }),
  ]);
  assert.deepEqual(refusedPods({ ...of, refusedStart: known }), [of.pods[1]]);
});
