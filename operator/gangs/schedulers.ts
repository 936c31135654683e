// The gang schedulers that are known; index.ts chooses one.
import { resources } from "../kube/kube.ts";
import type { GangScheduler } from "./gang.ts";

/** The plugin of kubernetes-sigs/scheduler-plugins. Where it runs in the default scheduler, the pod template names that one. */
const label = "scheduling.x-k8s.io/pod-group";

export const coscheduling: GangScheduler = {
  name: "Coscheduling",
  resource: resources.coschedulingPodGroups,
  schedulerName: "scheduler-plugins-scheduler",
  member: (group) => ({ labels: { [label]: group }, annotations: {} }),
  has: ({ labels }) => labels?.[label] !== undefined,
  spec: (minMember) => ({ minMember }),
};

/** The group's queue and priority are those of the pod template. */
const annotation = "scheduling.k8s.io/group-name";
const queueAnnotation = "scheduling.volcano.sh/queue-name";

export const volcano: GangScheduler = {
  name: "Volcano",
  resource: resources.volcanoPodGroups,
  schedulerName: "volcano",
  member: (group) => ({ labels: {}, annotations: { [annotation]: group } }),
  has: ({ annotations }) => annotations?.[annotation] !== undefined,
  spec: (minMember, podTemplate) => {
    const queue = podTemplate?.metadata?.annotations?.[queueAnnotation];
    const priorityClassName = podTemplate?.spec?.priorityClassName;
    return {
      minMember,
      ...(queue === undefined ? {} : { queue }),
      ...(typeof priorityClassName === "string" ? { priorityClassName } : {}),
    };
  },
};
