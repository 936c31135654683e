// What answers of a deployment depend on, as OpenAI's `system_fingerprint`. Pure.
import { createHash } from "node:crypto";

const digitsShown = 12;

/** A class of numerics names backend, forms of the weights and type of the attention cache; a deployment may have several. */
export function fingerprintOf(modelDigest: string, members: readonly { readonly numerics?: string }[]): string | undefined {
  const classes = [...new Set(members.map(({ numerics = "" }) => numerics))].filter((one) => one !== "").sort();
  if (modelDigest === "" || classes.length === 0) return undefined;
  const digest = createHash("sha256").update(JSON.stringify([modelDigest, classes]));
  return `fp_${digest.digest("hex").slice(0, digitsShown)}`;
}
