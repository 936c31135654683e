// The kinds of objects whose pods have certificates of an own CA, and what differs between them. Pure.
import { trainingScope } from "../../crds/training-world.ts";
import { deploymentKind, jobKind, type OwnerKind } from "../kube/adoption.ts";
import type { Watched } from "../kube/informers.ts";

export interface CertifiedKind extends OwnerKind {
  /** True: serving does without it where it cannot be read. */
  readonly training: boolean;
  readonly objects: Watched;
  readonly secrets: Watched;
  /** What certificates call an object of that name. */
  scope(name: string): string;
}

export const certifiedDeployment: CertifiedKind = {
  ...deploymentKind,
  training: false,
  objects: "moeDeployments",
  secrets: "secrets",
  scope: (name) => name,
};

export const certifiedJob: CertifiedKind = {
  ...jobKind,
  training: true,
  objects: "moeTrainingJobs",
  secrets: "trainingSecrets",
  scope: trainingScope,
};

const kinds = [certifiedDeployment, certifiedJob] as const;

/** The kind that a CA's Secret names; undefined where it names another. One without a name is a deployment's. */
export const certifiedKind = (name: string | undefined): CertifiedKind | undefined =>
  kinds.find(({ kind }) => kind === (name ?? certifiedDeployment.kind));
