// Every query of the dashboards, with its metrics and labels, which tests compare with crds/metrics.ts and a scrape of running pods. Pure.
import type { Recording } from "../../../operator/dashboards/alerts.ts";

/** A query and its place. */
export interface Asked {
  readonly where: string;
  readonly expr: string;
}

export interface Use {
  /** Name as scraped (with `_bucket` and the like) or as recorded. */
  readonly sample: string;
  /** Labels in selectors, `by` and `label_values`. */
  readonly labels: readonly string[];
  /** Labels that a selector fixes to a value. */
  readonly selected: readonly { readonly label: string; readonly value: string }[];
}

interface Panel {
  readonly title?: string;
  readonly targets?: readonly { readonly expr?: string }[];
  /** Panels inside a collapsed row. */
  readonly panels?: readonly Panel[];
}
interface Dashboard {
  readonly panels?: readonly Panel[];
  readonly templating?: { readonly list?: readonly { readonly name: string; readonly type: string; readonly query?: unknown }[] };
  readonly annotations?: {
    readonly list?: readonly { readonly name: string; readonly expr?: string; readonly target?: { readonly expr?: string } }[];
  };
}

/** Queries of panels, variables and annotations. */
export function dashboardExpressions(dashboard: unknown): Asked[] {
  const { panels = [], templating, annotations } = dashboard as Dashboard;
  const variables = (templating?.list ?? []).filter(({ type }) => type === "query");
  return [
    ...panels.flatMap(panelExpressions),
    ...variables.map(({ name, query }) => ({ where: `variable ${name}`, expr: queryText(query) })),
    ...(annotations?.list ?? []).flatMap(({ name, expr, target }) => asked(`annotation ${name}`, expr ?? target?.expr)),
  ];
}

function panelExpressions({ title = "", targets = [], panels = [] }: Panel): Asked[] {
  return [...targets.flatMap(({ expr }) => asked(title, expr)), ...panels.flatMap(panelExpressions)];
}

const asked = (where: string, expr: string | undefined): Asked[] => (expr === undefined ? [] : [{ where, expr }]);

/** A text, or an object with one. */
const queryText = (query: unknown): string =>
  typeof query === "string" ? query : String((query as { query?: unknown } | undefined)?.query);

const labelsIn = (list: string): string[] =>
  list
    .split(",")
    .map((label) => label.trim())
    .filter((label) => label !== "");

export function usesOf(expr: string): Use[] {
  const grouped = [...expr.matchAll(/\bby \(([^)]*)\) ?\(/g)].map(({ 0: head, 1: list = "", index }) => ({
    labels: labelsIn(list),
    from: index,
    to: closing(expr, index + head.length),
  }));
  const read = [...expr.matchAll(/\blabel_values\(.*,\s*(\w+)\)/g)].map(([, label = ""]) => label);
  // Recorded names contain colons: deployment:enodia_x:rate5m.
  return [...expr.matchAll(/((?:\w+:)?enodia_\w+(?::\w+)?)(?:\{([^}]*)\})?/g)].map(({ 1: sample = "", 2: selector = "", index }) => {
    const by = grouped.filter(({ from, to }) => from < index && index < to).flatMap(({ labels }) => labels);
    const selected = [...selector.matchAll(/(\w+)\s*(?:=~?|!=|!~)\s*"([^"]*)"/g)].map(([, label = "", value = ""]) => ({ label, value }));
    return { sample, labels: [...new Set([...by, ...read, ...selected.map(({ label }) => label)])], selected };
  });
}

function closing(expr: string, from: number): number {
  let open = 1;
  for (let at = from; at < expr.length; at++) {
    if (expr[at] === "(") open++;
    else if (expr[at] === ")" && --open === 0) return at;
  }
  return expr.length;
}

/** Labels of the recorded series. */
export function recordedLabels({ expr, labels = {} }: Pick<Recording, "expr" | "labels">): string[] {
  const grouped = [...expr.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list = ""]) => list.split(",").map((label) => label.trim()));
  return [...new Set([...grouped.filter((label) => label !== "le"), ...Object.keys(labels)])].sort();
}
