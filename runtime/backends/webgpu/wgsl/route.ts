// route on the device: one thread per row picks the k largest logits, ties to the lowest id, and their softmax. Pure.
import type { Op } from "../../../kernels/segment.ts";
import { flatGroups, type Lower, value } from "./lower.ts";
import { reads, shader, workgroupSize, writes } from "./shader.ts";

export interface RouteShape {
  readonly experts: number;
  readonly topK: number;
  readonly normalize: boolean;
}

export function routeWgsl({ experts, topK, normalize }: RouteShape): string {
  return shader({
    storage: [reads("logits"), writes("ids", "i32"), writes("gates")],
    declarations: "const lowest = -3.4e38f;\n",
    groups: `(params.rows + ${workgroupSize - 1}u) / ${workgroupSize}u`,
    body: `  let row = group * ${workgroupSize}u + lane;
  if (row >= params.rows) { return; }
  let source = row * ${experts}u;
  let to = row * ${topK}u;
  // The k-th choice is the largest logit after the previous choice in (logit descending, id ascending) order.
  var previous = 0.0f;
  var previousId = 0u;
  for (var k = 0u; k < ${topK}u; k++) {
    var best = lowest;
    var bestId = 0u;
    var found = false;
    for (var e = 0u; e < ${experts}u; e++) {
      let logit = max(logits[source + e], lowest);
      let after = k == 0u || logit < previous || (logit == previous && e > previousId);
      if (after && (!found || logit > best)) {
        best = logit;
        bestId = e;
        found = true;
      }
    }
    ids[to + k] = i32(bestId);
    gates[to + k] = best;
    previous = best;
    previousId = bestId;
  }
  let largest = gates[to];
  var sum = 0.0f;
  for (var k = 0u; k < ${topK}u; k++) {
    gates[to + k] = exp(gates[to + k] - largest);
    sum += gates[to + k];
  }
${normalize ? "" : `  sum = 0.0f;\n  for (var e = 0u; e < ${experts}u; e++) { sum += exp(logits[source + e] - largest); }\n`}  for (var k = 0u; k < ${topK}u; k++) { gates[to + k] /= sum; }`,
  });
}

export const lowerRoute: Lower<Extract<Op, { op: "route" }>> = (op, context) => {
  const experts = context.width(op.logits);
  return {
    dispatches: [
      {
        label: "route",
        wgsl: routeWgsl({ experts, topK: op.topK, normalize: op.normalize }),
        bindings: [value(op.logits), value(op.ids), value(op.gates)],
        groups: (rows) => flatGroups(rows),
      },
    ],
    uploads: {},
    written: { [op.ids]: op.topK, [op.gates]: op.topK },
  };
};
