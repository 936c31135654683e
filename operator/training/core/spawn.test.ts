// The pods of a job whose experts spawn: few before the step, those of its spec from it on, whatever else is asked for meanwhile.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type MoETrainingJob, parseMoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { MoETrainingJobStatus } from "../../../crds/moe-training-job-status.ts";
import type { PodReport } from "../../../crds/training-world.ts";
import { observed, rankPod } from "../../../test/kit/training/training-decisions.ts";
import { decide } from "./decide.ts";
import { beforeSpawn, wantedReplicas } from "./spawn.ts";

const least = {
  model: { uri: "pvc://models/m", init: "Random" },
  data: { uri: "pvc://data/d" },
  steps: 100,
  memoryPerRank: "1Gi",
  output: { uri: "pvc://models/out" },
};
const job = (replicas: number, spawn?: object) =>
  parseMoETrainingJob({ metadata: { name: "j", namespace: "ns", uid: "job" }, spec: { ...least, replicas, ...(spawn && { spawn }) } });

test("until its experts spawn a job has the pods of before, and then those of its spec", () => {
  const wanted = [undefined, 0, 39, 40, 41].map((step) => wantedReplicas(job(3, { step: 40 }), step === undefined ? {} : { step }));
  assert.deepEqual(wanted, [1, 1, 1, 3, 3]);
  assert.equal(wantedReplicas(job(3), { step: 3 }), 3, "a job without a spawn has them at once");
});

test("a job that is scaled is followed: below what it has before at once, above it from the spawn on", () => {
  const replicas = fc.integer({ min: 1, max: 8 });
  fc.assert(
    fc.property(replicas, replicas, fc.nat(99), (asked, replicasBefore, step) => {
      const own = job(asked, { step: 40, replicasBefore });
      const wanted = wantedReplicas(own, { step });
      assert.ok(wanted <= asked);
      if (step >= 40 || asked <= replicasBefore) assert.equal(wanted, asked);
      else assert.equal(wanted, replicasBefore);
      assert.equal(beforeSpawn(own, { step }), wanted < asked);
    }),
  );
});

/** What is decided where so many pods answer, the first one with its step. */
function decided(own: MoETrainingJob, status: MoETrainingJobStatus, pods: number, step: number) {
  const views = Array.from({ length: pods }, (_, rank) => rankPod(rank));
  const reports = new Map(
    views.map(({ uid }): [string, PodReport] => [
      uid,
      { pod: uid, epoch: status.world?.epoch ?? 0, training: 0, leastRanks: 1, progress: { step, curve: [] } },
    ]),
  );
  return decide(observed({ job: own, status, pods: views, reports, now: new Date(0) }));
}

const ranksOf = ({ world }: MoETrainingJobStatus): number | undefined => world?.ranks.length;
const saidOf = ({ conditions = [] }: MoETrainingJobStatus) => conditions.find(({ type }) => type === "Running");

test("the others are made once the step is known to be done, and meet the first in a world of all, which trains on until then", () => {
  const own = job(3, { step: 40 });
  const first = decided(own, {}, 1, 0).status;
  assert.equal(ranksOf(first), 1);
  const before = decided(own, first, 1, 39);
  assert.deepEqual(before.actions, []);
  assert.match(saidOf(before.status)!.message, /step 39 of 100, on 1 rank; experts spawn after step 40/);
  const at = decided(own, before.status, 1, 40).status;
  const grows = decided(own, at, 1, 41);
  assert.deepEqual(
    grows.actions,
    [1, 2].map((rank) => ({ kind: "create", rank, attempt: 0 })),
  );
  assert.deepEqual([ranksOf(grows.status), saidOf(grows.status)?.reason], [1, "Rescaling"]);
  const grown = decided(own, grows.status, 3, 43).status;
  assert.deepEqual([ranksOf(grown), grown.world?.epoch, saidOf(grown)?.reason], [3, 2, "Training"]);
  assert.deepEqual(decided(own, grown, 3, 50).actions, [], "they stay");
  // As few as before the spawn are left: those are lost now, and not on their way.
  const lost = decided(own, grown, 1, 51).status;
  assert.deepEqual([ranksOf(lost), saidOf(lost)?.reason], [1, "FewerRanks"]);
  assert.equal(saidOf(decided(own, lost, 1, 52).status)?.reason, "FewerRanks", "also once the small world is known");
});
