// The text in which processes expose their metrics, parsed into samples. Pure. Comments, and lines that are no sample, are passed over.

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
      const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((m) => [m[1] ?? "", m[2] ?? ""]));
      return [{ name: match[1] ?? "", labels, value }];
    });
}

/** The sum of a metric's samples with these labels; undefined where there is none, which is not zero. */
export function sumOfSamples(samples: readonly Sample[], name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
  const found = samples.filter((one) => one.name === name && Object.entries(labels).every(([key, value]) => one.labels[key] === value));
  return found.length === 0 ? undefined : found.reduce((total, { value }) => total + value, 0);
}
