// The refusal of a gate to train by: the option as it was given, and what is wrong with it. Pure.
import { AppError } from "../../../crds/common.ts";
import type { GateSetting } from "./gate.ts";

export const gateText = ({ name, numbers }: GateSetting): string => [name, ...numbers].join(":");

export function refuseGate(setting: GateSetting | string, reason: string): AppError {
  const text = typeof setting === "string" ? setting : gateText(setting);
  return new AppError(`--gate is "${text}"; ${reason}`, { code: "BadOption", operation: "reading the settings of a run" });
}
