// Asks the workers behind the headless Service what they know: how a pod that starts while the operator is away gets its
// membership and plan. The newest answer wins. Bounded: a few addresses, each asked once per round.
import { resolve4, resolve6 } from "node:dns/promises";
import { isIPv6 } from "node:net";
import type { PlacementPlan } from "../../crds/plan.ts";
import { Control } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { connect } from "./grpc.ts";
import { fromMembership, fromPlan, type Identity, type Membership, toSender } from "./mapping.ts";
import { peerIdentity, type TlsSource } from "./tls.ts";

const askTimeoutMs = 2_000;
/** Any few members that are up know the same; more would be a storm when a large deployment restarts. */
const peersMax = 16;

export interface SnapshotOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly deployment: string;
  readonly tls: TlsSource;
  /** Name of the headless Service. */
  readonly peersDns: string;
  readonly port: number;
  /** Not asked: this pod itself. */
  readonly ownIp?: string | undefined;
  readonly resolve?: (name: string) => Promise<string[]>;
}

export interface Snapshot {
  readonly membership: Membership | undefined;
  readonly plan: PlacementPlan | undefined;
  readonly asked: number;
  readonly answered: number;
}

/** One round. Never throws: who does not answer is only not counted. */
export async function askPeers(options: SnapshotOptions): Promise<Snapshot> {
  const all = await (options.resolve ?? resolveBoth)(options.peersDns).catch(() => []);
  const others = shuffle(all.filter((ip) => ip !== options.ownIp)).slice(0, peersMax);
  const answers = await Promise.all(others.map((ip) => ask(options, ip).catch(() => undefined)));
  let membership: Membership | undefined;
  let plan: PlacementPlan | undefined;
  for (const answer of answers) {
    if (answer?.membership && answer.membership.version > (membership?.version ?? -1)) membership = answer.membership;
    if (answer?.plan && answer.plan.epoch > (plan?.epoch ?? -1)) plan = answer.plan;
  }
  return { membership, plan, asked: others.length, answered: answers.filter((answer) => answer !== undefined).length };
}

async function ask(options: SnapshotOptions, ip: string): Promise<Pick<Snapshot, "membership" | "plan">> {
  const { namespace, deployment, tls, port, self } = options;
  const client = connect(Control, {
    address: `${isIPv6(ip) ? `[${ip}]` : ip}:${port}`,
    serverName: `${deployment}.${namespace}.enodia`,
    tls,
    accept: (cert) => peerIdentity(cert, namespace, deployment)?.role === "worker", // the rank behind an address is not known yet
  });
  try {
    const reply = await client.snapshot({ sender: toSender(self) }, { deadline: Date.now() + askTimeoutMs });
    if (reply.plan && reply.plan.deploymentUid !== self.deploymentUid) return { membership: undefined, plan: undefined };
    return {
      membership: reply.membership ? fromMembership(reply.membership) : undefined,
      plan: reply.plan ? fromPlan(reply.plan) : undefined,
    };
  } finally {
    client.close();
  }
}

async function resolveBoth(name: string): Promise<string[]> {
  const found = await Promise.allSettled([resolve4(name), resolve6(name)]);
  return found.flatMap((result) => (result.status === "fulfilled" ? result.value : []));
}

function shuffle<T>(items: readonly T[]): T[] {
  return items
    .map((item) => ({ item, key: Math.random() }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item);
}
