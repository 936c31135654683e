// The wires of a local cluster: one bridge on the host, per node a network namespace with a veth pair, and the routes between them.
// Every step may be repeated.

import { existsSync, unlinkSync } from "node:fs";
import { run } from "./exec.ts";
import { type ClusterNames, cidrsOverlap, type NodeNames } from "./names.ts";

const netnsFolder = "/run/netns";

const ip = (...args: string[]) => run("ip", args);
const ipMaybe = (...args: string[]) => run("ip", args, { allowFailure: true });

async function linkExists(name: string): Promise<boolean> {
  return existsSync(`/sys/class/net/${name}`);
}

/** Destinations of the host's routes, to keep a new cluster off them. */
export async function hostRoutes(): Promise<string[]> {
  const { stdout } = await run("ip", ["-j", "-4", "route", "show", "table", "main"]);
  const routes = JSON.parse(stdout === "" ? "[]" : stdout) as { dst?: string }[];
  return routes.map((route) => route.dst ?? "").filter((dst) => dst !== "" && dst !== "default");
}

export const overlapsAny = (ranges: readonly string[], routes: readonly string[]): boolean =>
  ranges.some((range) => routes.some((route) => cidrsOverlap(range, route)));

export async function makeBridge(cluster: ClusterNames): Promise<void> {
  if (!(await linkExists(cluster.bridge))) await ip("link", "add", cluster.bridge, "type", "bridge");
  await ip("addr", "replace", `${cluster.hostAddress}/24`, "dev", cluster.bridge);
  await ip("link", "set", cluster.bridge, "up");
}

export const netnsExists = (name: string): boolean => existsSync(`${netnsFolder}/${name}`);
export const netnsPath = (name: string): string => `${netnsFolder}/${name}`;

/** Namespace, veth pair, address, default route, and the host's route to the node's pods. */
async function makeNodeNetwork(cluster: ClusterNames, node: NodeNames): Promise<void> {
  if (!netnsExists(node.netns)) await ip("netns", "add", node.netns);
  const inside = ["-n", node.netns];
  if (!(await linkExists(node.hostLink))) {
    await ip("link", "add", node.hostLink, "type", "veth", "peer", "name", "eth0", "netns", node.netns);
  }
  await ip("link", "set", node.hostLink, "master", cluster.bridge, "up");
  await ip(...inside, "link", "set", "lo", "up");
  await ip(...inside, "addr", "replace", `${node.address}/24`, "dev", "eth0");
  await ip(...inside, "link", "set", "eth0", "up");
  await ip(...inside, "route", "replace", "default", "via", cluster.hostAddress);
  await run("nsenter", [`--net=${netnsPath(node.netns)}`, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0"]);
  await ip("route", "replace", node.podCidr, "via", node.address, "dev", cluster.bridge);
}

/** Each node reaches the others' pods over the bridge without the host's help, so the host needs no ip_forward. */
async function routeBetween(nodes: readonly NodeNames[]): Promise<void> {
  for (const from of nodes) {
    for (const to of nodes) {
      if (from.index === to.index || !netnsExists(from.netns)) continue;
      await ip("-n", from.netns, "route", "replace", to.podCidr, "via", to.address, "dev", "eth0");
    }
  }
}

let wiring: Promise<void> = Promise.resolve();

/**
 * Makes a node's network and the routes from and to the others. It makes one at a time, though nodes boot side by side, so that every
 * other has a network or none, not half of one.
 */
export function wireNode(cluster: ClusterNames, node: NodeNames, nodes: readonly NodeNames[]): Promise<void> {
  const wired = wiring.then(async () => {
    await makeNodeNetwork(cluster, node);
    await routeBetween(nodes);
  });
  wiring = wired.catch(() => {});
  return wired;
}

/**
 * Lays the host's route to Services through a node, whose kube-proxy takes it from there; without a node there is none. It goes with the
 * bridge.
 */
export async function routeServices(cluster: ClusterNames, node: NodeNames | undefined): Promise<void> {
  if (node) await ip("route", "replace", cluster.serviceCidr, "via", node.address, "dev", cluster.bridge);
  else await ipMaybe("route", "del", cluster.serviceCidr, "dev", cluster.bridge);
}

export async function setLink(node: NodeNames, state: "up" | "down"): Promise<void> {
  await ip("link", "set", node.hostLink, state);
}

/**
 * Takes away what pods of a node that lost its power left in its namespace: the kernel clears a dead pod's link in its own time,
 * and until then it holds the route of an address that the rebooted node gives to a new pod.
 */
export async function removePodLinks(node: NodeNames): Promise<void> {
  const { stdout } = await ipMaybe("-n", node.netns, "-j", "link", "show", "type", "veth");
  const links = stdout.trim() === "" ? [] : (JSON.parse(stdout) as { readonly ifname?: string }[]);
  for (const { ifname } of links) if (ifname !== undefined && ifname !== "eth0") await ipMaybe("-n", node.netns, "link", "del", ifname);
}

export async function removeNodeNetwork(node: NodeNames): Promise<void> {
  if (await linkExists(node.hostLink)) await ipMaybe("link", "del", node.hostLink);
  if (netnsExists(node.netns)) {
    await ipMaybe("netns", "del", node.netns);
    // After a reboot the file may be left without its mount; `ip netns del` then fails on the file alone.
    if (netnsExists(node.netns)) unlinkSync(netnsPath(node.netns));
  }
}

export async function removeBridge(cluster: ClusterNames): Promise<void> {
  if (await linkExists(cluster.bridge)) await ip("link", "del", cluster.bridge);
}

/**
 * The iptables rules (arguments after -I) that the bridge needs on a machine that drops by default: desktops' firewalls drop what comes in,
 * Docker drops what is forwarded, bridged packets too when bridge-nf-call-iptables is on.
 */
export async function neededFirewall(cluster: ClusterNames): Promise<string[][]> {
  const { stdout } = await run("iptables", ["-S"], { allowFailure: true });
  const rules: string[][] = [];
  if (/^-P INPUT DROP/m.test(stdout)) rules.push(["INPUT", "-i", cluster.bridge, "-j", "ACCEPT"]);
  if (/^-P FORWARD DROP/m.test(stdout)) rules.push(["FORWARD", "-i", cluster.bridge, "-o", cluster.bridge, "-j", "ACCEPT"]);
  return rules;
}

export async function addFirewall(rules: readonly string[][]): Promise<void> {
  for (const rule of rules) await run("iptables", ["-I", ...rule]);
}

export async function removeFirewall(rules: readonly string[][]): Promise<void> {
  for (const rule of rules) await run("iptables", ["-D", ...rule], { allowFailure: true });
}
