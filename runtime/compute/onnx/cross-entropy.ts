// Cross-entropy as graph nodes; the reference is kernels/cross-entropy.ts.
import type { Graph } from "./graph.ts";

interface LossInputs {
  /** [rows, 1], i64 */
  readonly targets: string;
  /** [rows, 1]: the factor of a row's loss; 0 for padding. */
  readonly scales: string;
}

/** `losses` [rows, 1] are not scaled; `gradient` [rows, vocab] is. */
export function crossEntropy(graph: Graph, logits: string, { targets, scales }: LossInputs): { losses: string; gradient: string } {
  const logs = graph.node("LogSoftmax", [logits], { axis: -1 });
  const losses = graph.node("Neg", [graph.node("GatherElements", [logs, targets], { axis: 1 })]);
  const p = graph.node("Exp", [logs]);
  const atTarget = graph.sub(graph.node("GatherElements", [p, targets], { axis: 1 }), graph.scalar(1));
  const gradient = graph.mul(graph.node("ScatterElements", [p, targets, atTarget], { axis: 1 }), scales);
  return { losses, gradient };
}
