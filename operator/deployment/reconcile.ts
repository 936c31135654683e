// One pass over a MoEDeployment: observe, plan, ask the API server, decide, execute, write the status. Level-triggered; a record has all that is
// remembered.
import type { AppError } from "../../crds/common.ts";
import type { MoEDeploymentStatus } from "../../crds/moe-deployment-status.ts";
import type { Outcome } from "../kube/controller.ts";
import { hasCode } from "../kube/errors.ts";
import type { KubeObject, Ref } from "../kube/kube.ts";
import type { StatusWriter } from "../kube/status-writer.ts";
import type { Memory } from "./core/memory.ts";
import { type AskDeps, ask } from "./execute/ask.ts";
import { type ExecuteDeps, execute } from "./execute/execute.ts";
import { type Decision, decide, plan } from "./features/decide.ts";
import { type Executed, outcomeOf, statusOf } from "./features/status.ts";
import { type ObserveDeps, observe, readDeployment } from "./observe/observe.ts";
import type { Records } from "./state/records.ts";

/** Time in which a new leader connects to workers and NATS. */
const warmUpMs = 10_000;

export interface ReconcileDeps extends AskDeps, ObserveDeps, ExecuteDeps {
  readonly identities: ExecuteDeps["identities"];
  readonly telemetry: ExecuteDeps["telemetry"];
  readonly rebalance: ExecuteDeps["rebalance"];
  readonly polls: AskDeps["polls"];
  readonly accepted: AskDeps["accepted"];
  readonly records: Records;
  readonly status: StatusWriter<MoEDeploymentStatus>;
}

export class Reconciler {
  readonly #deps: ReconcileDeps;
  readonly #startedMs: number;

  constructor(deps: ReconcileDeps) {
    this.#deps = deps;
    this.#startedMs = deps.ticks();
  }

  async reconcile(ref: Ref): Promise<Outcome> {
    const object = this.#deps.informers.get("moeDeployments", ref);
    // Owner references delete the objects of a deleted deployment; its sessions are closed here.
    const present = object?.metadata.deletionTimestamp === undefined ? object : undefined;
    if (this.#deps.records.find(ref)?.uid !== present?.metadata.uid) this.forget(ref);
    if (!present) return {};
    try {
      return await this.#pass(ref, present);
    } catch (error) {
      if (!hasCode(error, "InvalidSpec")) throw error;
      // The stored object is unreadable and there is no accepted spec: report it and touch nothing.
      const { code: reason, message } = error as AppError;
      const { generation: observedGeneration } = present.metadata;
      await this.#deps.status.refuse(present, { type: "SpecAccepted", status: "False", reason, message, observedGeneration });
      return {};
    }
  }

  async #pass(ref: Ref, object: KubeObject): Promise<Outcome> {
    const deps = this.#deps;
    const { uid = "" } = object.metadata;
    const record = deps.records.open({ ...ref, uid });
    const read = readDeployment(object, deps.accepted.latest({ ...ref, uid }));
    const deployment = { ...read.deployment, status: deps.status.latest(read.deployment) };
    const isLatest = deps.status.covers(object);
    const warmMs = this.#startedMs + warmUpMs - deps.ticks();
    const observed = await observe(deps, { ...read, deployment, object }, { memory: record.memory, warmMs, isLatest });
    const planned = plan(observed);
    const answers = await ask(deps, observed, planned);
    const decision = decide(observed, planned, answers);
    const done = await execute(deps, observed, decision);
    record.memory = memoryOf(decision, done); // what was done counts, whether or not it can be reported
    const status = statusOf(decision, done);
    const heldMs = await deps.status.write(decision.facts.snapshot.deployment, status);
    return outcomeOf(observed, decision, done, { status, heldMs });
  }

  /** Also for a deployment that another install has now: whoever gets it next finds it as it is then. */
  forget(ref: Ref): void {
    const { records, rebalance, identities, status, applier } = this.#deps;
    const known = records.find(ref);
    records.forget(ref);
    for (const holder of known ? [rebalance, identities, status, applier] : []) holder.forget(known?.uid ?? "");
  }
}

/** What the next pass remembers: each key has one writer. */
function memoryOf(
  { answers, blueGreen, facts, repair, scale }: Decision,
  { remember: { greenRefused, surgeRefused, createError } }: Executed,
): Memory {
  const { dryRuns, jobRefused } = answers.remember;
  const { greenNoCapacity, greenBake } = blueGreen.remember;
  const { autoscaleHistory, zero } = scale.remember;
  const { canaryBake, refusedStart } = facts.remember;
  const { gatewaysSinceMs, goneAtMs } = repair.remember;
  return {
    ...{ jobRefused, dryRuns, greenNoCapacity, greenBake, greenRefused, surgeRefused, createError },
    ...{ canaryBake, refusedStart, gatewaysSinceMs, goneAtMs, autoscaleHistory, zero },
  };
}
