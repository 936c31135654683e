// Checks nodes: readiness, platform, free resources, a runtime class for GPUs, and clocks: the API server records when a kubelet wrote
// its own time into its lease.
import { z } from "zod";
import { type KubeObject, resources } from "../../kube/kube.ts";
import { bytes, listed } from "../../views/format.ts";
import { type Check, type Context, conditionOf, fail, type Outcome, ok, read, skip, warn } from "./check.ts";

/** A small rank with a small model. */
const freeBytesMin = 2 ** 30;
const namedMax = 6;
/** Beyond one page the resources of a node are unknown. */
const podsPerPage = 500;
const podPagesMax = 20;
const gpu = "nvidia.com/gpu";
const architectures = ["amd64", "arm64"];

const amounts = z.record(z.string(), z.union([z.string(), z.number()]).transform(String)).default({});
const nodeSchema = z.object({
  metadata: z.object({ name: z.string() }),
  spec: z.object({ unschedulable: z.boolean().default(false) }).prefault({}),
  status: z
    .object({
      allocatable: amounts,
      nodeInfo: z.object({ architecture: z.string().default(""), operatingSystem: z.string().default("") }).prefault({}),
    })
    .prefault({}),
});
const requests = z.object({ resources: z.object({ requests: amounts }).prefault({}) });
const podSchema = z.object({
  spec: z.object({ nodeName: z.string().optional(), containers: z.array(requests).default([]) }),
  status: z.object({ phase: z.string().default("") }).prefault({}),
});

export function amount(text: string): number {
  const [, digits = "0", unit = ""] = /^([\d.]+(?:e\d+)?)([A-Za-z]*)$/.exec(text) ?? [];
  const factors: Readonly<Record<string, number>> = {
    m: 1e-3,
    k: 1e3,
    M: 1e6,
    G: 1e9,
    T: 1e12,
    Ki: 2 ** 10,
    Mi: 2 ** 20,
    Gi: 2 ** 30,
    Ti: 2 ** 40,
  };
  return Number(digits) * (factors[unit] ?? 1);
}

export interface FreeResources {
  readonly node: string;
  readonly memory: number;
  readonly cpu: number;
  readonly gpus: number;
  readonly gpusInAll: number;
}

/** Free resources of each node that accepts pods. Pure. */
export function freeOf(nodes: readonly KubeObject[], pods: readonly unknown[]): FreeResources[] {
  const requested = new Map<string, Record<string, number>>();
  for (const pod of pods) {
    const { spec, status } = podSchema.parse(pod);
    if (spec.nodeName === undefined || status.phase === "Succeeded" || status.phase === "Failed") continue;
    const sums = requested.get(spec.nodeName) ?? {};
    for (const container of spec.containers)
      for (const [name, text] of Object.entries(container.resources.requests)) sums[name] = (sums[name] ?? 0) + amount(text);
    requested.set(spec.nodeName, sums);
  }
  return nodes.filter(takesPods).map((object) => {
    const { metadata, status } = nodeSchema.parse(object);
    const left = (name: string) => amount(status.allocatable[name] ?? "0") - (requested.get(metadata.name)?.[name] ?? 0);
    return {
      node: metadata.name,
      memory: left("memory"),
      cpu: left("cpu"),
      gpus: left(gpu),
      gpusInAll: amount(status.allocatable[gpu] ?? "0"),
    };
  });
}

const takesPods = (object: KubeObject): boolean =>
  conditionOf(object, "Ready").status === "True" && !nodeSchema.parse(object).spec.unschedulable;

export function judgeNodes(nodes: readonly KubeObject[]): Outcome[] {
  const ready = nodes.filter(takesPods);
  const look = "kubectl get nodes -o wide";
  if (ready.length === 0) return [fail(`0 of ${nodes.length} nodes are ready and take pods`, look)];
  const fitting = ready.filter((object) => {
    const { architecture, operatingSystem } = nodeSchema.parse(object).status.nodeInfo;
    return operatingSystem === "linux" && architectures.includes(architecture);
  });
  const summary = `${ready.length} of ${nodes.length} nodes are ready and take pods`;
  if (fitting.length === 0) return [fail(`${summary}, none of them Linux on ${architectures.join(" or ")}`, look)];
  return [ready.length === nodes.length ? ok(summary) : warn(summary, look)];
}

export function judgeFree(resources: readonly FreeResources[]): Outcome[] {
  const most = resources.toSorted((a, b) => b.memory - a.memory);
  const texts = most.map(({ node, memory, cpu }) => `${node} ${bytes(Math.max(0, memory))} and ${Math.max(0, cpu).toFixed(1)} CPUs`);
  const free = `pods may still ask for: ${listed(texts, namedMax)}`;
  const found = [
    (most[0]?.memory ?? 0) >= freeBytesMin
      ? ok(free)
      : warn(`${free}; no node has ${bytes(freeBytesMin)} left for a rank`, "add nodes, or lower the requests of what runs there"),
  ];
  const gpus = resources.reduce((sum, each) => sum + each.gpusInAll, 0);
  if (gpus === 0) return [...found, ok(`no node offers ${gpu}: ranks compute on processors`)];
  const left = resources.reduce((sum, each) => sum + each.gpus, 0);
  const text = `${left} of ${gpus} ${gpu} are not asked for`;
  return [...found, left > 0 ? ok(text) : warn(text, "kubectl get pods -A -o wide   # who has them")];
}

/** Undefined beyond one page. */
async function allPods(transport: Context["transport"]): Promise<unknown[] | undefined> {
  const pods: unknown[] = [];
  let next: string | undefined;
  for (let page = 0; page < podPagesMax; page += 1) {
    const query = new URLSearchParams({ limit: String(podsPerPage), ...(next === undefined ? {} : { continue: next }) });
    const answer = (await read(transport, `/api/v1/pods?${query}`)) as { items?: unknown[]; metadata?: { continue?: string } };
    pods.push(...(answer.items ?? []));
    next = answer.metadata?.continue;
    if (!next) return pods;
  }
  return undefined;
}

export const nodes: Check = {
  name: "nodes",
  when: "always",
  run: async ({ kube, transport }) => {
    const { items } = await kube.list(resources.nodes);
    const pods = await allPods(transport);
    if (!pods) return [...judgeNodes(items), skip("free memory", `there are more than ${podsPerPage * podPagesMax} pods`)];
    const free = freeOf(items, pods);
    return [...judgeNodes(items), ...(free.length > 0 ? judgeFree(free) : []), ...(await runtimeClass(transport, free))];
  },
};

async function runtimeClass(transport: Context["transport"], free: readonly FreeResources[]): Promise<Outcome[]> {
  if (free.every(({ gpusInAll }) => gpusInAll === 0)) return [];
  const found = await read(transport, "/apis/node.k8s.io/v1/runtimeclasses/nvidia");
  if (found !== undefined) return [ok("the RuntimeClass nvidia is there")];
  return [
    warn(
      "nodes have GPUs and there is no RuntimeClass nvidia",
      "install NVIDIA's GPU operator, or leave runtimeClassName out of podTemplate",
    ),
  ];
}

/** Only logs, certificates and dashboards suffer. */
const offsetSecondsMax = 10;

const leaseSchema = z.object({
  metadata: z.object({ name: z.string(), managedFields: z.array(z.object({ time: z.string().optional() })).default([]) }),
  spec: z.object({ renewTime: z.string().optional() }).prefault({}),
});

/** Seconds that the node is ahead; undefined where unknown. Pure. */
function offsetSeconds(object: unknown): number | undefined {
  const { metadata, spec } = leaseSchema.parse(object);
  const written = metadata.managedFields.flatMap(({ time }) => (time === undefined ? [] : [Date.parse(time)]));
  if (written.length === 0 || spec.renewTime === undefined) return undefined;
  return (Date.parse(spec.renewTime) - Math.max(...written)) / 1000;
}

export function judgeClocks(leases: readonly unknown[]): Outcome {
  const known = leases.flatMap((lease) => {
    const offset = offsetSeconds(lease);
    return offset === undefined ? [] : [{ node: leaseSchema.parse(lease).metadata.name, offset }];
  });
  if (known.length === 0) return skip("clocks of nodes", "no node's lease tells its time");
  const wrong = known.filter(({ offset }) => Math.abs(offset) > offsetSecondsMax);
  if (wrong.length === 0) return ok(`${known.length} nodes are within ${offsetSecondsMax} s of the API server's clock`);
  const texts = wrong.map(({ node, offset }) => `${node} ${Math.abs(offset).toFixed(0)} s ${offset > 0 ? "ahead" : "behind"}`);
  return warn(`clocks differ from the API server's: ${listed(texts, namedMax)}`, "start NTP (chrony, systemd-timesyncd) on these nodes");
}

export const clocks: Check = {
  name: "clocks",
  when: "always",
  run: async ({ kube }) => [judgeClocks((await kube.list(resources.leases, { namespace: "kube-node-lease" })).items)],
};
