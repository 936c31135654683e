// A compiled JSON Schema and analyses of it.
import { AppError } from "../../../crds/common.ts";
import { type Scalar, scalarTexts } from "./numbers.ts";
import { areApart, TextList, type Texts } from "./texts.ts";

/** Nodes refer to each other by index, so they may be recursive. */
export type Node =
  | { readonly kind: "union"; readonly of: readonly number[] }
  | ObjectNode
  | ArrayNode
  | { readonly kind: "string"; readonly texts: Texts }
  | { readonly kind: "scalar"; readonly type: "number" | "word"; readonly scalar: Scalar; readonly text: string | undefined };

export interface ObjectNode {
  readonly kind: "object";
  readonly names: TextList;
  readonly values: readonly number[];
  /** Required names as bits by index. */
  readonly required: bigint;
  /** The value of every other key; undefined if none is allowed. */
  readonly others: number | undefined;
}

export interface ArrayNode {
  readonly kind: "array";
  readonly first: readonly number[];
  /** All later items; undefined if none is allowed. */
  readonly items: number | undefined;
  readonly min: number;
  readonly max: number;
}

export interface Compiled {
  readonly nodes: readonly Node[];
  readonly root: number;
  readonly heights: readonly number[];
  readonly members: readonly (readonly number[])[];
}

/** The minimum nesting of each node, itself included; Infinity if it never ends. */
export function heightsOf(nodes: readonly Node[]): readonly number[] {
  const heights = nodes.map(() => Number.POSITIVE_INFINITY);
  const users = nodes.map((): number[] => []);
  const missing = nodes.map((node, at) => {
    const needed = neededBy(node);
    for (const one of needed) users[one]?.push(at);
    return node.kind === "union" ? 1 : needed.length;
  });
  const ready = [...nodes.keys()].filter((at) => missing[at] === 0);
  const isFlat = (at: number): boolean => nodes[at]?.kind === "scalar" || nodes[at]?.kind === "string";
  let [now, next] = [ready.filter(isFlat), ready.filter((at) => !isFlat(at))];
  // Lowest first, so that each node is visited once.
  for (let height = 0; now.length + next.length > 0; height++) {
    for (const at of now) {
      heights[at] = height;
      for (const user of users[at] ?? []) {
        missing[user] = (missing[user] as number) - 1;
        if (missing[user] === 0) (nodes[user]?.kind === "union" ? now : next).push(user);
      }
    }
    [now, next] = [next, []];
  }
  return heights;
}

/** The nodes that a value of this one contains; a union needs any of its members. */
function neededBy(node: Node): readonly number[] {
  if (node.kind === "union") return node.of;
  if (node.kind === "object") return node.values.filter((_, name) => (node.required >> BigInt(name)) & 1n);
  if (node.kind !== "array") return [];
  const first = node.first.slice(0, node.min);
  return node.min > node.first.length && node.items !== undefined ? [...first, node.items] : first;
}

export const membersMax = 100_000;

/** Per node: itself, or the flattened members of a union. Throws AppError `InvalidRequest`. */
export function membersOf(nodes: readonly Node[]): readonly (readonly number[])[] {
  const members: (readonly number[] | undefined)[] = nodes.map(() => undefined);
  let left = membersMax;
  const gathered = (from: number): readonly number[] => {
    const found = new Set<number>();
    const seen = new Set<number>();
    const open: (readonly number[])[] = [[from]];
    for (let of = open.pop(); of !== undefined; of = open.pop()) {
      left -= of.length;
      if (left < 0) throw new AppError(`#: ${tooManyMembers}`, { code: "InvalidRequest", operation: "reading a JSON Schema" });
      for (const at of of) {
        const node = nodes[at] as Node;
        if (node.kind !== "union") found.add(at);
        else if (!seen.has(at)) open.push(members[at] ?? node.of);
        seen.add(at);
      }
    }
    return [...found];
  };
  // References precede their targets, so a backward pass finds most lists ready, and shares them.
  for (let at = nodes.length - 1; at >= 0; at--) {
    const node = nodes[at] as Node;
    const only = node.kind === "union" && node.of.length === 1 ? members[node.of[0] as number] : undefined;
    members[at] = only ?? gathered(at);
  }
  return members as readonly (readonly number[])[];
}

const tooManyMembers = `its anyOf and oneOf have more than ${membersMax} branches, those of branches included; nest them less`;

/** Longer lists of members have their constants as lists of texts, so that a text does not fit each of them at once. */
const apartMax = 64;
/** Constants of one list, whose memory grows with their square. */
const textsMax = 1_000;

export function withListedConstants({ nodes, root, heights, members }: Compiled): Compiled {
  const all = [...nodes];
  const added = (node: Node): number => all.push(node) - 1;
  const listed = (list: readonly number[]): readonly number[] => {
    const texts = new Set<string>();
    const scalars = new Set<string>();
    const rest = list.filter((at) => {
      const node = nodes[at] as Node;
      if (node.kind === "string" && node.texts instanceof TextList) for (const text of node.texts.texts) texts.add(text);
      else if (node.kind === "scalar" && node.text !== undefined) scalars.add(node.text);
      else return true;
      return false;
    });
    const strings = pieces(texts).map((some) => added({ kind: "string", texts: new TextList(some) }));
    const words = pieces(scalars).map((some) => added({ kind: "scalar", type: "word", scalar: scalarTexts(some), text: undefined }));
    return [...rest, ...strings, ...words];
  };
  const known = new Map<readonly number[], readonly number[]>();
  for (const list of members) if (list.length > apartMax && !known.has(list)) known.set(list, listed(list));
  const lists = members.map((list) => known.get(list) ?? list);
  return {
    nodes: all,
    root,
    heights: all.map((_, at) => heights[at] ?? 0),
    members: all.map((_, at) => lists[at] ?? [at]),
  };
}

const pieces = (texts: ReadonlySet<string>): string[][] =>
  Array.from({ length: Math.ceil(texts.size / textsMax) }, (_, i) => [...texts].slice(i * textsMax, (i + 1) * textsMax));

/** The budget of a comparison, in nodes, names and texts; beyond it nothing counts as disjoint. */
const comparedMax = 200_000;
const comparedDepthMax = 8;

export class Comparison {
  readonly #nodes: readonly Node[];
  readonly #members: readonly (readonly number[])[];
  readonly #required = new Map<ObjectNode, ReadonlyMap<string, number>>();
  #left = comparedMax;

  constructor(nodes: readonly Node[], members: readonly (readonly number[])[]) {
    this.#nodes = nodes;
    this.#members = members;
  }

  /** The first two that may hold at once. Constants are told apart by a table, so that many are no matter of the budget. */
  overlap(of: readonly number[]): readonly [number, number] | undefined {
    const constants = of.map((at) => this.#constantsOf(at));
    const owners = new Map<string, number>();
    for (const [i, at] of of.entries()) {
      for (const text of constants[i] ?? []) {
        const owner = owners.get(text);
        if (owner !== undefined) return [owner, i];
        owners.set(text, i);
      }
      const j = of.findIndex((other, j) => j < i && !(constants[i] && constants[j]) && !this.areDisjoint(at, other));
      if (j >= 0) return [j, i];
    }
    return undefined;
  }

  /** Undefined where a value is not listed. */
  #constantsOf(at: number): ReadonlySet<string> | undefined {
    const found = new Set<string>();
    for (const member of this.#members[at] as readonly number[]) {
      const node = this.#nodes[member] as Node;
      if (node.kind === "string" && node.texts instanceof TextList) for (const text of node.texts.texts) found.add(JSON.stringify(text));
      else if (node.kind === "scalar" && node.text !== undefined) found.add(node.text);
      else return undefined;
    }
    return found;
  }

  /** True if no value matches both nodes, as far as types, listed values and required names show. */
  areDisjoint(a: number, b: number, depth = 0): boolean {
    if (depth > comparedDepthMax || !this.#spend(1)) return false;
    const others = this.#members[b] as readonly number[];
    return (this.#members[a] as readonly number[]).every((one) => others.every((other) => this.#differ(one, other, depth)));
  }

  #spend(steps: number): boolean {
    this.#left -= steps;
    return this.#left >= 0;
  }

  #differ(a: number, b: number, depth: number): boolean {
    if (!this.#spend(1)) return false;
    const [one, other] = [this.#nodes[a] as Node, this.#nodes[b] as Node];
    if (one.kind !== other.kind) return true;
    if (one.kind === "scalar" && other.kind === "scalar") {
      if (one.type !== other.type) return true;
      if (one.text !== undefined && other.text !== undefined) return one.text !== other.text;
      return areApart(one.scalar.bounds, other.scalar.bounds);
    }
    if (one.kind === "array" && other.kind === "array") return areApart(one, other);
    if (one.kind === "string" && other.kind === "string") return this.#haveNoTextInCommon(one.texts, other.texts);
    if (one.kind !== "object" || other.kind !== "object") return false;
    return this.#lacks(one, other) || this.#lacks(other, one) || this.#areUnlike(one, other, depth);
  }

  #haveNoTextInCommon(a: Texts, b: Texts): boolean {
    if (areApart(a.lengths, b.lengths)) return true;
    if (!(a instanceof TextList && b instanceof TextList) || !this.#spend(a.texts.length)) return false;
    return a.texts.every((text) => b.placeOf(text) === undefined);
  }

  #lacks(one: ObjectNode, other: ObjectNode): boolean {
    const required = this.#requiredOf(one);
    if (other.others !== undefined || !this.#spend(required.size)) return false;
    return [...required.keys()].some((name) => other.names.placeOf(name) === undefined);
  }

  #areUnlike(one: ObjectNode, other: ObjectNode, depth: number): boolean {
    const required = this.#requiredOf(other);
    for (const [name, value] of this.#requiredOf(one)) {
      if (!this.#spend(1)) return false;
      const beside = required.get(name);
      if (beside !== undefined && this.areDisjoint(value, beside, depth + 1)) return true;
    }
    return false;
  }

  #requiredOf(node: ObjectNode): ReadonlyMap<string, number> {
    const known = this.#required.get(node);
    if (known) return known;
    const { names, values, required } = node;
    const found = new Map<string, number>();
    for (const [place, name] of names.texts.entries()) if ((required >> BigInt(place)) & 1n) found.set(name, values[place] as number);
    this.#required.set(node, found);
    return found;
  }
}
