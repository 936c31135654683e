// The network policy of a training job's pods: they read and write claims, and talk to each other and the operator. Pure.
import { labels, ports } from "../../crds/common.ts";
import type { MoETrainingJob } from "../../crds/moe-training-job.ts";
import { trainerComponent } from "../../crds/training-process.ts";
import { makerLabels } from "../kube/adoption.ts";
import type { KubeObject } from "../kube/kube.ts";
import { dns, operatorPods, type PolicySettings, tcp } from "../pods/network-policy.ts";
import { groupName, ownerOf } from "./pod.ts";

export function trainersPolicy(job: MoETrainingJob, settings: NonNullable<PolicySettings>): KubeObject {
  const { name, namespace } = job.metadata;
  const ofJob = { [labels.trainingJob]: name };
  const trainers = [{ podSelector: { matchLabels: { ...ofJob, [labels.component]: trainerComponent } } }];
  return {
    apiVersion: "networking.k8s.io/v1",
    kind: "NetworkPolicy",
    metadata: { name: groupName(name), namespace, labels: { ...makerLabels, ...ofJob }, ownerReferences: [ownerOf(job)] },
    spec: {
      podSelector: { matchLabels: ofJob },
      policyTypes: ["Ingress", "Egress"],
      ingress: [
        { from: trainers, ports: [tcp(ports.ranks)] },
        { from: operatorPods(settings), ports: [tcp(ports.world)] },
      ],
      egress: [{ to: trainers, ports: [tcp(ports.ranks)] }, dns],
    },
  };
}
