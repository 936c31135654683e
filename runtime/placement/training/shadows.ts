// The shadow of each rank, which stores the same state.

/** Every rank shadows one other, on another node where possible. Empty for one rank. */
export function shadowsOf(node: readonly number[]): number[] {
  const ranks = node.length;
  if (ranks < 2) return [];
  const count = (of: number): number => node.filter((other) => other === of).length;
  const order = [...node.keys()].sort(
    (a, b) => count(node[b] as number) - count(node[a] as number) || (node[a] as number) - (node[b] as number) || a - b,
  );
  // Ranks of a node are neighbours, so a rotation by the largest node's size passes each rank's own node where possible.
  const largest = count(node[order[0] as number] as number);
  const shift = largest === ranks ? 1 : largest;
  const shadows = new Array<number>(ranks).fill(0);
  for (const [i, rank] of order.entries()) shadows[rank] = order[(i + shift) % ranks] as number;
  return shadows;
}
