// How a worker finds plan and membership while the operator is away: it asks its peers, found through the headless Service.
// It only reads; the newest answer wins, and the operator's pushes win over all of it.
import { resolve4 } from "node:dns/promises";
import { AppError } from "../../crds/common.ts";
import type { PlacementPlan } from "../../crds/plan.ts";
import type { Peers } from "../experts/peers.ts";
import type { Log } from "../observe/log.ts";
import { Control } from "../wire/gen/enodia/runtime/v1/runtime_pb.js";
import { fromStatus, type Network } from "../wire/grpc.ts";
import { fromMembership, fromPlan, type Identity, type Membership, toSender } from "../wire/mapping.ts";
import { peerIdentity, serverNames, type TlsSource } from "../wire/tls.ts";
import type { PlanKeeper } from "./worker-plan.ts";

/** How often a worker without plan or operator asks its peers. */
const joinEveryMs = 1_000;
const askTimeoutMs = 2_000;
/** Peers asked in one round; any one of them knows the plan. */
const peersAskedMax = 16;

export interface Snapshot {
  readonly plan: PlacementPlan | undefined;
  readonly membership: Membership | undefined;
}

export interface AskOptions {
  readonly self: Identity;
  readonly namespace: string;
  readonly name: string;
  readonly tls: TlsSource;
  readonly network: Pick<Network, "connect">;
  readonly log: Log;
}

/** ip:port of the pods behind a headless Service, without `own`. An unknown name is no error: there may be no peers. */
export async function resolvePeers(dns: string, port: number, own: string | undefined, log: Log): Promise<string[]> {
  try {
    const ips = await resolve4(dns);
    return ips.filter((ip) => ip !== own).map((ip) => `${ip}:${port}`);
  } catch (error) {
    log.debug({ err: error, dns }, "no peers by DNS");
    return [];
  }
}

/** Asks the workers at these addresses; gives the plan of the highest epoch and the membership of the highest version. */
export async function askPeers(addresses: readonly string[], options: AskOptions): Promise<Snapshot> {
  const answers = await Promise.all(addresses.slice(0, peersAskedMax).map((address) => askOne(address, options)));
  const plans = answers.flatMap((answer) => answer?.plan ?? []).sort((a, b) => b.epoch - a.epoch);
  const memberships = answers.flatMap((answer) => answer?.membership ?? []).sort((a, b) => b.version - a.version);
  return { plan: plans[0], membership: memberships[0] };
}

async function askOne(address: string, { self, namespace, name, tls, network, log }: AskOptions): Promise<Snapshot | undefined> {
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
    return { plan, membership };
  } catch (caught) {
    log.debug({ err: fromStatus(caught, "asking a peer"), address }, "a peer did not answer");
    return undefined;
  } finally {
    client.close();
  }
}

export interface JoinerOptions extends AskOptions {
  readonly peers: Peers;
  readonly plan: PlanKeeper;
}

/** Gets plan and membership from peers: on a timer while the operator is away and something is missing, or from one rank now. */
export class Joiner {
  readonly #options: JoinerOptions;
  #busy = false;

  constructor(options: JoinerOptions) {
    this.#options = options;
  }

  /** A rank that knows a newer epoch is asked for it. */
  async from(rank: number): Promise<void> {
    const address = this.#options.peers.member(rank)?.address;
    if (address !== undefined) await this.#take(async () => [address]);
  }

  start(addresses: () => Promise<readonly string[]>, operatorPresent: () => boolean): () => void {
    const { peers, plan } = this.#options;
    const timer = setInterval(() => {
      const complete = peers.membership.version > 0 && plan.state.complete;
      if (!complete && !operatorPresent()) void this.#take(addresses);
    }, joinEveryMs);
    timer.unref();
    return () => clearInterval(timer);
  }

  async #take(addresses: () => Promise<readonly string[]>): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    try {
      const { plan, membership } = await askPeers(await addresses(), this.#options);
      if (membership !== undefined) this.#options.peers.apply(membership);
      if (plan !== undefined) await this.#options.plan.adopt(plan);
    } catch (err) {
      this.#options.log.warn({ err }, "what a peer sent was refused");
    } finally {
      this.#busy = false;
    }
  }
}
