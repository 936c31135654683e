// A JSON Schema as the automaton walks it: values that may stand at a place, and how deep each of them is at least. Types and pure code.
import type { Scalar } from "./numbers.ts";
import type { TextList, Texts } from "./texts.ts";

/** Nodes name each other by their place in the list, so that they may be recursive. */
export type Node =
  | { readonly kind: "union"; readonly of: readonly number[] }
  | ObjectNode
  | ArrayNode
  | { readonly kind: "string"; readonly texts: Texts }
  | { readonly kind: "scalar"; readonly type: "number" | "word"; readonly scalar: Scalar; readonly text: string | undefined };

export interface ObjectNode {
  readonly kind: "object";
  readonly names: TextList;
  /** The value of each name. */
  readonly values: readonly number[];
  /** The names that must come, as bits by their place. */
  readonly required: bigint;
  /** The value of every other key; undefined where there is none. */
  readonly others: number | undefined;
}

export interface ArrayNode {
  readonly kind: "array";
  /** The first items, one by one. */
  readonly first: readonly number[];
  /** All others; undefined where there are none. */
  readonly items: number | undefined;
  readonly min: number;
  readonly max: number;
}

/** Objects and lists that each node has inside each other at least, itself included; Infinity where it has no end. */
export function heightsOf(nodes: readonly Node[]): readonly number[] {
  const heights = nodes.map(() => Number.POSITIVE_INFINITY);
  for (let changed = true; changed; ) {
    changed = false;
    for (const [at, node] of nodes.entries()) {
      const height = heightOf(node, heights);
      if (height >= (heights[at] as number)) continue;
      heights[at] = height;
      changed = true;
    }
  }
  return heights;
}

function heightOf(node: Node, heights: readonly number[]): number {
  const of = (at: number | undefined): number => (at === undefined ? Number.POSITIVE_INFINITY : (heights[at] as number));
  if (node.kind === "union") return Math.min(...node.of.map(of));
  if (node.kind === "object") return 1 + Math.max(0, ...node.values.filter((_, name) => (node.required >> BigInt(name)) & 1n).map(of));
  if (node.kind !== "array") return 0;
  const needed = node.first.slice(0, node.min).map(of);
  if (node.min > node.first.length) needed.push(of(node.items));
  return 1 + Math.max(0, ...needed);
}

/** A union's members, those of unions inside it in their place. */
export function membersOf(nodes: readonly Node[], at: number, seen = new Set<number>()): readonly number[] {
  const node = nodes[at] as Node;
  if (node.kind !== "union") return [at];
  if (seen.has(at)) return [];
  seen.add(at);
  return [...new Set(node.of.flatMap((one) => membersOf(nodes, one, seen)))];
}

/** Compares nodes, up to a number of pairs, beyond which nothing is told apart any more. */
export class Comparison {
  readonly #nodes: readonly Node[];
  #left = comparedPairsMax;

  constructor(nodes: readonly Node[]) {
    this.#nodes = nodes;
  }

  /** True where no value is of both nodes, as far as their types, listed values, and required names tell. */
  areDisjoint(a: number, b: number, depth = 0): boolean {
    if (depth > comparedDepthMax) return false;
    const others = membersOf(this.#nodes, b).map((at) => this.#nodes[at] as Node);
    return membersOf(this.#nodes, a).every((at) => others.every((other) => this.#differ(this.#nodes[at] as Node, other, depth)));
  }

  #differ(one: Node, other: Node, depth: number): boolean {
    this.#left -= 1;
    if (this.#left < 0) return false;
    if (one.kind !== other.kind) return true;
    if (one.kind === "scalar" && other.kind === "scalar") {
      if (one.type !== other.type) return true;
      return one.text !== undefined && other.text !== undefined && one.text !== other.text;
    }
    if (one.kind === "string" && other.kind === "string") return haveNoTextInCommon(one.texts, other.texts);
    if (one.kind !== "object" || other.kind !== "object") return false;
    return lacks(one, other) || lacks(other, one) || namesOf(one).some((name) => this.#unlike(one, other, { name, depth }));
  }

  #unlike(one: ObjectNode, other: ObjectNode, { name, depth }: { readonly name: string; readonly depth: number }): boolean {
    if (!namesOf(other).includes(name)) return false;
    const of = ({ names, values }: ObjectNode): number => values[names.texts.indexOf(name)] as number;
    return this.areDisjoint(of(one), of(other), depth + 1);
  }
}

const comparedPairsMax = 20_000;
/** Objects inside each other that are compared. */
const comparedDepthMax = 8;

function haveNoTextInCommon(a: Texts, b: Texts): boolean {
  if (!("texts" in a && "texts" in b)) return false;
  const texts = new Set((a as TextList).texts);
  return (b as TextList).texts.every((text) => !texts.has(text));
}

/** Names that an object must have. */
const namesOf = ({ names, required }: ObjectNode): readonly string[] =>
  names.texts.filter((_, place) => ((required >> BigInt(place)) & 1n) === 1n);

/** True where `one` must have a name that `other` cannot have. */
function lacks(one: ObjectNode, other: ObjectNode): boolean {
  return other.others === undefined && namesOf(one).some((name) => !other.names.texts.includes(name));
}
