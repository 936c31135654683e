import assert from "node:assert/strict";
import { test } from "node:test";
import { createMetrics } from "../../runtime/observe/runtime-metrics.ts";
import { deployment } from "../../test/kit/deployment/deployment.ts";
import { Rollbacks, recordStatus } from "./metrics.ts";

/** Gauges of three wanted ranks, one of which does not serve, while Degraded says this. */
async function ranksWhile(status: "True" | "False", reason: string): Promise<Record<string, number>> {
  const metrics = createMetrics({ process: "operator", version: "0" });
  const condition = { type: "Degraded", status, reason, message: "", lastTransitionTime: "2026-03-01T10:00:00Z" };
  const expertParallel = { desiredRanks: 3, activeRanks: 2, lostRanks: [1] };
  const { spec, status: written } = deployment({}, { replicas: 3, expertParallel, conditions: [condition] });
  try {
    recordStatus(metrics, [
      { apiVersion: "", kind: "", metadata: { name: "moe", namespace: "ns", uid: "u", resourceVersion: "1" }, spec, status: written },
    ]);
    const text = await metrics.text();
    const value = (state: string): number =>
      Number(new RegExp(`enodia_deployment_ranks\\{[^}]*state="${state}"[^}]*\\} (\\d+)`).exec(text)?.[1]);
    return { active: value("active"), lost: value("lost"), joining: value("joining") };
  } finally {
    await metrics.close();
  }
}

test("a suspended deployment wants no ranks, so that nobody is woken for it", async () => {
  for (const suspend of [false, true]) {
    const metrics = createMetrics({ process: "operator", version: "0" });
    const { spec, status } = deployment({ suspend });
    const metadata = { name: "moe", namespace: "ns", uid: "u", resourceVersion: "1" };
    recordStatus(metrics, [{ apiVersion: "", kind: "", metadata, spec, status }]);
    const text = await metrics.text();
    await metrics.close();
    assert.match(text, new RegExp(`^enodia_deployment_replicas\\{[^}]*state="desired"\\} ${suspend ? 0 : 3}$`, "m"));
  }
});

test("a rank that does not serve counts as lost while Degraded says RanksLost", async () => {
  assert.deepEqual(await ranksWhile("True", "RanksLost"), { active: 2, lost: 1, joining: 0 });
});

for (const reason of ["ExpertsUnhosted", "WorkerCrashing"]) {
  test(`Degraded=${reason} makes no rank lost: the one that does not serve is joining`, async () => {
    assert.deepEqual(await ranksWhile("True", reason), { active: 2, lost: 0, joining: 1 });
  });
}

test("a rank that starts is joining", async () => {
  assert.deepEqual(await ranksWhile("False", "AsExpected"), { active: 2, lost: 0, joining: 1 });
});

test("the autoscaler's gauges have what is known, and what is not known any more is no number that stays", async () => {
  const metrics = createMetrics({ process: "operator", version: "0" });
  const autoscale = { min: 2, max: 4, metrics: [{ name: "kvUse", target: 80 }] };
  const seen = async (status: object, elasticity: object = { autoscale }) => {
    const { spec, status: written } = deployment({ elasticity }, status);
    const metadata = { name: "moe", namespace: "ns", uid: "u", resourceVersion: "1" };
    recordStatus(metrics, [{ apiVersion: "", kind: "", metadata, spec, status: written }]);
    const lines = (await metrics.text()).split("\n").filter((line) => line.startsWith("enodia_autoscale_"));
    return Object.fromEntries(
      lines.map((line) => [
        /^enodia_autoscale_(\w+)/.exec(line)?.[1] + (/(?:state|metric|reason)="(\w+)"/.exec(line)?.[1] ?? ""),
        Number(line.split(" ").at(-1)),
      ]),
    );
  };
  const condition = (status: string, reason: string) => [
    { type: "ScalingActive", status, reason, message: "", lastTransitionTime: "2026-03-01T10:00:00Z" },
  ];
  const measured = { metrics: [{ name: "kvUse", value: 90, target: 80, ranks: 5 }] };
  const frozen = { frozenReplicasApplied: 0, frozenReplicasTaken: 0, frozenScaleFailed: 0, frozenSignalsMissing: 0 };
  const least = { ranksleast: 2, ranksmost: 4 };
  assert.deepEqual(await seen({ autoscale: measured, conditions: condition("True", "AtMaximum") }), {
    ...{ ...frozen, ...least, ranksasked: 5, targetkvUse: 80, valuekvUse: 90 },
  });
  assert.deepEqual(await seen({ conditions: condition("False", "SignalsMissing") }), { ...frozen, ...least, frozenSignalsMissing: 1 });
  assert.deepEqual(await seen({ conditions: condition("False", "Suspended") }), { ...frozen, ...least });
  assert.deepEqual(await seen({}, {}), {}, "where nobody asks for it there is none");
  await metrics.close();
});

const roll = { id: "roll-2", type: "Roll", from: { ranks: 3 }, to: { ranks: 3 }, startTime: "2026-03-01T10:00:00Z" } as const;
const rolledBack = {
  id: "roll-2",
  templateHash: "abc",
  fromRevision: 2,
  toRevision: 1,
  reason: "Crashing",
  message: "pod moe-0 crashed",
  time: "2026-03-01T10:05:00Z",
};

test("an operation is told with its type, its deadline and how long the last of each type took", async () => {
  const metrics = createMetrics({ process: "operator", version: "0" });
  const ended = { ...roll, id: "roll-1", result: "Done", endTime: "2026-03-01T10:01:30Z" } as const;
  const earlier = { ...ended, id: "roll-0", endTime: "2026-03-01T11:00:00Z" };
  const { spec, status } = deployment(
    {},
    {
      operation: { ...roll, phase: "Creating", deadline: "2026-03-01T10:10:00Z" },
      history: [ended, earlier],
      rollout: { phase: "RollingBack", rolledBack },
    },
  );
  const metadata = { name: "moe", namespace: "ns", uid: "u", resourceVersion: "1" };
  const record = (of: object) => recordStatus(metrics, [{ apiVersion: "", kind: "", metadata, spec, status: of }]);
  record(status);
  const text = await metrics.text();
  const value = (line: string): number => Number(new RegExp(`^${line} (\\S+)$`, "m").exec(text)?.[1] ?? Number.NaN);
  assert.equal(value('enodia_operation_active\\{[^}]*type="Roll"\\}'), 1);
  assert.equal(value('enodia_operation_active\\{[^}]*type="Repair"\\}'), 0);
  assert.equal(value('enodia_operation_last_duration_seconds\\{[^}]*type="Roll"\\}'), 90);
  assert.ok(Number.isNaN(value('enodia_operation_last_duration_seconds\\{[^}]*type="Repair"\\}')), "none is remembered");
  assert.equal(value("enodia_operation_deadline_timestamp_seconds\\{[^}]*\\}"), Date.parse("2026-03-01T10:10:00Z") / 1000);
  assert.equal(value("enodia_rollout_rolled_back\\{[^}]*\\}"), 1);
  record({});
  const after = await metrics.text();
  await metrics.close();
  assert.match(after, /^enodia_operation_active\{[^}]*type="Roll"\} 0$/m);
  assert.match(after, /^enodia_rollout_rolled_back\{[^}]*\} 0$/m);
});

test("a roll that is rolled back counts once, and one from before this replica looked on does not", () => {
  const rollbacks = new Rollbacks();
  const object = (uid: string, back?: object) => ({
    apiVersion: "",
    kind: "",
    metadata: { name: "moe", namespace: "ns", uid },
    status: { rollout: { phase: "Complete", ...(back && { rolledBack: back }) } },
  });
  assert.equal(rollbacks.see(object("old", rolledBack)), undefined, "it was so when this replica began");
  assert.equal(rollbacks.see(object("u")), undefined);
  assert.equal(rollbacks.see(object("u", rolledBack)), "Crashing");
  assert.equal(rollbacks.see(object("u", rolledBack)), undefined, "the same status again");
  assert.equal(rollbacks.see(object("u")), undefined, "the spec was corrected");
  assert.equal(rollbacks.see(object("u", { ...rolledBack, id: "roll-3", reason: "LatencyExceeded" })), "LatencyExceeded");
  rollbacks.forget(object("u"));
  assert.equal(rollbacks.see(object("u", { ...rolledBack, id: "roll-4" })), undefined);
});
