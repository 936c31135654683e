// A fuzzer of one interface of the product, and the rule of all of them: an input is taken, or refused with a message. What it says of an
// input depends on the run's seed and the input's number alone, so that a finding is repeated by these two.
import { createHash } from "node:crypto";
import { AppError } from "../../crds/common.ts";
import { type Random, seeded } from "./mutate.ts";

/** `Subject` is what is tried, with what it needs; `Input` is JSON or bytes, so that a finding can be written down. */
export interface Fuzzer<Subject, Input> {
  readonly name: string;
  /** Parts that it has of the inputs of a run, beside the others'. */
  readonly share: number;
  /** An input that takes more processor time hangs. */
  readonly deadlineMs: number;
  /** Codes of the AppErrors by which an input is refused. Anything else that is thrown is a finding. */
  readonly refusals: readonly string[];
  /** `folder` is empty, and goes afterwards. */
  start(folder: string): Subject | Promise<Subject>;
  stop?(subject: Subject): Promise<void>;
  input(random: Random, subject: Subject): Input;
  /** Throws where the input is refused, and where a rule does not hold. */
  attempt(subject: Subject, input: Input): void | Promise<void>;
  /** The subject with a bug that some inputs reach: the fuzzer has to find it, or its inputs are worth nothing. */
  plant(subject: Subject): Subject;
}

/** In the registry: each is typed where it is written. */
export type AnyFuzzer = Fuzzer<any, any>;

/** The randomness of one input. */
export function randomOf(name: string, seed: number, at: number): Random {
  return seeded(createHash("sha256").update(`${name} ${seed} ${at}`).digest().readUInt32LE(0));
}

/** Throws what is a finding. */
export async function judged({ attempt, refusals }: AnyFuzzer, subject: unknown, input: unknown): Promise<"taken" | "refused"> {
  try {
    await attempt(subject, input);
    return "taken";
  } catch (error) {
    if (error instanceof AppError && refusals.includes(error.code)) return "refused";
    throw error;
  }
}

/** A function whose check for what matches `message` is gone: what it kept out breaks something further in, as it would. */
export function unguarded<Args extends unknown[], Result>(checked: (...args: Args) => Result, message: RegExp): (...args: Args) => Result {
  const broken = (error: unknown): unknown =>
    error instanceof AppError && message.test(error.message) ? new RangeError(`planted: ${error.message}`) : error;
  return (...args) => {
    try {
      const result = checked(...args);
      return result instanceof Promise ? (result.catch((error: unknown) => Promise.reject(broken(error))) as Result) : result;
    } catch (error) {
      throw broken(error);
    }
  };
}

/** An input as it stands in corpus.json: bytes as {"base64": text}. */
export function written(input: unknown): string {
  return JSON.stringify(input, (_, value: unknown) => {
    const bytes = value as { type?: unknown; data?: number[] } | null;
    return typeof bytes === "object" && bytes?.type === "Buffer" && bytes.data
      ? { base64: Buffer.from(bytes.data).toString("base64") }
      : value;
  });
}

/** The inverse of `written`. */
export function read(value: unknown): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(read);
  const entries = Object.entries(value);
  if (entries.length === 1 && entries[0]?.[0] === "base64" && typeof entries[0][1] === "string")
    return Buffer.from(entries[0][1], "base64");
  return Object.fromEntries(entries.map(([key, one]) => [key, read(one)]));
}
