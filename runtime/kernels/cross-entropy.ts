// Cross-entropy of rows of logits with the next token, for training and perplexity; no op of a program.
interface Rows {
  /** [rows, vocab] */
  readonly logits: Float32Array;
  /** [rows] */
  readonly targets: Int32Array;
}

const rowOf = ({ logits, targets }: Rows, row: number): Float32Array => {
  const vocab = logits.length / targets.length;
  return logits.subarray(row * vocab, (row + 1) * vocab);
};

/** -log softmax(logits)[target] per row, [rows]. */
export function crossEntropy(rows: Rows): Float32Array {
  return Float32Array.from(rows.targets, (target, row) => {
    const logits = rowOf(rows, row);
    let max = Number.NEGATIVE_INFINITY;
    for (const logit of logits) max = Math.max(max, logit);
    let sum = 0;
    for (const logit of logits) sum += Math.exp(logit - max);
    return Math.log(sum) + max - (logits[target] as number);
  });
}
