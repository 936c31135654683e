// Numbers and names from the command line: parsed with bounds; the error names the option. Pure.
import { AppError } from "../../crds/common.ts";

export function whole(text: string | undefined, option: string, min: number, max: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new AppError(`${option}: "${text}" is not a whole number from ${min} to ${max}`, { code: "InvalidOption" });
}

/** A number from 0 to 1. */
export function fraction(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && value <= 1) return value;
  throw new AppError(`${option}: "${text}" is not a number from 0 to 1`, { code: "InvalidOption" });
}

export function positives(text: string | undefined, option: string): number[] | undefined {
  if (text === undefined) return undefined;
  const values = text.split(",").map((cell) => Number(cell.trim() === "" ? Number.NaN : cell));
  if (values.every((value) => Number.isFinite(value) && value > 0)) return values;
  throw new AppError(`${option}: "${text}" is not a list of numbers above 0, like 1,0.8,0.6`, { code: "InvalidOption" });
}

/** The one name that a command takes. */
export function deploymentName([name, ...others]: readonly string[]): string {
  if (name !== undefined && others.length === 0) return name;
  throw new AppError("one NAME of a MoEDeployment is needed; see: enodia status", { code: "BadOption" });
}
