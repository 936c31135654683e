import assert from "node:assert/strict";
import { test } from "node:test";
import type { Condition } from "../../../crds/conditions.ts";
import { moeDeploymentConditions } from "../../../crds/moe-deployment-status.ts";
import { deployment } from "../../../test/kit/deployment/deployment.ts";
import type { ContainerFacts, PodFacts } from "../pods.ts";
import type { Finding, Observed, WarningEvent } from "./finding.ts";
import { findingsMax, judge } from "./index.ts";

const now = new Date("2026-03-01T10:00:00Z");
const minutesAgo = (minutes: number): Date => new Date(now.getTime() - minutes * 60_000);

const condition = (type: string, status: Condition["status"], reason: string, message = `${type} says why`): Condition => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: "2026-03-01T09:00:00Z",
});

const container = (more: Partial<ContainerFacts> = {}): ContainerFacts => ({
  name: "runtime",
  image: "enodia/runtime:0.1.0",
  memoryLimit: "512Mi",
  restarts: 0,
  waiting: undefined,
  ended: undefined,
  ...more,
});
const pod = (rank: number, more: Partial<PodFacts> = {}): PodFacts => ({
  namespace: "ns",
  name: `moe-${rank}-abcde`,
  component: "worker",
  owner: "moe",
  rank,
  node: "node-0",
  phase: "Running",
  failure: "",
  ready: true,
  terminating: false,
  unscheduled: "",
  gates: [],
  createdAt: minutesAgo(60),
  containers: [container()],
  ...more,
});
const ended = (reason: string, exitCode: number, minutes: number, message = "") => ({ reason, exitCode, message, at: minutesAgo(minutes) });

interface Given {
  readonly conditions?: readonly Condition[];
  readonly status?: object;
  readonly pods?: readonly PodFacts[];
  readonly events?: readonly WarningEvent[];
  readonly changedAt?: Date;
  readonly observed?: Partial<Observed>;
}
const observedOf = ({ conditions = [], status = {}, pods = [], events = [], changedAt, observed }: Given): Observed => ({
  now,
  deployments: [{ deployment: deployment({}, { observedGeneration: 1, conditions, ...status }), placement: undefined, changedAt }],
  jobs: [],
  pods,
  events,
  unread: [],
  ...observed,
});
const found = (given: Given): readonly Finding[] => judge(observedOf(given)).findings;
/** "severity code", and what effects are told with it. */
const short = ({ severity, code, effect }: Finding): string => `${severity} ${code}${effect === undefined ? "" : ` <- ${effect}`}`;

const healthy = [
  condition("Ready", "True", "AllReplicasAvailable"),
  condition("Available", "True", "MinimumReplicasAvailable"),
  condition("Progressing", "False", "Converged"),
  condition("Degraded", "False", "AsExpected"),
  condition("SpecAccepted", "True", "Accepted"),
  condition("FieldConflict", "False", "NoConflict"),
  condition("ModelAvailable", "True", "Resolved"),
  condition("Reproducible", "True", "Exact"),
  condition("TelemetryFresh", "True", "Fresh"),
  condition("PlacementBalanced", "True", "Balanced"),
  condition("RuntimeUpToDate", "True", "UpToDate"),
  condition("ExpertsOversubscribed", "False", "FitsInMemory"),
  condition("RolesServed", "True", "Served"),
  condition("ScalingActive", "True", "AtTarget"),
  condition("GatewayRouted", "True", "Accepted"),
];
const but = (...changed: readonly Condition[]): Condition[] => healthy.map((one) => changed.find(({ type }) => type === one.type) ?? one);
const down = [
  condition("Available", "False", "BelowMinServing", "0 of at least 1 ranks serve"),
  condition("Ready", "False", "RanksNotReady", "0 of 3 ranks serve: moe-0-abcde: CrashLoopBackOff"),
];

const cases: Readonly<Record<string, readonly [given: Given, want: readonly string[]]>> = {
  "nothing is wrong with a deployment at rest": [{ conditions: healthy, pods: [pod(0)] }, []],
  "what its owner asked for is no fault": [
    { conditions: but(condition("Ready", "False", "Suspended"), condition("Available", "False", "Suspended")) },
    [],
  ],
  "an operation under way is no fault": [{ conditions: but(condition("Progressing", "True", "Scaling")) }, []],
  "a cause is as bad as what it brings about, which is told with it": [
    { conditions: but(...down), pods: [pod(0, { containers: [container({ restarts: 4, ended: ended("OOMKilled", 137, 2) })] })] },
    ["critical OutOfMemory <- does not serve (0 of at least 1 ranks serve), is not ready (0 of 3 ranks serve)"],
  ],
  "without a cause the worst effect speaks for the others": [
    { conditions: but(...down) },
    ["critical BelowMinServing <- is not ready (0 of 3 ranks serve)"],
  ],
  "a Gateway that refuses the route, or never answers, is told beside what serves": [
    { conditions: but(condition("GatewayRouted", "Unknown", "GatewayUnanswered", "no controller")) },
    ["warning GatewayUnanswered"],
  ],
  "one that has not judged it yet is waited for": [{ conditions: but(condition("GatewayRouted", "Unknown", "GatewayUndecided")) }, []],
  "a refusal that Ready repeats is said once": [
    {
      conditions: but(condition("SpecAccepted", "False", "InvalidSpec", "spec.x"), condition("Ready", "False", "InvalidSpec", "spec.x")),
    },
    ["warning InvalidSpec"],
  ],
  "what repeats a cause with more words is said once": [
    {
      conditions: but(
        condition("SpecAccepted", "False", "InvalidSpec", "spec.x must be y"),
        condition("Degraded", "True", "ReplacementImpossible", "ranks 0 have no pod and none can be made: spec.x must be y"),
      ),
    },
    ["warning InvalidSpec"],
  ],
  "an effect in which a cause is told still says how bad it is": [
    {
      conditions: but(
        condition("ModelAvailable", "False", "DigestMismatch", "ranks differ"),
        condition("Available", "False", "NoGateway", "no gateway is ready: ranks differ"),
      ),
    },
    ["critical DigestMismatch <- does not serve (no gateway is ready)"],
  ],
  "a condition without words hides no other": [
    {
      conditions: but(condition("SpecAccepted", "False", "InvalidSpec", ""), condition("FieldConflict", "True", "ManagedByOthers")),
    },
    ["warning InvalidSpec", "warning ManagedByOthers"],
  ],
  "an aside does not explain that nothing serves": [
    { conditions: but(...down, condition("TelemetryFresh", "False", "NATSUnavailable")) },
    ["critical BelowMinServing <- is not ready (0 of 3 ranks serve)", "warning NATSUnavailable"],
  ],
  "an uneven load and another image are good to know": [
    {
      conditions: but(
        condition("PlacementBalanced", "False", "Imbalanced"),
        condition("RuntimeUpToDate", "False", "AnotherImageAvailable"),
      ),
    },
    ["info Imbalanced", "info AnotherImageAvailable"],
  ],
  "experts that do not fit are a cause only while it is not ready": [
    { conditions: but(condition("PlacementBalanced", "Unknown", "InsufficientExpertMemory")) },
    [],
  ],
  "and then they are": [
    { conditions: but(...down, condition("PlacementBalanced", "Unknown", "InsufficientExpertMemory")) },
    ["critical InsufficientExpertMemory <- does not serve (0 of at least 1 ranks serve), is not ready (0 of 3 ranks serve)"],
  ],
  "a container that ended long ago says nothing about now": [
    { conditions: healthy, pods: [pod(0, { containers: [container({ restarts: 1, ended: ended("OOMKilled", 137, 60) })] })] },
    [],
  ],
  "a pod on its way out says nothing": [{ conditions: healthy, pods: [pod(0, { terminating: true, unscheduled: "0/3 nodes" })] }, []],
  "no node with room": [
    { conditions: healthy, pods: [pod(0, { unscheduled: "0/3 nodes: 3 Insufficient memory" })] },
    ["warning Unscheduled"],
  ],
  "a claim that is not there, which pods and condition say, is one": [
    {
      conditions: but(condition("ModelAvailable", "False", "ClaimNotFound")),
      pods: [pod(0, { unscheduled: '0/3 nodes are available: persistentvolumeclaim "models" not found.' })],
    },
    ["warning ClaimNotFound"],
  ],
  "workers and gateways with the same trouble are two": [
    {
      conditions: healthy,
      pods: [pod(0, { unscheduled: "0/3" }), pod(0, { name: "gw", component: "gateway", unscheduled: "0/3" })],
    },
    ["warning Unscheduled", "warning Unscheduled"],
  ],
  "a claim that waits for a volume": [
    { conditions: healthy, pods: [pod(0, { unscheduled: "0/3: pod has unbound immediate PersistentVolumeClaims" })] },
    ["warning ClaimUnbound"],
  ],
  "a certificate that is being written": [
    { conditions: healthy, pods: [pod(0, { gates: ["enodia.dev/certificate"], createdAt: new Date(now.getTime() - 30_000) })] },
    [],
  ],
  "a certificate that nobody writes": [
    { conditions: healthy, pods: [pod(0, { gates: ["enodia.dev/certificate"] }), pod(1, { gates: ["enodia.dev/certificate"] })] },
    ["warning NoCertificate"],
  ],
  "a gate of another": [{ conditions: healthy, pods: [pod(0, { gates: ["quota"] })] }, ["warning SchedulingGated"]],
  "an image that cannot be pulled": [
    {
      conditions: healthy,
      pods: [pod(0, { containers: [container({ waiting: { reason: "ErrImagePull", message: "not found" } })] })],
    },
    ["warning ImageNotPulled"],
  ],
  "a spec that nobody looked at": [{ status: { observedGeneration: undefined }, changedAt: minutesAgo(5) }, ["critical NotObserved"]],
  "one that was changed a moment ago is being looked at": [
    { status: { observedGeneration: undefined }, changedAt: new Date(now.getTime() - 5_000) },
    [],
  ],
};
for (const [name, [given, want]] of Object.entries(cases)) test(`findings: ${name}`, () => assert.deepEqual(found(given).map(short), want));

test("findings: pods with the same trouble are one, with the first names and how many more", () => {
  const pods = Array.from({ length: 5 }, (_, rank) => pod(rank, { unscheduled: "0/3 nodes are available" }));
  const [first, ...others] = found({ conditions: healthy, pods });
  assert.equal(first?.what, "worker moe-0-abcde, moe-1-abcde, moe-2-abcde and 2 more: no node has room");
  assert.deepEqual(others, []);
});

test("findings: why has the numbers, and the last words of a process of ours", () => {
  const message = 'noise\n{"level":"fatal","code":"ModelNotFound","message":"pvc://models/x: no such folder"}';
  const crashed = container({ restarts: 7, waiting: { reason: "CrashLoopBackOff", message: "" }, ended: ended("Error", 1, 3, message) });
  const [first] = found({ conditions: healthy, pods: [pod(0, { containers: [crashed] })] });
  assert.equal(
    first?.why,
    "container runtime ended 7 times, the last time 3 min ago, with exit code 1: ModelNotFound: pvc://models/x: no such folder",
  );
  assert.equal(first?.remedy, "kubectl -n ns logs moe-0-abcde -c runtime --previous --tail=20");
});

test("findings: what a process ended with is told once, by the condition that has it", () => {
  const message = '{"level":"fatal","code":"KvPoolTooSmall","message":"raise it to 1024Mi"}';
  const crashed = pod(0, { containers: [container({ restarts: 2, ended: ended("Error", 1, 3, message) })] });
  const conditions = but(
    condition("SpecAccepted", "False", "KvPoolTooSmall", "raise it to 1024Mi"),
    condition("Ready", "False", "KvPoolTooSmall", "raise it to 1024Mi"),
    condition("Degraded", "True", "WorkerCrashing", "moe-0-abcde: CrashLoopBackOff: KvPoolTooSmall: raise it to 1024Mi"),
  );
  const [only, ...more] = found({ conditions, pods: [crashed] });
  assert.deepEqual([only?.code, only?.remedy, more], ["KvPoolTooSmall", "kubectl -n ns edit moed moe", []]);
});

test("findings: one end is no series, and a line of the log that is not fatal is not why", () => {
  const message = '{"level":"info","time":1,"message":"plan committed"}';
  const [first] = found({
    conditions: healthy,
    pods: [pod(0, { containers: [container({ restarts: 1, ended: ended("Error", 139, 3, message) })] })],
  });
  assert.equal(first?.what, "worker moe-0-abcde: has ended");
  assert.equal(first?.why, "container runtime ended once, 3 min ago, with exit code 139");
});

test("findings: every condition that the operator writes is judged, and each finding has a command", () => {
  for (const type of moeDeploymentConditions) {
    const wrong = ["True", "False"].flatMap((status) => found({ conditions: but(condition(type, status as "True", "SomeReason")) }));
    assert.ok(wrong.length >= 1, `${type} can be wrong`);
    for (const { remedy } of wrong) assert.match(remedy, /^(kubectl|enodia) /);
  }
});

test("findings: commands have the numbers and names of the deployment", () => {
  const scale = found({
    conditions: but(condition("Progressing", "False", "ScaleDownBlocked")),
    status: { expertParallel: { leastRanks: 2, leastRanksReason: "" } },
  });
  assert.equal(scale[0]?.remedy, "kubectl -n ns scale moed/moe --replicas=2");
  const image = found({
    conditions: but(condition("RuntimeUpToDate", "False", "AnotherImageAvailable")),
    status: { runtimeImage: { image: "r:1", available: "r:2" } },
  });
  assert.equal(image[0]?.remedy, `kubectl -n ns patch moed moe --type=merge -p '{"spec":{"runtimeImage":{"image":"r:2"}}}'`);
  const odd = found({
    conditions: but(condition("RuntimeUpToDate", "False", "AnotherImageAvailable")),
    status: { runtimeImage: { image: "r:1", available: "r:2';x" } },
  });
  assert.ok(odd[0]?.remedy.endsWith(`"r:2'\\'';x"}}}'`), "a shell reads it as one word");
  const claim = found({ conditions: but(condition("ModelAvailable", "False", "ClaimNotFound")) });
  assert.match(claim[0]?.remedy ?? "", /^kubectl -n ns get pvc models .*enodia model push FOLDER --claim models --namespace ns$/);
});

const event = (more: Partial<WarningEvent>): WarningEvent => ({
  namespace: "ns",
  kind: "Pod",
  name: "moe-0-abcde",
  reason: "FailedMount",
  message: "no such volume",
  count: 3,
  lastAt: minutesAgo(1),
  ...more,
});

test("findings: warnings of the cluster are told once a reason, the newest, and only of what is there and lately", () => {
  const events = [
    event({ lastAt: minutesAgo(2), message: "older" }),
    event({}),
    event({ reason: "FailedScheduling" }), // the pod says it
    event({ kind: "MoEDeployment", name: "moe", reason: "RanksLost", message: "Degraded=True: ranks 0 do not serve" }),
    event({ reason: "Old", lastAt: minutesAgo(30) }),
    event({ name: "moe-9-gone" }),
    event({ kind: "MoEDeployment", name: "moe", reason: "ClaimedByAnotherInstall" }),
    event({ kind: "MoEDeployment", name: "another" }),
  ];
  const pending = (count: number) =>
    found({ conditions: healthy, pods: [pod(0, { phase: "Pending", ready: false })], events: [event({ count })] });
  assert.deepEqual([pending(1).length, pending(2).length], [0, 1], "the kubelet tries again half a second later");
  assert.deepEqual(
    found({ conditions: healthy, pods: [pod(0, { ready: false })], events: [event({})] }),
    [],
    "a pod that runs has mounted all",
  );
  const all = found({ conditions: healthy, pods: [pod(0, { phase: "Pending", ready: false })], events });
  assert.deepEqual(all.map(({ code }) => code).sort(), ["ClaimedByAnotherInstall", "FailedMount"]);
  const ready = found({ conditions: healthy, pods: [pod(0)], events });
  assert.deepEqual(
    ready.map(({ code }) => code),
    ["ClaimedByAnotherInstall"],
    "a pod that is ready has mounted all",
  );
  assert.equal(all.find(({ code }) => code === "FailedMount")?.why, "no such volume (3 times, 60 s ago)");
});

test("findings: the worst come first, and there are no more than the bound", () => {
  const many = Array.from({ length: findingsMax + 5 }, (_, i) => pod(0, { name: `p${i}`, owner: `moe-${i}`, unscheduled: "no room" }));
  const { findings, left } = judge(observedOf({ conditions: but(...down), pods: many }));
  assert.equal(findings.length, findingsMax);
  assert.equal(left, 6);
  assert.equal(findings[0]?.severity, "critical");
});
