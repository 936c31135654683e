// Defaults of planning on a cluster that no field of the spec sets. The operator uses them, and so do simulations that are to tell
// what it does. Pure.

/** Least decrease of max/mean per expert replica. */
export const gainPerMove = 1e-3;
/** Once a plan is made, layers this far above even are worked on although they may be so by chance: the trigger was the test. */
const layerNoiseMax = 0.02;

/** The part of each layer's noise that a plan leaves alone. */
export function planNoise(noise: Float64Array): Float64Array {
  return noise.map((layer) => Math.min(layer / 2, layerNoiseMax));
}
