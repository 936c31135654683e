// The refusal of adapters: the option as it was given, and what is wrong with it. Pure.
import { AppError } from "../../../crds/common.ts";
import type { AdapterSetting } from "./adapter.ts";

export const adaptersText = ({ name, numbers }: AdapterSetting): string => [name, ...numbers].join(":");

export function refuseAdapters(setting: AdapterSetting | string, reason: string): AppError {
  const text = typeof setting === "string" ? setting : adaptersText(setting);
  return new AppError(`--adapters is "${text}"; ${reason}`, { code: "BadOption", operation: "reading the settings of a run" });
}
