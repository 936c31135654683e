// The kinds of objects with a CA of their own. Pure.
import { trainingScope } from "../../crds/training-world.ts";
import { deploymentKind, jobKind, type OwnerKind } from "../kube/adoption.ts";
import type { Watched } from "../kube/resources.ts";

export interface CertifiedKind extends OwnerKind {
  /** Serving goes on where these cannot be read. */
  readonly training: boolean;
  readonly objects: Watched;
  readonly secrets: Watched;
  /** The object's name in certificates. */
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

/** A Secret without a kind is a deployment's. */
export const certifiedKind = (name: string | undefined): CertifiedKind | undefined =>
  kinds.find(({ kind }) => kind === (name ?? certifiedDeployment.kind));
