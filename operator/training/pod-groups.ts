// Applies what stands beside a training job's pods before the first of them: their network policy, and their PodGroup, which goes after the
// last pod so that it holds no quota.

import { AppError, labels } from "../../crds/common.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { trainerComponent } from "../../crds/training-process.ts";
import type { Gang } from "../gangs/gang.ts";
import { gangSchedulers } from "../gangs/index.ts";
import { makerLabels } from "../kube/adoption.ts";
import type { Applier } from "../kube/apply.ts";
import { type KubeObject, resources } from "../kube/kube.ts";
import type { Subject } from "../pki/authorities.ts";
import type { PolicySettings } from "../pods/network-policy.ts";
import type { Problem } from "./core/observed.ts";
import { trainersPolicy } from "./network-policy.ts";
import { groupName, ownerOf } from "./pod.ts";

export type JobEvent = (job: Subject, type: "Normal" | "Warning", reason: string, note: string) => void;

interface Kept {
  /** Why the group cannot exist; no pod may wait for it. */
  readonly problems: readonly Problem[];
  /** Another error; the group may exist or not. */
  readonly failure: AppError | undefined;
}

interface PodGroupsOptions {
  readonly applier: Pick<Applier, "apply" | "remove" | "forget">;
  readonly event: JobEvent;
  readonly networkPolicies?: PolicySettings;
}

export class PodGroups {
  readonly #options: PodGroupsOptions;
  /** Reported field conflicts by the job's uid. */
  readonly #conflicts = new Map<string, string>();

  constructor(options: PodGroupsOptions) {
    this.#options = options;
  }

  /** Deletes the groups of other schedulers, and all if there is no gang. */
  async keep(job: MoETrainingJob, gang: Gang | undefined): Promise<Kept> {
    const { applier, event, networkPolicies } = this.#options;
    const { metadata } = job;
    const name = groupName(metadata.name);
    const others = gangSchedulers.filter((scheduler) => scheduler !== gang?.scheduler).map(({ resource }) => ({ resource, name }));
    if (!networkPolicies) others.push({ resource: resources.networkPolicies, name });
    let kept: AppError | undefined;
    try {
      await applier.remove(others, metadata);
    } catch (caught) {
      kept = AppError.from(caught, `deleting PodGroup ${name}`);
    }
    const wanted = [
      ...(networkPolicies ? [{ resource: resources.networkPolicies, object: trainersPolicy(job, networkPolicies) }] : []),
      ...(gang ? [{ resource: gang.scheduler.resource, object: podGroup(job, gang) }] : []),
    ];
    const { refusals, conflicts, failure = kept } = await applier.apply(wanted, metadata);
    const [conflict] = conflicts;
    if (conflict !== undefined && this.#conflicts.get(metadata.uid) !== conflict) event(job, "Warning", "FieldConflict", conflict);
    if (conflict === undefined) this.#conflicts.delete(metadata.uid);
    else this.#conflicts.set(metadata.uid, conflict);
    return { problems: refusals, failure };
  }

  forget(uid: string): void {
    this.#options.applier.forget(uid);
    this.#conflicts.delete(uid);
  }
}

function podGroup(job: MoETrainingJob, { scheduler, members }: Gang): KubeObject {
  const { name, namespace } = job.metadata;
  return {
    apiVersion: scheduler.resource.apiVersion,
    kind: scheduler.resource.kind,
    metadata: {
      name: groupName(name),
      namespace,
      labels: { ...makerLabels, [labels.trainingJob]: name, [labels.component]: trainerComponent },
      ownerReferences: [ownerOf(job)],
    },
    spec: scheduler.spec(members, job.spec.podTemplate),
  };
}
