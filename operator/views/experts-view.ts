// The experts of a placement by rank: number, replicas, and weights. Pure.
import { AppError } from "../../crds/common.ts";
import type { ExpertPlacement } from "../../crds/expert-placement.ts";
import { decodeLayer, type LayerPlan, weightsTotal } from "../../crds/plan.ts";

export const plansOf = ({ spec }: Pick<ExpertPlacement, "spec">, layers = spec.layers): readonly LayerPlan[] =>
  layers.map((one) => decodeLayer(one.hosts, one.weights, `spec.layers[${one.layer}]`));

interface Hosted {
  /** (layer, expert) pairs on the rank, and those with another primary. */
  readonly held: number;
  readonly expertReplicas: number;
  /** [experts], 0 to 1: the rank's weight, as the mean over layers. */
  readonly weights: readonly number[];
}

export function hostedBy(ranks: readonly number[], plans: readonly LayerPlan[]): ReadonlyMap<number, Hosted> {
  const experts = Math.max(0, ...plans.map(({ hosts }) => hosts.length));
  /** Layers may have fewer experts. */
  const layersOf = Array.from({ length: experts }, (_, e) => plans.filter(({ hosts }) => e < hosts.length).length);
  const rows = new Map(ranks.map((rank) => [rank, { held: 0, expertReplicas: 0, weights: new Array<number>(experts).fill(0) }]));
  for (const { hosts, weights } of plans) {
    hosts.forEach((row, e) => {
      row.forEach((rank, i) => {
        const of = rows.get(rank);
        if (!of) return;
        of.held += 1;
        if (i > 0) of.expertReplicas += 1;
        of.weights[e] = (of.weights[e] ?? 0) + (weights[e]?.[i] ?? 0) / weightsTotal / (layersOf[e] ?? 1);
      });
    });
  }
  return rows;
}

export type ExpertMap = ReturnType<typeof expertMap>;

/** Throws AppError `InvalidOption` for an unknown layer. */
export function expertMap(placement: ExpertPlacement, layer: number | undefined) {
  const { metadata, spec, status } = placement;
  const chosen = spec.layers.filter((one) => layer === undefined || one.layer === layer);
  if (chosen.length === 0) {
    const known = spec.layers.map((one) => one.layer).join(", ");
    throw new AppError(`--layer: the plan has layers ${known || "none yet"}`, { code: "InvalidOption" });
  }
  const plans = plansOf(placement, chosen);
  const ranks = new Set([...spec.ranks.map(({ rank }) => rank), ...plans.flatMap(({ hosts }) => hosts.flat())]);
  const hosted = hostedBy(
    [...ranks].sort((a, b) => a - b),
    plans,
  );
  return {
    name: `${metadata.namespace}/${metadata.name}`,
    epoch: spec.epoch,
    /** undefined: all. */
    layer,
    layers: chosen.length,
    experts: Math.max(...plans.map(({ hosts }) => hosts.length)),
    rows: [...hosted].map(([rank, { held, expertReplicas, weights }]) => {
      const { hostedBytes, servedBytes, loadPercent, state } = status.ranks?.find((one) => one.rank === rank) ?? {};
      return { rank, held, expertReplicas, hostedBytes, servedBytes, loadPercent, state, weights };
    }),
  };
}
