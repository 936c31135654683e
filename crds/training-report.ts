// Progress and end messages of a training pod, through the operator's calls (training-world.ts) and the kubelet; parsed as untrusted input.
import { z } from "zod";

export const curvePointsMax = 64;
/** The kubelet cuts a container's message at 4 KiB. */
export const endBytesMax = 4096;
export const stepsMax = 99_999_999; // eight digits in a checkpoint's folder name

const imbalanceMax = 1e6;

const step = z.int().min(0).max(stepsMax);
const loss = z.number();
const point = z.object({ step, loss });
export type CurvePoint = z.infer<typeof point>;

/** Bounds of reported expert replicas: layers, most replicated experts of each, ranks of one. */
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

/** Quantiles of a layer's expert weights. */
export const shareQuantiles = ["0", "0.5", "0.9", "1"] as const;

/** The load balance of the last step stays valid when the loss does not. */
const spread = z.object({
  /** Rows of the busiest rank over the mean, in the worst layer: with primaries only, and as measured. */
  imbalanceAtPrimaries: z.number().min(1).max(imbalanceMax),
  imbalance: z.number().min(1).max(imbalanceMax),
  /** Share of experts with replicas. */
  copied: z.number().min(0).max(1),
  /** Seconds that the first rank only waited for replicas and gradient sums, and the bytes of them that it sent. */
  exposedSeconds: z.number().min(0).max(1e6),
  bytes: z.int().min(0),
  /** The weights at `shareQuantiles`, in the least even layer. */
  expertShares: z.array(z.number().min(0).max(1)).length(shareQuantiles.length),
});
export type TrainingSpread = z.infer<typeof spread>;

export const trainingReportSchema = z.object({
  /** Unset while unknown. */
  step: step.optional(),
  loss: loss.optional(),
  validationLoss: loss.optional(),
  /** The norm before clipping; an out-of-bounds value is dropped alone. */
  gradientNorm: z.number().min(0).max(1e12).optional().catch(undefined),
  /** Rows of the busiest expert over the mean, in the worst layer. */
  imbalance: z.number().min(1).max(imbalanceMax).optional().catch(undefined),
  spread: spread.optional().catch(undefined),
  tokensPerSecond: z.number().min(0).max(1e12).optional(),
  secondsLeft: z.number().min(0).max(1e12).optional(),
  copies: copiesSchema.optional().catch(undefined),
  curve: z.array(point).max(curvePointsMax).default([]),
});
export type TrainingReport = z.infer<typeof trainingReportSchema>;

/** Stopped leaves a checkpoint; Fits is a passed check. */
const trainingOutcomes = ["Complete", "Stopped", "Failed", "Fits"] as const;

/** World sizes with enough memory. */
export const rankSizesSchema = z.object({
  leastRanks: z.int32().min(1).optional().meta({ description: "From so many ranks on; left out where no number is enough." }),
  alone: z.boolean().meta({ description: "Whether one rank alone is enough." }),
});
export type RankSizes = z.infer<typeof rankSizesSchema>;

const trainingEndSchema = z.object({
  outcome: z.enum(trainingOutcomes),
  /** An unreadable report does not invalidate the rest. */
  report: trainingReportSchema.optional().catch(undefined),
  /** A failure's code, text and whether a retry can help. */
  code: z
    .string()
    .regex(/^[A-Z][A-Za-z]{0,63}$/)
    .optional(),
  message: z.string().max(endBytesMax).optional(),
  retry: z.boolean().optional(),
  /** Set only with Fits. */
  sizes: rankSizesSchema.optional().catch(undefined),
});
export type TrainingEnd = z.infer<typeof trainingEndSchema>;

/** Undefined without a message, as when the container was killed. */
export function parseTrainingEnd(text: string | undefined): TrainingEnd | undefined {
  try {
    return trainingEndSchema.safeParse(JSON.parse(text ?? "")).data;
  } catch {
    return undefined; // no JSON: the kubelet's own message, or none
  }
}

const messageCharsMax = 800;

/** Fits the kubelet's limit; a non-ASCII character takes up to six bytes. */
export function trainingEndText(end: TrainingEnd): string {
  const message = end.message?.slice(0, messageCharsMax);
  // Replicas belong to a running step.
  const report = end.report && { ...end.report, copies: undefined };
  const text = JSON.stringify({ ...end, report, message });
  if (Buffer.byteLength(text) <= endBytesMax) return text;
  const { outcome, code, retry, sizes } = end;
  return JSON.stringify({ outcome, code, retry, sizes, message: message?.replace(/[^\x20-\x7e]/g, "?") });
}

/** Points that were computed again after a checkpoint replace the former ones. */
export function joinCurves(before: readonly CurvePoint[], since: readonly CurvePoint[]): readonly CurvePoint[] {
  const measured = ascending(since);
  const first = measured[0]?.step ?? Number.POSITIVE_INFINITY;
  return thinned([...ascending(before).filter(({ step }) => step < first), ...measured]);
}

/** Keeps rising steps with a loss, since the curve may be untrusted. */
export function ascending(curve: readonly CurvePoint[]): readonly CurvePoint[] {
  let last = -1;
  return curve.filter(({ step, loss }) => {
    if (!(step > last) || !Number.isFinite(loss)) return false;
    last = step;
    return true;
  });
}

/** Drops inner points that leave the smallest gaps. */
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
