// Placement types, and ExpertPlacement's text form: experts by ",", ranks by "." with the primary first, weights per mille.
import { AppError } from "./common.ts";

/** `hosts[e]` lists distinct ranks, primary first; `weights[e]` is aligned with it and sums to 1000. */
export interface LayerPlan {
  readonly hosts: readonly (readonly number[])[];
  readonly weights: readonly (readonly number[])[];
}

/** Adds the epoch of the layer's last commit. */
export interface LayerPlacement extends LayerPlan {
  readonly layer: number;
  readonly epoch: number;
}

/** Epochs are safe integers here, uint64 on the wire. */
export interface PlacementPlan {
  readonly deploymentUid: string;
  readonly epoch: number;
  readonly parentEpoch: number;
  readonly planHash: string;
  readonly modelDigest: string;
  readonly layers: readonly LayerPlacement[];
}

/** Budgets count moves, in stored bytes. */
export interface Move {
  readonly layer: number;
  readonly expert: number;
  readonly rank: number;
  /** Hosts in the parent plan; empty when it must come from the store. */
  readonly sources: readonly number[];
  readonly bytes: number;
}

export const weightsTotal = 1000;
/**
 * Larger input is refused. `cells` are layers times experts, thrice those of the largest model known; `layerText` bounds the
 * characters of a layer's hosts and of its weights.
 */
export const planBounds = { layers: 1024, experts: 4096, cells: 65_536, ranks: 4096, hostsPerExpert: 512, layerText: 65_536 } as const;

function encodeRows(rows: readonly (readonly number[])[]): string {
  return rows.map((row) => row.join(".")).join(",");
}

function decodeRows(text: string, field: string): number[][] {
  if (text === "") return []; // the caller knows the number of experts
  if (text.length > planBounds.layerText) throw bad(field, `${text.length} characters, at most ${planBounds.layerText}`);
  const rows = text.split(",");
  if (rows.length > planBounds.experts) throw bad(field, `more than ${planBounds.experts} experts`);
  return rows.map((row, expert) => {
    const cells = row.split(".");
    if (cells.length > planBounds.hostsPerExpert) throw bad(field, `expert ${expert} has more than ${planBounds.hostsPerExpert} hosts`);
    return cells.map((cell) => {
      if (!/^\d{1,4}$/.test(cell)) throw bad(field, `expert ${expert} holds "${cell.slice(0, 12)}", not a number`);
      return Number(cell);
    });
  });
}

/** Hosts must be distinct, and weights match them and sum to 1000. */
export function decodeLayer(hosts: string, weights: string, field: string): LayerPlan {
  const parsed = { hosts: decodeRows(hosts, `${field}.hosts`), weights: decodeRows(weights, `${field}.weights`) };
  if (parsed.hosts.length !== parsed.weights.length) throw bad(field, "hosts and weights differ in length");
  parsed.hosts.forEach((row, expert) => {
    const weight = parsed.weights[expert] ?? [];
    if (new Set(row).size !== row.length) throw bad(field, `expert ${expert} names a rank twice`);
    if (weight.length !== row.length) throw bad(field, `expert ${expert} has ${row.length} hosts but ${weight.length} weights`);
    if (weight.reduce((a, b) => a + b, 0) !== weightsTotal) throw bad(field, `weights of expert ${expert} do not sum to ${weightsTotal}`);
  });
  return parsed;
}

/** Placements are immutable, and every rank gets parts of one plan. */
const encoded = new WeakMap<LayerPlan, { readonly hosts: string; readonly weights: string }>();

export function encodeLayer(plan: LayerPlan): { readonly hosts: string; readonly weights: string } {
  const known = encoded.get(plan);
  if (known) return known;
  const texts = { hosts: encodeRows(plan.hosts), weights: encodeRows(plan.weights) };
  encoded.set(plan, texts);
  return texts;
}

function bad(field: string, what: string): AppError {
  return new AppError(`${field}: ${what}`, { code: "InvalidPlan", operation: "parsing a placement" });
}
