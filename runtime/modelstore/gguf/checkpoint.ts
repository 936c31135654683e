// Reads a GGUF model as a checkpoint in Hugging Face's names and row order, one expert matrix or piece at a time.
import { AppError } from "../../../crds/common.ts";
import { bytesOf } from "../../weights/floats.ts";
import type { GgufFile } from "../../weights/gguf.ts";
import { type Checkpoint, checkpointOf, type RowRange, rowsOf, type TensorView } from "../../weights/tensor-view.ts";
import { commonParts, type ExpertMatrix, type HeadsApart, topLevelNames } from "./architecture.ts";
import type { GgufModel } from "./index.ts";

/** The largest known models have 70,000. */
const expertMatricesMax = 1_000_000;
const expertsMax = 4096;
const layersMax = 1024;

/** Rows that are a tensor of their own in Hugging Face's layout. */
interface Rows {
  readonly first: number;
  readonly tensor: string;
  readonly shape: readonly number[];
  /** Interleaved rotary pairs; unset where rows are in order. */
  readonly headRows?: number;
}

/** Joined by Hugging Face: per head the transposed key rows, then the value rows. */
interface Heads {
  readonly tensor: string;
  readonly values: string;
  readonly shape: readonly number[];
}

type Place = Rows | Heads;

export interface GgufCheckpoint extends Checkpoint {
  /** The name in messages. */
  storedName(name: string): string;
}

/** "blk.3.ffn_gate.7.weight": layer, part, expert (old files only), weight or bias. */
const layerTensor = /^blk\.(\d{1,4})\.([a-z_]+)(?:\.(\d{1,4}))?\.(weight|bias)$/;
const stackedParts: Readonly<Record<string, readonly ExpertMatrix[]>> = {
  ffn_gate_exps: ["gate"],
  ffn_up_exps: ["up"],
  ffn_down_exps: ["down"],
  ffn_gate_up_exps: ["gate", "up"],
};
const singleParts: Readonly<Record<string, ExpertMatrix>> = { ffn_gate: "gate", ffn_up: "up", ffn_down: "down" };

interface LayerTensor {
  readonly tensor: string;
  readonly layer: string;
  readonly part: string;
  readonly kind: string;
}

class Places {
  readonly found = new Map<string, Place>();
  readonly #file: GgufFile;
  readonly #model: GgufModel;
  readonly #experts: number;

  constructor(file: GgufFile, model: GgufModel) {
    this.#file = file;
    this.#model = model;
    this.#experts = model.metadata.number("expert_count", 0);
    const layers = model.metadata.number("block_count");
    for (const tensor of file.names) this.#place(tensor, layers);
  }

  #refused(tensor: string, what: string): AppError {
    return new AppError(`${this.#file.path}: tensor "${tensor}" ${what}`, { code: "BadGguf" });
  }

  #strange(tensor: string): AppError {
    return new AppError(`${this.#file.path}: tensor "${tensor}" belongs to no part of architecture ${this.#model.metadata.architecture}`, {
      code: "UnsupportedModel",
    });
  }

  #place(tensor: string, layers: number): void {
    if (Object.hasOwn(topLevelNames, tensor)) {
      this.#add(topLevelNames[tensor] as string, { tensor, shape: this.#shape(tensor), first: 0 });
      return;
    }
    const match = layerTensor.exec(tensor);
    if (!match) throw this.#strange(tensor);
    const [, layer = "", part = "", expert, kind = ""] = match;
    if (Number(layer) >= layers || Number(layer) >= layersMax) {
      const { path } = this.#file;
      const key = this.#model.metadata.key("block_count");
      throw new AppError(`${path}: ${key} is ${layers}, and tensor "${tensor}" lies beyond; download or convert the file again`, {
        code: "BadGguf",
      });
    }
    const at = { tensor, layer, part, kind };
    const apart = this.#model.architecture.headsApart;
    if (expert === undefined && apart !== undefined && (part === apart.keys || part === apart.values)) this.#heads(at, apart);
    else if (expert !== undefined) this.#single(at, Number(expert));
    else if (Object.hasOwn(stackedParts, part)) this.#stacked(at, stackedParts[part] as readonly ExpertMatrix[]);
    else this.#plain(at);
  }

  #shape(tensor: string): readonly number[] {
    return this.#file.shape(tensor) ?? [];
  }

  #plain({ tensor, layer, part, kind }: LayerTensor): void {
    const whole = this.#partName(`${part}.${kind}`);
    const name = whole ?? this.#partName(part);
    if (name === undefined) throw this.#strange(tensor);
    const shape = this.#shape(tensor);
    const as = whole === undefined ? `${name}.${kind}` : name;
    this.#add(`model.layers.${layer}.${as}`, { tensor, shape, first: 0, ...this.#headRows(part, shape) });
  }

  /** Key heads [heads, K, rows], value heads [heads, rows, K]; a joined tensor takes precedence. */
  #heads({ tensor, layer, part }: LayerTensor, { keys, values, as }: HeadsApart): void {
    const stored = (name: string): string => `blk.${layer}.${name}.weight`;
    if (this.#file.names.includes(stored(this.#wholeOf(as)))) return;
    const [pair, other] = [this.#shape(stored(keys)), this.#shape(stored(values))];
    const [heads = 0, columns = 0, keyRows = 0] = pair;
    const fits = pair.length === 3 && other.length === 3 && other[0] === heads && other[2] === columns && columns > 0;
    if (!fits) throw this.#refused(tensor, `is [${this.#shape(tensor)}], which fits no ${part === keys ? values : keys} of its layer`);
    if (part !== keys) return;
    const shape = [heads * (keyRows + (other[1] ?? 0)), columns];
    this.#add(`model.layers.${layer}.${as}`, { tensor, values: stored(values), shape });
  }

  #wholeOf(as: string): string {
    return Object.entries(this.#model.architecture.parts).find(([, name]) => `${name}.weight` === as)?.[0] ?? "";
  }

  #single({ tensor, layer, part, kind }: LayerTensor, expert: number): void {
    const matrix = Object.hasOwn(singleParts, part) ? singleParts[part] : undefined;
    if (matrix === undefined || expert >= this.#experts) throw this.#strange(tensor);
    const name = `model.layers.${layer}.${this.#model.architecture.expert(matrix, expert)}.${kind}`;
    this.#add(name, { tensor, shape: this.#shape(tensor), first: 0 });
  }

  #partName(part: string): string | undefined {
    const { parts } = this.#model.architecture;
    if (Object.hasOwn(parts, part)) return parts[part];
    return Object.hasOwn(commonParts, part) ? commonParts[part] : undefined;
  }

  #headRows(part: string, shape: readonly number[]): { readonly headRows?: number } {
    const heads = part === "attn_q" ? "attention.head_count" : part === "attn_k" ? "attention.head_count_kv" : undefined;
    if (heads === undefined || !this.#model.architecture.interleaved) return {};
    const { metadata } = this.#model;
    return { headRows: (shape[0] ?? 0) / metadata.number(heads, metadata.number("attention.head_count")) };
  }

  /** [experts, rows, K], or biases [experts, rows]; two matrices are stacked along the rows. */
  #stacked({ tensor, layer, kind }: LayerTensor, matrices: readonly ExpertMatrix[]): void {
    const [experts = 0, rows = 0, columns] = this.#shape(tensor);
    if (experts !== this.#experts || experts > expertsMax)
      throw this.#refused(tensor, `has ${experts} experts, ${this.#model.metadata.key("expert_count")} says ${this.#experts}`);
    if (kind === "bias") {
      this.#biases(tensor, layer, matrices);
      return;
    }
    if (columns === undefined || rows % matrices.length !== 0) throw this.#refused(tensor, "is no stack of matrices");
    const each = rows / matrices.length;
    for (let expert = 0; expert < experts; expert++)
      for (const [i, matrix] of matrices.entries()) {
        const name = `model.layers.${layer}.${this.#model.architecture.expert(matrix, expert)}.${kind}`;
        this.#add(name, { tensor, shape: [each, columns], first: expert * rows + i * each });
      }
  }

  /** One row per expert. */
  #biases(tensor: string, layer: string, [matrix, ...more]: readonly ExpertMatrix[]): void {
    const [experts = 0, rows = 0, ...others] = this.#shape(tensor);
    if (matrix === undefined || more.length > 0 || others.length > 0) throw this.#refused(tensor, "is no stack of biases");
    for (let expert = 0; expert < experts; expert++)
      this.#add(`model.layers.${layer}.${this.#model.architecture.expert(matrix, expert)}.bias`, { tensor, shape: [rows], first: expert });
  }

  #add(name: string, place: Place): void {
    if (this.found.has(name)) throw this.#refused(place.tensor, `is a second "${name}"`);
    if (this.found.size >= expertMatricesMax)
      throw this.#refused(place.tensor, `comes after ${expertMatricesMax} others, which are too many`);
    this.found.set(name, place);
  }
}

/** Row 2i + j of a head becomes row j * headRows / 2 + i. */
function undoInterleaving(data: Uint8Array, rows: number, headRows: number): Uint8Array {
  const out = new Uint8Array(data.length);
  const width = data.length / rows;
  for (let row = 0; row < rows; row++) {
    const within = row % headRows;
    const to = row - within + (within % 2) * (headRows / 2) + (within >> 1);
    out.set(data.subarray(row * width, (row + 1) * width), to * width);
  }
  return out;
}

/** The view is f32, since blocks run along the rows of either tensor. */
function headsView(file: GgufFile, { tensor, values, shape }: Heads): TensorView {
  const [, columns = 0] = shape;
  const keyRows = file.shape(tensor)?.[2] ?? 0;
  const valueRows = file.shape(values)?.[1] ?? 0;
  const step = keyRows + valueRows;
  return {
    shape,
    form: "f32",
    step,
    async rows({ first, rows }) {
      const out = new Float32Array(rows * columns);
      for (let row = 0; row < rows; row += step) {
        const head = (first + row) / step;
        const keys = (await file.readRows(tensor, { first: head * columns, rows: columns })).values();
        for (let i = 0; i < keyRows; i++) for (let k = 0; k < columns; k++) out[(row + i) * columns + k] = keys[k * keyRows + i] as number;
        out.set((await file.readRows(values, { first: head * valueRows, rows: valueRows })).values(), (row + keyRows) * columns);
      }
      return rowsOf("f32", bytesOf(out));
    },
  };
}

function viewOf(file: GgufFile, place: Place): TensorView {
  if ("values" in place) return headsView(file, place);
  const { tensor, shape, headRows } = place;
  const stored = ({ first, rows }: RowRange) => file.readRows(tensor, { first: place.first + first, rows });
  const form = file.form(tensor) ?? "f32";
  if (headRows === undefined) return { shape, form, rows: stored };
  return {
    shape,
    form,
    step: headRows,
    async rows(range) {
      return rowsOf(form, undoInterleaving((await stored(range)).bytes, range.rows, headRows));
    },
  };
}

export function ggufCheckpoint(file: GgufFile, model: GgufModel): GgufCheckpoint {
  const { found } = new Places(file, model);
  const views = new Map([...found].map(([name, place]) => [name, viewOf(file, place)]));
  const checkpoint = checkpointOf(file.path, views, () => file.close());
  return { ...checkpoint, storedName: (name) => found.get(name)?.tensor ?? name };
}
