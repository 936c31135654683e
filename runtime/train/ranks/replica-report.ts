// A short report of a step's expert replicas.
import { copiesMax, type LayerCopies } from "../../../crds/training-report.ts";

/** hosts[layer][expert], primary first; layers without replicas are left out. */
export function copiesOf(hosts: readonly (readonly (readonly number[])[])[]): LayerCopies[] {
  const layers = hosts.map(copiesIn).filter(({ copied }) => copied > 0);
  return layers.slice(0, copiesMax.layers);
}

function copiesIn(hosts: readonly (readonly number[])[], layer: number): LayerCopies {
  const copied = [...hosts.entries()].filter(([, ranks]) => ranks.length > 1);
  const most = copied
    .toSorted(([, a], [, b]) => b.length - a.length)
    .slice(0, copiesMax.experts)
    .toSorted(([a], [b]) => a - b);
  return {
    layer,
    experts: hosts.length,
    copied: copied.length,
    most: most.map(([expert, ranks]) => ({ expert, ranks: ranks.slice(0, copiesMax.ranks) })),
  };
}
