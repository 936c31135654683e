// The text of `enodia top`. Pure.
import type { MoEDeployment } from "../../crds/moe-deployment.ts";
import { bytes, percent } from "../views/format.ts";
import type { Running } from "../views/running.ts";
import { table } from "./table.ts";

const fixed = (of: number | undefined, digits = 0): string => (of === undefined ? "-" : of.toFixed(digits));

export function topText({ metadata, status }: MoEDeployment, { ranks, outputPerSecond, promptPerSecond, gateways }: Running): string {
  const { placement, autoscale, conditions } = status;
  const scaling = conditions?.find(({ type }) => type === "ScalingActive");
  const rates = `${fixed(outputPerSecond, 1)} tokens/s, ${fixed(promptPerSecond, 1)} prompt tokens/s`;
  const balance = `imbalance ${percent(placement?.imbalancePercent)} (bound ${percent(placement?.boundPercent)})`;
  const requests = `${fixed(gateways.active)} requests run, ${fixed(gateways.queued)} wait, ${fixed(gateways.failovers)} went on elsewhere`;
  return [
    `${metadata.namespace}/${metadata.name}   ${rates}   ${balance}   epoch ${placement?.epoch ?? "-"}`,
    `gateways   ${gateways.answering} of ${gateways.all} answer; ${requests} since their start`,
    ...(scaling
      ? [`autoscale  ${autoscale?.progress ?? "-"}   ${scaling.status === "True" ? "" : "stands still, "}${scaling.reason}`]
      : []),
    "",
    table(
      ["RANK", "POD", "STATE", "EXPERTS", "TOKENS/S", "PROMPT/S", "RUNNING", "WAITING", "KV", "MEMORY", "CPUS", "LOAD"],
      ranks.map((rank) => [
        String(rank.rank),
        rank.pod,
        rank.state,
        fixed(rank.experts),
        fixed(rank.outputPerSecond, 1),
        fixed(rank.promptPerSecond, 1),
        fixed(rank.active),
        fixed(rank.queued),
        percent(rank.kvPercent),
        bytes(rank.memoryBytes),
        fixed(rank.cpus, 1),
        percent(rank.loadPercent),
      ]),
    ),
  ].join("\n");
}
