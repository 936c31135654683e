// The option by which a command is asked for JSON: -o json, the same everywhere. The older --json is still taken, and no help tells of it.
// Pure.
import { AppError } from "../../crds/common.ts";

/** Options for node:util parseArgs, of commands that print a text for people, or the same for programs. */
export const outputFlag = {
  output: { type: "string", short: "o" },
  json: { type: "boolean", default: false },
} as const;
export const outputFlagHelp = "  -o, --output json      everything, for programs";

/** Options that are taken and not told of. */
export const untoldOptions: readonly string[] = ["json"];

interface OutputAsked {
  readonly output?: string | undefined;
  readonly json?: boolean | undefined;
}

/** True where JSON is asked for. */
export function asksForJson({ output, json }: OutputAsked): boolean {
  if (output === undefined || output === "json") return output === "json" || json === true;
  throw new AppError(`-o ${output}: the only other form than text is json`, { code: "BadOption" });
}
