// Which columns of an FFN lie together in an expert, and which expert a token is for. Pure.

export interface Activations {
  /** [tokens, ffn] */
  readonly values: Float32Array;
  readonly ffn: number;
}

/** Equal cuts in the order of the columns. */
export function inOrder(ffn: number, experts: number): number[][] {
  const size = ffn / experts;
  return Array.from({ length: experts }, (_, e) => Array.from({ length: size }, (_, i) => e * size + i));
}

/** [labels, ffn]: mean magnitudes over the tokens of each label, relative to those of all labels. */
function shares({ values, ffn }: Activations, labels: Uint16Array, experts: number): Float64Array {
  const tokens = new Float64Array(experts);
  const sums = new Float64Array(experts * ffn);
  for (const [token, label] of labels.entries()) {
    tokens[label] = (tokens[label] as number) + 1;
    for (let i = 0; i < ffn; i++) sums[label * ffn + i] = (sums[label * ffn + i] as number) + Math.abs(values[token * ffn + i] as number);
  }
  for (let column = 0; column < ffn; column++) {
    let all = 0;
    for (let e = 0; e < experts; e++) all += (sums[e * ffn + column] as number) /= Math.max(1, tokens[e] as number);
    for (let e = 0; e < experts; e++) (sums[e * ffn + column] as number) /= all || 1;
  }
  return sums;
}

/** Each label takes columns that are active for its tokens above all, as many as any other. */
export function byLabel(activations: Activations, labels: Uint16Array, experts: number): number[][] {
  const { ffn } = activations;
  const share = shares(activations, labels, experts);
  const order = Uint32Array.from(share.keys()).sort((a, b) => (share[b] as number) - (share[a] as number) || a - b);
  const taken = new Uint8Array(ffn);
  const columns = Array.from({ length: experts }, (): number[] => []);
  for (const at of order) {
    const [label, column] = [Math.floor(at / ffn), at % ffn];
    const own = columns[label] as number[];
    if (taken[column] === 1 || own.length === ffn / experts) continue;
    taken[column] = 1;
    own.push(column);
  }
  return columns.map((own) => own.sort((a, b) => a - b));
}

/** The expert whose columns are the most active for each token, relative to what they are on the average. */
export function strongest({ values, ffn }: Activations, columns: readonly (readonly number[])[]): Uint16Array {
  const tokens = values.length / ffn;
  const norms = columns.map((own) =>
    Float64Array.from({ length: tokens }, (_, token) =>
      Math.sqrt(own.reduce((sum, at) => sum + (values[token * ffn + at] as number) ** 2, 0)),
    ),
  );
  const means = norms.map((norm) => norm.reduce((sum, one) => sum + one, 0) / tokens || 1);
  return Uint16Array.from({ length: tokens }, (_, token) => {
    const relative = norms.map((norm, e) => (norm[token] as number) / (means[e] as number));
    return relative.indexOf(Math.max(...relative));
  });
}
