// What a pass has observed of a deployment, for tests of its features.
import { noMemory } from "../../../operator/deployment/core/memory.ts";
import { inUse, renderSpec } from "../../../operator/deployment/observe/render.ts";
import type { Observed } from "../../../operator/deployment/observed.ts";
import { deployment as aDeployment, gatewayFacts, now, pod, settings } from "./deployment.ts";

export function observed(more: Partial<Omit<Observed, "rendered">> = {}): Observed {
  const { deployment = aDeployment(), pods = [pod(0), pod(1), pod(2)], revisions = [], remoteStore = false } = more;
  const rendered = renderSpec(deployment, inUse(deployment, { revisions, pods, settings }), { settings, remoteStore });
  return {
    ...{ now, ticksMs: 0, warmMs: 0, unreadable: [], settings, memory: noMemory, view: undefined },
    ...{ replicasOwner: { type: "ours" }, fallen: false, resourceVersion: "1", stale: false },
    natsCredentials: { entries: {}, failure: undefined },
    ...{ deployment, pods, revisions, remoteStore, rendered, gateway: gatewayFacts() },
    orphans: { workers: [], gateways: 0 },
    firstGateways: undefined,
    gatewayModels: [],
    gatewayPods: [],
    ...{ claim: "Present", oncePod: false, claimUses: [] },
    claimFailure: undefined,
    sourceUnknown: false,
    download: { wanted: undefined, report: undefined, workInUse: undefined, writers: [], jobs: [], pods: [] },
    weightServer: { pods: [], refused: "", report: undefined },
    green: undefined,
    front: "Own",
    route: { served: "absent", route: undefined },
    gangs: { scheduler: undefined, refusals: [] },
    ...more,
  };
}
