// The steps of a green deployment in every state that can be observed, and whole changes of model with things that go wrong in between: the Service
// leads to who serves, there is one green deployment at most, and each change comes to an end.

import assert from "node:assert/strict";
import { test } from "node:test";
import { rfc3339 } from "../../../crds/conditions.ts";
import { deployment, gatewayFacts, now, pod } from "../../../test/kit/deployment/deployment.ts";
import { observed } from "../../../test/kit/deployment/observed.ts";
import type { GreenFacts, GreenStep } from "../core/green-look.ts";
import { blueGreen, type GreenInput, greenStep, heardOfMs, judgeGreen } from "./blue-green.ts";

const child = (more: Partial<GreenFacts> = {}): GreenFacts => ({
  name: "moe-x",
  uid: "uid-x",
  terminating: false,
  suspended: false,
  serves: false,
  pods: 3,
  sizes: { ranks: 3, gateways: 1 },
  failure: undefined,
  noCapacity: "",
  dueInMs: 60_000,
  message: "",
  ...more,
});
const input = (more: Partial<GreenInput> = {}): GreenInput => ({
  now,
  possible: "moe-x",
  stage: "Accepting",
  wanted: true,
  own: { serves: true, whole: true },
  child: undefined,
  front: "Own",
  rollsBack: true,
  analysis: undefined,
  comparison: undefined,
  sizes: { ranks: 3, gateways: 1 },
  drainMs: 60_000,
  last: undefined,
  ...more,
});
const since = (ms: number) => new Date(now.getTime() - ms).toISOString();
const failure = { reason: "Crashing", message: "pod moe-x-0 has crashed 3 times" } as const;

const byTime = { bake: "5m", minRequests: 20 };
const analysis = { ...byTime, latencyPercent: 150 };
const served = (gapMicros: number) => ({ requests: 50, failed: 0, gaps: 1_000, gapMicros: 1_000 * gapMicros });
const compared = (percent: number) => ({ canaries: served(100 * percent), others: served(10_000) });
const baking = (ms: number): Partial<GreenInput> => ({
  child: child({ serves: true }),
  last: { name: "moe-x", phase: "Baking", since: since(ms) },
});
const more = { ranks: 3, gateways: 4 };
const baked = { last: { name: "moe-x", phase: "Baked", since: since(1_000) } } as const;

const cases: Record<string, { given: Partial<GreenInput>; want: Partial<GreenStep> }> = {
  "nothing to change": { given: { stage: "Same" }, want: { act: "None", holds: false, status: undefined } },
  "a change with room": { given: {}, want: { act: "Create", holds: true, front: "Own" } },
  "a change without a surge": { given: { possible: undefined }, want: { act: "None", holds: false, status: undefined } },
  "a change while no rank serves": { given: { own: { serves: false, whole: false } }, want: { act: "None", holds: false } },
  "one that starts": { given: { child: child() }, want: { act: "None", holds: true, front: "Own", againInMs: 60_000 } },
  "one that serves": { given: { child: child({ serves: true }) }, want: { act: "None", holds: true, front: "Green" } },
  "one that crashes": { given: { child: child({ failure }) }, want: { act: "None", holds: true, front: "Own", failure } },
  "one that crashes, where nothing is rolled back": {
    given: { child: child({ failure }), rollsBack: false },
    want: { act: "None", holds: true, failure: undefined },
  },
  "one without room": { given: { child: child({ noCapacity: "no node" }) }, want: { act: "None", holds: false, front: "Own" } },
  "the Service has just moved": {
    given: { child: child({ serves: true }), front: "Green", last: { name: "moe-x", phase: "Serving", since: since(1_000) } },
    want: { holds: true, front: "Green", againInMs: heardOfMs - 1_000 },
  },
  "all have heard of it": {
    given: { child: child({ serves: true }), front: "Green", last: { name: "moe-x", phase: "Serving", since: since(heardOfMs) } },
    want: { holds: false, front: "Green" },
  },
  "a time of the future": {
    given: { child: child({ serves: true }), front: "Green", last: { name: "moe-x", phase: "Serving", since: since(-99_000) } },
    want: { holds: true, front: "Green", againInMs: heardOfMs },
  },
  "ranks that change": {
    given: { child: child({ serves: true }), front: "Green", stage: "Same", own: { serves: true, whole: false } },
    want: { act: "None", front: "Green", holds: false },
  },
  "ranks that are whole": {
    given: { child: child({ serves: true }), front: "Green", stage: "Same" },
    want: { act: "None", front: "Own" },
  },
  "one that is not needed any more, of which not all have heard": {
    given: { child: child({ serves: true }), stage: "Same", last: { name: "moe-x", phase: "Leaving", since: since(1_000) } },
    want: { act: "None", front: "Own", againInMs: heardOfMs - 1_000 },
  },
  "one that is not needed any more": {
    given: { child: child({ serves: true }), stage: "Same", last: { name: "moe-x", phase: "Leaving", since: since(heardOfMs) } },
    want: { act: "Suspend", front: "Own" },
  },
  "one that has stopped": { given: { child: child({ suspended: true, pods: 0 }), stage: "Same" }, want: { act: "Delete" } },
  "one that does not stop": {
    given: { child: child({ suspended: true }), stage: "Same", last: { name: "moe-x", phase: "Leaving", since: since(221_000) } },
    want: { act: "Delete" },
  },
  "a canary that serves": {
    given: { child: child({ serves: true }), analysis },
    want: { act: "None", holds: true, front: "Both", phase: "Baking", againInMs: 10_000 },
  },
  "a canary whose time alone decides": {
    given: { child: child({ serves: true }), analysis: byTime },
    want: { front: "Both", againInMs: 300_000 },
  },
  "a canary that is fast enough, before its time": {
    given: { ...baking(10_000), analysis, comparison: compared(100) },
    want: { front: "Both", failure: undefined, phase: "Baking" },
  },
  "a canary that is slow": {
    given: { ...baking(10_000), analysis, comparison: compared(200) },
    want: {
      ...{ front: "Own", holds: true },
      failure: {
        ...{ type: "Failed", reason: "LatencyExceeded" },
        message: "canaries take 20.0 ms from token to token, other ranks 10.0 ms: 200.0%, at most 150% are allowed",
      },
    },
  },
  "a canary that is slow, where nothing is rolled back": {
    given: { ...baking(400_000), analysis, comparison: compared(200), rollsBack: false },
    want: { front: "Both", failure: undefined },
  },
  "a canary that nobody has asked yet": { given: { ...baking(400_000), analysis, comparison: undefined }, want: { front: "Both" } },
  "a canary that has passed": {
    given: { ...baking(400_000), analysis, comparison: compared(100), sizes: more },
    want: { front: "Both", holds: true, act: "None", againInMs: 1, status: { name: "moe-x", phase: "Baked", since: rfc3339(now) } },
  },
  "one that has passed with too few gateways": {
    given: { ...baked, child: child({ serves: true }), analysis, sizes: more },
    want: { front: "Own", holds: true, act: "Widen" },
  },
  "one that has passed, whose other gateways start": {
    given: { ...baked, child: child({ sizes: more }), analysis, sizes: more },
    want: { front: "Own", holds: true, act: "None", failure: undefined, againInMs: 60_000 },
  },
  "one that has passed, whose other gateways have no room": {
    given: { ...baked, child: child({ sizes: more, noCapacity: "exceeded quota" }), analysis, sizes: more },
    want: { front: "Own", holds: true, act: "None", failure: undefined },
  },
  "one that has passed, whose other gateways had no room in their time": {
    given: { ...baked, child: child({ sizes: more, noCapacity: "exceeded quota", dueInMs: undefined }), analysis, sizes: more },
    want: { front: "Own", holds: true, failure: { reason: "ProgressDeadlineExceeded", message: "exceeded quota" } },
  },
  "one that has passed and has what it needs": {
    given: { ...baked, child: child({ serves: true, sizes: more }), analysis, sizes: more },
    want: { front: "Green", holds: true, act: "None" },
  },
  "one whose trial was called off": {
    given: { ...baking(10_000), sizes: more },
    want: { front: "Own", holds: true, act: "Widen" },
  },
  "a canary that stops serving": {
    given: { ...baking(10_000), child: child(), analysis, front: "Both" },
    want: { front: "Own", holds: true, act: "None", status: { name: "moe-x", phase: "Returning", since: rfc3339(now) } },
  },
  "a canary that stops serving without room": {
    given: { ...baking(10_000), child: child({ noCapacity: "exceeded quota" }), analysis, front: "Both" },
    want: { front: "Own", holds: true, failure: undefined },
  },
  "a canary while no rank serves any more": {
    given: { ...baking(10_000), analysis, front: "Both", own: { serves: false, whole: false } },
    want: { front: "Both", holds: true },
  },
  "a canary of another spec while no rank serves": {
    given: { ...baking(10_000), analysis, front: "Both", own: { serves: false, whole: false }, possible: "moe-y" },
    want: { front: "Green" },
  },
  "another spec meanwhile": { given: { child: child(), possible: "moe-y" }, want: { act: "Suspend", holds: true } },
  "another spec meanwhile, without a surge": { given: { child: child(), possible: undefined }, want: { act: "Suspend", holds: false } },
  "one that is still being removed": { given: { child: child({ terminating: true }) }, want: { act: "None", holds: true } },
};
for (const [name, { given, want }] of Object.entries(cases))
  test(`${name}: what follows`, () => {
    const step = greenStep(input(given));
    for (const [key, value] of Object.entries(want)) assert.deepEqual(step[key as keyof GreenStep], value, `${key} of ${name}`);
  });

const flags = [false, true] as const;
const children = [
  undefined,
  ...flags.flatMap((serves) =>
    flags.flatMap((suspended) =>
      flags.flatMap((terminating) =>
        [undefined, failure].flatMap((broken) =>
          ["", "no node"].flatMap((noCapacity) =>
            [0, 3].map((pods) => child({ serves, suspended, terminating, failure: broken, noCapacity, pods })),
          ),
        ),
      ),
    ),
  ),
];

test("in every state the Service leads to who serves, and no second green deployment is made", () => {
  let states = 0;
  for (const one of children)
    for (const stage of ["Same", "Accepting", "Stopping"] as const)
      for (const front of ["Own", "Both", "Green"] as const)
        for (const possible of [undefined, "moe-x", "moe-y"])
          for (const [serves, whole] of [
            [false, false],
            [true, false],
            [true, true],
          ] as const) {
            states += 1;
            const canary = states % 2 === 0 ? analysis : undefined;
            const step = greenStep(input({ child: one, stage, front, possible, own: { serves, whole }, analysis: canary }));
            const said = JSON.stringify({ one, stage, front, possible, serves, whole, step });
            if (step.front === "Green") assert.ok(one && (one.serves || !serves), said);
            else if (step.front === "Both") assert.ok(one?.serves && canary && step.holds, said);
            else if (!serves) assert.ok(!one?.serves || one.terminating, said);
            if (one) assert.notEqual(step.act, "Create", said);
            if (step.act === "Suspend" || step.act === "Delete") assert.equal(step.front, "Own", said);
            if (step.failure) assert.equal(step.front, "Own", said);
          }
  assert.equal(states, children.length * 3 * 3 * 3 * 3);
});

test("a deployment that is suspended has no green deployment for long", () => {
  for (const front of ["Own", "Green"] as const)
    for (const one of children) {
      const step = greenStep(input({ child: one, front, wanted: false, stage: "Same", own: { serves: false, whole: false } }));
      assert.deepEqual([step.front, step.holds, step.act === "Create"], ["Own", false, false]);
    }
});

/** A change as a world lives it: the ranks, the green deployment and the Service, with a seed's troubles. */
function live(random: () => number, canary: boolean): { ticks: number; dips: number; ended: boolean } {
  let time = now.getTime();
  let [model, accepted, target] = ["a", "a", "b"];
  let upIn = 0; // ticks until the ranks serve
  let stand: (GreenFacts & { upIn: number }) | undefined;
  let front: GreenInput["front"] = "Own";
  let last: GreenInput["last"];
  let dips = 0;
  for (let ticks = 1; ticks <= 400; ticks += 1) {
    if (ticks < 200 && random() < 0.04) target = target === "b" ? "c" : random() < 0.5 ? "b" : "a";
    if (stand && ticks < 200 && random() < 0.05) stand = { ...stand, serves: false, upIn: 3 };
    if (stand && !stand.suspended && stand.upIn-- <= 0) stand = { ...stand, serves: true };
    if (stand?.suspended) stand = { ...stand, serves: false, pods: Math.max(0, stand.pods - 1) };
    const serves = upIn-- <= 0;
    const stage = model === target ? "Same" : accepted === target ? "Stopping" : "Accepting";
    const given = input({
      now: new Date(time),
      possible: `moe-${target}`,
      stage,
      own: { serves, whole: serves },
      child: stand,
      front,
      last,
      ...(canary ? { analysis: { ...analysis, bake: "10s" }, comparison: compared(100) } : {}),
    });
    const step = greenStep(given);
    front = step.front;
    last = step.status;
    if (front === "Green" ? !stand?.serves && serves : front === "Own" && !serves && stand?.serves === true) dips += 1;
    if (step.act === "Create") stand = Object.assign(child({ name: `moe-${target}` }), { upIn: 3 });
    if (step.act === "Suspend" && stand) stand = { ...stand, suspended: true };
    if (step.act === "Delete") stand = undefined;
    if (stage === "Accepting" && !step.holds) accepted = target;
    if (stage === "Stopping") [model, upIn] = [target, 4];
    time += 2_000;
    if (ticks >= 200 && !stand && model === target && serves && front === "Own") return { ticks, dips, ended: true };
  }
  return { ticks: 400, dips, ended: false };
}

test("a thousand changes with specs that change again and green deployments that fail come to their end without a dip", () => {
  for (let seed = 1; seed <= 1_000; seed += 1) {
    let state = seed;
    const random = () => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
      return state / 2 ** 32;
    };
    const { dips, ended } = live(random, seed % 2 === 0);
    assert.deepEqual({ seed, dips, ended }, { seed, dips: 0, ended: true });
  }
});

const strategy = { progressDeadline: "10m", now };
const young = { startMs: now.getTime() - 1_000, conditions: [] };
const old = { startMs: now.getTime() - 700_000, conditions: [] };
const condition = (type: string, status: "True" | "False", message: string) => ({
  ...{ type, status, message, reason: "X", lastTransitionTime: now.toISOString() },
});

test("what keeps a green deployment from serving is told from a lack of room", () => {
  const crashed = pod(0, { ready: false, restarts: 3, problem: "CrashLoopBackOff: exit code 1" });
  const withoutRank = pod(0, { ready: false, problem: "Unschedulable: 0/3 nodes are available" });
  assert.equal(judgeGreen({ ...young, pods: [crashed] }, strategy).failure?.reason, "Crashing");
  assert.deepEqual(judgeGreen({ ...young, pods: [withoutRank] }, strategy), {
    failure: undefined,
    noCapacity: "",
    dueInMs: 599_000,
    message: "",
  });
  assert.match(judgeGreen({ ...old, pods: [withoutRank] }, strategy).noCapacity, /Unschedulable/);
  const ready = [condition("Ready", "False", "0 of 3 ranks serve")];
  const late = judgeGreen({ ...old, conditions: ready, pods: [] }, strategy);
  assert.match(late.failure?.message ?? "", /does not serve after 10m: 0 of 3 ranks serve/);
  const quota = [condition("SpecAccepted", "False", 'pods "x" is forbidden: exceeded quota: small')];
  assert.match(judgeGreen({ ...young, conditions: quota, pods: [] }, strategy).noCapacity, /exceeded quota/);
});

for (const [named, gateway, enough] of [
  ["no number", {}, true],
  ["a number", { replicas: 2 }, false],
  ["an autoscaler", { autoscale: { minReplicas: 2, maxReplicas: 4, targetCPUUtilizationPercentage: 70 } }, false],
] as const)
  test(`one ready gateway of two is ${enough ? "" : "not "}enough where the spec has ${named}`, () => {
    const conditions = ["Ready", "Available"].map((type) => ({ type, status: "True", reason: "", message: "", lastTransitionTime: "" }));
    const status = { conditions, observedGeneration: 1, gateway: { replicas: 2, readyReplicas: 1 } };
    const green = { ...child(), generation: 1, createdMs: 0, spec: {}, status, workers: [], members: [] } as never;
    const own = deployment({ gateway });
    const seen = observed({ deployment: own, gateway: gatewayFacts({ replicas: 2, ready: 1 }), green, front: "Green" });
    const targetSpec = { spec: own.spec, accepted: own.spec, stage: "Same", wanted: { templates: ["a", "b"], image: "i" } } as const;
    const { look } = blueGreen.run(seen, { targetSpec: targetSpec as never });
    assert.deepEqual([look?.child?.serves, look?.front], enough ? [true, "Own"] : [false, "Own"]);
    const whole = blueGreen.run(
      { ...seen, green: { ...(green as object), status: { ...status, gateway: { replicas: 1, readyReplicas: 1 } } } as never },
      { targetSpec: targetSpec as never },
    );
    assert.equal(whole.look?.phase, enough ? "Emptying" : "GreenServing");
  });
