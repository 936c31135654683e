// GGUF metadata by key; errors name the key.
import { AppError } from "../../../crds/common.ts";
import type { GgufValue } from "../../weights/gguf-header.ts";

type Values = ReadonlyMap<string, GgufValue>;

function numberIn(values: Values, key: string, fallback?: number): number {
  const value = values.get(key) ?? fallback;
  if (typeof value === "bigint" && value >= 0n && value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new AppError(`GGUF metadata "${key}" is ${value === undefined ? "missing" : "not a number"}`, { code: "BadGguf" });
}

export function ggufInteger(values: Values, key: string): number | undefined {
  return values.has(key) ? numberIn(values, key) : undefined;
}

/** Keys omit the architecture's prefix. */
export class ModelMetadata {
  readonly architecture: string;
  readonly where: string;
  readonly values: Values;

  constructor(values: Values, where: string) {
    const architecture = values.get("general.architecture");
    if (typeof architecture !== "string") throw new AppError(`GGUF metadata "general.architecture" is no text`, { code: "BadGguf" });
    this.architecture = architecture;
    this.where = where;
    this.values = values;
  }

  key(name: string): string {
    return `${this.architecture}.${name}`;
  }

  has(name: string): boolean {
    return this.values.has(this.key(name));
  }

  number(name: string, fallback?: number): number {
    return numberIn(this.values, this.key(name), fallback);
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.values.get(this.key(name)) ?? fallback;
    if (typeof value === "boolean") return value;
    throw new AppError(`GGUF metadata "${this.key(name)}" is no flag`, { code: "BadGguf" });
  }

  /** Has as many digits as an f32. */
  float(name: string, fallback?: number): number {
    return Number(this.number(name, fallback).toPrecision(7));
  }

  optional(name: string): number | undefined {
    return this.has(name) ? this.number(name) : undefined;
  }

  unsupported(name: string, value: unknown, what: string): AppError {
    return new AppError(`${this.where}: ${this.key(name)} = ${String(value)} is not supported; ${what}`, { code: "UnsupportedModel" });
  }
}
