// `roles` of a MoEDeployment's spec: ranks that compute prompts, ranks that generate, and ranks that do both.
import { z } from "zod";

/** A rank without one does both. */
export const rankRoles = ["prefill", "decode"] as const;
export type RankRole = (typeof rankRoles)[number];

const ranksMax = 1023;
const count = (description: string) => z.int32().min(1).max(ranksMax).meta({ description });

export const roles = z
  .object({
    prefill: count("Least ranks that compute long prompts and no answers: the lowest ranks that serve."),
    decode: count("Least ranks that generate, and compute short prompts alone: those after them. Ranks beyond the sum do both."),
  })
  .optional()
  .meta({
    description:
      "When given, long prompts are computed by ranks that generate nothing, and go on elsewhere with their keys and values, so that running answers are not held up. All ranks host experts. Changing it replaces no pod. Where fewer ranks serve, each role has at least one of two; one rank does both.",
  });

/** Rules on the whole spec. */
export const rolesRules = [
  {
    rule: "!has(self.roles) || self.replicas == 0 || has(self.elasticity.autoscale) || self.roles.prefill + self.roles.decode <= self.replicas",
    message: "replicas is below roles.prefill + roles.decode: raise replicas or lower one of them",
    fieldPath: ".replicas",
  },
  {
    rule: "!has(self.roles) || !has(self.elasticity.autoscale) || self.roles.prefill + self.roles.decode <= self.elasticity.autoscale.max",
    message: "elasticity.autoscale.max is below roles.prefill + roles.decode: raise it or lower one of them",
    fieldPath: ".roles",
  },
];

export type Roles = NonNullable<z.infer<typeof roles>>;

export const ranksOfRoles = (spec: Roles | undefined): number => (spec ? spec.prefill + spec.decode : 0);

/** The roles of ranks that serve; ranks that are left out do both. */
export function rolesOf(spec: Roles | undefined, serving: readonly number[]): ReadonlyMap<number, RankRole> {
  if (!spec || serving.length < 2) return new Map();
  const ranks = serving.toSorted((a, b) => a - b);
  const prefill = Math.min(spec.prefill, Math.max(1, ranks.length - spec.decode));
  const inRoles = ranks.slice(0, prefill + spec.decode);
  return new Map(inRoles.map((rank, at) => [rank, at < prefill ? "prefill" : "decode"]));
}
