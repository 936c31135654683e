// `enodia plan explain`: reads a deployment, its plan, pods and events for views/plan.ts.
import { z } from "zod";
import { AppError, labels } from "../../../crds/common.ts";
import { parseExpertPlacement } from "../../../crds/expert-placement.ts";
import { parseMoEDeployment } from "../../../crds/moe-deployment.ts";
import { planBounds } from "../../../crds/plan.ts";
import { type Kube, resources } from "../../kube/kube.ts";
import { type ExplainEvent, type ExplainFacts, explain, explainedSections, layerTable } from "../../views/plan.ts";
import { argument, declare, value } from "../command.ts";
import { objectOf, openCluster } from "../kube.ts";
import { asksForJson, clusterOptions, outputOptions, whole } from "../options.ts";
import { sectionsText } from "../table.ts";

const eventsShown = 12;

export const command = declare({
  about:
    'Says why the experts of a MoEDeployment are where they are: the plan and its reason, what was predicted and measured, which layers it changed, and the last decisions, "not moving" included.',
  arguments: [argument("<name>", "a MoEDeployment", { moeDeployments: "" })],
  options: {
    ...clusterOptions,
    ...outputOptions,
    layer: value("--layer <number>", "hosts and weights of every expert of one layer", whole(0, planBounds.layers - 1)),
  },
  async action({ layer, ...options }, name) {
    const json = asksForJson(options);
    const cluster = openCluster(options);
    const found = await gather(cluster.kube, { namespace: cluster.namespace, name });
    const explained = explain(found);
    if (json) process.stdout.write(`${JSON.stringify(explained, null, 2)}\n`);
    else {
      const sections = layer === undefined ? explainedSections(found, explained) : layerTable(found.placement, layer);
      process.stdout.write(`${sectionsText(sections)}\n`);
    }
    return 0;
  },
});

const eventSchema = z.object({
  regarding: z.object({ kind: z.string().default(""), name: z.string().default("") }).prefault({}),
  reason: z.string().default(""),
  note: z.string().default(""),
  type: z.string().default("Normal"),
  eventTime: z.string().nullish(),
  series: z.object({ count: z.number(), lastObservedTime: z.string() }).nullish(),
});
type Event = z.infer<typeof eventSchema>;
const podSchema = z.object({ spec: z.object({ nodeName: z.string().optional() }).prefault({}) });

/** Throws AppError `NotFound` without the deployment or its plan. */
export async function gather(kube: Kube, ref: { readonly namespace: string; readonly name: string }): Promise<ExplainFacts> {
  const { namespace, name } = ref;
  const [deployment, placement, events, pods] = await Promise.all([
    objectOf(kube, resources.moeDeployments, ref),
    kube.get(resources.expertPlacements, ref),
    kube.list(resources.events, { namespace }),
    kube.list(resources.pods, { namespace, labelSelector: `${labels.deployment}=${name},${labels.component}=worker` }),
  ]);
  if (!placement) {
    throw new AppError(`"${name}" has no plan yet: its ExpertPlacement appears when the first ranks report; see: enodia status ${name}`, {
      code: "NotFound",
    });
  }
  const own = events.items
    .map((item) => eventSchema.parse(item))
    .filter((event) => event.regarding.name === name && ["MoEDeployment", "ExpertPlacement"].includes(event.regarding.kind))
    .sort((a, b) => timeOf(a).localeCompare(timeOf(b)));
  const nodes = pods.items.map((pod): [number, string] => {
    const rank = Number(pod.metadata.labels?.[labels.rank] ?? Number.NaN);
    return [rank, podSchema.parse(pod).spec.nodeName ?? pod.metadata.name];
  });
  return {
    deployment: parseMoEDeployment(deployment),
    placement: parseExpertPlacement(placement),
    events: own.slice(-eventsShown).map(toExplain),
    nodes: new Map(nodes),
  };
}

function timeOf(event: Event): string {
  return event.series?.lastObservedTime ?? event.eventTime ?? "";
}

function toExplain(event: Event): ExplainEvent {
  return { time: timeOf(event), reason: event.reason, note: event.note, count: event.series?.count ?? 1 };
}
