// The optimum of a chain whose layers have few layouts: dynamic programming over all ways to put a layer's items on the ranks,
// layer after layer. Exact, pure; larger chains are searched (chain.ts).

/** Flow from item i of a layer to item j of the next. */
type Flow = (layer: number, i: number, j: number) => number;

/** layouts^2 * items, for each pair of layers, all together: about a tenth of a second of a core. An amount, not a time. */
const workMax = 3e7;

/**
 * Places of every layer, [layers][items], with least flow between ranks, where rank g has counts[g] items of each layer; undefined
 * when that is too much work.
 */
export function bestLayouts(layers: number, counts: readonly number[], flow: Flow): number[][] | undefined {
  const items = counts.reduce((a, b) => a + b, 0);
  if (numberOf(counts) ** 2 * items * Math.max(1, layers - 1) > workMax) return undefined;
  const all = layoutsOf(counts, items);
  /** Flow that stays on a rank up to this layer, by its layout; and the layout before that gives it. */
  let stays = new Float64Array(all.length);
  const from: Int32Array[] = [];
  for (let l = 0; l + 1 < layers; l++) {
    const step = extend(all, stays, { items, ranks: counts.length }, (i, j) => flow(l, i, j));
    from.push(step.from);
    stays = step.stays;
  }
  let at = stays.reduce((best, value, k) => (value > (stays[best] as number) ? k : best), 0);
  const places: number[][] = new Array<number[]>(layers);
  for (let l = layers - 1; l >= 0; l--) {
    places[l] = Array.from(all[at] as Uint8Array);
    if (l > 0) at = from[l - 1]?.[at] as number;
  }
  return places;
}

/** The best way from any layout of a layer to each one of the next. */
function extend(
  all: readonly Uint8Array[],
  before: Float64Array,
  { items, ranks }: { readonly items: number; readonly ranks: number },
  flow: (i: number, j: number) => number,
): { stays: Float64Array<ArrayBuffer>; from: Int32Array } {
  const stays = new Float64Array(all.length).fill(-1);
  const from = new Int32Array(all.length);
  const gain = new Float64Array(items * ranks);
  all.forEach((old, a) => {
    // gain[j, g]: what stays when item j of the next layer is on rank g.
    gain.fill(0);
    for (let i = 0; i < items; i++)
      for (let j = 0; j < items; j++) gain[j * ranks + (old[i] as number)] = (gain[j * ranks + (old[i] as number)] as number) + flow(i, j);
    for (let b = 0; b < all.length; b++) {
      const row = all[b] as Uint8Array;
      let total = before[a] as number;
      for (let j = 0; j < items; j++) total += gain[j * ranks + (row[j] as number)] as number;
      if (total <= (stays[b] as number)) continue;
      stays[b] = total;
      from[b] = a;
    }
  });
  return { stays, from };
}

/** items! over the product of counts!. */
function numberOf(counts: readonly number[]): number {
  let number = 1;
  let placed = 0;
  for (const count of counts) for (let k = 1; k <= count; k++) number = (number * ++placed) / k;
  return number;
}

function layoutsOf(counts: readonly number[], items: number): Uint8Array[] {
  const found: Uint8Array[] = [];
  const left = counts.slice();
  const row = new Uint8Array(items);
  const place = (item: number): void => {
    if (item === items) {
      found.push(row.slice());
      return;
    }
    for (let g = 0; g < left.length; g++) {
      if ((left[g] as number) === 0) continue;
      left[g] = (left[g] as number) - 1;
      row[item] = g;
      place(item + 1);
      left[g] = (left[g] as number) + 1;
    }
  };
  place(0);
  return found;
}
