// Converts Prometheus text to OpenMetrics 1.0 with exemplars, which OpenTelemetry's serializer does not write.

export interface Exemplar {
  readonly traceId: string;
  readonly value: number;
  /** Unix seconds. */
  readonly atSeconds: number;
}

type Labels = Readonly<Record<string, string>>;

/** `exemplarOf` is called per bucket with all labels, including `le`. */
export function openMetricsText(text: string, exemplarOf: (histogram: string, labels: Labels) => Exemplar | undefined): string {
  const lines = text.split("\n").flatMap((line) => {
    if (line === "") return [];
    if (!line.startsWith("#")) return line.includes("_bucket{") ? withExemplar(line, exemplarOf) : line;
    const [, keyword, name = "", rest = ""] = /^# (HELP|TYPE) (\S+) (.*)$/.exec(line) ?? [];
    // Counter families drop `_total`; OpenMetrics allows no other comments or empty lines.
    return keyword === undefined ? [] : `# ${keyword} ${name.replace(/_total$/, "")} ${rest.replaceAll('"', '\\"')}`;
  });
  return `${lines.join("\n")}\n# EOF\n`;
}

function withExemplar(line: string, exemplarOf: (histogram: string, labels: Labels) => Exemplar | undefined): string {
  const [, histogram, list] = /^(\w+)_bucket\{(.*)\} \S+$/.exec(line) ?? [];
  if (histogram === undefined || list === undefined) return line;
  const labels = Object.fromEntries([...list.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name = "", value = ""]) => [name, value]));
  const exemplar = exemplarOf(histogram, labels);
  if (!exemplar) return line;
  return `${line} # {trace_id="${exemplar.traceId}"} ${exemplar.value} ${exemplar.atSeconds.toFixed(3)}`;
}
