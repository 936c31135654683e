// Options that commands share, and parsers of values with bounds. Pure.
import { AppError } from "../../crds/common.ts";
import { choice, flag, hidden, text } from "./command.ts";

/** kubectl's names and rules. */
export const clusterOptions = {
  namespace: text("-n, --namespace <name>", 'namespace (default: the context\'s, else "default")'),
  kubeconfig: text("--kubeconfig <file>", "kubeconfig (default: $KUBECONFIG, else ~/.kube/config)"),
  context: text("--context <name>", "context of that kubeconfig (default: its current one)"),
};

export const outputOptions = {
  output: choice("-o, --output <form>", "everything, for programs", ["json"]),
  json: hidden(flag("--json", "an older name of -o json")),
};

export const asksForJson = ({ output, json }: { readonly output?: string | undefined; readonly json: boolean }): boolean =>
  output === "json" || json;

export const watchOption = { watch: flag("-w, --watch", "looks again every 2 s, until Ctrl-C") };

const refused = (message: string): AppError => new AppError(message, { code: "InvalidOption" });

export const whole =
  (min: number, max: number) =>
  (text: string): number => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw refused(`it must be a whole number from ${min} to ${max}`);
  };

export function number(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw refused("it must be a number");
}

export function positives(text: string): readonly number[] {
  const values = text.split(",").map((cell) => Number(cell.trim() === "" ? Number.NaN : cell));
  if (values.every((one) => Number.isFinite(one) && one > 0)) return values;
  throw refused("it must be a list of numbers above 0, like 1,0.8,0.6");
}

/** A list separated by commas, in its order. */
export const namesOf =
  <N extends string>(known: readonly N[]) =>
  (text: string): readonly N[] => {
    const names = text.split(",").map((one) => one.trim());
    const unknown = names.filter((one) => !known.some((name) => name === one));
    if (unknown.length === 0) return names as N[];
    throw refused(`${unknown.slice(0, 3).join(", ")}: it must be of ${known.join(", ")}`);
  };
