// Planning defaults of a cluster, shared by the operator and simulations.

export const gainPerMove = 1e-3;
/** A plan works on layers this far above even although it may be chance, since the trigger was the test. */
const layerNoiseMax = 0.02;

export function planNoise(noise: Float64Array): Float64Array {
  return noise.map((layer) => Math.min(layer / 2, layerNoiseMax));
}
