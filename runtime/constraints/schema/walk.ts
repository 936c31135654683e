// The language of a compiled schema: JSON with keys in any order, no duplicates, and bounded white space and depth.
import { AppError } from "../../../crds/common.ts";
import type { Language, Reach } from "../language.ts";
import type { ArrayNode, Compiled, Node, ObjectNode } from "./nodes.ts";
import { stringAlike, stringStart, stringStep } from "./string-bytes.ts";
import { countAlike, Keys, type Texts } from "./texts.ts";

export const depthMax = 64;
const spacesMax = 64;
const placesMax = 256;
const keysMax = 256;
const scalarFirst = new TextEncoder().encode("-0123456789tfn");

const space = new Set([0x20, 0x0a, 0x0d, 0x09]);
const is = (byte: number, character: string): boolean => byte === character.charCodeAt(0);

/**
 * A place: what comes next, and the open objects and lists, innermost first. "v" a node's value, "f" the first entry of an object or list, "k" a
 * key, "K" the rest of one, "c" a colon, "a" after a value, "s" the rest of a string, "n" the rest of a number or word, "e" nothing. Pending white
 * space is in the detail.
 */
interface Place {
  readonly at: string;
  readonly node: number;
  readonly detail: string;
  /** Each " o" or " a", its node, a dot, and its names as hexadecimal bits or its number of items. */
  readonly open: string;
}

const gaps = new Set(["v", "f", "k", "c", "a"]);
const end = "e::";

const read = (written: string): Place => {
  const cut = written.indexOf(" ");
  const [at = "", node = "", detail = ""] = (cut < 0 ? written : written.slice(0, cut)).split(":");
  return { at, node: Number(node), detail, open: cut < 0 ? "" : written.slice(cut) };
};
function spaced(written: string): string {
  const cut = written.indexOf(" ");
  return cut < 0 ? `${written}s` : `${written.slice(0, cut)}s${written.slice(cut)}`;
}
const depthOf = (open: string): number => open.split(" ").length - 1;
const after = (open: string): string => (open === "" ? end : `a::${open}`);

interface Frame {
  readonly node: number;
  readonly count: string;
  readonly outer: string;
}

function frameOf(open: string): Frame {
  const cut = open.indexOf(" ", 1);
  const frame = cut < 0 ? open : open.slice(0, cut);
  const dot = frame.indexOf(".");
  return { node: Number(frame.slice(2, dot)), count: frame.slice(dot + 1), outer: cut < 0 ? "" : open.slice(cut) };
}

export class SchemaLanguage implements Language {
  readonly start: string;
  readonly #nodes: readonly Node[];
  readonly #heights: readonly number[];
  readonly #members: readonly (readonly number[])[];
  readonly #beginnings = new Map<readonly number[], ReadonlyMap<number, readonly number[]>>();
  readonly #keysOf = new Map<string, Keys>();
  readonly #steps: Readonly<Record<string, (byte: number, place: Place) => readonly string[]>>;

  constructor({ nodes, root, heights, members }: Compiled) {
    this.#nodes = nodes;
    this.#heights = heights;
    this.#members = members;
    this.start = `v:${root}:`;
    this.#steps = {
      v: (byte, { node, open }) => this.#value(byte, node, open),
      f: (byte, { open }) => this.#first(byte, open),
      k: (byte, { open }) => this.#key(byte, open),
      K: (byte, place) => this.#inKey(byte, place),
      c: (byte, { node, open }) => (is(byte, ":") ? [`v:${node}:${open}`] : []),
      a: (byte, { open }) => this.#after(byte, open),
      s: (byte, place) => this.#inString(byte, place),
      n: (byte, place) => this.#inScalar(byte, place),
    };
  }

  step(state: string, byte: number): string | undefined {
    const next = new Set<string>();
    for (const written of state.split("\n")) {
      const place = read(written);
      if (gaps.has(place.at) && space.has(byte)) {
        if (place.detail.length < spacesMax) next.add(spaced(written));
      } else for (const one of this.#steps[place.at]?.(byte, place) ?? []) next.add(one);
      if (next.size > placesMax) {
        const message = `response_format: the text fits more than ${placesMax} branches of anyOf at once; tell them apart by a name and its const`;
        throw new AppError(message, { code: "InvalidRequest" });
      }
    }
    return next.size === 0 ? undefined : [...next].sort().join("\n");
  }

  ends(state: string): boolean {
    return state.split("\n").some((written) => {
      const { at, node, detail, open } = read(written);
      return at === "e" || (at === "n" && open === "" && this.#scalar(node).ends(detail));
    });
  }

  *alike(state: string, reach: Reach): Generator<undefined, string> {
    const places = new Set<string>();
    for (const written of state.split("\n")) {
      const [head = "", ...frames] = written.split(" ");
      places.add([yield* this.#headAlike(head, reach), ...frames.map((frame) => this.#frameAlike(frame, reach.bytes))].join(" "));
    }
    return [...places].sort().join("\n");
  }

  *#headAlike(head: string, reach: Reach): Generator<undefined, string> {
    const { at, node, detail } = read(head);
    if (at !== "s") return head;
    const { texts } = this.#nodes[node] as { readonly texts: Texts };
    return `s:${node}:${yield* stringAlike(texts, detail, reach)}`;
  }

  #frameAlike(frame: string, bytes: number): string {
    const dot = frame.indexOf(".");
    const within = this.#nodes[Number(frame.slice(1, dot))] as ObjectNode | ArrayNode;
    const count = Number(frame.slice(dot + 1));
    if (within.kind !== "array" || count < within.first.length) return frame;
    return `${frame.slice(0, dot)}.${countAlike(count, within, bytes)}`;
  }

  #scalar(node: number): Extract<Node, { kind: "scalar" }>["scalar"] {
    return (this.#nodes[node] as Extract<Node, { kind: "scalar" }>).scalar;
  }

  #fits(node: number, open: string): boolean {
    return depthOf(open) + (this.#heights[node] as number) <= depthMax;
  }

  #value(byte: number, at: number, open: string): readonly string[] {
    const left = depthMax - depthOf(open);
    const fitting = this.#beginningsOf(at)
      .get(byte)
      ?.filter((member) => (this.#heights[member] as number) <= left);
    return fitting?.flatMap((member) => begun(this.#nodes[member] as Node, { member, byte, open }) ?? []) ?? [];
  }

  #beginningsOf(at: number): ReadonlyMap<number, readonly number[]> {
    const members = this.#members[at] as readonly number[];
    const known = this.#beginnings.get(members);
    if (known) return known;
    const found = new Map<number, number[]>();
    for (const member of members) {
      for (const byte of firstBytes(this.#nodes[member] as Node)) {
        const list = found.get(byte);
        if (list) list.push(member);
        else found.set(byte, [member]);
      }
    }
    this.#beginnings.set(members, found);
    return found;
  }

  #first(byte: number, open: string): readonly string[] {
    const { node, count } = frameOf(open);
    const within = this.#nodes[node] as Node;
    if (is(byte, within.kind === "object" ? "}" : "]")) return this.#closed(open);
    if (within.kind === "object") return this.#key(byte, open);
    return within.kind === "array" && Number(count) < within.max ? this.#item(byte, within, open) : [];
  }

  #key(byte: number, open: string): readonly string[] {
    const keys = this.#keys(open);
    return is(byte, '"') && keys.any ? [`K::${stringStart(keys)}${open}`] : [];
  }

  #keys(open: string): Keys {
    const { node, count } = frameOf(open);
    const key = `${node}.${count} ${depthOf(open)}`;
    const known = this.#keysOf.get(key);
    if (known) return known;
    const { names, values, others } = this.#nodes[node] as ObjectNode;
    const has = BigInt(`0x${count}`);
    let may = 0n;
    for (const [name, value] of values.entries()) {
      const bit = 1n << BigInt(name);
      if ((has & bit) === 0n && this.#fits(value, open)) may |= bit;
    }
    const keys = new Keys(names, may, others !== undefined && this.#fits(others, open));
    if (this.#keysOf.size >= keysMax) this.#keysOf.delete(this.#keysOf.keys().next().value as string);
    this.#keysOf.set(key, keys);
    return keys;
  }

  #inKey(byte: number, { detail, open }: Place): readonly string[] {
    const keys = this.#keys(open);
    const next = stringStep(keys, detail, byte);
    if (next === undefined) return [];
    if ("state" in next) return [`K::${next.state}${open}`];
    const { node, count, outer } = frameOf(open);
    const { values, others } = this.#nodes[node] as ObjectNode;
    const name = keys.nameAt(next.ended);
    if (name === undefined) return [`c:${others}:${open}`];
    const has = BigInt(`0x${count}`) | (1n << BigInt(name));
    return [`c:${values[name]}: o${node}.${has.toString(16)}${outer}`];
  }

  #inString(byte: number, { node, detail, open }: Place): readonly string[] {
    const { texts } = this.#nodes[node] as { readonly texts: Texts };
    const next = stringStep(texts, detail, byte);
    if (next === undefined) return [];
    return "state" in next ? [`s:${node}:${next.state}${open}`] : [after(open)];
  }

  #inScalar(byte: number, { node, detail, open }: Place): readonly string[] {
    const scalar = this.#scalar(node);
    const next = scalar.step(detail, byte);
    const longer = next === undefined ? [] : [`n:${node}:${next}${open}`];
    if (open === "" || !scalar.ends(detail)) return longer;
    return [...longer, ...(space.has(byte) ? [`a::s${open}`] : this.#after(byte, open))];
  }

  #after(byte: number, open: string): readonly string[] {
    const { node, count, outer } = frameOf(open);
    const within = this.#nodes[node] as ObjectNode | ArrayNode;
    if (!is(byte, ",")) return is(byte, within.kind === "object" ? "}" : "]") ? this.#closed(open) : [];
    if (within.kind === "object") return this.#keys(open).any ? [`k::${open}`] : [];
    const item = itemAt(within, Number(count));
    if (item === undefined || !this.#fits(item, open)) return [];
    return [`v:${item}: a${node}.${counted(within, Number(count))}${outer}`];
  }

  #item(byte: number, list: ArrayNode, open: string): readonly string[] {
    const { node, outer } = frameOf(open);
    const item = itemAt(list, 0);
    return item === undefined ? [] : this.#value(byte, item, ` a${node}.${counted(list, 0)}${outer}`);
  }

  #closed(open: string): readonly string[] {
    const { node, count, outer } = frameOf(open);
    const within = this.#nodes[node] as ObjectNode | ArrayNode;
    if (within.kind === "array") return Number(count) >= within.min ? [after(outer)] : [];
    return (within.required & ~BigInt(`0x${count}`)) === 0n ? [after(outer)] : [];
  }
}

function firstBytes(node: Node): readonly number[] {
  if (node.kind === "scalar") return [...scalarFirst].filter((byte) => node.scalar.step("", byte) !== undefined);
  return [node.kind === "object" ? 0x7b : node.kind === "array" ? 0x5b : 0x22];
}

function begun(
  node: Node,
  { member, byte, open }: { readonly member: number; readonly byte: number; readonly open: string },
): string | undefined {
  if (node.kind === "object") return is(byte, "{") ? `f:: o${member}.0${open}` : undefined;
  if (node.kind === "array") return is(byte, "[") ? `f:: a${member}.0${open}` : undefined;
  if (node.kind === "string") return is(byte, '"') ? `s:${member}:${stringStart(node.texts)}${open}` : undefined;
  const next = node.kind === "scalar" ? node.scalar.step("", byte) : undefined;
  return next === undefined ? undefined : `n:${member}:${next}${open}`;
}

/** Undefined where the list allows no item at `count`. */
function itemAt({ first, items, max }: ArrayNode, count: number): number | undefined {
  return count >= max ? undefined : (first[count] ?? items);
}

/** Counts an item, up to where the same may follow. */
function counted({ first, min, max }: ArrayNode, count: number): number {
  return Math.min(count + 1, Number.isFinite(max) ? max : Math.max(min, first.length));
}
