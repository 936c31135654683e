// Volcano, where an annotation makes a pod a member. The group's queue and priority are those of the pod template.
import { resources } from "../kube/kube.ts";
import type { GangScheduler } from "./gang.ts";

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
