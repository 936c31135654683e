// Parses the Prometheus text format; skips comments, invalid lines, and what follows a value, such as its timestamp. Pure.

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

export function parseSamples(text: string): readonly Sample[] {
  return text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .flatMap((line) => {
      const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      const value = Number(match?.[3]?.replace(/Inf$/, "Infinity"));
      if (!match || (Number.isNaN(value) && match[3] !== "NaN")) return [];
      const labels = Object.fromEntries(
        [...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1] ?? "", unescaped(m[2] ?? "")]),
      );
      return [{ name: match[1] ?? "", labels, value }];
    });
}

const unescaped = (label: string): string => label.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));

/** Undefined, not zero, without a matching sample. */
export function sumOfSamples(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
  const found = samples.filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value));
  return found.length === 0 ? undefined : found.reduce((total, { value }) => total + value, 0);
}
