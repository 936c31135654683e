// Network policies that hold: kube-network-policies beside each node of a local cluster, whose own network takes none. It is asked about
// the first packet of each connection that a node routes; pods of one node reach each other by its bridge, which asks nobody.
import { type ChildProcess, spawn } from "node:child_process";
import { ensureBinaries } from "../../cluster/binaries.ts";
import { netnsPath } from "../../cluster/network.ts";
import type { Log, Target } from "../deployment/product.ts";
import { exec, execOk, stop, until } from "../processes/process.ts";

/** The number of the kernel's queue that it reads. */
const queue = "100";
/** It lays such a rule itself, by an expression of nftables (NFT_QUEUE) that small kernels are built without. */
const rule = ["FORWARD", "-m", "conntrack", "--ctstate", "NEW", "-j", "NFQUEUE", "--queue-num", queue];
const readyTimeoutMs = 60_000;

export interface Enforcer {
  stop(): Promise<void>;
}

export async function enforceNetworkPolicies(target: Target, log: Log): Promise<Enforcer> {
  const { kubeconfig, local } = target;
  if (!local || !kubeconfig) throw new Error("network policies are enforced beside a local cluster");
  const { "network-policies": program } = await ensureBinaries(log, { only: ["network-policies"] });
  const nodes = local.nodes.map(({ name }) => ({ name, net: `--net=${netnsPath(`enodia-${name}`)}` }));
  const children: ChildProcess[] = [];
  const close = async (): Promise<void> => {
    // A queue that nobody reads lets nothing through: its rule goes first.
    for (const { net } of nodes) await exec("nsenter", [net, "iptables", "-t", "mangle", "-D", ...rule]);
    await Promise.all(children.map((child) => stop(child)));
  };
  try {
    for (const { name, net } of nodes) {
      const args = [net, program, `--kubeconfig=${kubeconfig}`, `--node=${name}`];
      const child = spawn("nsenter", args, { stdio: ["ignore", "ignore", "pipe"] });
      children.push(child);
      await isReading(child, name, net);
    }
    for (const { net } of nodes) await execOk("nsenter", [net, "iptables", "-t", "mangle", "-A", ...rule]);
    return { stop: close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function isReading(child: ChildProcess, node: string, net: string): Promise<void> {
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
    said = `${said}${chunk}`.slice(-4_000);
  });
  const reads = async (): Promise<true | undefined> => {
    if (child.exitCode !== null) throw new Error(`it ended: ${said}`);
    const queues = await execOk("nsenter", [net, "cat", "/proc/net/netfilter/nfnetlink_queue"]);
    return new RegExp(`^ *${queue} `, "m").test(queues) ? true : undefined;
  };
  await until(`network policies to hold on ${node}`, reads, { timeoutMs: readyTimeoutMs });
}
