// The coscheduling plugin of kubernetes-sigs/scheduler-plugins, where a label makes a pod a member. Where it runs in the default scheduler,
// the pod template names that one.
import { resources } from "../kube/kube.ts";
import type { GangScheduler } from "./gang.ts";

const label = "scheduling.x-k8s.io/pod-group";

export const coscheduling: GangScheduler = {
  name: "Coscheduling",
  resource: resources.coschedulingPodGroups,
  schedulerName: "scheduler-plugins-scheduler",
  member: (group) => ({ labels: { [label]: group }, annotations: {} }),
  has: ({ labels }) => labels?.[label] !== undefined,
  spec: (minMember) => ({ minMember }),
};
