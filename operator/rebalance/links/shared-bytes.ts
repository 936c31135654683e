// Shares the byte sizes of a model's experts between a deployment's links: 116 KiB for 58 layers of 256 experts.

const kindsMax = 4;
const known = new WeakMap<object, Float64Array[]>();

/** The same values, in an existing array if there is one. `owner` is common to all links of a deployment. */
export function sharedBytes(owner: object, values: Float64Array): Float64Array {
  const kinds = known.get(owner) ?? [];
  const same = kinds.find((kind) => kind.length === values.length && kind.every((value, i) => value === values[i]));
  if (same) return same;
  known.set(owner, [values, ...kinds].slice(0, kindsMax));
  return values;
}
