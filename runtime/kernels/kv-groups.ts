// The rows of a KV call in groups of adjacent slots with equally many new tokens.
import { AppError } from "../../crds/common.ts";

/**
 * `batch` slots from `firstSlot`, each with `tokens` new tokens after past[i]. Row b * tokens + t is token past[b] + t of slot firstSlot +
 * b. Decoding slots are a group with tokens = 1; a prompt chunk has batch = 1.
 */
export interface KvGroup {
  readonly firstSlot: number;
  readonly batch: number;
  readonly tokens: number;
  readonly past: Int32Array; // [batch]
}

export interface Place {
  readonly slot: number;
  readonly position: number;
}

export const rowsOfGroup = ({ batch, tokens }: Pick<KvGroup, "batch" | "tokens">): number => batch * tokens;

export const rowsOfGroups = (groups: readonly KvGroup[]): number => groups.reduce((sum, group) => sum + rowsOfGroup(group), 0);

export function placesOf(groups: readonly KvGroup[]): Place[] {
  return groups.flatMap(({ firstSlot, tokens, past }) =>
    Array.from(past).flatMap((from, b) => Array.from({ length: tokens }, (_, t) => ({ slot: firstSlot + b, position: from + t }))),
  );
}

/** The groups of `rows` rows from row `from` on. It may divide a slot's tokens; later ones then read the keys of earlier ones. */
export function rangeOfGroups(groups: readonly KvGroup[], from: number, rows: number): KvGroup[] {
  const found: KvGroup[] = [];
  let start = 0;
  for (const group of groups) {
    const [low, high] = [Math.max(0, from - start), Math.min(rowsOfGroup(group), from + rows - start)];
    if (low < high) found.push(...rangeOfGroup(group, low, high));
    start += rowsOfGroup(group);
  }
  return found;
}

function rangeOfGroup(group: KvGroup, low: number, high: number): KvGroup[] {
  const { firstSlot, tokens, past } = group;
  const slots = (first: number, end: number): KvGroup[] =>
    first < end ? [{ firstSlot: firstSlot + first, batch: end - first, tokens, past: past.slice(first, end) }] : [];
  const part = (slot: number, first: number, end: number): KvGroup[] =>
    first < end
      ? [{ firstSlot: firstSlot + slot, batch: 1, tokens: end - first, past: Int32Array.of((past[slot] as number) + first) }]
      : [];
  const [first, last] = [Math.ceil(low / tokens), Math.floor(high / tokens)];
  if (first > last) return part(last, low - last * tokens, high - last * tokens);
  return [
    ...part(first - 1, low - (first - 1) * tokens, low === first * tokens ? 0 : tokens),
    ...slots(first, last),
    ...part(last, 0, high - last * tokens),
  ];
}

/** Call it before a KV call: a GPU would write out of bounds silently. */
export function checkKvGroups(groups: readonly KvGroup[], cache: { readonly context: number; readonly slots: number }, rows: number): void {
  const refuse = (message: string): never => {
    throw new AppError(message, { code: "InvalidArgument", operation: "attention" });
  };
  const taken = new Set<number>();
  for (const { firstSlot, batch, tokens, past } of groups) {
    if (![firstSlot, batch, tokens].every(Number.isSafeInteger) || batch < 1 || tokens < 1)
      refuse(`a group of ${batch} slots from ${firstSlot} with ${tokens} tokens each has no rows`);
    if (past.length !== batch) refuse(`past has ${past.length} entries for a batch of ${batch}`);
    if (firstSlot < 0 || firstSlot + batch > cache.slots)
      refuse(`slots ${firstSlot}..${firstSlot + batch - 1} are not within 0..${cache.slots - 1}`);
    for (const [b, from] of past.entries()) {
      if (from < 0 || from + tokens > cache.context)
        refuse(`past[${b}] = ${from} plus ${tokens} tokens exceeds the context of ${cache.context}`);
      if (taken.has(firstSlot + b)) refuse(`slot ${firstSlot + b} is in two groups of one call`);
      taken.add(firstSlot + b);
    }
  }
  if (rowsOfGroups(groups) !== rows) refuse(`the groups have ${rowsOfGroups(groups)} rows, ${rows} are given`);
}
