// The deployment that faults strike, as they see it: its pods, the operator's, and the address that traffic takes.

import { gatewayUrl, kubectlOf, serviceAddress, systemNamespace } from "../../kit/deployment/product.ts";
import { type Sample, scrape, sum } from "../../kit/kube/scrape.ts";
import { until } from "../../kit/processes/process.ts";
import { rankOf } from "../held.ts";
import { patchSpec } from "../steps.ts";
import type { Deployed } from "../world.ts";
import type { MayGo, PodState } from "./pods.ts";

/** What a fault has done when it resolves: undone all of itself, and says which pods may have gone for it. */
export interface Struck {
  readonly mayGo: MayGo;
  /** Streams that it cut by its own hand and repeated by key; clients that a fault cut off may repeat only where this is given. */
  readonly cut?: number;
  /** When it was over, Unix ms. */
  readonly overAt: number;
}

export interface Fault {
  readonly name: string;
  /** `draw` chooses the victim. */
  strike(scene: Scene, draw: number): Promise<Struck>;
}

type OperatorPod = Pick<PodState, "name" | "uid" | "node" | "ip">;

/** The API server may be away for a moment, or its etcd. */
const answerWithinMs = 60_000;

export class Scene {
  readonly moe: Deployed;
  #urls: readonly string[] = [];
  #asked = 0;

  constructor(moe: Deployed) {
    this.moe = moe;
  }

  get system() {
    return kubectlOf(this.moe.target, systemNamespace);
  }

  /** The address that traffic takes next. */
  get url(): string {
    return this.#urls[this.#asked++ % this.#urls.length] ?? "";
  }

  /** Where a client goes whose gateway went. */
  otherThan(url: string): string {
    return this.#urls.find((one) => one !== url) ?? url;
  }

  /** Answers that ranks gave again of what they keep, nothing computed anew. */
  async resumed(): Promise<number> {
    const { moe } = this;
    const samples = await Promise.all((await this.ranks()).map(({ name }) => scrape(moe.kubectl, moe.namespace, name)));
    return samples.reduce((total, of) => total + sum(of, "enodia_worker_resumed_total"), 0);
  }

  /** Traffic goes to each gateway itself in turn: the way to the Service leads over a node, which may be struck. */
  async throughGateways(): Promise<void> {
    this.#urls = (await this.pods()).filter(({ component }) => component === "gateway").map(({ ip }) => gatewayUrl(ip));
  }

  /** Traffic goes to the Service, for as long as gateways are replaced. */
  async throughService(): Promise<void> {
    const { target, kubectl, name, namespace } = this.moe;
    this.#urls = [(await serviceAddress(target, kubectl, { name, namespace })).url];
  }

  /** Workers and gateways. */
  pods(): Promise<readonly PodState[]> {
    const { kubectl, name } = this.moe;
    const look = async (): Promise<PodState[]> =>
      (await kubectl.list("pods", `enodia.dev/deployment=${name}`)).map(({ metadata, spec, status }) => ({
        name: metadata.name,
        uid: metadata.uid ?? "",
        node: spec.nodeName ?? "",
        ip: status.podIP ?? "",
        component: (metadata.labels as Record<string, string>)["enodia.dev/component"] ?? "",
        rank: rankOf(metadata.name),
        restarts: status.containerStatuses?.[0]?.restartCount ?? 0,
      }));
    return until("the API server to list pods", look, { timeoutMs: answerWithinMs });
  }

  async ranks(): Promise<readonly PodState[]> {
    return (await this.pods()).filter(({ component }) => component === "worker");
  }

  /** Nodes whose loss takes connections of clients along: those of gateways. */
  async sparedNodes(): Promise<ReadonlySet<string>> {
    return new Set((await this.pods()).filter(({ component }) => component === "gateway").map(({ node }) => node));
  }

  async operators(): Promise<readonly OperatorPod[]> {
    const pods = await this.system.list("pods", "app.kubernetes.io/component=operator");
    return pods.map(({ metadata, spec, status }) => ({
      name: metadata.name,
      uid: metadata.uid ?? "",
      node: spec.nodeName ?? "",
      ip: status.podIP ?? "",
    }));
  }

  /** Those that lead at the moment. */
  async leaders(): Promise<readonly OperatorPod[]> {
    const leads = async ({ name }: OperatorPod): Promise<boolean> => {
      const samples = await scrape(this.system, systemNamespace, name).catch((): Sample[] => []);
      return sum(samples, "enodia_operator_leader") === 1;
    };
    const operators = await this.operators();
    const leading = await Promise.all(operators.map(leads));
    return operators.filter((_, i) => leading[i]);
  }

  /** The pod of the operator that leads. */
  leader(): Promise<OperatorPod> {
    return until("an operator to lead", async () => (await this.leaders())[0], { timeoutMs: answerWithinMs });
  }

  patch(spec: object): Promise<string> {
    return patchSpec(this.moe, spec);
  }

  /** Pods that Kubernetes itself evicted, since their node was silent. */
  async evicted(): Promise<ReadonlySet<string>> {
    const events = await this.moe.kubectl.list("events");
    return new Set(
      events.flatMap(({ reason, involvedObject }) => (reason === "TaintManagerEviction" ? [involvedObject.uid as string] : [])),
    );
  }
}
