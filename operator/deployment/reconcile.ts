// One pass over a MoEDeployment: observe, plan, ask the API server, decide, execute, write the status. Level-triggered; core/memory.ts has
// all that a pass remembers.
import type { AppError } from "../../crds/common.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Outcome } from "../kube/controller.ts";
import { hasCode } from "../kube/errors.ts";
import type { KubeObject, Ref } from "../kube/kube.ts";
import type { StatusWriter } from "../kube/status-writer.ts";
import { type AskDeps, ask } from "./execute/ask.ts";
import { type Memory, noMemory } from "./core/memory.ts";
import { decide, plan } from "./decide.ts";
import { type ExecuteDeps, execute } from "./execute/execute.ts";
import { type ObserveDeps, observe, readDeployment } from "./observe/observe.ts";
import { outcomeOf, statusOf } from "./status.ts";

/** Time in which a new leader connects to workers and NATS. */
const warmUpMs = 10_000;

export interface ReconcileDeps extends AskDeps, ObserveDeps, ExecuteDeps {
  readonly identities: ExecuteDeps["identities"];
  readonly rebalance: ExecuteDeps["rebalance"];
  readonly talks: AskDeps["talks"];
  readonly status: StatusWriter<MoEDeploymentStatus>;
}

interface Known {
  readonly uid: string;
  readonly memory: Memory;
}

export class Reconciler {
  readonly #deps: ReconcileDeps;
  readonly #startedMs: number;
  readonly #known = new Map<string, Known>();

  constructor(deps: ReconcileDeps) {
    this.#deps = deps;
    this.#startedMs = deps.ticks();
  }

  async reconcile(ref: Ref): Promise<Outcome> {
    const key = `${ref.namespace}/${ref.name}`;
    const object = this.#deps.informers.get("moeDeployments", ref);
    // Owner references delete the objects of a deleted deployment; its sessions are closed here.
    const present = object?.metadata.deletionTimestamp === undefined ? object : undefined;
    const known = this.#known.get(key);
    if (known && known.uid !== present?.metadata.uid) this.#forget(key, known.uid);
    if (!present) return {};
    try {
      return await this.#pass(key, present);
    } catch (error) {
      if (!hasCode(error, "InvalidSpec")) throw error;
      // The stored object is unreadable and there is no accepted spec: report it and touch nothing.
      const { code: reason, message } = error as AppError;
      const { generation: observedGeneration } = present.metadata;
      await this.#deps.status.refuse(present, { type: "SpecAccepted", status: "False", reason, message, observedGeneration });
      return {};
    }
  }

  async #pass(key: string, object: KubeObject): Promise<Outcome> {
    const deps = this.#deps;
    const { uid = "" } = object.metadata;
    const { memory } = this.#known.get(key) ?? { memory: noMemory };
    this.#known.set(key, { uid, memory });
    const read = readDeployment(object, deps.accepted.latest(uid));
    const deployment = { ...read.deployment, status: deps.status.latest(read.deployment) };
    const warmMs = this.#startedMs + warmUpMs - deps.ticks();
    const observed = await observe(deps, { ...read, deployment }, { memory, warmMs });
    const planned = plan(observed);
    const answers = await ask(deps, observed, planned);
    const decision = decide(observed, planned, answers);
    const done = await execute(deps, observed, decision);
    const status = statusOf(decision, done);
    const heldMs = await deps.status.write(decision.facts.snapshot.deployment, status);
    const { blueGreen, facts, repair, scale } = decision;
    const remember = {
      ...scale.remember,
      ...done.remember,
      ...answers.remember,
      ...blueGreen.remember,
      ...facts.remember,
      ...repair.remember,
    };
    this.#known.set(key, { uid, memory: remember });
    return outcomeOf(observed, decision, done, { status, heldMs });
  }

  #forget(key: string, uid: string): void {
    const { accepted, talks, rebalance, identities, telemetry, status, applier } = this.#deps;
    this.#known.delete(key);
    talks.forget(key);
    for (const holder of [accepted, rebalance, identities, telemetry, status, applier]) holder.forget(uid);
  }
}
