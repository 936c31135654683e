// Shadows: for each rank the one that keeps the same state of what it owns, by the same gradients and the same update. Pure.

/**
 * The rank that shadows each: every rank shadows one, so that memory is as even as what is owned, and as many as can be are shadowed on
 * another node. Empty for one rank, which nobody can shadow.
 */
export function shadowsOf(node: readonly number[]): number[] {
  const ranks = node.length;
  if (ranks < 2) return [];
  const count = (of: number): number => node.filter((other) => other === of).length;
  const order = [...node.keys()].sort(
    (a, b) => count(node[b] as number) - count(node[a] as number) || (node[a] as number) - (node[b] as number) || a - b,
  );
  // Ranks of a node are neighbours: a turn by the largest node's number takes every rank past all of its own, where there is room.
  const largest = count(node[order[0] as number] as number);
  const turn = largest === ranks ? 1 : largest;
  const shadows = new Array<number>(ranks).fill(0);
  for (const [i, rank] of order.entries()) shadows[rank] = order[(i + turn) % ranks] as number;
  return shadows;
}
