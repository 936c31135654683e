// The kinds of objects whose pods have certificates of an own CA, and what differs between them: the label that their Secrets carry, where
// they are watched, and their name in certificates, so that a job and a deployment of one name are never taken for each other. Pure.
import { labels } from "../../crds/common.ts";
import { trainingScope } from "../../crds/training-world.ts";
import { type Resource, resources } from "../kube/kube.ts";
import type { Watched } from "../kube/informers.ts";

export interface CertifiedKind {
  readonly kind: "MoEDeployment" | "MoETrainingJob";
  /** True: serving does without it where it cannot be read. */
  readonly training: boolean;
  /** On its Secrets, with its name. */
  readonly label: string;
  readonly resource: Resource;
  readonly objects: Watched;
  readonly secrets: Watched;
  /** What certificates call an object of that name. */
  scope(name: string): string;
}

export const certifiedDeployment: CertifiedKind = {
  kind: "MoEDeployment",
  training: false,
  label: labels.deployment,
  resource: resources.moeDeployments,
  objects: "moeDeployments",
  secrets: "secrets",
  scope: (name) => name,
};

export const certifiedJob: CertifiedKind = {
  kind: "MoETrainingJob",
  training: true,
  label: labels.trainingJob,
  resource: resources.moeTrainingJobs,
  objects: "moeTrainingJobs",
  secrets: "trainingSecrets",
  scope: trainingScope,
};

const kinds = [certifiedDeployment, certifiedJob] as const;

/** The kind that a CA's Secret names; undefined where it names another. One without a name is a deployment's. */
export const certifiedKind = (name: string | undefined): CertifiedKind | undefined =>
  kinds.find(({ kind }) => kind === (name ?? certifiedDeployment.kind));
