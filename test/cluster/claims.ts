// Volumes that one node has at a time, as a disk that is attached: hostPaths below `claimsFolder`, which lies in each node's own /run, so that
// a pod on another node gets FailedMount. ReadWriteOncePod needs nothing here: the scheduler keeps a second pod off.
import { open } from "./cluster.ts";
import { type Log, run, sleep } from "./exec.ts";
import { ClusterError, nodeIndex } from "./names.ts";
import { runInNode } from "./node.ts";
import { readState } from "./state.ts";

const claimsFolder = "/run/enodia-claims";
const everyMs = 1_000;

/** The source of a PersistentVolume that is enforced; `name` is the volume's. */
export const enforcedPath = (name: string) => ({ path: `${claimsFolder}/${name}`, type: "Directory" });

export interface ClaimPod {
  /** Volumes by their names. */
  readonly volumes: readonly string[];
  readonly node: string;
  readonly created: string;
}

/** Nodes by volume: a volume stays while a pod there has it, and goes to that of the oldest pod then. */
export function attachments(pods: readonly ClaimPod[], attached: ReadonlyMap<string, string>): Map<string, string> {
  const oldestFirst = [...pods].sort((a, b) => (a.created < b.created ? -1 : 1));
  const users = Map.groupBy(
    oldestFirst.flatMap(({ volumes, node }) => volumes.map((volume) => ({ volume, node }))),
    ({ volume }) => volume,
  );
  const nodeOf = (volume: string, of: readonly { readonly node: string }[]) =>
    (of.find(({ node }) => node === attached.get(volume)) ?? of[0])?.node ?? "";
  return new Map([...users].map(([volume, of]) => [volume, nodeOf(volume, of)]));
}

export interface EnforcedClaims {
  /** The node that has the volume now. */
  readonly nodeOf: (volume: string) => string | undefined;
  stop(): Promise<void>;
}

/** Attaches a folder of this machine as each enforced volume, until it is told to stop. */
export function enforceClaims(cluster: string, folder: string, log: Log): EnforcedClaims {
  const attached = new Map<string, string>();
  let running = true;
  const detach = async (volume: string, node: string) => {
    attached.delete(volume);
    await runOn(cluster, node, ["sh", "-c", 'umount -l "$0" && rmdir "$0"', enforcedPath(volume).path]);
    log(`volume ${volume} leaves ${node}`);
  };
  const turn = async () => {
    const wanted = attachments(await claimPods(cluster), attached);
    for (const [volume, node] of [...attached]) if (wanted.get(volume) !== node) await detach(volume, node);
    for (const [volume, node] of wanted) {
      if (attached.get(volume) === node) continue;
      await runOn(cluster, node, ["sh", "-c", 'mkdir -p "$0" && mount --bind "$1" "$0"', enforcedPath(volume).path, folder]);
      attached.set(volume, node);
      log(`volume ${volume} is on ${node}`);
    }
  };
  const loop = async () => {
    for (; running; await sleep(everyMs)) await turn().catch((cause: Error) => log(`claims: ${cause.message}`));
  };
  const ended = loop();
  const stop = async () => {
    running = false;
    await ended;
    for (const [volume, node] of [...attached]) await detach(volume, node).catch((cause: Error) => log(`claims: ${cause.message}`));
  };
  return { nodeOf: (volume) => attached.get(volume), stop };
}

/** Runs a program inside a node that is on, as on its own machine. */
async function runOn(cluster: string, node: string, command: readonly string[]): Promise<void> {
  const [init] = readState(cluster)?.nodes.find(({ index }) => index === nodeIndex(cluster, node))?.processes ?? [];
  if (init === undefined) throw new ClusterError(`node ${node} is off: "start-node ${node}" brings it back`);
  await runInNode(init, command);
}

interface Listed {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly creationTimestamp: string };
  readonly spec: {
    readonly nodeName?: string;
    readonly volumes?: readonly { readonly persistentVolumeClaim?: { readonly claimName: string } }[];
    readonly hostPath?: { readonly path: string };
    readonly claimRef?: { readonly namespace: string; readonly name: string };
  };
  readonly status?: { readonly phase?: string };
}

/** Bound pods that have not ended, with their enforced volumes. */
async function claimPods(cluster: string): Promise<ClaimPod[]> {
  const { kubeconfig, binaries } = open(cluster);
  const { stdout } = await run(binaries.kubectl, ["--kubeconfig", kubeconfig, "get", "pods,pv", "-A", "-o", "json"]);
  const { items } = JSON.parse(stdout) as { readonly items: readonly Listed[] };
  const volumeOf = new Map<string, string>();
  for (const { kind, metadata, spec } of items)
    if (kind === "PersistentVolume" && spec.hostPath?.path.startsWith(`${claimsFolder}/`) && spec.claimRef)
      volumeOf.set(`${spec.claimRef.namespace}/${spec.claimRef.name}`, metadata.name);
  return items.flatMap(({ kind, metadata, spec, status }): ClaimPod[] => {
    if (kind !== "Pod" || spec.nodeName === undefined || status?.phase === "Succeeded" || status?.phase === "Failed") return [];
    const claims = (spec.volumes ?? []).flatMap((one) => one.persistentVolumeClaim?.claimName ?? []);
    const volumes = claims.flatMap((claim) => volumeOf.get(`${metadata.namespace}/${claim}`) ?? []);
    return volumes.length === 0 ? [] : [{ volumes, node: spec.nodeName, created: metadata.creationTimestamp }];
  });
}
