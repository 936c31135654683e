// Everything that a local cluster's name decides: addresses, folders, interface, namespace and cgroup names. Pure; it touches no machine.

import { createHash } from "node:crypto";

/** The longest name of a cluster, for the 15 bytes of an interface name and for the columns of `kubectl get nodes`. */
export const nameLengthMax = 20;
/** Node addresses are .10 and up in a /24. */
export const nodesMax = 100;
/** Slots 0..239: 10.250.<slot>.0/24 for the bridge, one /22 from 10.251.0.0 on for Services, one /17 below 10.128.0.0/9 for pods, of
 *  which 10.248.0.0 and up stays free. */
export const slotsCount = 240;

export const clusterDomain = "cluster.local";

export interface NodeNames {
  /** 1-based; a node keeps its index for life. */
  readonly index: number;
  readonly name: string;
  readonly zone: string;
  readonly address: string;
  readonly podCidr: string;
  readonly podGateway: string;
  readonly netns: string;
  /** The host's end of the veth pair; the node's end is `eth0`. */
  readonly hostLink: string;
  readonly folder: string;
  /** Path below every cgroup hierarchy's root, without a leading slash. */
  readonly cgroup: string;
}

export interface ClusterNames {
  readonly name: string;
  readonly slot: number;
  readonly folder: string;
  readonly bridge: string;
  readonly subnet: string;
  readonly hostAddress: string;
  /** etcd listens here: only the host reaches it, pods do not. */
  readonly loopback: string;
  readonly podCidr: string;
  /** Each cluster's own, since the host has a route to it. */
  readonly serviceCidr: string;
  /** The first address of it, as the API server takes it. */
  readonly kubernetesServiceAddress: string;
  readonly cgroup: string;
  readonly kubeconfig: string;
  readonly server: string;
}

export class ClusterError extends Error {
  override name = "ClusterError";
}

/** Throws when the name cannot be a DNS label, an interface name and a folder at once. */
export function checkName(name: string): void {
  if (!/^[a-z]([a-z0-9-]*[a-z0-9])?$/.test(name) || name.length > nameLengthMax) {
    throw new ClusterError(
      `cluster name "${name}": use 1..${nameLengthMax} of a-z, 0-9 and "-", starting with a letter and not ending with "-"`,
    );
  }
}

/** A stable short hash, used where the full name does not fit. */
function shortHash(text: string, length: number): string {
  return createHash("sha256").update(text).digest("hex").slice(0, length);
}

/** The slot a name would like; `pickSlot` moves on when it is taken. */
export function preferredSlot(name: string): number {
  return createHash("sha256").update(name).digest().readUInt32BE(0) % slotsCount;
}

/** The first slot at or after the preferred one that `taken` does not refuse. */
export function pickSlot(name: string, taken: (slot: number) => boolean): number {
  const start = preferredSlot(name);
  for (let step = 0; step < slotsCount; step++) {
    const slot = (start + step) % slotsCount;
    if (!taken(slot)) return slot;
  }
  throw new ClusterError(`no free subnet for cluster "${name}": all ${slotsCount} of 10.250.<n>.0/24 overlap routes or clusters here`);
}

export function clusterNames(name: string, slot: number, stateRoot: string): ClusterNames {
  checkName(name);
  const hostAddress = `10.250.${slot}.1`;
  const services = `10.${251 + (slot >> 6)}.${(slot & 63) * 4}`;
  const folder = `${stateRoot}/${name}`;
  return {
    name,
    slot,
    folder,
    bridge: `eno${shortHash(name, 8)}`,
    subnet: `10.250.${slot}.0/24`,
    hostAddress,
    loopback: `127.250.${slot}.1`,
    podCidr: `10.${128 + (slot >> 1)}.${(slot & 1) * 128}.0/17`,
    serviceCidr: `${services}.0/22`,
    kubernetesServiceAddress: `${services}.1`,
    cgroup: `enodia-${name}`,
    kubeconfig: `${folder}/kubeconfig`,
    server: `https://${hostAddress}:6443`,
  };
}

export function nodeNames(cluster: ClusterNames, index: number): NodeNames {
  if (!Number.isInteger(index) || index < 1 || index > nodesMax) throw new ClusterError(`node ${index}: the index must be 1..${nodesMax}`);
  const name = `${cluster.name}-${index}`;
  const pods = `10.${128 + (cluster.slot >> 1)}.${(cluster.slot & 1) * 128 + index}`;
  return {
    index,
    name,
    zone: `z${index}`,
    address: `10.250.${cluster.slot}.${9 + index}`,
    podCidr: `${pods}.0/24`,
    podGateway: `${pods}.1`,
    netns: `enodia-${name}`,
    hostLink: `en${shortHash(cluster.name, 6)}n${index}`,
    folder: `${cluster.folder}/nodes/${name}`,
    cgroup: `${cluster.cgroup}/${name}`,
  };
}

/** The index in a node's name, or an error that lists what there is. */
export function nodeIndex(cluster: string, node: string): number {
  const match = /^(.*)-([0-9]+)$/.exec(node);
  const index = Number(match?.[2] ?? /^[0-9]+$/.exec(node)?.[0]);
  if (!Number.isInteger(index) || (match !== null && match[1] !== cluster)) {
    throw new ClusterError(`node "${node}": nodes of cluster "${cluster}" are called ${cluster}-1, ${cluster}-2, ...`);
  }
  return index;
}

interface Range {
  readonly first: number;
  readonly last: number;
}

function cidrRange(cidr: string): Range | undefined {
  const match = /^(\d+)\.(\d+)\.(\d+)\.(\d+)(?:\/(\d+))?$/.exec(cidr);
  if (match === null) return undefined;
  const bits = match[5] === undefined ? 32 : Number(match[5]);
  const address = ((Number(match[1]) * 256 + Number(match[2])) * 256 + Number(match[3])) * 256 + Number(match[4]);
  const size = 2 ** (32 - bits);
  const first = Math.floor(address / size) * size;
  return { first, last: first + size - 1 };
}

/** True when two IPv4 ranges share an address; a range that is not IPv4 (a default route) shares none. */
export function cidrsOverlap(a: string, b: string): boolean {
  const left = cidrRange(a);
  const right = cidrRange(b);
  return left !== undefined && right !== undefined && left.first <= right.last && right.first <= left.last;
}
