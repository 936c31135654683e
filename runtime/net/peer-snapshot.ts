// Reads the newest plan and membership from any worker, while the operator is away.
import { lookup } from "node:dns/promises";
import { AppError } from "../../crds/common.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import { Control } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus, type Network } from "./grpc.ts";
import { fromMembership, fromPlan, type Identity, type Membership, toSender } from "./mapping.ts";
import { peerIdentity, serverNames, type TlsSource } from "./tls.ts";

const askTimeoutMs = 2_000;
/** Any one of them knows the plan. */
const peersAskedMax = 16;

interface DebugLog {
  debug(fields: Readonly<Record<string, unknown>>, message: string): void;
}

export interface Snapshot {
  readonly plan: PlacementPlan | undefined;
  readonly membership: Membership | undefined;
}

interface Answer extends Snapshot {
  readonly leaving: boolean;
}

export interface AskOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connect">;
  readonly log: DebugLog;
}

/** The addresses other than `own`, by the system's resolver. An unknown name is no error. */
export async function resolvePeers(dns: string, port: number, own: string | undefined, log: DebugLog): Promise<string[]> {
  try {
    const found = await lookup(dns, { all: true, family: 4 });
    return found.flatMap(({ address }) => (address === own ? [] : [`${address}:${port}`]));
  } catch (error) {
    log.debug({ err: error, dns }, "no peers by DNS");
    return [];
  }
}

/** The plan of the highest epoch and the membership of the highest version. */
export async function askPeers(addresses: readonly string[], options: AskOptions): Promise<Snapshot> {
  const answers = await Promise.all(addresses.slice(0, peersAskedMax).map((address) => askOne(address, options)));
  const plans = answers.flatMap((answer) => answer?.plan ?? []).sort((a, b) => b.epoch - a.epoch);
  const memberships = answers.flatMap((answer) => answer?.membership ?? []).sort((a, b) => b.version - a.version);
  return { plan: plans[0], membership: memberships[0] };
}

/** A worker that does not answer counts as leaving. */
export async function allLeave(addresses: readonly string[], options: AskOptions): Promise<boolean> {
  const answers = await Promise.all(addresses.slice(0, peersAskedMax).map((address) => askOne(address, options)));
  return answers.every((answer) => answer === undefined || answer.leaving);
}

async function askOne(address: string, { self, namespace, name, tls, network, log }: AskOptions): Promise<Answer | undefined> {
  const client = network.connect(Control, {
    address,
    serverName: serverNames.rank(self.rank, namespace, name),
    tls,
    accept: (cert) => peerIdentity(cert, namespace, name)?.role === "worker",
  });
  try {
    const reply = await client.snapshot({ sender: toSender(self) }, { deadline: Date.now() + askTimeoutMs });
    const plan = reply.plan === undefined ? undefined : fromPlan(reply.plan);
    const membership = reply.membership === undefined ? undefined : fromMembership(reply.membership);
    if (plan !== undefined && plan.deploymentUid !== self.deploymentUid)
      throw new AppError("plan of another deployment", { code: "InvalidPlan" });
    return { plan, membership, leaving: reply.leaving };
  } catch (caught) {
    log.debug({ err: fromStatus(caught, "asking a peer"), address }, "a peer did not answer");
    return undefined;
  } finally {
    client.close();
  }
}
