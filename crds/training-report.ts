// The words of a training pod: how far it is, which it says with each answer to the operator (training-world.ts), and its end, which the
// kubelet passes on as the message of the container. Both are parsed as strangers' bytes. The loss curve is thinned here to a number of
// points. Pure.
import { z } from "zod";

/** Points of a loss curve, wherever it is kept. */
export const curvePointsMax = 64;
/** The kubelet cuts the message of a container at 4 KiB. */
export const endBytesMax = 4096;
export const stepsMax = 99_999_999; // a checkpoint's folder has eight digits

/** As many as a layer may have experts, and more. */
const imbalanceMax = 1e6;

const step = z.int().min(0).max(stepsMax);
const loss = z.number();
const point = z.object({ step, loss });
export type CurvePoint = z.infer<typeof point>;

/** Of whose copies is told: layers from the first on, experts of each that most ranks have, ranks of one. Small, whatever the model. */
export const copiesMax = { layers: 64, experts: 8, ranks: 8 } as const;

const count = z.int32().min(0);

const layerCopiesSchema = z.object({
  layer: count.meta({ description: "The layer, from 0 on." }),
  experts: count.meta({ description: "Its experts." }),
  copied: count.meta({ description: "Those that more ranks than one had." }),
  most: z
    .array(
      z.object({
        expert: count.meta({ description: "The expert." }),
        ranks: z
          .array(count)
          .max(copiesMax.ranks)
          .meta({ description: "Who had it, its primary first.", "x-kubernetes-list-type": "atomic" }),
      }),
    )
    .max(copiesMax.experts)
    .meta({ description: "Those of them that most ranks had.", "x-kubernetes-list-type": "atomic" }),
});
export type LayerCopies = z.infer<typeof layerCopiesSchema>;

export const copiesSchema = z.array(layerCopiesSchema).max(copiesMax.layers).meta({
  description: "Layers of which experts were materialised on more ranks than their primary in that step.",
  "x-kubernetes-list-type": "atomic",
});

/** Places among a layer's experts whose shares of rows are told, from the idlest to the busiest. */
export const shareQuantiles = ["0", "0.5", "0.9", "1"] as const;

/** How the last step lay on the ranks: it is the same whatever happens to the loss, and takes nothing else with it. */
const spread = z.object({
  /** Rows of the busiest rank over the mean, in the layer where that is most: were each expert at its primary alone, and as it was. */
  imbalanceAtPrimaries: z.number().min(1).max(imbalanceMax),
  imbalance: z.number().min(1).max(imbalanceMax),
  /** Share of experts that had copies. */
  copied: z.number().min(0).max(1),
  /** Seconds in which the first rank did nothing but wait for copies and sums of gradients, and bytes of them that it sent. */
  exposedSeconds: z.number().min(0).max(1e6),
  bytes: z.int().min(0),
  /** Shares of a layer's rows at the places of `shareQuantiles`, in the layer that is least even. */
  expertShares: z.array(z.number().min(0).max(1)).length(shareQuantiles.length),
});
export type TrainingSpread = z.infer<typeof spread>;

export const trainingReportSchema = z.object({
  /** Unset while it is not known: a checkpoint may be read first. */
  step: step.optional(),
  loss: loss.optional(),
  validationLoss: loss.optional(),
  /** Of that step, before it is clipped. What is out of its bounds is left out, and takes nothing else with it. */
  gradientNorm: z.number().min(0).max(1e12).optional().catch(undefined),
  /** Rows of the busiest expert over the mean, in the layer where that is most. */
  imbalance: z.number().min(1).max(imbalanceMax).optional().catch(undefined),
  spread: spread.optional().catch(undefined),
  tokensPerSecond: z.number().min(0).max(1e12).optional(),
  secondsLeft: z.number().min(0).max(1e12).optional(),
  /** Who had copies of experts in that step. */
  copies: copiesSchema.optional().catch(undefined),
  curve: z.array(point).max(curvePointsMax).default([]),
});
export type TrainingReport = z.infer<typeof trainingReportSchema>;

/** Complete: all steps are done and the result is written. Stopped: it was told to end, and left a checkpoint. Fits: the job was checked,
 *  and its ranks may be made. */
const trainingOutcomes = ["Complete", "Stopped", "Failed", "Fits"] as const;

/** Ranks of one world whose memory is enough: from a number on, and one alone, which has less to share. */
export const rankSizesSchema = z.object({
  leastRanks: z.int32().min(1).optional().meta({ description: "From so many ranks on; left out where no number is enough." }),
  alone: z.boolean().meta({ description: "Whether one rank alone is enough." }),
});
export type RankSizes = z.infer<typeof rankSizesSchema>;

const trainingEndSchema = z.object({
  outcome: z.enum(trainingOutcomes),
  /** Nothing hangs on it: one that cannot be read leaves the rest of the end as it is. */
  report: trainingReportSchema.optional().catch(undefined),
  /** Of a failure: its code, its text, and whether to try again can help. */
  code: z
    .string()
    .regex(/^[A-Z][A-Za-z]{0,63}$/)
    .optional(),
  message: z.string().max(endBytesMax).optional(),
  retry: z.boolean().optional(),
  /** Of a check that says Fits, with its arithmetic as message. */
  sizes: rankSizesSchema.optional().catch(undefined),
});
export type TrainingEnd = z.infer<typeof trainingEndSchema>;

/** What a container said at its end; undefined where it had no time to, as when it was killed. */
export function parseTrainingEnd(text: string | undefined): TrainingEnd | undefined {
  try {
    return trainingEndSchema.safeParse(JSON.parse(text ?? "")).data;
  } catch {
    return undefined; // no JSON: the kubelet's own words, or none
  }
}

const messageCharsMax = 800;

/** The end as text that the kubelet does not cut: characters outside of ASCII take up to six bytes. */
export function trainingEndText(end: TrainingEnd): string {
  const message = end.message?.slice(0, messageCharsMax);
  // Copies are of the step in which they were there, and there is no next one.
  const report = end.report && { ...end.report, copies: undefined };
  const text = JSON.stringify({ ...end, report, message });
  if (Buffer.byteLength(text) <= endBytesMax) return text;
  const { outcome, code, retry, sizes } = end;
  return JSON.stringify({ outcome, code, retry, sizes, message: message?.replace(/[^\x20-\x7e]/g, "?") });
}

/** The curve with what was measured since; points that are made again, after a checkpoint, take the place of the former. */
export function joinCurves(before: readonly CurvePoint[], since: readonly CurvePoint[]): readonly CurvePoint[] {
  const measured = ascending(since);
  const first = measured[0]?.step ?? Number.POSITIVE_INFINITY;
  return thinned([...ascending(before).filter(({ step }) => step < first), ...measured]);
}

/** The points with a loss whose step is above those before them: a curve may be a stranger's. */
export function ascending(curve: readonly CurvePoint[]): readonly CurvePoint[] {
  let last = -1;
  return curve.filter(({ step, loss }) => {
    if (!(step > last) || !Number.isFinite(loss)) return false;
    last = step;
    return true;
  });
}

/** Leaves out inner points, always the one that leaves the smallest gap, until few enough are left. */
function thinned(curve: readonly CurvePoint[]): readonly CurvePoint[] {
  const points = [...curve];
  while (points.length > curvePointsMax) {
    let [least, at] = [Number.POSITIVE_INFINITY, 1];
    for (let i = 1; i < points.length - 1; i++) {
      const gap = (points[i + 1]?.step ?? 0) - (points[i - 1]?.step ?? 0);
      if (gap < least) [least, at] = [gap, i];
    }
    points.splice(at, 1);
  }
  return points;
}
