// The condition ExpertsOversubscribed, and its metrics: what ranks load for tokens, as foreseen and as measured. Pure.
import type { MoEDeploymentSpec } from "../../../crds/moe-deployment.ts";
import { formatBytes } from "../../../crds/quantity.ts";
import type { Verdict } from "../../deployment/ports.ts";
import type { LoadSnapshot, Observed, RankView } from "../observed.ts";

type TierLook = NonNullable<LoadSnapshot["tiers"]>;

export interface OversubscribedInput {
  readonly world: Pick<Observed["world"], "spec">;
  readonly load: Pick<LoadSnapshot, "tiers"> | undefined;
  readonly epoch: number | undefined;
  readonly views: readonly Pick<RankView, "state">[];
}

const notObserved = (message: string): Verdict => ({ status: "Unknown", reason: "NotObserved", message });

/** Undefined without experts.oversubscription Allow. */
export function expertsOversubscribed({ world, load, epoch, views }: OversubscribedInput): Verdict | undefined {
  if (world.spec.experts.oversubscription !== "Allow") return undefined;
  if (load?.tiers) return { status: "True", reason: "Oversubscribed", message: textOf(load.tiers, world.spec.experts) };
  if (epoch === undefined) return notObserved("there is no plan yet");
  if (!load || views.every(({ state }) => state !== "active")) return notObserved("no rank serves yet");
  return { status: "False", reason: "FitsInMemory", message: "the memory of the ranks holds all experts" };
}

const two = (value: number): string => String(Number(value.toPrecision(2)));
const milliseconds = (seconds: number): string => `${two(seconds * 1000)} ms`;

function textOf(look: TierLook, { minExpertReplicas }: MoEDeploymentSpec["experts"]): string {
  const { forecast, measured, servedBytes, memoryBytes, bytesPerSecond } = look;
  const { kept, served, missShare, loadsPerToken, bytesPerToken, loadSeconds = 0, stallSeconds = 0 } = forecast;
  const loads = `${two(missShare * 100)}% of choices, ${two(loadsPerToken)} experts and ${formatBytes(Math.round(bytesPerToken))} a token`;
  const times =
    bytesPerSecond === undefined
      ? "how long that takes is not known before experts were loaded"
      : `at most ${milliseconds(loadSeconds)} of loads at a rank and ${milliseconds(stallSeconds)} of waiting, at ${formatBytes(Math.round(bytesPerSecond))}/s`;
  const seen = measured
    ? `; measured: ${two(measured.loads)} experts a token, at most ${milliseconds(measured.loadSeconds)} of loads at a rank`
    : "";
  const memory = `ranks have ${formatBytes(memoryBytes)} for ${formatBytes(servedBytes)} of experts, and ${kept} of ${served} stay there`;
  const floor =
    minExpertReplicas > 1
      ? `; minExpertReplicas ${minExpertReplicas} is not kept below ${formatBytes(minExpertReplicas * servedBytes)}`
      : "";
  return `${memory}; predicted to be loaded: ${loads}, ${times}${seen}${floor}; raise memoryPerRank or replicas for less`;
}

/** An undefined value removes its series. */
export function oversubscribedFigures({ forecast, measured }: Partial<TierLook> = {}) {
  return [
    { name: "enodia_expert_miss_loads_ratio", kind: "predicted", value: forecast?.loadsPerToken },
    { name: "enodia_expert_miss_loads_ratio", kind: "measured", value: measured?.loads },
    { name: "enodia_expert_miss_load_seconds", kind: "predicted", value: forecast?.loadSeconds },
    { name: "enodia_expert_miss_load_seconds", kind: "measured", value: measured?.loadSeconds },
  ] as const;
}
